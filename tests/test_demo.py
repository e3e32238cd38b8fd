"""The demonstration, in short: a report with all its fields, and figures that fit each other."""

import json

import pytest

from palquant.demo import main

FIELDS = {
    "name", "groups", "weight_bits", "activation_bits", "float_top1", "integer_top1",
    "rtl_images", "rtl_top1", "values_compared", "mismatches", "code_mismatches_vs_float",
    "cycles_per_image", "quantized_cycles_per_image", "utilization", "shuffle_cycles",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert main(["-o", str(folder), "--epochs", "1", "--base-width", "8", "--images", "2"]) == 0
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
