"""Prefetched beats are the memory's, in order, never more than there is room for."""

import dataclasses

import pytest
from amaranth import Module
from amaranth.lib.wiring import connect
from axi_memory import AxiMemory
from simulation import simulate, sink, until

from palquant.hw.arbiter import ReadArbiter
from palquant.hw.prefetch import Prefetch
from palquant.hw.presets import geometry

GEOMETRIES = [
    geometry("tiny"),
    geometry("kilomac"),
    dataclasses.replace(geometry("tiny"), bus_bits=32, burst_beats=2),
    dataclasses.replace(geometry("kilomac"), bus_bits=256),
]


class Bench:
    def __init__(self, g, **memory):
        self.dut = Prefetch(g)
        self.arbiter = ReadArbiter(g)
        self.memory = AxiMemory(g.bus_bits, read=self.arbiter.bus, **memory)
        self.received = []
        self.geometry = g

    def run(self, main, *, stall=0.0):
        m = Module()
        m.d.comb += self.dut.released.eq(self.dut.o.valid & self.dut.o.ready)
        m.submodules.dut, m.submodules.arbiter = self.dut, self.arbiter
        connect(m, self.dut.address, self.arbiter.fetch)
        connect(m, self.arbiter.fetch_data, self.dut.data)
        simulate(m, main, self.memory.run, sink(self.dut.o, self.received, stall=stall))

    async def go(self, ctx, start, beats):
        assert ctx.get(self.dut.empty)
        ctx.set(self.dut.start, start)
        ctx.set(self.dut.beats, beats)
        ctx.set(self.dut.go, 1)
        await ctx.tick()
        ctx.set(self.dut.go, 0)

    def expected(self, start, beats):
        step = self.geometry.bus_bytes
        data = self.memory.dump(start, beats * step)
        return [int.from_bytes(data[i : i + step], "little") for i in range(0, len(data), step)]

    @property
    def values(self):
        return [payload["data"] for _, payload in self.received]


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.bus_bits}x{g.burst_beats}")
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_reads_exactly_what_was_asked_for(g, stall):
    bench = Bench(g, latency=20, stall=stall)
    start, beats = 0x1000 - 3 * g.bus_bytes, 150

    async def main(ctx):
        await bench.go(ctx, start, beats)
        await until(lambda: len(bench.received) == beats)(ctx)
        await ctx.tick().repeat(3)
        assert ctx.get(bench.dut.exhausted)
        assert not ctx.get(bench.dut.outstanding)

    bench.run(main, stall=stall)
    assert bench.values == bench.expected(start, beats)
    assert not any(beat["error"] for _, beat in bench.received)
    assert sum(count for _, _, count in bench.memory.reads) == beats


def test_instruction_every_few_cycles_at_50_cycles_latency():
    g = geometry("kilomac")
    bench = Bench(g, latency=50)

    async def main(ctx):
        await bench.go(ctx, 0, 600)
        await until(lambda: len(bench.received) == 600)(ctx)

    bench.run(main)
    # 32 units in 50 cycles and a few: a unit of two beats at least every second cycle.
    assert bench.received[-1][0] - bench.received[0][0] <= 600 * 1.1


def test_never_asks_for_more_than_there_is_room():
    g = geometry("tiny")
    bench = Bench(g)

    async def main(ctx):
        await bench.go(ctx, 0, 2000)
        await ctx.tick().repeat(400)
        assert bench.memory.beats["r"] == bench.dut.depth
        assert not ctx.get(bench.arbiter.bus.arvalid)

    bench.run(main, stall=1.0)
    assert not bench.received


@pytest.mark.parametrize("wait", [0, 1, 7, 30, 31, 60])
def test_flush_drops_what_is_there_and_what_comes(wait):
    g = geometry("tiny")
    bench = Bench(g, latency=25)

    async def main(ctx):
        await bench.go(ctx, 0, 500)
        await ctx.tick().repeat(wait + 1)
        ctx.set(bench.dut.flush, 1)
        await ctx.tick()
        before = len(bench.received)
        for _ in range(200):
            if ctx.get(bench.dut.empty):
                break
            await ctx.tick()
        assert bench.memory.quiet
        assert len(bench.received) == before
        ctx.set(bench.dut.flush, 0)
        bench.received.clear()
        await bench.go(ctx, 0x800, 40)
        await until(lambda: len(bench.received) == 40)(ctx)

    bench.run(main)
    assert bench.values == bench.expected(0x800, 40)
    assert not any(beat["error"] for _, beat in bench.received)


def test_error_comes_with_its_beat():
    g = geometry("tiny")
    bench = Bench(g, latency=5)
    bench.memory.read_errors.add(7 * g.bus_bytes)

    async def main(ctx):
        await bench.go(ctx, 0, 20)
        await until(lambda: len(bench.received) == 20)(ctx)

    bench.run(main)
    assert [i for i, (_, beat) in enumerate(bench.received) if beat["error"]] == [7]


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.bus_bits}x{g.burst_beats}")
def test_wrong_end_of_a_burst_is_an_error_of_its_beat(g):
    """Every beat's mark in turn, of a stretch that begins and ends inside a burst."""
    bench = Bench(g, latency=3)
    beats, first = 2 * bench.dut.burst_beats + 1, bench.dut.burst_beats - 1

    async def main(ctx):
        for wrong in range(beats):
            bench.memory.wrong_last = {(first + wrong) * g.bus_bytes}
            bench.received.clear()
            await bench.go(ctx, first * g.bus_bytes, beats)
            await until(lambda: len(bench.received) == beats)(ctx)
            assert [i for i, (_, beat) in enumerate(bench.received) if beat["error"]] == [wrong]
            await ctx.tick().repeat(3)

    bench.run(main)
