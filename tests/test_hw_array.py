# amaranth: UnusedElaboratable=no
"""The array against sums written out, with results that follow each other without a gap."""

import dataclasses
import random

import pytest
from post_bench import small_geometry
from simulation import simulate

from palquant.hw.array import MacArray
from palquant.hw.chained_array import ChainedMacArray
from palquant.hw.mac import reference

GEOMETRY = small_geometry("array", tin=8, tout=4, lanes=4)
IDLE = {"valid": 0}


def expected_results(words, geometry):
    """Results of (control, activation digits, weights by unit), as the array defines them."""
    sums, total = [0] * geometry.tout, 0
    results = []
    for control, activation, weights in words:
        if not control["valid"]:
            continue
        start = [0 if control["clear"] else s << 2 * control["shift"] for s in [*sums, total]]
        sums = [s + reference(activation, unit) for s, unit in zip(start, weights, strict=False)]
        total = start[-1] + control["count"] * sum(activation)
        if control["emit"]:
            flags = tuple(control[name] for name in ("tag", "first", "last", "empty"))
            results.append((sums, total, flags))
    return results


def pack(digits):
    return sum(digit << 2 * k for k, digit in enumerate(digits))


def run(words, geometry, make=MacArray):
    """(cycle of the word, result) in order of appearance."""
    dut = make(geometry)
    seen = []

    async def main(ctx):
        stable = announced = None
        for k in range(len(words) + dut.latency + 1):
            control, activation, weights = words[k] if k < len(words) else (IDLE, [0], [[0]])
            ctx.set(dut.control, control)
            ctx.set(dut.activation, pack(activation))
            ctx.set(dut.weights, pack([digit for unit in weights for digit in unit]))
            await ctx.tick()
            result = dut.result
            values = (
                [ctx.get(s) for s in result.sums],
                ctx.get(result.activation_sum),
            )
            if announced:
                seen.append((k - dut.latency, (*values, announced)))
                stable = values
            elif stable is not None:
                assert values == stable, "a result changed before the next"
            ports = (result.tag, result.first, result.last, result.empty)
            flags = tuple(ctx.get(port) for port in ports)
            announced = flags if ctx.get(result.valid) else None

    simulate(dut, main)
    return seen


def random_words(geometry, rng, count, corner=None):
    """Words of results of random lengths, with holes; ``corner`` is the only digit that occurs."""
    words = []

    def digits(length):
        return [rng.randrange(4) if corner is None else corner for _ in range(length)]

    while len(words) < count:
        length = rng.choice([1, 1, 2, 3, 9])
        for k in range(length):
            control = {
                "valid": 1,
                "clear": int(k == 0 and rng.random() < 0.8),
                "shift": int(rng.random() < 0.3),
                "count": int(rng.random() < 0.7),
                "emit": int(k == length - 1),
                **{name: rng.randrange(2) for name in ("tag", "first", "last", "empty")},
            }
            weights = [digits(geometry.tin) for _ in range(geometry.tout)]
            words.append((control, digits(geometry.tin), weights))
            while rng.random() < 0.2:
                words.append(({**control, "valid": 0}, digits(geometry.tin), weights))
    words[0][0]["clear"] = 1
    return words


def wrap(results, geometry):
    return [
        (
            [s % (1 << geometry.accumulator_bits) for s in sums],
            total % (1 << geometry.activation_sum_bits),
            flags,
        )
        for sums, total, flags in results
    ]


def keep_to_the_sequencer(words):
    """Clear accumulators after each result that is not held, and otherwise after a hole alone."""
    done, hole = True, True
    for control, _, _ in words:
        if control["valid"]:
            control["clear"] = int(done or (control["clear"] and hole))
            control["shift"] &= ~control["clear"]
            done, hole = control["emit"] and not control["empty"], False
        else:
            hole = True
    return words


@pytest.mark.parametrize("registers", [1, 2, 4, 9])
@pytest.mark.parametrize("corner", [None, 3])
@pytest.mark.parametrize("make", [MacArray, ChainedMacArray])
def test_random_results(registers, corner, make):
    geometry = dataclasses.replace(GEOMETRY, array_registers=registers)
    words = random_words(GEOMETRY, random.Random(7), 150, corner)
    if make is ChainedMacArray:
        words = keep_to_the_sequencer(words)
        held = [c for c, _, _ in words if c["valid"] and not c["clear"]]
        assert any(c["shift"] for c in held)
    seen = run(words, geometry, make)
    assert [result for _, result in seen] == wrap(expected_results(words, GEOMETRY), GEOMETRY)
    emitting = [k for k, (c, _, _) in enumerate(words) if c["valid"] and c["emit"]]
    assert [cycle for cycle, _ in seen] == emitting


@pytest.mark.parametrize("make", [MacArray, ChainedMacArray])
def test_latency_is_the_sum_of_its_parts(make):
    assert make(GEOMETRY).latency == GEOMETRY.array_registers + 1


@pytest.mark.parametrize(("a", "c"), [(a, c) for a in (1, 2, 4) for c in (1, 2, 4)])
@pytest.mark.parametrize("make", [MacArray, ChainedMacArray])
def test_codes_of_every_precision(a, c, make):
    """Digit passes in Horner's order give the product of whole codes, and the sum of one."""
    rng = random.Random(a * 8 + c)
    codes = [[rng.randrange(4**a) for _ in range(8)] for _ in range(3)]
    weights = [[[rng.randrange(4**c) for _ in range(8)] for _ in range(4)] for _ in codes]
    codes[0], weights[0][0] = [4**a - 1] * 8, [4**c - 1] * 8
    words = []
    for total in range(a + c - 2, -1, -1):
        pairs = [(total - j, j) for j in range(c) if 0 <= total - j < a]
        for i, j in pairs:
            for tap, (code, units) in enumerate(zip(codes, weights, strict=True)):
                begins = tap == 0 and (i, j) == pairs[0]
                control = {
                    "valid": 1,
                    "clear": int(not words),
                    "shift": int(begins),
                    "count": int(j == 0),
                    "emit": 0,
                    **dict.fromkeys(("tag", "first", "last", "empty"), 0),
                }
                digits = [(x >> 2 * i) & 3 for x in code]
                units = [[(x >> 2 * j) & 3 for x in unit] for unit in units]
                words.append((control, digits, units))
    words[-1][0]["emit"] = 1
    ((_, (sums, total, _)),) = run(words, GEOMETRY, make)
    assert sums == [
        sum(reference(code, units[o]) for code, units in zip(codes, weights, strict=True))
        for o in range(4)
    ]
    assert total == sum(map(sum, codes))
