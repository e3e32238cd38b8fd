"""STOREs reach DRAM byte for byte and complete when the memory says so, not before."""

import dataclasses
import random

import pytest
from axi_memory import AxiMemory
from simulation import plain, until
from transfers import DRAM_BYTES, EngineBench, one_row, random_transfer, rows

from palquant.hw.isa import Base, Memory
from palquant.hw.presets import geometry
from palquant.hw.registers import ErrorCode, Stall
from palquant.hw.store import StoreEngine
from palquant.hw.transfer import STORABLE

TINY = geometry("tiny")
GEOMETRIES = [
    TINY,
    geometry("kilomac"),
    dataclasses.replace(TINY, bus_bits=32, burst_beats=1, outstanding_bursts=1),
]


def content(g, memory, address):
    """What the tests' on-chip memories hold."""
    return random.Random(memory << 20 | address).getrandbits(g.bus_bits)


class Bench(EngineBench):
    """A store engine between on-chip memories and a DRAM."""

    def __init__(self, g, transfers, *, stall=0.0, latency=0, port_stall=0.0):
        self.geometry = g
        self.engine = StoreEngine(g)
        self.memory = AxiMemory(
            g.bus_bits, write=self.engine.bus, size=DRAM_BYTES, latency=latency, stall=stall
        )
        self.transfers = transfers
        self.port_stall = port_stall
        self.completions = []  # bytes in DRAM when each STORE completed
        self.beat_cycles = []

    def expected(self, count):
        """Reference: the content of DRAM after the first ``count`` STOREs."""
        step = self.geometry.bus_bytes
        result = bytearray(self._before)
        for transfer in self.transfers[:count]:
            for address, local, beats in rows(transfer):
                for beat in range(beats):
                    value = content(self.geometry, transfer["memory"], local + beat)
                    start = address + beat * step
                    result[start : start + step] = value.to_bytes(step, "little")
        return result

    def background(self):
        self._before = bytes(self.memory.data)
        return [*super().background(), self._port, self._watch]

    async def _port(self, ctx):
        rng = random.Random(5)
        port = self.engine.read
        waiting = None
        answers = [0] * (self.geometry.read_cycles - 1)
        while True:
            ctx.set(port.ready, rng.random() >= self.port_stall)
            _, _, halt, valid, ready, memory, address = await ctx.tick().sample(
                self.engine.halt, port.valid, port.ready, port.memory, port.address
            )
            if waiting is not None and not halt:
                assert (valid, memory, address) == (1, *waiting), "request changed before ready"
            waiting = (memory, address) if valid and not ready else None
            if valid and ready:
                answers.append(content(self.geometry, memory, address))
            else:
                answers.append(rng.getrandbits(self.geometry.bus_bits))
            ctx.set(port.data, answers.pop(0))

    async def _watch(self, ctx):
        bus = self.engine.bus
        cycle = 0
        while True:
            _, _, complete, valid, ready = await ctx.tick().sample(
                self.engine.complete, bus.wvalid, bus.wready
            )
            cycle += 1
            if valid and ready:
                self.beat_cycles.append(cycle)
            if complete:
                self.completions.append(bytes(self.memory.data))


def random_stores(rng, g, beats):
    """Legal STOREs to places in DRAM that do not overlap."""
    transfers, place = [], 0
    for _ in range(10):
        transfer = random_transfer(rng, g, STORABLE, (Base.OUTPUT,), max_beats=beats)
        transfer["dram_offset"] = place
        place += (transfer["rows"] - 1) * transfer["dram_stride"]
        place += (transfer["row_beats"] + rng.randrange(3)) * g.bus_bytes
        transfers.append(transfer)
    return transfers


@pytest.mark.parametrize("g", GEOMETRIES, ids=["tiny", "kilomac", "narrow"])
@pytest.mark.parametrize(
    ("stall", "latency", "port_stall"),
    [(0.0, 0, 0.0), (0.0, 50, 0.0), (0.3, 7, 0.0), (0.3, 7, 0.3)],
)
def test_memory_equals_reference_at_each_completion(g, stall, latency, port_stall):
    transfers = random_stores(random.Random(latency), g, 4 if g.burst_beats == 1 else 40)
    bench = Bench(g, transfers, stall=stall, latency=latency, port_stall=port_stall)

    async def main(ctx):
        await until(lambda: len(bench.completions) == len(transfers), 30000)(ctx)
        await ctx.tick().repeat(20)
        assert not ctx.get(bench.engine.busy)
        assert not ctx.get(bench.engine.outstanding)
        assert plain(ctx.get(bench.engine.stall)) == Stall.IDLE
        assert not ctx.get(bench.engine.fault.valid)

    bench.run(main)
    assert bench.memory.quiet
    assert bytes(bench.memory.data) == bench.expected(len(transfers))
    for index, (seen, transfer) in enumerate(zip(bench.completions, transfers, strict=True)):
        complete = bench.expected(index + 1)
        for address, _, beats in rows(transfer):
            end = address + beats * g.bus_bytes
            assert seen[address:end] == complete[address:end]


