"""Accuracy over cost, with tiny trainings: what is compared, what is reported, what is kept."""

import dataclasses
import json
import multiprocessing
import os
import signal
from argparse import Namespace

import numpy as np
import pytest

from palquant import accuracy, trainings
from palquant.accuracy import BOTH, CHANNEL, COUNTERPART, FLOAT, METHODS, NONE, PALQUANT, Method
from palquant.cli import main
from palquant.errors import ToolError
from palquant.golden.config import TrainConfig
from palquant.golden.data import synthetic_images
from palquant.golden.random_network import calibrated_graph
from palquant.hw.presets import PRESETS
from palquant.sw.compile import compile_graph
from palquant.trainings import Training, measure

ROW_FIELDS = {
    "method", "groups", "weight_bits", "activation_bits", "shuffle", "stem", "passes",
    "quantized_passes", "top1_mean", "top1_ci95", "seeds",
}  # fmt: skip
PAIR_FIELDS = {"a", "b", "difference_mean", "difference_ci95"}
SETTINGS = Namespace(base_width=4, epochs=3)
TINY = TrainConfig(base_width=2, groups=1, epochs=1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PALQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_everything_that_is_claimed_is_measured():
    assert {(m.groups, m.bits) for m in METHODS} == {
        (1, None), (1, 4), (1, 3), (1, 2), (2, 2), (3, 2), (4, 2)
    }  # fmt: skip
    found = {(m.groups, m.shuffle) for m in METHODS if m.groups > 1 and m.stem == "8x8"}
    assert found == {(g, s) for g in (2, 3, 4) for s in (BOTH, CHANNEL, NONE)}
    stems = {(m.groups, m.stem) for m in METHODS if m.stem != "8x8"}
    assert stems == {
        (1, "float"), (2, "8x8 shared"), (3, "8x8 shared"), (4, "8x8 shared"), (1, "8x4"),
        (2, "8x4"), (2, "8x4 shared"), (1, "8x2"), (2, "8x2"), (2, "8x2 shared"),
    }  # fmt: skip
    names = [method.name for method in METHODS]
    assert len(set(names)) == len(names)


def test_every_method_has_its_comparisons():
    pairs = accuracy.comparisons(METHODS)
    assert len(set(pairs)) == len(pairs)
    for method in METHODS:
        counterpart = dataclasses.replace(COUNTERPART, stem_bits=method.stem_bits)
        assert (method, counterpart) in pairs or method == counterpart
    names = {(a.name, b.name) for a, b in pairs}
    for groups in (2, 3, 4):
        name = f"PalQuant G={groups}"
        assert (name, f"{name}, no shuffle") in names
        assert (f"{name}, channel shuffle alone", f"{name}, no shuffle") in names
        assert (f"{name}, stem 8x8 shared", name) in names
    assert ("PalQuant G=2, stem 8x2", "PalQuant G=2") in names
    assert ("PalQuant G=2, stem 8x2", "W4A4, stem 8x2") in names
    assert ("W4A4, stem 8x2", "W4A4") in names


def test_all_methods_have_the_same_recipe_and_data():
    structure = {
        "groups", "weight_bits", "activation_bits", "shuffle", "channel_shuffle", "stem_bits",
        "shared_stem",
    }  # fmt: skip
    recipes = {
        tuple(v for k, v in dataclasses.asdict(m.config(SETTINGS, 5)).items() if k not in structure)
        for m in METHODS
    }
    assert len(recipes) == 1
    config = METHODS[0].config(SETTINGS, 5)
    assert (config.base_width, config.epochs, config.seed) == (4, 3, 5)
    assert config.noise == accuracy.NOISE > 0


def test_methods_say_what_their_networks_are():
    config = dataclasses.replace(PALQUANT[1], shuffle=CHANNEL).config(SETTINGS, 0)
    assert (config.groups, config.shuffle, config.channel_shuffle) == (3, False, True)
    config = dataclasses.replace(PALQUANT[0], shuffle=NONE, stem_bits=2).config(SETTINGS, 0)
    assert (config.shuffle, config.channel_shuffle, config.stem_bits) == (False, False, 2)
    assert dataclasses.replace(PALQUANT[0], shared_stem=True).config(SETTINGS, 0).shared_stem
    config = Method(bits=3).config(SETTINGS, 0)
    assert (config.groups, config.weight_bits, config.activation_bits) == (1, 3, 3)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_costs_are_those_of_the_compiled_network(groups, bits):
    method = Method(groups=groups, bits=bits, shuffle=BOTH, stem_bits=4, shared_stem=groups == 2)
    config = method.config(SETTINGS, 0).network
    graph = calibrated_graph(config, 0, synthetic_images(2, config.image))
    layers = compile_graph(graph, PRESETS["tiny"]).layers
    total, quantized = accuracy.graph_passes(graph)
    assert total == sum(layer.macs * layer.passes for layer in layers)
    assert quantized == sum(layer.macs * layer.passes for layer in layers if layer.quantized)
    assert 0 < quantized < total


def test_intervals_are_those_of_students_distribution():
    mean, interval = accuracy.mean_and_interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert interval == pytest.approx(2.776445 * np.std(range(5), ddof=1) / np.sqrt(5))
    assert accuracy.mean_and_interval([0.5, 0.5]) == (0.5, 0)


def test_the_pareto_front_is_whom_nobody_beats():
    points = [(None, 1.0), (1, 0.5), (2, 0.5), (2, 0.7), (3, 0.6), (4, 0.8), (4, 0.8)]
    rows = [{"passes": passes, "top1_mean": top1} for passes, top1 in points]
    front = [accuracy.is_pareto(row, rows) for row in rows]
    assert front == [False, True, False, True, False, True, True]


def test_the_benchmark_goes_on_where_it_was_interrupted(cache, tmp_path, monkeypatch, capsys):
    methods = (FLOAT, COUNTERPART, PALQUANT[0], dataclasses.replace(PALQUANT[0], shuffle=NONE))
    monkeypatch.setattr(accuracy, "METHODS", methods)
    path, plot = tmp_path / "accuracy.json", tmp_path / "accuracy.svg"
    command = ["bench", "accuracy", "--base-width", "2", "--epochs", "1", "--seeds", "2",
               "--jobs", "1", "--seed", "3", "--json", str(path)]  # fmt: skip
    ran = []
    original = Training.run

    def run(self):
        ran.append((self.config.name, self.floating, self.config.seed))
        if len(ran) == 4:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Training, "run", run)
    assert main([*command, "--quiet"]) == 130
    assert not path.exists()
    assert len(list(cache.glob("*.json"))) == 3
    capsys.readouterr()
    assert main([*command, "--plot", str(plot)]) == 0
    assert ran[3] == ran[4]  # the one that was interrupted, and the others not again
    assert len(ran) == 9
    assert len(set(ran)) == 8
    output = capsys.readouterr()
    assert "training: 100%" in output.err
    assert "8/8" in output.err
    report = json.loads(path.read_text())
    assert [row["method"] for row in report["rows"]] == [method.name for method in methods]
    for row in report["rows"]:
        assert set(row) >= ROW_FIELDS
        assert row["method"] in output.out
        assert row["seeds"] == 2
        assert row["top1_mean"] == pytest.approx(np.mean(row["top1"]))
    floating, wide, palquant, plain = report["rows"]
    assert floating["passes"] is floating["quantized_passes"] is None
    assert plain["quantized_passes"] < palquant["quantized_passes"] < wide["quantized_passes"]
    assert palquant["shuffle"] == "cyclic+channel"
    assert all(set(pair) == PAIR_FIELDS for pair in report["paired"])
    (pair,) = [p for p in report["paired"] if (p["a"], p["b"]) == (palquant["method"], "W4A4")]
    differences = np.subtract(palquant["top1"], wide["top1"])
    assert pair["difference_mean"] == pytest.approx(differences.mean())
    assert "Pareto front" in plot.read_text()

    # The same seeds give the same rows, measured again or not.
    command += ["--method", "PalQuant G=2", "--method", "float"]
    ran.clear()
    ran += [None] * 4
    assert main([*command, "--quiet", "--fresh"]) == 0
    assert len(ran) == 8
    again = json.loads(path.read_text())["rows"]
    assert [row["top1"] for row in again] == [floating["top1"], palquant["top1"]]


