"""Loop order, digits and ends against plainly written loops."""

import random

import pytest
from compute_words import random_loops, words
from post_bench import small_geometry
from simulation import simulate

from palquant.hw.isa import Source
from palquant.hw.loops import LoopNest

GEOMETRY = small_geometry("loops")


def run(instructions, *, idle=0.3, seed=0):
    """What the nest says of each word of each instruction, stepping at random moments."""
    dut = LoopNest(GEOMETRY)
    rng = random.Random(seed)
    seen = []

    async def main(ctx):
        for fields in instructions:
            ctx.set(dut.fields, fields)
            ctx.set(dut.load, 1)
            await ctx.tick()
            ctx.set(dut.load, 0)
            told = []
            while True:
                if rng.random() < idle:
                    await ctx.tick()
                    continue
                entry = ctx.get(dut.entry)
                told.append(
                    {
                        "entry": [name for name, _ in entry.shape() if entry[name]],
                        "digit": ctx.get(dut.digit),
                        "count": ctx.get(dut.first_plane),
                        "emit": ctx.get(dut.emit),
                        "last": ctx.get(dut.finish),
                    }
                )
                ctx.set(dut.step, 1)
                await ctx.tick()
                ctx.set(dut.step, 0)
                if told[-1]["last"]:
                    break
            seen.append(told)

    simulate(dut, main)
    return seen


@pytest.mark.parametrize("seed", range(4))
def test_random_nests(seed):
    rng = random.Random(seed)
    instructions = [random_loops(GEOMETRY, rng) for _ in range(12)]
    for fields, told in zip(instructions, run(instructions, seed=seed), strict=True):
        expected = words(GEOMETRY, fields)
        assert [(w["emit"], w["last"]) for w in told] == [(w["emit"], w["last"]) for w in expected]
        assert all(len(w["entry"]) == 1 for w in told)
        assert [w["entry"] == ["start"] for w in told] == [True] + [False] * (len(told) - 1)
        if fields["source"] == Source.ARRAY:
            assert [w["count"] for w in told] == [w["count"] for w in expected]


def test_every_precision_visits_every_digit_pair_once():
    rng = random.Random(9)
    cases = [
        random_loops(
            GEOMETRY,
            rng,
            source=Source.ARRAY,
            input_digits=a,
            weight_digits=b,
            digit_sum_first=a + b - 2,
            digit_sum_last=0,
            **dict.fromkeys(("kernel_rows", "kernel_columns", "input_chunks"), 1),
            **dict.fromkeys(("output_rows", "output_columns", "output_chunks"), 1),
        )
        for a in (1, 2, 4)
        for b in (1, 2, 4)
    ]
    for fields, told in zip(cases, run(cases), strict=True):
        a, b = fields["input_digits"], fields["weight_digits"]
        pairs, weight = [], 0
        for word in told:
            if word["entry"] == ["weight_digit"]:
                weight += 1
            elif word["entry"] == ["weight_pass"]:
                weight = max(0, sum(pairs[-1]) - 1 - (a - 1))
            else:
                weight = 0 if word["entry"] == ["activation_pass"] else b - 1
            pairs.append((word["digit"], weight))
        assert sorted(pairs) == [(i, j) for i in range(a) for j in range(b)]
        assert [-sum(pair) for pair in pairs] == sorted(-sum(pair) for pair in pairs)
        assert [word["digit"] + w for word, (_, w) in zip(told, pairs, strict=True)] == [
            sum(pair) for pair in pairs
        ]


def test_longest_rounds():
    """Counters at the width of their fields."""
    fields = random_loops(
        GEOMETRY,
        random.Random(1),
        source=Source.ARRAY,
        input_chunks=4095,
        kernel_rows=1,
        kernel_columns=1,
        input_digits=1,
        weight_digits=1,
        digit_sum_first=0,
        digit_sum_last=0,
        **dict.fromkeys(("output_rows", "output_columns", "output_chunks"), 1),
    )
    (told,) = run([fields], idle=0)
    assert len(told) == 4095
