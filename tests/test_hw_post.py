"""The whole post-processor against the emulator: memories, saturations and completion cycles."""

import random
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from post_bench import parameter_words, random_slot, random_words, simulate, small_geometry

from palquant.hw import isa
from palquant.hw.isa import Memory, Source
from palquant.hw.post import PostProcessor
from palquant.sw.emulator import Statistics
from palquant.sw.emulator_compute import ComputeUnit
from palquant.sw.memories import Memories

WORDS = 4096
MEMORIES = {"activation_words": WORDS, "output_words": WORDS, "residual_words": WORDS}
WIDE = {"accumulator_bits": 32, "threshold_bits": 32}
GEOMETRIES = [
    small_geometry("square", tin=8, tout=8, lanes=4, **MEMORIES),
    small_geometry("narrow words", tin=4, tout=16, lanes=4, residual_bits=8, **MEMORIES),
    small_geometry("wide words", tin=16, tout=4, lanes=2, **WIDE, **MEMORIES),
    small_geometry("one beat", tin=16, tout=4, lanes=4, bus_bits=64, **MEMORIES),
]
#: Fields that only concern the array and the pooling unit, with legal values.
UNUSED = dict.fromkeys((item.name for item in isa.COMPUTE.fields), 0)
UNUSED |= {"kernel_rows": 1, "kernel_columns": 1, "input_chunks": 1, "last_lanes": 1}
UNUSED |= {"input_digits": 1, "weight_digits": 1}


@dataclass
class Instruction:
    """A COMPUTE as the post-processor meets it.

    Attributes:
        fields: The instruction's fields.
        products: P, or pooled values, shape (chunks, rows, columns, tout).
        sums: S, shape (chunks, rows, columns).
        empty: Whether it emits nothing and only completes.
    """

    fields: dict
    products: np.ndarray
    sums: np.ndarray
    empty: bool = False

    @property
    def pooled(self):
        return self.fields["source"] == Source.POOL

    def cycles(self, geometry):
        """Cycles that a result, or a pooled beat, keeps the write ports for."""
        if self.empty:
            return 1
        return self.fields["steps"] * (1 if self.pooled else geometry.beats)

    @property
    def values(self):
        """What the emulator's post-processor starts from, with an axis of one image."""
        if self.pooled:
            return self.products[None]
        f = self.fields
        beta = (1 << f["beta_shift"]) - f["beta_minus"]
        return ((self.products << f["alpha_shift"]) - beta * self.sums[..., None])[None]


class Allocator:
    """Hands out word ranges of each memory that do not overlap."""

    def __init__(self, rng):
        self.rng = rng
        self.free = dict.fromkeys(("activation", "output", "residual"), 0)

    def take(self, words, *memories):
        for memory in memories:
            start = self.free[memory] + self.rng.randint(0, 3)
            self.free[memory] = start + words
            assert self.free[memory] <= WORDS
            yield start


