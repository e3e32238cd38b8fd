"""Whole runs: results in memory, registers that tell the truth, cycles that add up."""

import dataclasses
from collections import Counter

import pytest
from combinational import combinational_paths
from machine import INPUT, OUTPUT, Machine, Tiles

from palquant.hw import isa
from palquant.hw.presets import geometry
from palquant.hw.registers import REGISTERS, WATCHDOG_RESET, Activity, Stall
from palquant.hw.top import TRACE_IDLE, Accelerator

TINY = geometry("tiny")
GEOMETRIES = {
    "tiny": TINY,
    "kilomac": geometry("kilomac"),
    "small": dataclasses.replace(
        TINY, bus_bits=32, burst_beats=2, outstanding_bursts=1, queue_depth=1, counters=False
    ),
}
GOOD = {"busy": 0, "done": 1, "error": 0, "resetting": 0, "code": 0}


@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize(("stall", "latency"), [(0.0, 0), (0.0, 40), (0.3, 5)])
def test_run_equals_reference(g, stall, latency):
    machine = Machine(g, stall=stall, latency=latency, host_stall=stall)
    machine.double.port_stall = stall
    tiles = Tiles(g, seed=latency, max_beats=8 if g.bus_bits > 32 else 4)
    images = 2
    machine.load(tiles.program)
    inputs = [machine.memory.dump(INPUT + i * tiles.bytes, tiles.bytes) for i in range(images)]
    loaded, stored, saturations = tiles.loaded, tiles.stored, 0
    for layer, beats, _ in tiles.tiles:
        saturations += machine.double.saturations(layer) * beats

    async def main(ctx):
        await machine.start(ctx, images=images, stride=tiles.bytes)
        assert await machine.interrupt(ctx) == GOOD
        assert await machine.read(ctx, "IMAGES_DONE") == images
        assert await machine.read(ctx, "ERROR_ADDRESS") == 0
        assert set((await machine.read(ctx, "STALL")).values()) == {Stall.IDLE}
        found = await machine.counters(ctx)
        if not g.counters:
            assert set(found.values()) == {0}
            return
        assert found["READ_BEATS"] == images * loaded
        assert found["WRITE_BEATS"] == images * stored
        assert found["READ_BEATS"] + found["FETCH_BEATS"] == machine.memory.beats["r"]
        assert found["SATURATIONS"] == images * saturations
        assert found["ARRAY"] == images * loaded
        assert sum(found[activity.name] for activity in Activity) == found["CYCLES"] > 0

    machine.run(main)
    assert machine.memory.quiet
    for index, data in enumerate(inputs):
        result = machine.memory.dump(OUTPUT + index * tiles.bytes, tiles.bytes)
        assert result == tiles.reference(data)
    assert machine.double.layers == [layer for layer, _, _ in tiles.tiles] * images


def test_runs_follow_one_another_and_settings_are_taken_at_the_doorbell():
    machine = Machine(TINY, latency=10)
    tiles = Tiles(TINY, count=4)
    machine.load(tiles.program)

    async def main(ctx):
        for run in range(2):
            source, target = INPUT + 0x1000 * run, OUTPUT + 0x1000 * run
            await machine.start(ctx, INPUT_ADDRESS=source, OUTPUT_ADDRESS=target)
            for name in ("IMAGE_ADDRESS", "INPUT_ADDRESS", "OUTPUT_ADDRESS"):
                await machine.write(ctx, name, 0)
            await machine.write(ctx, "IMAGE_COUNT", 99)
            await machine.write(ctx, "CONTROL", start=1)  # no effect while busy
            assert (await machine.read(ctx, "STATUS"))["busy"]
            assert await machine.interrupt(ctx) == GOOD
            assert await machine.read(ctx, "IMAGES_DONE") == 1
            data = machine.memory.dump(source, tiles.bytes)
            assert machine.memory.dump(target, tiles.bytes) == tiles.reference(data)

    machine.run(main)
    assert len(machine.double.layers) == 2 * len(tiles.tiles)


