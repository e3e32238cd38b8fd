"""Addresses against the sum of products that they stand for, wrapping at 20 bits."""

import random
from itertools import product

import pytest
from post_bench import advance_of, trace

from palquant.hw.addresses import AddressGenerator
from palquant.hw.presets import geometry

TINY = geometry("tiny")


def loop(chunks, rows, columns, beats):
    """(advance, chunk, row, column, beat) of each beat, in loop order."""
    for chunk, row, column, beat in product(*map(range, (chunks, rows, columns, beats))):
        yield advance_of(chunk, row, column, beat), chunk, row, column, beat


def reference(extent, base, row_stride, pixel_stride, chunk_step, beat_step):
    return [
        (base + r * row_stride + c * pixel_stride + n * chunk_step + b * beat_step) % (1 << 20)
        for _, n, r, c, b in loop(*extent)
    ]


def addresses(*instructions, gaps=(0,)):
    """What the generator makes of instructions that follow each other at once."""
    dut = AddressGenerator(TINY)
    cycles, starts = [], []
    for extent, *strides in instructions:
        names = ("base", "row_stride", "pixel_stride", "chunk_step", "beat_step")
        ports = [(getattr(dut, name), value) for name, value in zip(names, strides, strict=True)]
        for advance, *_ in loop(*extent):
            starts.append(len(cycles))
            cycles.append([(dut.valid, 1), (dut.advance, advance), *ports])
            noise = [(dut.valid, 0), *((port, 1) for port, _ in ports)]
            cycles += [noise] * gaps[len(starts) % len(gaps)]
    cycles += [[(dut.valid, 0)]] * dut.LATENCY
    seen = trace(dut, cycles, dut.address)
    return [seen[start + dut.LATENCY] for start in starts]


@pytest.mark.parametrize("extent", [(1, 1, 1, 1), (2, 3, 4, 2), (3, 1, 2, 1), (1, 4, 1, 4)])
@pytest.mark.parametrize("gaps", [(0,), (0, 2, 1)])
def test_sum_of_products(extent, gaps):
    rng = random.Random(repr(extent))
    strides = [rng.randrange(1 << bits) for bits in (20, 20, 16, 20, 20)]
    assert addresses((extent, *strides), gaps=gaps) == reference(extent, *strides)


def test_instructions_follow_each_other():
    first = (2, 2, 2, 2), 0xFFFFE, 100, 10, 3, 1
    second = (1, 2, 3, 1), 7, 0xFFFFF, 0xFFFF, 1, 1
    assert addresses(first, second, first) == [
        address for item in (first, second, first) for address in reference(*item)
    ]
