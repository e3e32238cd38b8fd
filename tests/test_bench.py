"""Benchmarks at small sizes: what they report, and that rows are kept."""

import json

import pytest

from palquant import bench
from palquant.cli import BENCHMARKS, main
from palquant.hw.presets import PRESETS
from palquant.workloads import Workload, workload_graph

#: Fields that readers of the reports rely on.
RESNET_FIELDS = {
    "cycles", "quantized_cycles", "utilization", "quantized_utilization", "values_compared",
    "mismatches", "simulation_s", "build_s", "cycles_per_s", "cpp_cycles_per_s",
    "peak_memory_mib", "compile_s", "reference_s", "layers",
}  # fmt: skip
LAYER_FIELDS = {
    "name", "macs", "passes", "cycles", "predicted_cycles", "utilization", "stalls", "histogram"
}  # fmt: skip
ROW_FIELDS = {
    "network", "groups", "weight_bits", "activation_bits", "stem", "cycles", "quantized_cycles",
    "mismatches", "speedup_network", "speedup_quantized",
}  # fmt: skip


def test_the_command_knows_every_benchmark():
    assert tuple(bench.BENCHMARKS) == BENCHMARKS


#: A sixteenth of the width: the same layers, a fraction of the work.
SMALL = ("--geometry", "tiny", "--size", "32", "--base-width", "4", "--quiet")


def test_resnet18_reports_every_layer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "REPLAY_TURN", 2000)
    path, plot = tmp_path / "resnet18.json", tmp_path / "resnet18.svg"
    assert main(["bench", "resnet18", *SMALL, "--json", str(path), "--plot", str(plot)]) == 0
    text = plot.read_text()
    assert all(name in text for name in ("stem.conv", "stage4.1.conv2", "dependency"))
    report = json.loads(path.read_text())
    assert set(report) >= RESNET_FIELDS
    assert report["mismatches"] == report["half_bus"]["mismatches"] == 0
    assert report["half_bus"]["bus_bits"] == PRESETS["tiny"].bus_bits // 2
    assert report["cycles"] == report["predicted_cycles"]
    assert report["cycles"] >= sum(layer["cycles"] for layer in report["layers"])
    for layer in report["layers"]:
        assert set(layer) == LAYER_FIELDS
        assert layer["cycles"] == layer["predicted_cycles"]
    graph = workload_graph(Workload(size=32, base_width=4))
    convolutions = [layer for layer in report["layers"] if layer["macs"]]
    for layer in convolutions:
        source = graph.shapes[graph[layer["name"]].inputs[0]]
        assert sum(layer["histogram"]) == source.channels * source.height * source.width
        assert sum(count > 0 for count in layer["histogram"]) > 1
    assert "0 mismatches" in capsys.readouterr().out


def test_speedup_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "STEMS", (8,))
    monkeypatch.setattr(bench, "CONTENDERS", ((1, 4), (2, 2)))
    path = tmp_path / "speedup.json"
    arguments = ["bench", "speedup", *SMALL]
    measured = []
    original = bench.measure

    def measure(case, *rest, **options):
        measured.append(case.workload)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return original(case, *rest, **options)

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "cache_folder", lambda: tmp_path)
    assert main([*arguments, "--json", str(path)]) == 130
    assert not path.exists()
    assert main([*arguments, "--json", str(path)]) == 0
    assert [workload.groups for workload in measured] == [1, 1, 2, 2, 2, 2, 2]
    rows = json.loads(path.read_text())["rows"]
    assert all(set(row) >= ROW_FIELDS for row in rows)
    assert [row["mismatches"] for row in rows] == [0, 0, 0]
    assert [row["stem"] for row in rows] == ["8x8", "8x8", "8x8 shared"]
    assert rows[0]["speedup_quantized"] == rows[0]["speedup_network"] == 1
    for row in rows:
        assert row["speedup_quantized"] == rows[0]["quantized_cycles"] / row["quantized_cycles"]
        assert row["speedup_network"] == rows[0]["cycles"] / row["cycles"]
    assert rows[2]["cycles"] < rows[1]["cycles"]


def test_growth_ends_with_the_size_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SIZES", (16, 64))
    path = tmp_path / "growth.json"
    assert main(["bench", "growth", *SMALL, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["size"] for row in rows] == [16, 32]
    assert [row["mismatches"] for row in rows] == [0, 0]
    assert all(row["cycles_per_kmac"] == row["cycles"] / row["macs"] * 1000 for row in rows)


def test_growth_measures_nothing_if_a_size_does_not_fit(monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", None)  # would be called, and fail
    arguments = ["--geometry", "tiny", "--size", "1024", "--base-width", "8", "--quiet"]
    assert main(["bench", "growth", *arguments]) == 1
    assert "one output row at a time needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("benchmark", "option"),
    [("resnet18", ["--fresh"]), ("resnet18", ["--epochs", "2"]), ("speedup", ["--seeds", "2"]),
     ("growth", ["--jobs", "2"])],
)  # fmt: skip
def test_options_that_have_no_effect_are_refused(benchmark, option, capsys):
    assert main(["bench", benchmark, *option]) == 1
    line = f"palquant: bench {benchmark}: {option[0]} is not an option of this benchmark\n"
    assert capsys.readouterr().err == line
