"""The demonstration, in short: a report with all its fields, and figures that fit each other."""

import dataclasses
import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest

from palquant import golden
from palquant.demo import main, training_folder
from palquant.golden.config import TrainConfig
from palquant.golden.data import load_digits_split

FIELDS = {
    "name", "groups", "weight_bits", "activation_bits", "float_top1", "integer_top1",
    "rtl_images", "rtl_top1", "values_compared", "mismatches", "code_mismatches_vs_float",
    "cycles_per_image", "quantized_cycles_per_image", "utilization", "shuffle_cycles",
}  # fmt: skip


ARGUMENTS = ["--epochs", "1", "--base-width", "8", "--images", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert main(["-o", str(folder), *ARGUMENTS]) == 0
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_every_field_is_there(report):
    assert set(report) == {"networks", "speedup_quantized_layers", "speedup_network"}
    assert [set(network) for network in report["networks"]] == [FIELDS, FIELDS]


def test_all_values_are_equal_and_shuffles_are_free(report):
    for network in report["networks"]:
        assert network["mismatches"] == 0
        assert network["code_mismatches_vs_float"] == 0
        assert network["values_compared"] > 0
        assert network["rtl_images"] == 2
        assert network["shuffle_cycles"] == 0
        assert network["float_top1"] == network["integer_top1"]
        assert 0 < network["utilization"] <= 1
        assert network["quantized_cycles_per_image"] < network["cycles_per_image"]


def test_speedups_are_ratios_of_the_cycles(report):
    palquant, counterpart = report["networks"]
    assert (palquant["groups"], counterpart["groups"]) == (2, 1)
    for name, field in (
        ("speedup_quantized_layers", "quantized_cycles_per_image"),
        ("speedup_network", "cycles_per_image"),
    ):
        assert report[name] == counterpart[field] / palquant[field]
        assert report[name] > 1


def test_a_second_run_trains_nothing_says_so_and_reports_the_same(folder, report, capsys):
    checkpoints = {path: path.read_bytes() for path in folder.glob("*/checkpoint.pt")}
    times = {path: path.stat().st_mtime_ns for path in checkpoints}
    assert main(["-o", str(folder), *ARGUMENTS]) == 0
    said = capsys.readouterr().out
    assert len(checkpoints) == 2
    for path, contents in checkpoints.items():
        assert f"going on from {path}, made by the same" in said
        assert path.read_bytes() == contents
        assert path.stat().st_mtime_ns == times[path]
    assert json.loads((folder / "report.json").read_text()) == report


def test_a_checkpoint_belongs_to_configuration_data_code_and_packages(tmp_path, monkeypatch):
    config, split = TrainConfig(), load_digits_split()
    names = [training_folder(config, split)]
    assert training_folder(TrainConfig(), load_digits_split()) == names[0]

    names.append(training_folder(dataclasses.replace(config, seed=1), split))
    names.append(training_folder(config, load_digits_split(1)))
    labels = split.train_labels.copy()
    labels[7] += 1
    names.append(training_folder(config, dataclasses.replace(split, train_labels=labels)))

    copy = tmp_path / "golden"
    shutil.copytree(Path(golden.__file__).parent, copy)
    monkeypatch.setattr(golden, "__file__", str(copy / "__init__.py"))
    assert training_folder(config, split) == names[0]
    with (copy / "quantize.py").open("a") as file:
        file.write("# changed\n")
    names.append(training_folder(config, split))

    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version(name) + "+other")
    names.append(training_folder(config, split))
    assert len(set(names)) == len(names) == 6
