"""The compute engine beside the emulator: the same memories, the same instructions."""

import random

import numpy as np
from amaranth.sim import Simulator
from compute_words import words
from post_bench import parameter_words

from palquant.errors import ExecutionError
from palquant.hw import isa
from palquant.hw.compute import ComputeEngine
from palquant.hw.isa import Memory, Source
from palquant.hw.post import PostProcessor
from palquant.hw.registers import Activity
from palquant.sw.digits import pack_digits
from palquant.sw.emulator import Statistics
from palquant.sw.emulator_compute import ComputeUnit
from palquant.sw.memories import Memories

#: The memory's name in the emulator.
NAMES = {
    Memory.WEIGHT: "weight",
    Memory.ACTIVATION: "activation",
    Memory.RESIDUAL: "residual",
    Memory.OUTPUT: "output",
}


def memory_bits(memories, memory):
    """A memory of the emulator as bytes, first word first."""
    contents = getattr(memories, NAMES[memory])
    if memory is Memory.RESIDUAL:
        return contents.tobytes()
    return pack_digits(contents.reshape(-1, 4)).tobytes()


def chunks(data, bits):
    """Bytes as integers of ``bits`` bits, first bytes lowest."""
    size = bits // 8
    return [int.from_bytes(data[k : k + size], "little") for k in range(0, len(data), size)]


class Expected:
    """What the emulator makes of a list of instructions.

    Parameters:
        geometry: The machine.
        slots: Parameters, as for ``post_bench.parameter_words``.
        seed: Of the memories' first contents.
    """

    def __init__(self, geometry, slots, seed):
        self.memories = Memories(geometry, 1, seed)
        self.statistics = Statistics()
        self.unit = ComputeUnit(geometry, self.memories, self.statistics)
        for slot, rows in slots.items():
            for row, lanes in rows.items():
                values = np.array([value % (1 << 32) for value in lanes], np.uint32)
                self.memories.parameter[slot, row] = values.view(np.int32)

    def accepts(self, fields):
        """Execute an instruction if it is legal and overflows nothing."""
        try:
            self.unit.execute(fields)
        except ExecutionError:
            return False
        return True


