"""Lower bounds of area, against what synthesis makes."""

import dataclasses

import pytest

from palquant.hw.carry_chain import Technology
from palquant.hw.chained_array import ChainedMacArray
from palquant.hw.fpga import FAMILIES
from palquant.hw.least_area import BLOCK_RAM_BITS, least_area, unit_positions
from palquant.hw.presets import geometry
from palquant.hw.synthesis import synthesize
from palquant.hw.verilog import convert

SMALL = dataclasses.replace(geometry("tiny"), tout=4, lanes=4, accumulator_bits=28)


def test_an_array_is_little_more_than_its_chains():
    found = synthesize(
        convert(ChainedMacArray(SMALL, Technology.ECP5), "array"), "array", FAMILIES["ecp5"]
    )
    bound = least_area(SMALL, "ecp5", Technology.ECP5)
    assert bound.lut == 4 * unit_positions(SMALL, Technology.ECP5)
    assert bound.lut < found.lut < 1.5 * bound.lut  # the sum of activations, pairs of positions


def test_memories_fill_whole_blocks():
    machine = geometry("tiny")
    words = {
        "weight": machine.weight_words * 128, "activation": machine.activation_words * 16,
        "output": machine.output_words * 16, "residual": machine.residual_words * 128,
    }  # fmt: skip
    for family, size in BLOCK_RAM_BITS.items():
        expected = -(-sum(words.values()) // size)
        assert least_area(machine, family, None).bram == expected
        assert least_area(machine, family, None, 3 * size).bram == expected + 3


@pytest.mark.parametrize("technology", [Technology.ECP5, Technology.XILINX7])
def test_larger_arrays_take_more(technology):
    tiny, kilomac = (
        least_area(geometry(name), "ecp5", technology).lut for name in ("tiny", "kilomac")
    )
    assert 5 * tiny < kilomac
