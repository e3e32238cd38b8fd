"""The cost model: what its file says is what its measurements give, and hold-outs are met."""

import dataclasses
import json
import math

import pytest

from palquant import cost_fit
from palquant.cost_fit import compare, fit, least_squares, machine, read_builds, worst
from palquant.cost_model import DATA, CostModel, evaluate
from palquant.cost_parts import ARRAY, PARTS, REST, WHOLE
from palquant.cost_sample import CHECK, CLOCK, FIT, Sample
from palquant.errors import ConfigurationError, ToolError
from palquant.hw.block_ram import map_memory
from palquant.hw.isa import Memory
from palquant.hw.memory_shapes import block_rams, parameter_shapes, scratchpad_shape
from palquant.hw.presets import PRESETS

FOUND = json.loads(DATA.read_text())
BUILDS = read_builds()
MODEL = CostModel.load()
WHOLES = [item for item in BUILDS if item["part"] == WHOLE and item["use"] != CLOCK]
PADS = {f"{memory.name.lower()} memory": memory for memory in Memory}


def name(build):
    return f"{build['part']} {build['geometry']['name']}"


def test_machines_that_the_model_never_saw():
    rows = compare(MODEL, BUILDS)
    unseen = [row for row in rows if not row["fitted"]]
    assert len(unseen) >= 2
    fitted = [machine(item) for item in BUILDS if item["use"] == FIT]
    assert not [row for row in unseen if row["geometry"] in {item.name for item in fitted}]
    assert max(row["lut"] for row in unseen) > max(row["lut"] for row in rows if row["fitted"])
    assert worst(rows) < 0.1
    assert worst(rows, "ff") < 0.1
    assert worst(rows, "dsp") == 0


@pytest.mark.parametrize("build", WHOLES, ids=name)
def test_block_ram_is_exact(build):
    assert build["bram"] == block_rams(machine(build))


@pytest.mark.parametrize(
    "build", [item for item in BUILDS if item["part"] in {*PADS, "parameters"}], ids=name
)
def test_block_ram_of_each_memory(build):
    geometry = machine(build)
    if build["part"] == "parameters":
        shapes = parameter_shapes(geometry)
    else:
        shapes = [scratchpad_shape(geometry, PADS[build["part"]])]
    assert build["bram"] == sum(shape.count * map_memory(shape).blocks for shape in shapes)


def test_the_file_says_how_it_was_made():
    assert FOUND["command"] == "palquant bench cost"
    assert FOUND["synthesis"] == ["synth_ecp5 -noiopad -top {top}"]
    assert FOUND["yosys"]
    assert {item["use"] for item in BUILDS} >= {FIT, CHECK}
    assert fit(BUILDS).parts == MODEL.parts


def test_parts_add_up():
    geometry = PRESETS["tiny"]
    parts = MODEL.breakdown(geometry)
    assert set(parts) == {part.name for part in PARTS} | {REST}
    area = MODEL.area(geometry)
    assert area.lut == sum(part.lut for part in parts.values())
    assert parts[ARRAY] == MODEL.array_area(geometry)
    twice = dataclasses.replace(geometry, tout=16)
    assert 1.9 < MODEL.array_area(twice).lut / MODEL.array_area(geometry).lut < 2.1
    assert MODEL.area(twice).lut > area.lut


def test_least_squares():
    features = [{"a": a, "b": b} for a, b in ((1, 2), (3, 1), (4, 4), (9, 2))]
    measured = [5 + 2 * item["a"] for item in features]
    found = least_squares(features, measured)
    assert found == pytest.approx({"always": 5, "a": 2})
    assert evaluate(found, {"a": 10, "b": 7}) == pytest.approx(25)
    assert least_squares([{}], [0]) == {}


def test_clocks():
    few, many = (dataclasses.replace(PRESETS["kilomac"], array_registers=k) for k in (1, 8))
    assert MODEL.array_fmax_mhz(few) < MODEL.array_fmax_mhz(many)
    slow = CostModel(MODEL.parts, {**MODEL.clock, REST: {"doublings of LUTs": 10}})
    for machine_ in (few, many):
        assert slow.fmax_mhz(machine_) <= slow.array_fmax_mhz(machine_)
    assert slow.fmax_mhz(many) == pytest.approx(100 / math.log2(slow.area(many).lut))


def test_refusals(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no cost model .* palquant bench cost makes one"):
        CostModel.load(tmp_path / "none.json")
    (tmp_path / "old.json").write_text(json.dumps({"parts": {"array": {}}, "clock": {}}))
    with pytest.raises(ConfigurationError, match="no cost model"):
        CostModel.load(tmp_path / "old.json")
    without = CostModel(MODEL.parts, {})
    with pytest.raises(ConfigurationError, match="nothing was routed for it; --clock"):
        without.fmax_mhz(PRESETS["tiny"])


def test_a_build_is_synthesised_once(monkeypatch, tmp_path):
    monkeypatch.setenv("PALQUANT_CACHE", str(tmp_path))
    (part,) = (part for part in PARTS if part.name == "correction")
    sample = Sample(part.name, FIT, PRESETS["tiny"], part.make)
    first = sample.measure()
    assert first["lut"] > 0
    assert first["bram"] == 0
    monkeypatch.setattr("palquant.cost_sample.synthesize", lambda *_: pytest.fail("made again"))
    # Nothing of this block depends on the depth of a memory.
    deeper = dataclasses.replace(PRESETS["tiny"], weight_words=2048)
    again = dataclasses.replace(sample, geometry=deeper).measure()
    assert {**again, "geometry": first["geometry"]} == first


def test_the_command_writes_a_model(monkeypatch, tmp_path, capsys):
    from palquant.cli import main

    def measure(self, fresh):
        for item in BUILDS:
            if (item["part"], item["use"], machine(item)) == (self.part, self.use, self.geometry):
                return item
        raise ToolError("synthesis for Lattice ECP5: an assertion failed")

    monkeypatch.setattr(Sample, "measure", measure)
    path = tmp_path / "model.json"
    assert main(["bench", "cost", "--no-route", "--quiet", "--model", str(path)]) == 0
    assert CostModel.load(path).parts == MODEL.parts
    assert "machines that the model never saw" in capsys.readouterr().out
    assert main(["bench", "area", "--model", str(path)]) == 1
    assert "--model is not an option of this benchmark" in capsys.readouterr().err

    monkeypatch.setattr(cost_fit, "samples", lambda clock: [])
    assert main(["bench", "cost", "--no-route", "--quiet", "--model", str(path)]) == 1
    assert "synthesis failed for every array" in capsys.readouterr().err
