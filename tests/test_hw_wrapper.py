# amaranth: UnusedElaboratable=no
"""Operands in by one pin, results out by another."""

import random

from post_bench import small_geometry
from simulation import simulate

from palquant.hw.array import MacArray
from palquant.hw.mac import reference
from palquant.hw.wrapped_array import WrappedArray

GEOMETRY = small_geometry("wrapped", tin=8, tout=4, lanes=4)


def test_one_word_through_the_pins():
    rng = random.Random(5)
    activation = [rng.randrange(4) for _ in range(8)]
    weights = [[rng.randrange(4) for _ in range(8)] for _ in range(4)]
    array = MacArray(GEOMETRY)
    dut = WrappedArray(array)
    # valid, clear, shift, count, emit, tag, first, last, empty
    control = [1, 1, 0, 1, 1, 1, 0, 1, 0]
    digits = [*activation, *(digit for unit in weights for digit in unit)]
    stream = [*control, *(digit >> bit & 1 for digit in digits for bit in (0, 1))]
    bits = []

    async def main(ctx):
        for bit in reversed(stream):  # the first to enter goes furthest
            ctx.set(dut.i, bit)
            await ctx.tick()
        ctx.set(dut.i, 0)
        ctx.set(dut.take, 1)
        await ctx.tick().repeat(array.latency + 1)
        ctx.set(dut.take, 0)
        for _ in range(4 * GEOMETRY.accumulator_bits + GEOMETRY.activation_sum_bits + 5):
            bits.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, main)

    def number(count):
        return sum(bits.pop(0) << k for k in range(count))

    sums = [number(GEOMETRY.accumulator_bits) for _ in range(4)]
    assert sums == [reference(activation, unit) for unit in weights]
    assert number(GEOMETRY.activation_sum_bits) == sum(activation)
    assert bits == [1, 1, 0, 1, 0]  # valid, tag, first, last, empty
