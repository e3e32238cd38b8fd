"""``palquant explore``: what fits, what is evaluated, and that the front is the whole front."""

import dataclasses
import json
from collections import Counter

import pytest

from palquant import explore
from palquant.candidates import Candidate, Space, candidates, shares
from palquant.cli import main
from palquant.cost_model import CostModel
from palquant.errors import CapacityError, RangeError
from palquant.hw.fpga import Area
from palquant.hw.isa import Memory
from palquant.hw.memory_shapes import DEPTHS
from palquant.hw.place_and_route import DEVICES
from palquant.hw.presets import PRESETS
from palquant.largest_array import largest_array
from palquant.needs import WIDEST, depth, needed_contents, needed_widths
from palquant.search import Cycles, Search, front
from palquant.sw.compile import compile_graph
from palquant.workloads import Workload, workload_graph

DEVICE = DEVICES["ecp5-85f"]
MODEL = CostModel.load()
SMALL = Space(sides=(8, 16), lanes=(8,), bus_bits=(64,), parameter_slots=(32,), splits=2)
WIDTHS = {"accumulator_bits": 28, "activation_sum_bits": 20, "threshold_bits": 24, "pool_bits": 24}
CONTENTS = {Memory.ACTIVATION: 24_000, Memory.RESIDUAL: 14_000, Memory.OUTPUT: 5_000}


@pytest.fixture(scope="module")
def found():
    return list(candidates(SMALL, WIDTHS, CONTENTS, DEVICE, MODEL, 100, Counter()))


def test_all_that_is_tried_fits(found):
    assert {(item.geometry.tin, item.geometry.tout) for item in found} == {
        (8, 8), (8, 16), (16, 8), (16, 16),
    }  # fmt: skip
    assert len({item.geometry for item in found}) == len(found)
    for item in found:
        assert item.share == max(shares(item.area, DEVICE).values()) <= 1
        assert item.area == MODEL.area(item.geometry)
        assert item.geometry.accumulator_bits == 28
        assert item.fmax_mhz == 100
    # The memories use what there is, and less of it as well.
    used = [item.area.bram / DEVICE.resources["DP16KD"] for item in found]
    assert max(used) > 0.9
    assert min(used) <= 0.5


def test_what_does_not_fit_is_counted():
    over = Counter()
    small = dataclasses.replace(DEVICE, resources={**DEVICE.resources, "TRELLIS_COMB": 10_000})
    assert not list(candidates(SMALL, WIDTHS, CONTENTS, small, MODEL, 100, over))
    assert over == {"lut": 4}


def candidate(name, lut, mhz=100, **changes):
    geometry = dataclasses.replace(PRESETS["tiny"], name=name, **changes)
    return Candidate(geometry, Area(lut, 0, 0, 0), mhz, lut / 100_000)


def evaluate(geometry):
    """A machine that is 1 % slower than its array, and one that is much slower."""
    if geometry.weight_words < 512:
        raise CapacityError("too little")
    if geometry.name == "wide registers":
        raise RangeError("overflow")
    words = 64_000_000 // geometry.peak_macs
    return Cycles(words * (3 if geometry.name == "slow" else 1) + words // 100, words, 0, 0)


def search(items, limit=100):
    refused = Counter()
    made = Search(64_000_000, evaluate, lambda item: item.area.lut, refused)
    left = made.run(items, limit, lambda settled: None)
    return made, refused, left


def test_the_front_is_that_of_all_machines():
    items = [
        candidate("small", 10_000),
        candidate("no better", 11_000, output_words=1024),
        candidate("large", 20_000, tout=16),
        candidate("slow", 15_000, tout=16),
        candidate("too little", 5_000, weight_words=128),
        candidate("even less", 4_000, weight_words=128, activation_words=4096),
        candidate("wide registers", 3_000),
    ]
    made, refused, left = search(items)
    assert [item.candidate.geometry.name for item in front(made.found)] == ["small", "large"]
    assert refused == {"compiler": 3}
    assert left == 0
    # What could not be better was not compiled for.
    assert made.skipped == 1
    evaluated = {item.candidate.geometry.name for item in made.found}
    assert evaluated == {"small", "large", "slow"}
    (large,) = (item for item in made.found if item.candidate.geometry.name == "large")
    assert large.images_per_s == pytest.approx(100e6 / large.cycles.total)


def test_a_limit_leaves_some():
    made, _, left = search([candidate("small", 10_000), candidate("large", 20_000, tout=16)], 1)
    assert [item.candidate.geometry.name for item in made.found] == ["large"]
    assert left == 1


@pytest.fixture(scope="module")
def network():
    return workload_graph(Workload(size=32, base_width=8))


def test_widths_are_those_that_the_compiler_asks_for(network):
    widths = needed_widths(network, PRESETS["kilomac"])
    assert all(0 < widths[name] <= WIDEST[name] for name in WIDEST)
    fitting = dataclasses.replace(PRESETS["kilomac"], **widths)
    compile_graph(network, fitting)
    for register in ("accumulator_bits", "activation_sum_bits", "threshold_bits"):
        narrow = dataclasses.replace(fitting, **{register: widths[register] - 1}, pool_bits=1)
        with pytest.raises(RangeError):
            compile_graph(network, narrow)


def test_no_memory_can_be_smaller(network):
    geometry = PRESETS["ulx3s"]
    contents = needed_contents(network, geometry)
    ample = {DEPTHS[memory]: 1 << 18 for memory in contents}
    for memory, content in contents.items():
        least = {**ample, DEPTHS[memory]: depth(geometry, memory, content)}
        compile_graph(network, dataclasses.replace(geometry, **least), keep_all=False)
        less = {**ample, DEPTHS[memory]: depth(geometry, memory, content * 0.9)}
        if content > 1 << 12:  # the least that is tried
            with pytest.raises(CapacityError):
                compile_graph(network, dataclasses.replace(geometry, **less), keep_all=False)


def test_largest_array():
    largest = largest_array(MODEL, DEVICE)
    assert DEVICE.lacks(largest.area) is None
    assert largest.geometry.peak_macs >= 4096
    assert largest.area.lut > MODEL.array_area(largest.geometry).lut


def test_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PALQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(explore, "Space", lambda: dataclasses.replace(SMALL, sides=(8,), splits=1))
    report, plot = tmp_path / "found.json", tmp_path / "found.svg"
    command = [
        "explore", "--network", "resnet18", "--size", "32", "--base-width", "8", "--clock", "50",
        "--quiet", "--json", str(report), "--plot", str(plot),
    ]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    first = json.loads(report.read_text())
    assert first["front"]
    assert all(row["fmax_mhz"] == 50 for row in first["machines"])
    assert {row["array"] for row in first["machines"]} == {"8x8"}
    assert first["evaluated"] + first["compiler_refused"] + first["skipped"] == first["fitting"]
    assert "Largest array alone that fits" in out
    assert "Pareto front" in plot.read_text()
    # A second run compiles nothing.
    monkeypatch.setattr(explore, "compile_graph", lambda *_, **__: pytest.fail("compiled again"))
    assert main(command) == 0
    assert json.loads(report.read_text()) == first


def test_refusals(capsys):
    assert main(["explore", "--network", "lenet", "--quiet"]) == 1
    assert "no network is called 'lenet' (known: resnet18" in capsys.readouterr().err
    assert main(["explore", "--device", "virtex", "--quiet"]) == 1
    assert "no machine can be chosen for device 'virtex' (devices: ecp5-85f)" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(["explore", "--clock", "-3"])
    assert "must be a positive number" in capsys.readouterr().err
