"""Two readers share a bus without mixing up their data."""

import random

import pytest
from axi_memory import AxiMemory
from simulation import simulate, sink, source, until

from palquant.hw.arbiter import ReadArbiter, ReadSource, RegisterSlice
from palquant.hw.presets import geometry

TINY = geometry("tiny")
GEOMETRIES = [TINY, geometry("kilomac"), geometry("icebreaker")]


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


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: g.name)
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
                data = int.from_bytes(value, "little")
                expected[name].append({"data": data, "last": int(beat == count - 1), "error": 0})
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


@pytest.mark.parametrize("reader", ReadSource, ids=lambda reader: reader.name)
def test_beats_that_nobody_expects_are_dropped_and_reported(reader):
    dut = ReadArbiter(TINY)
    memory = AxiMemory(TINY.bus_bits, read=dut.bus)
    names = ("fetch", "load")
    other = names[1 - reader]
    received = {name: [] for name in names}
    dropped = []

    async def watch(ctx):
        while True:
            _, _, unexpected = await ctx.tick().sample(dut.unexpected)
            dropped.append(unexpected)

    async def main(ctx):
        ctx.set(getattr(dut, f"{names[reader]}_expects"), 0)
        memory.unasked_reads.extend([reader] * 3)
        await ctx.tick().repeat(30)
        assert memory.quiet
        assert not memory.unasked_reads

    addresses = [{"address": 64 * i, "length": 3} for i in range(4)]
    simulate(
        dut,
        main,
        memory.run,
        watch,
        source(getattr(dut, other), addresses),
        *(sink(getattr(dut, f"{name}_data"), received[name]) for name in names),
    )
    assert sum(dropped) == 3
    assert (len(received[other]), len(received[names[reader]])) == (16, 0)