@pytest.mark.parametrize("g", GEOMETRIES[:2], ids=lambda g: g.name)
def test_a_beat_every_cycle_and_a_cycle_between_bursts(g):
    transfer = store(128)
    bench = Bench(g, [transfer] * 3, latency=50)
    bench.run(until(lambda: len(bench.completions) == 3))
    begin = bench.beat_cycles[0]
    assert bench.beat_cycles == [begin + k + k // g.burst_beats for k in range(3 * 128)]


def store(beats, **change):
    return one_row(Memory.OUTPUT, Base.OUTPUT, beats, **change)


def test_error_response_is_the_fault_of_its_store():
    transfers = [store(5, dram_offset=0x100 * index) for index in range(4)]
    bench = Bench(TINY, transfers, latency=20)
    bench.memory.write_errors.add(0x8000 + 0x200)
    seen = bench.faults(lambda: len(bench.completions))
    assert seen == [(ErrorCode.WRITE_RESPONSE, 0, 2)]
    assert len(bench.completions) == 2


def test_wrong_identifier_is_the_fault_of_its_store():
    transfers = [store(5, dram_offset=0x100 * index) for index in range(4)]
    bench = Bench(TINY, transfers, latency=20)
    bench.memory.wrong_identifiers.add(0x8000 + 0x200)
    seen = bench.faults(lambda: len(bench.completions))
    assert seen == [(ErrorCode.WRITE_RESPONSE, 0, 2)]
    assert len(bench.completions) == 2


@pytest.mark.parametrize("when", [1, 8, 12, 30], ids=lambda when: f"cycle {when}")
def test_response_that_no_burst_waits_for_is_dropped_and_reported(when):
    """Before a burst, and while one's data is under way: it completes nothing."""
    bench = Bench(TINY, [store(32), store(32, dram_offset=0x400)], latency=40)
    unexpected = []

    async def watch(ctx):
        while True:
            _, _, value = await ctx.tick().sample(bench.engine.unexpected)
            unexpected.append(value)

    async def main(ctx):
        await ctx.tick().repeat(when)
        assert len(bench.beat_cycles) < 32
        bench.memory.unasked_responses = 1
        await until(lambda: len(bench.completions) == 2)(ctx)
        await ctx.tick().repeat(20)
        assert not ctx.get(bench.engine.outstanding)
        assert not ctx.get(bench.engine.busy)

    bench.run(main, watch)
    assert sum(unexpected) == 1
    for index, seen in enumerate(bench.completions):
        start, complete = 0x8000 + 0x400 * index, bench.expected(index + 1)
        assert seen[start : start + 0x100] == complete[start : start + 0x100]


def test_bad_address_is_the_fault_of_the_newest_store():
    bench = Bench(TINY, [store(5), store(5, address=(1 << 20) - 1), store(5)], latency=20)

    async def main(ctx):
        await ctx.tick().repeat(300)
        fault = bench.engine.fault
        assert (ctx.get(fault.valid), ctx.get(fault.newest)) == (1, 1)
        assert plain(ctx.get(fault.code)) == ErrorCode.ADDRESS

    bench.run(main)
    assert bytes(bench.memory.data) == bench.expected(1)
    assert len(bench.completions) == 1


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("beats_before", [0, 5, 33, 70])
def test_halt_ends_bursts_without_writing(stall, beats_before):
    bench = Bench(TINY, [store(100), store(100, dram_offset=0x1000)], latency=10, stall=stall)
    engine = bench.engine

    async def main(ctx):
        for _ in range(1000):
            await ctx.tick()
            if ctx.get(engine.bus.awvalid) and len(bench.beat_cycles) >= beats_before:
                break
        assert ctx.get(engine.outstanding)
        ctx.set(engine.halt, 1)
        bench.port_stall = 1.0  # the on-chip memory answers no more
        for _ in range(3000):
            await ctx.tick()
            if not ctx.get(engine.outstanding):
                break
        await ctx.tick()
        assert not ctx.get(engine.outstanding)
        assert not ctx.get(engine.bus.awvalid)
        assert not ctx.get(engine.bus.wvalid)
        assert bench.memory.quiet
        assert not bench.completions

    bench.run(main)
    # Each beat in DRAM is either what it was or what it should become.
    before, after = bench._before, bench.expected(2)
    step = TINY.bus_bytes
    for address in range(0, DRAM_BYTES, step):
        found = bytes(bench.memory.data[address : address + step])
        assert found in (before[address : address + step], after[address : address + step])


@pytest.mark.parametrize(
    ("deaf", "port_stall", "stall"),
    [
        ({"aw"}, 0.0, Stall.ADDRESS),
        ({"w"}, 0.0, Stall.DATA),
        ({"b"}, 0.0, Stall.RESPONSE),
        (set(), 1.0, Stall.MEMORY),
    ],
)
def test_stall_names_what_it_waits_for(deaf, port_stall, stall):
    bench = Bench(TINY, [store(40)], port_stall=port_stall)
    bench.memory.deaf = deaf
    assert bench.stalls(100) == (Stall.IDLE, stall)
