"""Each cycle is counted once, under the cause that the next COMPUTE waits for."""

import dataclasses
import random
from collections import Counter

import pytest
from amaranth.sim import Simulator
from simulation import plain, simulate

from palquant.hw.counters import CAUSES, Attribution, Counters
from palquant.hw.isa import Cause
from palquant.hw.presets import geometry
from palquant.hw.registers import COUNTER_BITS, COUNTERS, Activity
from palquant.hw.tokens import Engine

TINY = geometry("tiny")


def attribute(engine, idle, pending, missing, cause):
    """Reference: (activity, whether it is the next COMPUTE's)."""
    if engine is not Activity.DEPENDENCY or not idle or not pending:
        return engine, 0
    if missing >> Engine.LOAD & 1:
        return CAUSES[Cause(cause)], 1
    return (Activity.OUTPUT if missing >> Engine.STORE & 1 else engine), 1


def test_attribution_equals_reference():
    dut = Attribution()

    async def main(ctx):
        for engine in Activity:
            ctx.set(dut.engine, engine)
            for bits in range(16):
                idle, pending, load, store = (bits >> i & 1 for i in range(4))
                missing = load << Engine.LOAD | store << Engine.STORE
                for cause in Cause:
                    ctx.set(dut.idle, idle)
                    ctx.set(dut.pending, pending)
                    ctx.set(dut.missing, missing)
                    ctx.set(dut.cause, cause)
                    found = (Activity(plain(ctx.get(dut.activity))), ctx.get(dut.next))
                    assert found == attribute(engine, idle, pending, missing, cause)

    simulator = Simulator(dut)
    simulator.add_testbench(main)
    simulator.run()


@pytest.mark.parametrize("exists", [True, False])
def test_counters_equal_reference(exists):
    dut = Counters(dataclasses.replace(TINY, counters=exists))
    assert dut.values.shape().size == COUNTER_BITS * len(COUNTERS)
    rng = random.Random(1)
    expected = Counter()

    async def main(ctx):
        for cycle in range(500):
            enable = 20 <= cycle < 480
            activity = rng.choice(list(Activity))
            beats = {name: rng.randrange(2) for name in ("read_beat", "fetch_beat", "write_beat")}
            saturated = rng.randrange(257)
            ctx.set(dut.enable, enable)
            ctx.set(dut.activity, activity)
            ctx.set(dut.saturated, saturated)
            for name, value in beats.items():
                ctx.set(getattr(dut, name), value)
                expected[f"{name.upper()}S"] += value * enable
            expected["CYCLES"] += enable
            expected[activity.name] += enable
            expected["SATURATIONS"] += saturated * enable
            await ctx.tick()
        await ctx.tick().repeat(Counters.LATENCY - 1)
        found = plain(ctx.get(dut.values))
        assert found == {name: expected[name] * exists for name in COUNTERS}
        assert sum(found[a.name] for a in Activity) == found["CYCLES"]

    simulate(dut, main)
    assert set(expected) == set(COUNTERS)