def test_settings_written_right_behind_the_doorbell_are_the_next_run_s():
    machine = Machine(TINY, latency=3)
    tiles = Tiles(TINY, count=3)
    machine.load(tiles.program)
    names = (
        "IMAGE_ADDRESS", "INPUT_ADDRESS", "OUTPUT_ADDRESS", "INPUT_STRIDE", "OUTPUT_STRIDE",
        "IMAGE_COUNT",
    )  # fmt: skip
    control = REGISTERS["CONTROL"]

    async def main(ctx):
        for first in names:  # the one that comes right behind the doorbell
            await machine.start(ctx, images=0)  # leaves good settings behind
            assert await machine.interrupt(ctx) == GOOD
            await machine.write(ctx, "IMAGE_COUNT", 2)
            await machine.write(ctx, "INPUT_STRIDE", tiles.bytes)
            await machine.write(ctx, "OUTPUT_STRIDE", tiles.bytes)
            places = [first, *(name for name in names if name != first)]
            junk = [(REGISTERS[name].offset, 0xDEAD0, 15) for name in places]
            bell = (control.offset, control.encode(start=1), 15)
            responses, cycles = await machine.host.write_all(ctx, [bell, *junk])
            # A write every second cycle, but for the first behind the doorbell, which waits.
            assert (set(responses), cycles) == ({0}, 2 * len(responses) + 3)
            assert [await machine.read(ctx, name) for name in names] == [0xDEAD0] * len(names)
            assert await machine.interrupt(ctx) == GOOD
            assert await machine.read(ctx, "IMAGES_DONE") == 2
            for index in range(2):
                data = machine.memory.dump(INPUT + index * tiles.bytes, tiles.bytes)
                place = OUTPUT + index * tiles.bytes
                assert machine.memory.dump(place, tiles.bytes) == tiles.reference(data)
                machine.memory.load(place, bytes(tiles.bytes))

    machine.run(main)


#: Cycles from one read to the next.
PERIOD = 3


class Reader:
    """Reads one register all the time, a read every third cycle.

    Attributes:
        reads: (cycle behind that in which the address was taken, value then).
        responses: Cycles in which a write was answered.
        interrupts: Cycles in which the interrupt line was high.
    """

    def __init__(self, machine, name):
        self.machine, self.name = machine, name
        self.phase, self.enable = 0, False
        self.reads, self.responses, self.interrupts = [], [], []

    async def run(self, ctx):
        bus, asked, cycle = self.machine.host.bus, [], 0
        while True:
            if self.enable:
                ctx.set(bus.araddr, REGISTERS[self.name].offset)
                ctx.set(bus.arvalid, cycle % PERIOD == self.phase)
                ctx.set(bus.rready, 1)
            _, _, address, data, value, response, interrupt = await ctx.tick().sample(
                bus.arvalid & bus.arready, bus.rvalid & bus.rready, bus.rdata, bus.bvalid,
                self.machine.dut.irq,
            )  # fmt: skip
            if self.enable and data and asked:
                self.reads.append((asked.pop(), value))
            if self.enable and address:
                asked.append(cycle + 1)
            if response:
                self.responses.append(cycle)
            if interrupt:
                self.interrupts.append(cycle)
            cycle += 1


@pytest.mark.parametrize("phase", range(PERIOD))
@pytest.mark.parametrize("good", [True, False], ids=["done", "error"])
def test_status_is_the_new_run_s_from_the_response_of_the_doorbell_on(phase, good):
    machine = Machine(TINY)
    machine.load(Tiles(TINY, count=2).program)
    reader = Reader(machine, "STATUS")
    reader.phase = phase

    async def main(ctx):
        await machine.start(ctx)
        await machine.interrupt(ctx)
        if not good:
            machine.load([bytes(isa.UNIT_BYTES)])
        reader.enable = True
        await ctx.tick().repeat(6)
        control = REGISTERS["CONTROL"]
        bell = (control.offset, control.encode(start=1), 15)
        await machine.host.write_all(ctx, [bell])
        while not ctx.get(machine.dut.irq):
            await ctx.tick()
        await ctx.tick().repeat(6)

    machine.run(main, reader.run)
    bell = max(reader.responses)
    before = [REGISTERS["STATUS"].decode(value) for cycle, value in reader.reads if cycle < bell]
    assert before
    assert all(status == GOOD for status in before)
    line = next(cycle for cycle in reader.interrupts if cycle > bell)
    during = [(cycle, REGISTERS["STATUS"].decode(v)) for cycle, v in reader.reads if cycle >= bell]
    assert {cycle - bell for cycle, _ in during[:1]} <= set(range(PERIOD))
    for cycle, status in during:
        assert status["busy"] == (cycle < line)
        assert (status["done"], status["error"]) == ((good, not good) if cycle >= line else (0, 0))
        assert bool(status["code"]) == bool(status["error"])
    assert {cycle - line for cycle, _ in during} & set(range(PERIOD))


