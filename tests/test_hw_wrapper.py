# amaranth: UnusedElaboratable=no
"""A block's inputs come in by one pin, its outputs leave by another."""

import random

from amaranth import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from simulation import simulate

from palquant.hw.wrapper import Wrapper


class Block(wiring.Component):
    """Adds, and says which of two things it was given, both out of a structure and an array."""

    control: In(data.StructLayout({"low": 1, "high": 3}))
    terms: In(8).array(2)
    total: Out(9)
    result: Out(wiring.Signature({"low": Out(1), "high": Out(3)}))

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.total.eq(self.terms[0] + self.terms[1])
        m.d.comb += [self.result.low.eq(self.control.low), self.result.high.eq(self.control.high)]
        return m


def test_inputs_and_outputs_in_the_order_of_members():
    rng = random.Random(5)
    low, high, terms = 1, 5, [rng.randrange(256) for _ in range(2)]
    dut = Wrapper(Block())
    widths = [(low, 1), (high, 3), (terms[0], 8), (terms[1], 8)]
    stream = [value >> bit & 1 for value, bits in widths for bit in range(bits)]
    bits = []

    async def main(ctx):
        for bit in reversed(stream):  # the first to enter goes furthest
            ctx.set(dut.i, bit)
            await ctx.tick()
        ctx.set(dut.take, 1)
        await ctx.tick()
        ctx.set(dut.take, 0)
        for _ in range(9 + 4):
            bits.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, main)

    def number(bits):
        return sum(bit << k for k, bit in enumerate(bits))

    # The sum is in a register, of what the inputs held a cycle earlier: the same one place before.
    before = [*stream[1:], 0]
    assert number(bits[:9]) == number(before[4:12]) + number(before[12:20])
    assert (bits[9], number(bits[10:])) == (low, high)
