"""Addresses and coordinates, found by additions, against their formulas."""

import random

import pytest
from amaranth import Module
from compute_words import random_loops, words
from post_bench import small_geometry
from simulation import simulate

from palquant.hw import isa
from palquant.hw.isa import Source
from palquant.hw.loops import LoopNest
from palquant.hw.walk import WindowWalk, coordinate_bits

GEOMETRY = small_geometry("walk")


def run(instructions, *, idle=0.3, seed=0):
    """(address, weight address, row, column) of each word of each instruction."""
    m = Module()
    m.submodules.loops = loops = LoopNest(GEOMETRY)
    m.submodules.walk = walk = WindowWalk(GEOMETRY)
    m.d.comb += [
        walk.entry.eq(loops.entry),
        walk.first_weight_digit.eq(loops.first_weight_digit),
        walk.first_activation_digit.eq(loops.first_activation_digit),
    ]
    rng = random.Random(seed)
    seen = []

    async def main(ctx):
        for fields in instructions:
            for block in (loops, walk):
                ctx.set(block.fields, fields)
                ctx.set(block.load, 1)
            await ctx.tick()
            for block in (loops, walk):
                ctx.set(block.load, 0)
            seen.append([])
            last = False
            while not last:
                stepping = rng.random() >= idle
                last = stepping and ctx.get(loops.finish)
                for block in (loops, walk):
                    ctx.set(block.step, stepping)
                await ctx.tick()
                for block in (loops, walk):
                    ctx.set(block.step, 0)
                if stepping:
                    ports = (walk.address, walk.weight_address, walk.row, walk.column)
                    seen[-1].append([ctx.get(port) for port in ports])

    simulate(m, main)
    return seen


def inside(fields, row, column):
    return 0 <= row < fields["input_rows"] and 0 <= column < fields["input_columns"]


@pytest.mark.parametrize("seed", range(4))
def test_random_windows(seed):
    rng = random.Random(seed)
    instructions = [random_loops(GEOMETRY, rng) for _ in range(12)]
    for fields, told in zip(instructions, run(instructions, seed=seed), strict=True):
        expected = words(GEOMETRY, fields)
        assert len(told) == len(expected)
        for (address, weight, row, column), word in zip(told, expected, strict=True):
            assert inside(fields, row, column) == (word["address"] is not None)
            if word["address"] is not None:
                assert address == word["address"]
            if fields["source"] == Source.ARRAY:
                assert weight == word["weight"]


def test_coordinates_hold_the_extremes():
    """Neither the lowest start nor the furthest stride wraps around."""
    extents = {item.name: item.max for item in isa.COMPUTE.fields}
    reach = extents["first_row"] + 4094 * extents["stride_rows"] + 254
    assert reach < 1 << (coordinate_bits(GEOMETRY) - 1)
    rng = random.Random(3)
    one = dict.fromkeys(("kernel_rows", "kernel_columns", "input_chunks", "output_chunks"), 1)
    one |= {"input_digits": 1, "weight_digits": 1, "digit_sum_first": 0, "digit_sum_last": 0}
    low = random_loops(GEOMETRY, rng, source=Source.ARRAY, first_row=-4096, first_column=-4096,
                       output_rows=1, output_columns=2, stride_columns=15, **one)  # fmt: skip
    high = random_loops(GEOMETRY, rng, source=Source.ARRAY, first_row=4095, first_column=4095,
                        output_rows=600, output_columns=1, stride_rows=15, **one)  # fmt: skip
    told_low, told_high = run([low, high], idle=0)
    assert [word[2:] for word in told_low] == [[-4096, -4096], [-4096, -4081]]
    assert told_high[-1][2:] == [4095 + 599 * 15, 4095]