@pytest.mark.parametrize("phase", range(PERIOD))
@pytest.mark.parametrize("good", [True, False], ids=["done", "error"])
def test_counters_are_final_in_the_cycle_of_the_interrupt(phase, good):
    machine = Machine(TINY)
    tiles = Tiles(TINY, count=2)
    program = tiles.program if good else [*tiles.program[:-1], bytes(isa.UNIT_BYTES)]
    machine.load(program)
    reader = Reader(machine, "CYCLES_LOW")
    reader.phase = phase

    async def main(ctx):
        await machine.start(ctx)
        reader.enable = True
        while not ctx.get(machine.dut.irq):
            await ctx.tick()
        await ctx.tick().repeat(20)

    machine.run(main, reader.run)
    line = reader.interrupts[0]
    last = reader.reads[-1][1]
    assert {cycle - line for cycle, _ in reader.reads} & set(range(PERIOD))
    assert {value for cycle, value in reader.reads if cycle >= line} == {last}
    assert len({value for cycle, value in reader.reads if cycle < line}) > 10


@pytest.mark.parametrize("g", [TINY, GEOMETRIES["small"]], ids=["tiny", "small"])
def test_no_input_reaches_an_output_within_a_cycle(g):
    assert not combinational_paths(Accelerator(g))


@pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)
def test_identity(g):
    machine = Machine(g)

    async def main(ctx):
        assert await machine.read(ctx, "ID") == isa.MAGIC
        assert await machine.read(ctx, "VERSION") == isa.VERSION
        assert await machine.read(ctx, "GEOMETRY") == g.identity
        assert await machine.read(ctx, "CAPABILITY") == {
            "tin": g.tin,
            "tout": g.tout,
            "lanes": g.lanes,
            "bus_bytes": g.bus_bytes,
            "counters": g.counters,
        }
        assert await machine.read(ctx, "WATCHDOG_LIMIT") == WATCHDOG_RESET
        assert set((await machine.read(ctx, "STATUS")).values()) == {0}

    machine.run(main)


def test_interrupt_line_follows_enable_and_status():
    machine = Machine(TINY)
    machine.load([isa.encode(isa.Opcode.END)])

    async def main(ctx):
        await machine.start(ctx)
        await machine.write(ctx, "INTERRUPT_ENABLE", error=1)
        await ctx.tick().repeat(200)
        assert (await machine.read(ctx, "STATUS"))["done"]
        assert not ctx.get(machine.dut.irq)
        await machine.write(ctx, "INTERRUPT_ENABLE", done=1)
        assert ctx.get(machine.dut.irq)
        assert await machine.interrupt(ctx) == GOOD

    machine.run(main)


def test_trace_tells_layer_and_activity_of_each_cycle():
    machine = Machine(TINY, latency=15)
    tiles = Tiles(TINY, count=5)
    machine.load(tiles.program)
    dut = machine.dut
    seen, loads, stores = Counter(), set(), set()

    async def watch(ctx):
        while True:
            _, _, activity, layer, *v = await ctx.tick().sample(
                dut.trace_activity, dut.trace_layer, dut.trace_load_busy, dut.trace_load_layer,
                dut.trace_store_busy, dut.trace_store_layer,
            )  # fmt: skip
            if activity != TRACE_IDLE:
                seen[Activity(activity), layer] += 1
            if v[0]:
                loads.add(v[1])
            if v[2]:
                stores.add(v[3])

    async def main(ctx):
        await machine.start(ctx)
        await machine.interrupt(ctx)
        counters = await machine.counters(ctx)
        for activity in Activity:
            cycles = sum(count for (a, _), count in seen.items() if a is activity)
            assert cycles == counters[activity.name]

    machine.run(main, watch)
    for layer, beats, _ in tiles.tiles:
        assert seen[Activity.ARRAY, layer] == beats
    layers = {layer for layer, _, _ in tiles.tiles}
    assert loads == stores == layers
    assert 0 in {layer for activity, layer in seen if activity is Activity.ACTIVATIONS} <= layers


def test_counters_cover_doorbell_to_end():
    machine = Machine(TINY)
    tiles = Tiles(TINY, count=2)
    machine.load(tiles.program)

    async def main(ctx):
        for _ in range(2):
            await machine.start(ctx)
            await machine.interrupt(ctx)
            found = await machine.counters(ctx)
            assert found["READ_BEATS"] == tiles.loaded
            await ctx.tick().repeat(50)
            assert await machine.counters(ctx) == found

    machine.run(main)
