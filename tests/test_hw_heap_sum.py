# amaranth: UnusedElaboratable=no
"""Sums of products in planned chains, in generic logic, against arithmetic."""

import random

import pytest
from amaranth import Module, Signal
from simulation import simulate

from palquant.hw.carry_chain import Technology
from palquant.hw.heap_sum import registered_levels, sum_products


@pytest.mark.parametrize("lanes", [2, 8, 32])
@pytest.mark.parametrize("latency", [1, 3, 9])
def test_dot_products(lanes, latency):
    m = Module()
    a, c, o = Signal(2 * lanes), Signal(2 * lanes), Signal(16)
    products = [
        (i + j, (a[k + i], c[k + j]))
        for k in range(0, 2 * lanes, 2)
        for i in (0, 1)
        for j in (0, 1)
    ]
    m.d.comb += o.eq(sum_products(m, products, latency, Technology.GENERIC))
    rng = random.Random(lanes)
    rows = [[[rng.randrange(4) for _ in range(lanes)] for _ in range(2)] for _ in range(60)]
    rows += [[[3] * lanes, [3] * lanes], [[0] * lanes, [3] * lanes]]
    found = []

    async def main(ctx):
        for k in range(len(rows) + latency - 1):
            for signal, digits in zip((a, c), rows[min(k, len(rows) - 1)], strict=True):
                ctx.set(signal, sum(digit << 2 * lane for lane, digit in enumerate(digits)))
            await ctx.tick()
            if k >= latency - 1:
                found.append(ctx.get(o))

    simulate(m, main)
    assert found == [sum(x * y for x, y in zip(*row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("levels", "latency", "expected"),
    [(7, 4, (1, 3, 5, 6)), (7, 7, tuple(range(7))), (7, 1, (6,)), (7, 0, ()), (1, 1, (0,))],
)
def test_registers_are_spread_evenly(levels, latency, expected):
    assert registered_levels(levels, latency) == expected
