"""LOADs arrive on chip beat for beat, keep the bus busy, and end well when the memory does not."""

import dataclasses
import random

import pytest
from amaranth.lib.wiring import connect
from axi_memory import AxiMemory
from simulation import plain, until
from transfers import DRAM_BYTES, EngineBench, one_row, random_transfer, rows

from palquant.hw.arbiter import ReadArbiter
from palquant.hw.isa import Base, Memory
from palquant.hw.load import LoadEngine
from palquant.hw.presets import geometry
from palquant.hw.registers import ErrorCode, Stall
from palquant.hw.transfer import LOADABLE

TINY = geometry("tiny")
GEOMETRIES = [
    TINY,
    geometry("kilomac"),
    dataclasses.replace(TINY, bus_bits=32, burst_beats=1, outstanding_bursts=1),
]


class Bench(EngineBench):
    """A load engine on a read arbiter, a memory behind it, and what was written on chip."""

    def __init__(self, g, transfers, *, stall=0.0, latency=0, port_stall=0.0):
        self.engine = LoadEngine(g)
        self.arbiter = ReadArbiter(g)
        self.memory = AxiMemory(
            g.bus_bits, read=self.arbiter.bus, size=DRAM_BYTES, latency=latency, stall=stall
        )
        self.transfers = transfers
        self.port_stall = port_stall
        self.writes = []  # (memory, address, data)
        self.completions = []  # writes done when each LOAD completed
        self.cycles = []  # cycle of each write
        beats = g.bus_bytes
        self.expected = [
            [
                (
                    transfer["memory"],
                    local + beat,
                    int.from_bytes(self.memory.dump(address + beat * beats, beats), "little"),
                )
                for address, local, count in rows(transfer)
                for beat in range(count)
            ]
            for transfer in transfers
        ]

    @property
    def flat(self):
        return [write for writes in self.expected for write in writes]

    def wire(self, m):
        super().wire(m)
        m.submodules.arbiter = self.arbiter
        connect(m, self.engine.address, self.arbiter.load)
        connect(m, self.arbiter.load_data, self.engine.data)
        m.d.comb += [
            self.engine.address_waits.eq(self.arbiter.load_waits),
            self.arbiter.halt.eq(self.engine.halt),
        ]

    def background(self):
        return [*super().background(), self._port]

    async def _port(self, ctx):
        rng = random.Random(5)
        port = self.engine.write
        cycle = 0
        while True:
            ctx.set(port.ready, rng.random() >= self.port_stall)
            _, _, valid, ready, memory, address, data, complete = await ctx.tick().sample(
                port.valid, port.ready, port.memory, port.address, port.data, self.engine.complete
            )
            cycle += 1
            if valid and ready:
                self.writes.append((memory, address, data))
                self.cycles.append(cycle)
            if complete:
                self.completions.append(len(self.writes))


@pytest.mark.parametrize("g", GEOMETRIES, ids=["tiny", "kilomac", "narrow"])
@pytest.mark.parametrize(
    ("stall", "latency", "port_stall"),
    [(0.0, 0, 0.0), (0.0, 50, 0.0), (0.3, 7, 0.0), (0.3, 7, 0.3)],
)
def test_beats_and_completions_equal_reference(g, stall, latency, port_stall):
    rng = random.Random(latency)
    beats = 4 if g.burst_beats == 1 else 40
    transfers = [random_transfer(rng, g, LOADABLE, tuple(Base), max_beats=beats) for _ in range(12)]
    bench = Bench(g, transfers, stall=stall, latency=latency, port_stall=port_stall)

    async def main(ctx):
        await until(lambda: len(bench.completions) == len(transfers), 30000)(ctx)
        await ctx.tick().repeat(20)
        assert not ctx.get(bench.engine.busy)
        assert not ctx.get(bench.engine.outstanding)
        assert not ctx.get(bench.engine.fault.valid)
        assert plain(ctx.get(bench.engine.stall)) == Stall.IDLE

    bench.run(main)
    assert bench.writes == bench.flat
    ends = [sum(len(w) for w in bench.expected[: i + 1]) for i in range(len(transfers))]
    assert bench.completions == ends