class Bench:
    """The engine, fed with instructions, loads and stores.

    Parameters:
        geometry: The machine.
        slots: Parameters.
        instructions: Fields of each COMPUTE.
        seed: Of the memories' first contents.
        gaps: Cycles to wait before offering each instruction.
        loads: Beats (memory, address, data) to write while the instructions run.
        stores: Beats (memory, address) to read meanwhile.

    Attributes:
        activities: Activity of each cycle, from the first offer to the last completion.
        completions: Cycle of each ``complete``.
        last_words: Cycle in which each instruction's last word was issued.
        stored: Data of ``stores``.
        waits: Cycles that loads and stores waited.
    """

    def __init__(self, geometry, slots, instructions, seed=0, gaps=None, loads=(), stores=()):
        self.geometry = geometry
        used = {
            fields["parameter_slot"] + k
            for fields in instructions
            for k in range(fields["output_chunks"] * geometry.beats)
        }
        self.slots = {slot: rows for slot, rows in slots.items() if slot in used}
        self.instructions = instructions
        self.gaps = gaps or [0] * len(instructions)
        self.loads, self.stores = list(loads), list(stores)
        self.memories = Memories(geometry, 1, seed)
        self.dut = ComputeEngine(geometry)
        self.activities, self.completions, self.last_words = [], [], []
        self.stored, self.saturations, self.overruns = [], 0, 0
        self.waits = {"load": 0, "store": 0}
        self.started = False

    def run(self, limit=60000):
        """Simulate until all is complete."""
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-8)

        async def main(ctx):
            await self._main(ctx, limit)

        simulator.add_testbench(main)
        for process in (self._offer, self._load, self._store):
            simulator.add_testbench(process, background=True)
        simulator.run()
        return self

    async def _main(self, ctx, limit):
        for memory, pad in self.dut.memories.items():
            rows = chunks(memory_bits(self.memories, memory), pad.row_bits)
            for row, value in enumerate(rows):
                ctx.set(pad.storage[row], value)
        parameters = [(Memory.PARAMETER, *beat) for beat in
                      parameter_words(self.geometry, self.slots)]  # fmt: skip
        for beat in parameters:
            self._put(ctx, beat)
            assert ctx.get(self.dut.load_write.ready)
            await ctx.tick()
        ctx.set(self.dut.load_write.valid, 0)
        self.started = True
        counts = [len(words(self.geometry, fields)) for fields in self.instructions]
        ends = set(np.cumsum(counts))
        issued = 0
        while len(self.completions) < len(self.instructions) or self.loads or self.stores:
            cycle = len(self.activities)
            assert cycle < limit, "the instructions do not complete"
            activity = Activity(ctx.get(self.dut.activity))
            if len(self.completions) < len(self.instructions):
                self.activities.append(activity)
            if activity in (Activity.ARRAY, Activity.POOL):
                issued += 1
                if issued in ends:
                    self.last_words.append(cycle - 1)  # an activity is told a cycle late
            if ctx.get(self.dut.complete):
                self.completions.append(cycle)
            self.overruns += ctx.get(self.dut.overrun)
            self.saturations += ctx.get(self.dut.saturated)
            await ctx.tick()
        for _ in range(5):
            assert not ctx.get(self.dut.busy)
            assert not ctx.get(self.dut.complete)
            await ctx.tick()
        for memory, pad in self.dut.memories.items():
            self._read_back(ctx, memory, pad)

    def _read_back(self, ctx, memory, pad):
        rows = [ctx.get(pad.storage[row]) for row in range(pad.storage.depth)]
        data = b"".join(row.to_bytes(pad.row_bits // 8, "little") for row in rows)
        setattr(self, f"{NAMES[memory]}_bits", data)

    def _put(self, ctx, beat):
        port = self.dut.load_write
        ctx.set(port.valid, 1)
        for member, value in zip((port.memory, port.address, port.data), beat, strict=True):
            ctx.set(member, value)

    async def _offer(self, ctx):
        while not self.started:
            await ctx.tick()
        port = self.dut.instruction
        for gap, fields in zip(self.gaps, self.instructions, strict=True):
            for _ in range(gap):
                await ctx.tick()
            ctx.set(port.payload, fields)
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
            ctx.set(port.valid, 0)

    async def _load(self, ctx):
        while not self.started:
            await ctx.tick()
        port = self.dut.load_write
        while self.loads:
            self._put(ctx, self.loads[0])
            _, _, ready = await ctx.tick().sample(port.ready)
            while not ready:
                self.waits["load"] += 1
                _, _, ready = await ctx.tick().sample(port.ready)
            self.loads.pop(0)
        ctx.set(port.valid, 0)

    async def _store(self, ctx):
        while not self.started:
            await ctx.tick()
        port = self.dut.store_read
        due = []  # cycles until the data of each request that was taken
        while self.stores or due:
            ctx.set(port.valid, bool(self.stores))
            if self.stores:
                memory, address = self.stores[0]
                ctx.set(port.memory, memory)
                ctx.set(port.address, address)
            _, _, valid, ready = await ctx.tick().sample(port.valid, port.ready)
            if valid and ready:
                self.stores.pop(0)
                due.append(self.geometry.read_cycles)
            self.waits["store"] += valid and not ready
            due = [cycles - 1 for cycles in due]
            if due and not due[0]:
                self.stored.append(ctx.get(port.data))
                due.pop(0)
        ctx.set(port.valid, 0)


def check(bench, expected):
    """Memories, saturations, cycles by activity, and latencies."""
    g = bench.geometry
    for memory, name in NAMES.items():
        actual, wanted = getattr(bench, f"{name}_bits"), memory_bits(expected.memories, memory)
        width = bench.dut.memories[memory].word_bits
        differing = [
            (number, f"{a:#x}", f"{b:#x}")
            for number, (a, b) in enumerate(zip(chunks(actual, max(width, 8)),
                                                chunks(wanted, max(width, 8)), strict=True))
            if a != b
        ]  # fmt: skip
        assert not differing, f"{name} words (number, actual, expected): {differing[:8]}"
    assert bench.saturations == expected.statistics.saturations
    assert bench.overruns == 0
    kinds = {Source.ARRAY: Activity.ARRAY, Source.POOL: Activity.POOL}
    for source, activity in kinds.items():
        assert bench.activities.count(activity) == sum(
            len(words(g, f)) for f in bench.instructions if f["source"] == source
        )
    for fields, last, complete in zip(
        bench.instructions, bench.last_words, bench.completions, strict=True
    ):
        pooled = fields["source"] == Source.POOL
        beats = 1 if pooled else g.beats
        steps = fields["steps"]
        if fields["hold"]:
            beats = steps = 1
        latency = bench.dut.pool_latency if pooled else bench.dut.array_latency
        assert complete - last == latency + PostProcessor.completion_cycles(steps, beats)


def seeded(*parts):
    """A generator that depends on all parts."""
    return random.Random(" ".join(map(str, parts)))


def plain_fields(**fields):
    """All fields of a COMPUTE: those given, an output and window of one, and 0 for the rest."""
    ones = ("kernel_rows", "kernel_columns", "input_chunks", "last_lanes", "input_digits",
            "weight_digits", "output_rows", "output_columns", "output_chunks", "input_rows",
            "input_columns", "scatter_groups")  # fmt: skip
    everything = dict.fromkeys((item.name for item in isa.COMPUTE.fields), 0)
    return everything | {"opcode": isa.Opcode.COMPUTE} | dict.fromkeys(ones, 1) | fields
