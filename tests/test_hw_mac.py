# amaranth: UnusedElaboratable=no
"""Dot products against a plain sum, at every product, every corner and every place of registers."""

import itertools
import random

import pytest
from amaranth import Module, Signal
from simulation import simulate

from palquant.hw.mac import AdderTree, DotProduct, reference, tree_levels


def pack(values, bits):
    """Values side by side, the first lowest."""
    return sum(value << bits * k for k, value in enumerate(values))


def run(dut, vectors):
    """Results of one vector a cycle; ``vectors`` are dictionaries of inputs."""
    results = []
    top = Module()
    top.submodules.dut = dut
    cycle = Signal(16)  # gives a unit without registers a clock domain
    top.d.sync += cycle.eq(cycle + 1)

    async def main(ctx):
        for k in range(len(vectors) + dut.latency):
            for name, value in vectors[min(k, len(vectors) - 1)].items():
                ctx.set(getattr(dut, name), value)
            if dut.latency == 0:
                results.append(ctx.get(dut.o))
            await ctx.tick()
            if dut.latency and k >= dut.latency - 1:
                results.append(ctx.get(dut.o))

    simulate(top, main)
    return results[: len(vectors)]


def test_every_product_of_two_digits():
    pairs = list(itertools.product(range(4), repeat=2))
    vectors = [((a, 0), (c, 3)) for a, c in pairs] + [((0, a), (3, c)) for a, c in pairs]
    assert run(DotProduct(2), [{"a": pack(a, 2), "c": pack(c, 2)} for a, c in vectors]) == [
        reference(a, c) for a, c in vectors
    ]


@pytest.mark.parametrize("registers", [(), (0,), (0, 3, 5), (1, 2), range(8)], ids=str)
@pytest.mark.parametrize("lanes", [2, 8, 32])
def test_random_words_and_corners(lanes, registers):
    rng = random.Random(lanes)
    words = [[0] * lanes, [3] * lanes, [1] * lanes, [2] * lanes]
    words += [[rng.randrange(4) for _ in range(lanes)] for _ in range(20)]
    vectors = list(itertools.product(words[:4], repeat=2))
    vectors += [(rng.choice(words), rng.choice(words)) for _ in range(40)]
    dut = DotProduct(lanes, registers)
    assert dut.latency == len([level for level in registers if level <= tree_levels(lanes)])
    assert run(dut, [{"a": pack(a, 2), "c": pack(c, 2)} for a, c in vectors]) == [
        reference(a, c) for a, c in vectors
    ]


@pytest.mark.parametrize(("terms", "term_max"), [(1, 5), (2, 1), (16, 3), (64, 3)])
def test_adder_tree_adds(terms, term_max):
    rng = random.Random(terms)
    dut = AdderTree(terms, term_max, (0, 2))
    vectors = [[term_max] * terms] + [
        [rng.randint(0, term_max) for _ in range(terms)] for _ in range(20)
    ]
    packed = [{"i": pack(values, dut.term_bits)} for values in vectors]
    assert run(dut, packed) == [sum(values) for values in vectors]


@pytest.mark.parametrize("lanes", [0, 1, 3, 12])
def test_lanes_must_be_a_power_of_two(lanes):
    with pytest.raises(ValueError, match=rf"power of two of at least 2, not {lanes}"):
        DotProduct(lanes)


def test_terms_must_be_a_power_of_two():
    with pytest.raises(ValueError, match="Terms must be a power of two, not 6"):
        AdderTree(6, 3)
