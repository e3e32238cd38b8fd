"""The watchdog barks after exactly so many idle cycles, and the oldest instruction is found."""

import random

import pytest
from simulation import simulate

from palquant.hw.presets import geometry
from palquant.hw.tokens import Engine
from palquant.hw.watchdog import OldestInstruction, Watchdog


def first_alarm(limit, progress, cycles=60):
    """Cycle in which the watchdog expires, or None."""
    dut = Watchdog(geometry("tiny"))
    seen = []

    async def main(ctx):
        ctx.set(dut.limit, limit)
        ctx.set(dut.enable, 1)
        for cycle in range(cycles):
            ctx.set(dut.progress, cycle in progress)
            if ctx.get(dut.expired):
                seen.append(cycle)
            await ctx.tick()

    simulate(dut, main)
    return seen[0] if seen else None


@pytest.mark.parametrize("limit", [1, 2, 10, 33])
def test_expires_after_limit_cycles_without_progress(limit):
    assert first_alarm(limit, {4}) == (limit if limit < 5 else 4 + 2 + limit)
    assert first_alarm(limit, set()) == limit


def test_progress_in_time_keeps_it_quiet():
    assert first_alarm(10, set(range(0, 60, 10))) is None
    assert first_alarm(10, set(range(0, 60, 11))) == 12


def test_zero_turns_it_off():
    assert first_alarm(0, set()) is None


def test_counts_only_while_enabled_and_heeds_a_lower_limit():
    dut = Watchdog(geometry("tiny"))

    async def main(ctx):
        ctx.set(dut.limit, 10)
        await ctx.tick().repeat(50)
        assert not ctx.get(dut.expired)
        ctx.set(dut.enable, 1)
        await ctx.tick().repeat(8)
        assert not ctx.get(dut.expired)
        ctx.set(dut.limit, 5)
        await ctx.tick()
        assert ctx.get(dut.expired)
        ctx.set(dut.enable, 0)
        await ctx.tick()
        assert not ctx.get(dut.expired)

    simulate(dut, main)


def test_oldest_equals_reference():
    dut = OldestInstruction(geometry("tiny"))
    rng = random.Random(3)

    async def main(ctx):
        for _ in range(300):
            valid = rng.randrange(8)
            top = rng.choice([4, 1 << 32])
            offsets = [rng.randrange(top) for _ in Engine]
            otherwise = rng.getrandbits(32)
            ctx.set(dut.valid, valid)
            ctx.set(dut.offsets, offsets)
            ctx.set(dut.otherwise, otherwise)
            await ctx.tick().repeat(dut.LATENCY)
            found = [offsets[engine] for engine in Engine if valid >> engine & 1]
            assert ctx.get(dut.offset) == min(found, default=otherwise)

    simulate(dut, main)
