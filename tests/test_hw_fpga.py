"""Counts of cells, and two functions in a table."""

import itertools
import random

import pytest

from palquant.hw.fpga import FAMILIES, Area, Cell, cells_of, pack_dual_outputs


def cells(**numbers):
    """Cells of the given kinds that share no net."""
    nets = itertools.count()
    return [
        Cell(kind, frozenset(next(nets) for _ in range(4)))
        for kind, number in numbers.items()
        for _ in range(number)
    ]


def test_ecp5():
    found = FAMILIES["ecp5"].count(
        cells(LUT4=3, CCU2C=5, TRELLIS_DPR16X4=2, TRELLIS_FF=7, DP16KD=4, MULT18X18D=1, PFUMX=9)
    )
    assert found == Area(lut=3 + 10 + 12, ff=7, bram=4, dsp=1)


def test_ice40_carries_share_the_cells_of_their_tables():
    table = Cell("SB_LUT4", frozenset({1, 2, 3}))
    inside, outside = Cell("SB_CARRY", frozenset({1, 3})), Cell("SB_CARRY", frozenset({1, 4}))
    found = FAMILIES["ice40"].count([table, inside, outside, *cells(SB_DFFE=2, SB_DFFSR=1)])
    assert found == Area(lut=2, ff=3, bram=0, dsp=0)


def test_xilinx7():
    found = FAMILIES["xilinx7"].count(
        cells(LUT6_2=3, CARRY4=8, RAM32M=2, SRL16E=1, FDRE=5, FDSE=1, RAMB18E1=3, DSP48E1=2, INV=4)
    )
    assert found == Area(lut=3 + 8 + 1, ff=6, bram=1.5, dsp=2)


@pytest.mark.parametrize(
    ("functions", "tables"),
    [
        ([], 0),
        (["abcdef", "a"], 2),
        (["abcde", "abc"], 1),
        (["abcde", "f"], 2),
        (["abc", "de"], 1),
        (["abc", "def"], 2),
        (["abcd", "abce", "fg", "hij"], 2),
    ],
)
def test_two_functions_share_a_table_of_five_inputs(functions, tables):
    assert pack_dual_outputs(frozenset(map(ord, names)) for names in functions) == tables


def test_packing_takes_no_less_than_a_table_for_two():
    rng = random.Random(3)
    functions = [frozenset(rng.sample(range(60), rng.randint(1, 6))) for _ in range(500)]
    whole = sum(len(nets) == 6 for nets in functions)
    found = pack_dual_outputs(functions)
    assert whole + (len(functions) - whole) / 2 <= found < len(functions)


def test_constants_are_no_inputs():
    module = {
        "cells": {
            "table": {
                "type": "LUT4",
                "port_directions": {"A": "input", "B": "input", "Z": "output"},
                "connections": {"A": [7], "B": ["1"], "Z": [8]},
            }
        }
    }
    assert cells_of(module) == [Cell("LUT4", frozenset({7}))]