@pytest.mark.parametrize("g", GEOMETRIES[:2], ids=lambda g: g.name)
def test_bus_stays_busy_from_load_to_load_at_50_cycles_latency(g):
    beats = 64
    transfer = one_row(Memory.WEIGHT, Base.IMAGE, beats)
    bench = Bench(g, [transfer] * 10, latency=50)
    bench.run(until(lambda: len(bench.completions) == 10))
    assert bench.cycles[-1] - bench.cycles[0] == 10 * beats - 1


def test_short_loads_overlap_as_well():
    transfer = one_row(Memory.PARAMETER, Base.IMAGE, 4)
    bench = Bench(TINY, [transfer] * 32, latency=50)
    bench.run(until(lambda: len(bench.completions) == 32))
    # Eight bursts in flight: four rounds of the latency, not thirty-two.
    assert bench.cycles[-1] - bench.cycles[0] < 4 * 65


def loads(count, beats):
    rng = random.Random(9)
    return [
        {
            **random_transfer(rng, TINY, LOADABLE, (Base.INPUT,), max_rows=1, max_beats=1),
            "address": 0,
            "dram_offset": 0x100 * index,
            "row_beats": beats,
        }
        for index in range(count)
    ]


def test_error_response_is_the_fault_of_its_load():
    bench = Bench(TINY, loads(4, 5), latency=20)
    bench.memory.read_errors.add(0x4000 + 0x200 + 3 * TINY.bus_bytes)
    seen = bench.faults(lambda: len(bench.completions))
    assert seen == [(ErrorCode.READ_RESPONSE, 0, 2)]
    assert len(bench.completions) == 2  # nothing completes from then on


@pytest.mark.parametrize("beat", [0, 3, 4], ids=["early", "a beat early", "missing"])
def test_wrong_end_of_a_burst_is_the_fault_of_its_load(beat):
    bench = Bench(TINY, loads(4, 5), latency=20)
    bench.memory.wrong_last.add(0x4000 + 0x200 + beat * TINY.bus_bytes)
    seen = bench.faults(lambda: len(bench.writes))
    assert seen == [(ErrorCode.READ_RESPONSE, 0, 11 + beat)]  # the beat itself is written
    assert len(bench.completions) == 2


def test_bad_address_is_the_fault_of_the_newest_load():
    transfers = loads(3, 5)
    transfers[1]["address"] = (1 << 20) - 1
    bench = Bench(TINY, transfers, latency=20)

    async def main(ctx):
        await ctx.tick().repeat(300)
        fault = bench.engine.fault
        assert (ctx.get(fault.valid), ctx.get(fault.newest)) == (1, 1)
        assert plain(ctx.get(fault.code)) == ErrorCode.ADDRESS

    bench.run(main)
    assert bench.writes == bench.expected[0]
    assert bench.completions == [5]


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_halt_takes_and_drops_what_is_under_way(stall):
    bench = Bench(TINY, loads(6, 40), latency=10, stall=stall)
    engine = bench.engine

    async def main(ctx):
        await until(lambda: len(bench.writes) >= 50)(ctx)
        assert ctx.get(engine.outstanding)
        ctx.set(engine.halt, 1)
        await ctx.tick()
        written = len(bench.writes)
        bench.port_stall = 1.0
        for _ in range(2000):
            await ctx.tick()
            if not ctx.get(engine.outstanding):
                break
        await ctx.tick()
        assert not ctx.get(engine.outstanding)
        assert bench.memory.quiet
        assert not ctx.get(bench.arbiter.bus.arvalid)
        assert len(bench.writes) == written
        assert len(bench.completions) == 1

    bench.run(main)


@pytest.mark.parametrize(
    ("deaf", "port_stall", "stall"),
    [({"ar"}, 0.0, Stall.ADDRESS), ({"r"}, 0.0, Stall.DATA), (set(), 1.0, Stall.MEMORY)],
)
def test_stall_names_what_it_waits_for(deaf, port_stall, stall):
    bench = Bench(TINY, loads(1, 5), port_stall=port_stall)
    bench.memory.deaf = deaf
    assert bench.stalls(50) == (Stall.IDLE, stall)