def test_processes_give_what_one_gives(cache):
    asked = [Training(TINY), Training(TINY, floating=True)]
    together = measure(asked, jobs=2, fresh=False, progress=False)
    kept = measure(asked, jobs=1, fresh=False, progress=False)
    alone = measure(asked[:1], jobs=1, fresh=True, progress=False)
    assert together == kept
    assert list(together) == asked
    assert alone[asked[0]] == together[asked[0]]


def test_results_are_named_after_all_that_they_depend_on(cache, monkeypatch):
    first = Training(TINY)
    others = [
        Training(dataclasses.replace(TINY, **{name: value}))
        for name, value in (("seed", 1), ("noise", 0.1), ("epochs", 2), ("channel_shuffle", False))
    ]
    paths = {item.path() for item in (first, Training(TINY, floating=True), *others)}
    assert len(paths) == 6
    assert Training(TINY).path() == first.path()
    monkeypatch.setattr("palquant.demo.package_sources", lambda package: [b"other code"])
    assert Training(TINY).path() not in paths


class Dying(Training):
    def run(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_told(cache):
    before = multiprocessing.active_children()
    with pytest.raises(ToolError, match="ended from outside; are 2 at a time too many"):
        measure([Dying(TINY)], jobs=2, fresh=False, progress=False)
    assert multiprocessing.active_children() == before


def test_an_interruption_ends_the_processes(cache, monkeypatch):
    def interrupted(futures):
        raise KeyboardInterrupt

    before = multiprocessing.active_children()
    monkeypatch.setattr(trainings, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure([Training(TINY)], jobs=2, fresh=False, progress=False)
    assert multiprocessing.active_children() == before
    assert not list(cache.glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["accuracy", "--size", "8"], "bench accuracy: --size is not an option of this benchmark"),
        (["accuracy", "--geometry", "tiny"], "bench accuracy: --geometry is not an option"),
        (["growth", "--epochs", "2"], "bench growth: --epochs is not an option of this benchmark"),
        (["growth", "--method", "float"], "bench growth: --method is not an option of this"),
        (["accuracy", "--method", "W5A5"], "there is no method 'W5A5' (known: float; W4A4; "),
        (["accuracy", "--seeds", "1"], "an interval of confidence needs at least 2 seeds"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, capsys):
    assert main(["bench", *arguments, "--quiet"]) == 1
    assert message in capsys.readouterr().err
