"""Shared pieces of simulations in Amaranth's own simulator."""

import random

from amaranth import ClockDomain, Module
from amaranth.lib import data
from amaranth.sim import Simulator


def simulate(dut, main, *processes, testbenches=()):
    """Run ``main`` to its end, beside others that never end.

    Parameters:
        dut: The design.
        main: Testbench that decides how long it takes.
        processes: They only sample and set, at clock edges. Much faster than testbenches.
        testbenches: They may look at signals at any time.
    """
    m = Module()
    m.domains.sync = ClockDomain()  # whether or not the design has registers
    m.submodules.dut = dut
    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(main)
    for process in processes:
        simulator.add_process(process)
    for testbench in testbenches:
        simulator.add_testbench(testbench, background=True)
    simulator.run()


def plain(value):
    """A sampled payload as an integer, or a struct as a dictionary of integers."""
    if isinstance(value, data.Const):
        return {name: plain(value[name]) for name, _ in value.shape()}
    return int(value)


def source(stream, payloads, *, stall=0.0, seed=0):
    """Process that sends ``payloads`` and then stays silent."""
    rng = random.Random(seed)

    async def process(ctx):
        for payload in payloads:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(stream.payload, payload)
            ctx.set(stream.valid, 1)
            _, _, ready = await ctx.tick().sample(stream.ready)
            while not ready:
                _, _, ready = await ctx.tick().sample(stream.ready)
            ctx.set(stream.valid, 0)

    return process


def sink(stream, received, *, stall=0.0, seed=1):
    """Process that appends what arrives to ``received`` as (cycle, payload)."""
    rng = random.Random(seed)

    async def process(ctx):
        cycle = 0
        waiting = None
        ctx.set(stream.ready, rng.random() >= stall)
        while True:
            _, _, valid, ready, payload = await ctx.tick().sample(
                stream.valid, stream.ready, stream.payload
            )
            payload = plain(payload)
            if waiting is not None:
                assert (valid, payload) == (1, waiting), "payload changed before ready"
            waiting = payload if valid and not ready else None
            if valid and ready:
                received.append((cycle, payload))
            cycle += 1
            ctx.set(stream.ready, rng.random() >= stall)

    return process


def until(condition, limit=5000):
    """Main process that waits for ``condition()``; fails after ``limit`` cycles."""

    async def process(ctx):
        for _ in range(limit):
            if condition():
                return
            await ctx.tick()
        raise AssertionError(f"nothing for {limit} cycles")

    return process
