# amaranth: UnusedElaboratable=no
"""Positions of carry chains, in generic logic, against additions."""

import random

import pytest
from amaranth import Cat, Const, Module, Signal
from amaranth.back import rtlil
from simulation import simulate

from palquant.hw import carry_chain
from palquant.hw.carry_chain import (
    Technology,
    accumulate,
    add,
    add_three,
    between,
    make_chain,
)

VENDOR = [Technology.ECP5, Technology.XILINX7]


def settle_all(dut, inputs, rows, output):
    """What the output settles at for each row of inputs."""
    found = []

    async def main(ctx):
        for row in rows:
            for signal, value in zip(inputs, row, strict=True):
                ctx.set(signal, value)
            await ctx.delay(1e-9)
            found.append(ctx.get(output))

    simulate(dut, main)
    return found


class Chain:
    """Two numbers of products with a carry, and one number in an accumulator, end to end."""

    def __init__(self, technology, width=3):
        self.width = width
        self.a, self.b, self.c, self.d = (Signal(width, name=n) for n in "abcd")
        self.carry = Signal(2)
        self.held, self.term, self.shift = Signal(width), Signal(width), Signal()
        self.inputs = [self.a, self.b, self.c, self.d, self.carry, self.held, self.term, self.shift]
        self.o = Signal(2 * width + 2)
        self.module = m = Module()
        shifted = Cat(Const(0, 2), self.held)
        positions = [
            between((self.carry[0], self.carry[1])),
            *(add((self.a[k], self.b[k]), (self.c[k], self.d[k])) for k in range(width)),
            between(),
            *(accumulate(self.term[k], self.shift, self.held[k], shifted[k]) for k in range(width)),
        ]
        m.d.comb += self.o.eq(make_chain(m, "chain", positions, technology))

    def expected(self, a, b, c, d, carry, held, term, shift):
        first = (a & b) + (c & d) + (carry == 3)
        second = (term + (held << 2 * shift)) % (1 << self.width)
        return first << 1 | second << self.width + 2


def test_numbers_of_a_chain_do_not_meet():
    chain = Chain(Technology.GENERIC)
    rng = random.Random(1)
    rows = [[rng.getrandbits(len(s)) for s in chain.inputs] for _ in range(2000)]
    rows.append([(1 << len(s)) - 1 for s in chain.inputs])
    found = settle_all(chain.module, chain.inputs, rows, chain.o)
    assert found == [chain.expected(*row) for row in rows]


def test_three_numbers_at_once():
    """All of three numbers of 2 bits, a carry, and a bit in place of the first majority."""
    m = Module()
    x, y, z, carry, below = Signal(2), Signal(2), Signal(2), Signal(), Signal()
    o = Signal(5)
    majorities = [Signal(), Signal()]
    positions = [
        between((carry, None)),
        add_three(x[0], y[0], z[0], below, majorities[0]),
        add_three(x[1], y[1], z[1], majorities[0], majorities[1]),
        between(),
    ]
    sums = make_chain(m, "chain", positions, Technology.GENERIC)
    m.d.comb += o.eq(sums[1:] + (majorities[1] << 2))
    rows = [[k & 3, k >> 2 & 3, k >> 4 & 3, k >> 6 & 1, k >> 7] for k in range(256)]
    found = settle_all(m, [x, y, z, carry, below], rows, o)
    assert found == [sum(row) for row in rows]


@pytest.mark.parametrize("technology", VENDOR)
def test_cells_of_a_family(technology):
    """Two positions to a CCU2C; one to a LUT6, of which four share a CARRY4."""
    chain = Chain(technology)
    text = rtlil.convert(chain.module, ports=[*chain.inputs, chain.o])
    count = {name: text.count(f"cell \\{name} ") for name in ("CCU2C", "LUT6_2", "CARRY4")}
    assert (
        count
        == {
            Technology.ECP5: {"CCU2C": 4, "LUT6_2": 0, "CARRY4": 0},
            Technology.XILINX7: {"CCU2C": 0, "LUT6_2": 8, "CARRY4": 2},
        }[technology]
    )


def test_the_ecp5_adds_no_three_numbers():
    x = Signal(3)
    position = add_three(x[0], x[1], x[2], Const(0, 1), Signal())
    with pytest.raises(ValueError, match="ecp5 has no positions that add three bits"):
        make_chain(Module(), "chain", [position], Technology.ECP5)


@pytest.mark.parametrize("name", ["_ADD", "_BETWEEN", "_ACCUMULATE"])
def test_a_position_generates_what_it_does_not_propagate(name):
    """Where f is 0, both operands are equal, and the carry must be that operand: f(a, b, 0, 0)."""
    table = getattr(carry_chain, name)
    operands = {
        "_ADD": lambda a, b, c, d: (a & b, c & d),
        "_ACCUMULATE": lambda a, b, c, d: (a, d if b else c),
    }.get(name)
    for k in range(16):
        a, b, c, d = (k >> i & 1 for i in range(4))
        generated = table >> (k & 3) & 1
        if operands is None:
            if c & d:
                assert (table >> k & 1, generated) == (0, a & b)
        else:
            x, y = operands(a, b, c, d)
            assert table >> k & 1 == x ^ y
            if x == y:
                assert generated == x
