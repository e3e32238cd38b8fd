"""Pictures: every benchmark has one, the same report gives the same bytes."""

import pytest

from palquant import bench
from palquant.cli import main
from palquant.plots import FORMATS, PLOTS, draw

MAGIC = (b"<?xml", b"\x89PNG", b"%PDF")
LAYERS = [
    {"name": "stem.conv", "cycles": 4000, "stalls": {"weights": 30}},
    {"name": "stage1.0.conv1", "cycles": 2000, "stalls": {"dependency": 8, "output": 50}},
]
REPORTS = {
    "resnet18": {
        "network": "resnet18 W2A2 G=2", "size": 224, "geometry": "kilomac", "utilization": 0.9,
        "quantized_utilization": 0.97, "layers": LAYERS,
    },
    "speedup": {
        "geometry": "kilomac", "size": 224,
        "rows": [
            {"network": name, "stem": stem, "speedup_quantized": 1.9, "speedup_network": 1.1}
            for stem in ("8x8", "8x2") for name in ("resnet18 W4A4 G=1", "resnet18 W2A2 G=2")
        ],
    },
    "accuracy": {
        "data": "digits", "base_width": 4,
        "rows": [
            {"method": method, "groups": 1, "weight_bits": 4, "shuffle": "none", "stem": "8x8",
             "passes": passes, "top1_mean": top1, "top1_ci95": 0.01, "seeds": 5, "pareto": pareto}
            for method, passes, top1, pareto in (
                ("float", None, 0.95, False), ("W4A4", 400, 0.94, True), ("W3A3", 400, 0.92, False),
                ("W2A2", 100, 0.9, True),
            )
        ],
    },
    "area": {
        "builds": [
            {"target": target, "geometry": "tiny", "scope": scope, "lut": 700, "lut_per_mac": 7.0,
             "fmax_mhz": fmax}
            for target, fmax in (("ecp5", 150.0), ("xilinx7", None))
            for scope in ("array", "accelerator")
        ],
    },
    "cost": {
        "device": "ecp5-85f",
        "accelerators": [
            {"geometry": name, "lut": lut, "predicted_lut": lut + 500, "fitted": fitted}
            for name, lut, fitted in (("8x8", 18000, True), ("tiny", 27000, False))
        ],
    },
    "explore": {
        "network": "resnet18 W2A2 G=2", "device": "ecp5-85f", "cost": "share",
        "machines": [
            {"array": array, "lut": 20000 + size, "share": size / 100, "images_per_s": size / 10}
            for array, size in (("8x8", 30), ("8x8", 50), ("16x16", 70))
        ],
        "front": [{"array": "16x16", "lut": 20070, "share": 0.7, "images_per_s": 7.0}],
    },
    "growth": {
        "geometry": "kilomac",
        "rows": [
            {"network": "resnet18 W2A2 G=2", "size": size, "cycles_per_kmac": 2.1,
             "simulation_ns_per_mac": 9.0}
            for size in (64, 128)
        ],
    },
}  # fmt: skip


def test_every_benchmark_has_a_picture():
    assert set(PLOTS) == {*bench.BENCHMARKS, "explore"} == set(REPORTS)


@pytest.mark.parametrize("name", REPORTS)
def test_the_same_report_gives_the_same_svg(name, tmp_path):
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw(name, REPORTS[name], first)
    draw(name, REPORTS[name], second)
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    words = {
        "resnet18": "stage1.0.conv1", "speedup": "resnet18 W2A2 G=2", "growth": "MAC",
        "accuracy": "Pareto front", "area": "multiplier", "cost": "predicted",
        "explore": "Pareto front",
    }  # fmt: skip
    assert words[name] in text


@pytest.mark.parametrize(("kind", "magic"), list(zip(FORMATS, MAGIC, strict=True)))
def test_formats(kind, magic, tmp_path):
    path = tmp_path / f"plot.{kind}"
    draw("growth", REPORTS["growth"], path)
    assert path.read_bytes().startswith(magic)


def test_a_format_that_cannot_be_drawn_is_refused_before_anything_is_measured(tmp_path, capsys):
    assert main(["bench", "growth", "--plot", str(tmp_path / "plot.bmp")]) == 1
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("plot.bmp: cannot draw this format (supported: svg, png, pdf)")
    )
