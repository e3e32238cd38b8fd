"""Taller tiles in single buffers where weights come anew for each tile."""

import dataclasses

import pytest
from networks import Builder, drawer

from palquant.hw.isa import Opcode, Source
from palquant.hw.presets import PRESETS
from palquant.sim.bus import Bus
from palquant.sim.predict import predict
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.plan import Planner

#: The weights of one output chunk of 64 channels take 72 of 256 words, 4 beats each.
NARROW_BUS = dataclasses.replace(
    PRESETS["tiny"], name="narrow bus", bus_bits=32, weight_words=256, activation_words=512,
    output_words=64, residual_words=512, parameter_slots=16,
)  # fmt: skip


def two_columns(height=7):
    """16 words of codes in each row of results."""
    b = Builder(drawer(3))
    x = b.affine("x", b.convolution("stem", b.start(1, height, 2), 64, 8))
    b.quantize("result", b.convolution("conv", b.quantize("codes", x, 2), 64, 2), 2)
    return b


def compiled(b):
    image = compile_graph(b.graph(), NARROW_BUS, keep_all=False)
    emulator = Emulator(NARROW_BUS, image.data)
    rows = [f["output_rows"] for _, opcode, f in emulator.program
            if opcode is Opcode.COMPUTE and f["source"] == Source.ARRAY
            and f["layer"] == len(image.layers) - 1]  # fmt: skip
    return image, emulator, rows


def test_weights_are_loaded_less_often(monkeypatch):
    """Doubled buffers hold two rows, single ones four."""
    b = two_columns()
    image, emulator, rows = compiled(b)
    assert set(rows) == {4, 3}
    require_equal(compare_outputs(image, emulator.run(image.pack_input(b.codes)), b.values))
    monkeypatch.setattr(Planner, "_cut", lambda self, group: self.chip.tile(group))
    doubled, _, rows = compiled(b)
    assert set(rows) == {2, 1}
    assert predict(image, Bus()).profile.cycles < predict(doubled, Bus()).profile.cycles


@pytest.mark.parametrize("height", [2, 4])
def test_one_tile_needs_no_choice(height):
    assert set(compiled(two_columns(height))[2]) == {height}
