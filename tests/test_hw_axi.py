"""Bursts cover their rows exactly, and two readers share a bus without mixing up their data."""

import dataclasses
import random

import pytest
from axi_memory import AxiMemory
from simulation import simulate, sink, source, until

from palquant.hw.axi import BurstSplitter, ReadArbiter, RegisterSlice
from palquant.hw.config import geometry

TINY = geometry("tiny")
GEOMETRIES = [
    TINY,
    geometry("kilomac"),
    dataclasses.replace(TINY, bus_bits=32, burst_beats=1, outstanding_bursts=1),
    dataclasses.replace(TINY, bus_bits=128, burst_beats=256),
]


def bursts(row, g):
    """Reference: the bursts of one row."""
    result = []
    address, local, left = row["address"], row["local"], row["beats"]
    while left:
        count = min(left, g.burst_beats - address // g.bus_bytes % g.burst_beats)
        result.append({**row, "address": address, "local": local, "length": count - 1})
        address, local, left = address + count * g.bus_bytes, local + count, left - count
        result[-1]["last"] = row["last"] and not left
        del result[-1]["beats"]
    return result


def random_row(rng, g):
    beats = rng.choice([1, 2, rng.randint(1, 80), rng.randint(1, 600)])
    address = rng.choice([0, 4096, rng.randrange(1 << 20)]) // g.bus_bytes * g.bus_bytes
    local = rng.randrange(1 << 20)
    return {
        "address": max(0, address + rng.choice([0, -g.bus_bytes, g.bus_bytes])),
        "beats": beats,
        "memory": rng.randrange(5),
        "local": min(local, (1 << 20) - beats),
        "last": rng.randrange(2),
    }


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.bus_bits}x{g.burst_beats}")
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_splitter_equals_reference(g, stall):
    rng = random.Random(g.burst_beats)
    rows = [random_row(rng, g) for _ in range(12 if g.burst_beats > 1 else 4)]
    expected = [burst for row in rows for burst in bursts(row, g)]
    for burst in expected:
        last = burst["address"] + (burst["length"] + 1) * g.bus_bytes - 1
        assert burst["length"] < g.burst_beats
        assert burst["address"] >> 12 == last >> 12
    dut = BurstSplitter(g)
    received = []
    simulate(
        dut,
        until(lambda: len(received) == len(expected)),
        source(dut.i, rows, stall=stall),
        sink(dut.o, received, stall=stall),
    )
    assert [payload for _, payload in received] == expected
    if not stall:
        cycles = [cycle for cycle, _ in received]
        assert cycles == list(range(cycles[0], cycles[0] + len(cycles)))


@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5)])
def test_slice_passes_everything_on_in_order(stalls):
    dut = RegisterSlice(8)
    sent = [random.Random(1).randrange(256) for _ in range(200)]
    received = []
    simulate(
        dut,
        until(lambda: len(received) == len(sent)),
        source(dut.i, sent, stall=stalls[0]),
        sink(dut.o, received, stall=stalls[1]),
    )
    assert [payload for _, payload in received] == sent
    if stalls == (0.0, 0.0):
        assert received[-1][0] - received[0][0] == len(sent) - 1


@pytest.mark.parametrize("g", GEOMETRIES[:2], ids=lambda g: g.name)
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_readers_get_their_own_data_in_order(g, stall):
    dut = ReadArbiter(g)
    memory = AxiMemory(g.bus_bits, read=dut.bus, latency=5, stall=stall, interleave=True)
    rng = random.Random(7)
    asked = {name: [] for name in ("fetch", "load")}
    expected = {name: [] for name in asked}
    for name, addresses in asked.items():
        for _ in range(15):
            count = rng.randint(1, 8)
            address = rng.randrange(memory.size // 256) * 256
            addresses.append({"address": address, "length": count - 1})
            for beat in range(count):
                value = memory.dump(address + beat * g.bus_bytes, g.bus_bytes)
                expected[name].append({"data": int.from_bytes(value, "little"), "error": 0})
    failing = asked["load"][3]["address"]
    memory.read_errors.add(failing)
    for name, addresses in asked.items():
        beats = [a["address"] + i * g.bus_bytes for a in addresses for i in range(a["length"] + 1)]
        for beat, address in zip(expected[name], beats, strict=True):
            beat["error"] = int(address == failing)
    received = {name: [] for name in asked}
    simulate(
        dut,
        until(lambda: all(len(received[name]) == len(expected[name]) for name in asked)),
        memory.run,
        *(source(getattr(dut, name), asked[name], stall=stall) for name in asked),
        *(sink(getattr(dut, f"{name}_data"), received[name], stall=stall) for name in asked),
    )
    for name in asked:
        assert [payload for _, payload in received[name]] == expected[name]
    assert memory.quiet


def test_halt_lets_no_further_address_out():
    dut = ReadArbiter(TINY)
    memory = AxiMemory(TINY.bus_bits, read=dut.bus)
    memory.deaf = {"ar"}
    received = []

    async def main(ctx):
        await ctx.tick().repeat(4)
        assert ctx.get(dut.bus.arvalid)
        assert ctx.get(dut.load_waits)
        assert not ctx.get(dut.fetch_waits)
        ctx.set(dut.halt, 1)
        memory.deaf = set()
        await ctx.tick().repeat(10)
        assert len(memory.reads) == 1
        assert len(received) == 2
        ctx.set(dut.halt, 0)
        await ctx.tick().repeat(10)
        assert len(memory.reads) == 2

    addresses = [{"address": 64 * i, "length": 1} for i in range(2)]
    simulate(dut, main, memory.run, source(dut.load, addresses), sink(dut.load_data, received))