def random_instruction(rng, geometry, allocator, **fixed):
    """A legal COMPUTE of random kind, extent and placement."""
    g = geometry
    chunks, rows, columns = (rng.randint(1, 2), rng.randint(1, 2), rng.randint(1, 3))
    f = {
        "source": rng.choice((Source.ARRAY, Source.ARRAY, Source.POOL)),
        "output_chunks": chunks,
        "output_rows": rows,
        "output_columns": columns,
        "alpha_shift": rng.randint(0, 1),
        "beta_shift": rng.randint(0, 8),
        "beta_minus": rng.randint(0, 1),
        "parameter_slot": rng.randint(0, g.parameter_slots - chunks * g.beats),
        "affine": rng.randint(0, 3) > 0,
        "relu_before": rng.randint(0, 1),
        "residual": rng.randint(0, 1),
        "relu_after": rng.randint(0, 1),
        "saturation_bits": rng.randint(8, g.residual_bits),
        "scatter_groups": rng.choice((1, 1, 2, 3, 4)),
        "first_lane": rng.randrange(0, g.tin, g.lanes),
        "residual_out": rng.randint(0, 1),
        "raw": rng.randint(0, 7) == 0,
    }
    for n in (1, 2):
        f[f"code{n}_bits"] = rng.choice((0, 1, 2, 3, 4, 8))
        for memory in ("activation", "output"):
            f[f"code{n}_to_{memory}"] = rng.randint(0, 1)
    f |= fixed
    if f["source"] == Source.POOL:
        f["residual"] = 0
    if f["raw"]:
        f |= {"affine": 1, "residual_out": 1, "scatter_groups": 1}

    groups = f["scatter_groups"]
    words = -(-(f["first_lane"] + chunks * g.tout) // g.tin)
    for n in (1, 2):
        stride = max(1, words * isa.digits(f[f"code{n}_bits"]))
        f[f"code{n}_group_stride"] = stride
        f[f"code{n}_pixel_stride"] = stride * groups
        f[f"code{n}_row_stride"] = stride * groups * columns
        size = stride * groups * columns * rows
        starts = allocator.take(size, "activation", "output")
        f[f"code{n}_activation_address"], f[f"code{n}_output_address"] = starts
    beats = chunks * g.beats * (g.raw_planes if f["raw"] else 1)
    f["residual_out_group_stride"] = beats
    f["residual_out_pixel_stride"] = beats * groups
    f["residual_out_row_stride"] = beats * groups * columns
    f["residual_in_pixel_stride"] = beats
    f["residual_in_row_stride"] = beats * columns
    (f["residual_out_address"],) = allocator.take(beats * groups * columns * rows, "residual")
    (f["residual_in_address"],) = allocator.take(beats * columns * rows, "residual")
    f["steps"] = isa.beat_steps(f, g)

    size = (chunks, rows, columns, g.tout)
    count = int(np.prod(size))
    if f["source"] == Source.POOL:
        products = np.array(random_words(rng, 17, count)).reshape(size)
    else:
        products = np.array([rng.getrandbits(rng.randint(1, 18)) for _ in range(count)])
    sums = np.array([rng.getrandbits(9) for _ in range(count // g.tout)]).reshape(size[:-1])
    return Instruction(f, products.reshape(size), sums)


def random_parameters(rng, geometry):
    """Slots whose lanes are scattered over two groups, and whose raw results fit 32 bits."""
    slots = {}
    for slot in range(geometry.parameter_slots):
        slots[slot], control = random_slot(rng, geometry)
        for lane in control:
            lane["group"] = rng.randint(0, 1)
            lane["valid"] = rng.randint(0, 4) > 0
            lane["shift"] = rng.randint(6, 12)
        slots[slot][isa.ROW_CONTROL] = [
            int.from_bytes(isa.PARAMETER_CONTROL.encode(fields), "little") for fields in control
        ]
        slots[slot][isa.ROW_OFFSET] = random_words(rng, 24, geometry.lanes)
    return slots


class Bench:
    """The post-processor between Python memories and a sequencer that wastes no cycle."""

    def __init__(self, geometry, slots, instructions, seed):
        self.geometry = geometry
        self.slots = slots
        self.instructions = instructions
        self.dut = PostProcessor(geometry)
        self.memories = Memories(geometry, 1, seed)
        self.cycle = 0
        self.last_results = []  # cycle of each instruction's last result
        self.completions = []  # cycle of each complete strobe
        self.last_writes = []  # cycle of the last write before each of them
        self.saturations = 0

    def run(self):
        simulate(self.dut, self.drive, self.observe)

    async def tick(self, ctx, cycles=1):
        for _ in range(cycles):
            await ctx.tick()
            self.cycle += 1

    async def observe(self, ctx):
        """Memories, counters and strobes, cycle by cycle."""
        dut = self.dut
        ports = {
            "activation": dut.activation_write,
            "output": dut.output_write,
            "residual": dut.residual_write,
        }
        strobes = [dut.complete, dut.overrun, dut.saturated]
        read = [dut.residual_read.enable, dut.residual_read.address]
        writes = [
            value
            for port in ports.values()
            for value in (port.enable, port.address, port.mask, port.data.as_value())
        ]
        cycle, last_write = 0, None
        nothing = [-1] * self.geometry.lanes
        answers = [nothing] * (self.geometry.read_cycles - 1)
        async for _, _, *sample in ctx.tick().sample(*strobes, *read, *writes):
            complete, overrun, saturated, enable, address, *words = sample
            assert not overrun
            self.saturations += saturated
            if complete:
                self.completions.append(cycle)
                self.last_writes.append(last_write)
            residual = self.memories.residual[0]
            answers.append([int(value) for value in residual[address]] if enable else nothing)
            ctx.set(dut.residual_read.data, answers.pop(0))
            for number, (name, port) in enumerate(ports.items()):
                enable, address, mask, data = words[4 * number : 4 * number + 4]
                if enable:
                    last_write = cycle
                    bits = port.data.shape().elem_shape.width
                    memory = getattr(self.memories, name)
                    for lane in range(len(port.mask)):
                        if mask >> lane & 1:
                            digit = np.array(data >> (lane * bits) & ((1 << bits) - 1))
                            memory[0, address, lane] = digit.astype(memory.dtype)
            cycle += 1

    async def drive(self, ctx):
        dut = self.dut
        await self.tick(ctx)
        port = dut.parameter_write
        ctx.set(port.valid, 1)
        ctx.set(port.memory, Memory.PARAMETER)
        for address, word in parameter_words(self.geometry, self.slots):
            ctx.set(port.address, address)
            ctx.set(port.data, word)
            await self.tick(ctx)
        ctx.set(port.valid, 0)
        free, source = 0, None
        for number, item in enumerate(self.instructions):
            drains = source not in (None, item.fields["source"])
            source = item.fields["source"]
            while len(self.completions) < (number if drains else number - 1):
                await self.tick(ctx)
            tag = number % 2
            ctx.set(dut.configuration.valid, 1)
            ctx.set(dut.configuration.tag, tag)
            ctx.set(dut.configuration.fields, item.fields)
            await self.tick(ctx)
            ctx.set(dut.configuration.valid, 0)
            ctx.set(dut.configuration.fields, {})
            for last, flags, numbers in self.results(item):
                await self.tick(ctx, max(0, free - self.cycle))
                for member, value in flags:
                    ctx.set(member, value)
                port = dut.pooled if item.pooled else dut.result
                ctx.set(port.valid, 1)
                ctx.set(port.tag, tag)
                free = self.cycle + item.cycles(self.geometry)
                if last:
                    self.last_results.append(self.cycle)
                await self.tick(ctx)
                ctx.set(port.valid, 0)
                ctx.set(port.tag, 1 - tag)
                for member, value in numbers:
                    ctx.set(member, value)
        while len(self.completions) < len(self.instructions):
            assert self.cycle < free + 100, "an instruction does not complete"
            await self.tick(ctx)
        await self.tick(ctx, 20)

    def results(self, item):
        """For each result or pooled beat: whether it is the last; what to set then, and after."""
        g, dut = self.geometry, self.dut
        places = list(np.ndindex(item.sums.shape))
        beats = range(g.beats) if item.pooled else [None]
        events = list(product(places, beats))
        port = dut.pooled if item.pooled else dut.result
        for number, (place, beat) in enumerate(events):
            last = number == len(events) - 1
            flags = [(port.first, number == 0), (port.last, last)]
            words = [int(value) for value in item.products[place]]
            if item.pooled:
                numbers = [(port.values, words[beat * g.lanes :][: g.lanes])]
            else:
                numbers = [(port.sums, words), (port.activation_sum, int(item.sums[place]))]
                flags.append((port.empty, item.empty))
            yield last, flags, numbers


def check(geometry, slots, instructions, seed=0):
    """Run hardware and emulator from the same memories, and compare all that is left behind."""
    bench = Bench(geometry, slots, instructions, seed)
    bench.run()

    memories, statistics = Memories(geometry, 1, seed), Statistics()
    unit = ComputeUnit(geometry, memories, statistics)
    for slot, rows in slots.items():
        for row, lanes in rows.items():
            words = np.array([value % (1 << 32) for value in lanes], np.uint32)
            memories.parameter[slot, row] = words.view(np.int32)
    for item in instructions:
        if not item.empty:
            unit._check(UNUSED | item.fields)
            unit._post(item.fields, item.values)
    for name in ("activation", "output", "residual"):
        actual, expected = getattr(bench.memories, name), getattr(memories, name)
        np.testing.assert_array_equal(actual, expected, name)
    assert bench.saturations == statistics.saturations
    assert len(bench.completions) == len(instructions)
    for item, result, complete, write in zip(
        instructions, bench.last_results, bench.completions, bench.last_writes, strict=True
    ):
        if item.empty:
            assert complete - result == PostProcessor.completion_cycles(steps=1, beats=1)
        else:
            beats = 1 if item.pooled else geometry.beats
            assert complete - result == PostProcessor.completion_cycles(item.fields["steps"], beats)
        assert write is None or write < complete
    return statistics


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.name)
@pytest.mark.parametrize("seed", range(2))
def test_random_instructions(geometry, seed):
    rng = random.Random(seed)
    allocator = Allocator(rng)
    instructions = [random_instruction(rng, geometry, allocator) for _ in range(10)]
    check(geometry, random_parameters(rng, geometry), instructions, seed)


def test_instructions_without_results_complete_in_order():
    geometry = GEOMETRIES[0]
    rng = random.Random(5)
    allocator = Allocator(rng)
    instructions = []
    for _ in range(3):
        held = Instruction({"source": Source.ARRAY}, np.zeros((1, 1, 1, 8)), np.zeros((1, 1, 1)))
        held.empty = True
        slow = random_instruction(rng, geometry, allocator, source=Source.ARRAY, scatter_groups=4)
        instructions += [held, slow, held]
    check(geometry, random_parameters(rng, geometry), instructions)


@pytest.mark.parametrize(("second", "steps"), [(0, 1), (2, 2)])
def test_beats_without_gaps(second, steps):
    """2-bit codes: a beat a cycle, or in two for two tensors, and no gap between instructions."""
    geometry = GEOMETRIES[1]
    rng = random.Random(6)
    allocator = Allocator(rng)
    fast = {"scatter_groups": 1, "code1_bits": 2, "code2_bits": second, "raw": 0, "residual": 1}
    fast |= {"code1_to_activation": 1, "code1_to_output": 0, "source": Source.ARRAY}
    fast |= {"code2_to_activation": 0, "code2_to_output": 1, "residual_out": 1, "affine": 1}
    instructions = [random_instruction(rng, geometry, allocator, **fast) for _ in range(4)]
    assert {item.fields["steps"] for item in instructions} == {steps}
    statistics = check(geometry, random_parameters(rng, geometry), instructions)
    assert statistics.saturations > 0


def test_residuals_are_updated_in_place():
    geometry = GEOMETRIES[3]
    rng = random.Random(8)
    fields = {"scatter_groups": 1, "residual": 1, "residual_out": 1, "raw": 0}
    item = random_instruction(rng, geometry, Allocator(rng), source=Source.ARRAY, **fields)
    for name in ("address", "row_stride", "pixel_stride"):
        item.fields[f"residual_in_{name}"] = item.fields[f"residual_out_{name}"]
    check(geometry, random_parameters(rng, geometry), [item])


def test_overrun_is_reported():
    """A result that comes a cycle before its predecessor's last step."""
    geometry = GEOMETRIES[0]
    fields = {"steps": 3, "scatter_groups": 1, "output_columns": 2}
    for early in (0, 1):
        dut = PostProcessor(geometry)

        async def bench(ctx, dut=dut, early=early):
            ctx.set(dut.configuration.fields, fields)
            ctx.set(dut.configuration.valid, 1)
            await ctx.tick()
            seen = 0
            for _ in range(2):
                ctx.set(dut.result.valid, 1)
                await ctx.tick()
                ctx.set(dut.result.valid, 0)
                for _ in range(3 * geometry.beats - 1 - early):
                    seen += ctx.get(dut.overrun)
                    await ctx.tick()
            for _ in range(2 * PostProcessor.LATENCY):
                seen += ctx.get(dut.overrun)
                await ctx.tick()
            assert seen == early

        simulate(dut, bench)


@pytest.mark.parametrize(
    ("bits", "groups", "least"),
    [
        ((2, 0), 4, 4),  # one word for each group
        ((3, 0), 1, 3),  # a lane's thresholds are read in turn
        ((4, 0), 1, 5),
        ((2, 2), 1, 2),
        ((2, 4), 1, 6),
        ((0, 1), 1, 2),  # the second tensor is a cycle behind
    ],
)
def test_steps_that_are_too_few_are_reported(bits, groups, least):
    geometry = GEOMETRIES[0]
    for steps in (least - 1, least):
        dut = PostProcessor(geometry)
        fields = {"steps": steps, "scatter_groups": groups, "output_columns": 1}
        fields |= {"code1_bits": bits[0], "code1_to_activation": 1}
        fields |= {"code2_bits": bits[1], "code2_to_output": 1}
        unused = {"raw": 0, "code1_to_output": 0, "code2_to_activation": 0}
        assert isa.beat_steps(unused | fields, geometry) == least

        async def bench(ctx, dut=dut, fields=fields):
            ctx.set(dut.configuration.fields, fields)
            ctx.set(dut.configuration.valid, 1)
            await ctx.tick()
            ctx.set(dut.result.valid, 1)
            await ctx.tick()
            ctx.set(dut.result.valid, 0)
            seen = 0
            for _ in range(2 * PostProcessor.LATENCY):
                seen += ctx.get(dut.overrun)
                await ctx.tick()
            assert bool(seen) == (fields["steps"] < least)

        simulate(dut, bench)
