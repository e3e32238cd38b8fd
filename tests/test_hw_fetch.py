"""The fetch unit hands out a program's instructions, image after image, and refuses bad images."""

import dataclasses
import random

import pytest
from amaranth import Module
from amaranth.lib.wiring import connect
from axi_memory import AxiMemory
from programs import image, instruction_offsets, random_instruction, random_program
from simulation import plain, simulate, until

from palquant.hw import isa
from palquant.hw.arbiter import ReadArbiter
from palquant.hw.fetch import FetchUnit
from palquant.hw.isa import Opcode
from palquant.hw.presets import geometry
from palquant.hw.registers import ErrorCode, Stall

TINY = geometry("tiny")
GEOMETRIES = [
    TINY,
    geometry("kilomac"),
    dataclasses.replace(TINY, bus_bits=32, burst_beats=1),
    dataclasses.replace(geometry("kilomac"), bus_bits=256),
]
BASE = 0x1000
NAMES = ("load", "compute", "store")


class Bench:
    """A fetch unit between a memory and three queues of any depth.

    Attributes:
        instructions: (engine, image offset, bytes, input base, output base) of each instruction,
            in order.
        finished: Cycle of ``done``.
    """

    def __init__(self, g, content, *, stall=0.0, latency=0, queue_stall=0.0, **settings):
        self.geometry = g
        self.unit = FetchUnit(g)
        self.arbiter = ReadArbiter(g)
        self.memory = AxiMemory(
            g.bus_bits, read=self.arbiter.bus, base=BASE, size=1 << 14, latency=latency, stall=stall
        )
        self.memory.load(BASE, content)
        self.settings = {
            "image_address": BASE,
            "input_address": 0x100000,
            "output_address": 0x200000,
            "input_stride": 0x100,
            "output_stride": 0x40,
            "image_count": 1,
            **settings,
        }
        self.queue_stall = queue_stall
        self.instructions = []
        self.finished = None
        self.cycle = 0
        self.idle = True

    def run(self, main, limit=5000):
        m = Module()
        m.submodules.unit, m.submodules.arbiter = self.unit, self.arbiter
        connect(m, self.unit.address, self.arbiter.fetch)
        connect(m, self.arbiter.fetch_data, self.unit.data)
        m.d.comb += self.unit.address_waits.eq(self.arbiter.fetch_waits)

        async def whole(ctx):
            for name, value in self.settings.items():
                ctx.set(getattr(self.unit.settings, name), value)
            ctx.set(self.unit.start, 1)
            await ctx.tick()
            ctx.set(self.unit.start, 0)
            await main(ctx)

        simulate(m, whole, self.memory.run, testbenches=[self._queues])

    async def _queues(self, ctx):
        rng = random.Random(8)
        unit = self.unit
        writes = [getattr(unit, f"queue_{name}") for name in NAMES]
        parts = {name: [] for name in NAMES}
        while True:
            ctx.set(unit.engines_idle, self.idle and rng.random() >= self.queue_stall)
            for write in writes:
                # Room stays until an instruction is complete.
                if not ctx.get(write.room) or rng.random() < 0.3:
                    ctx.set(write.room, rng.random() >= self.queue_stall)
            names = ("enable", "commit", "beat", "data", "offset")
            signals = [getattr(write, name) for write in writes for name in names]
            _, _, done, base_in, base_out, *values = await ctx.tick().sample(
                unit.done, unit.regions.input, unit.regions.output, *signals
            )
            self.cycle += 1
            for index, name in enumerate(NAMES):
                enable, commit, beat, value, offset = values[5 * index : 5 * index + 5]
                assert enable or not commit
                if enable:
                    assert ctx.get(writes[index].room)
                    assert beat == len(parts[name])
                    parts[name].append(value.to_bytes(self.geometry.bus_bytes, "little"))
                if commit:
                    self.instructions.append(
                        (name, offset, b"".join(parts[name]), base_in, base_out)
                    )
                    parts[name].clear()
                    ctx.set(writes[index].room, 0)
            if done:
                assert self.finished is None
                self.finished = self.cycle

    async def fault(self, ctx, limit=3000):
        """(code, image offset) of the fault."""
        await until(lambda: ctx.get(self.unit.fault.valid), limit)(ctx)
        assert not self.finished
        return ErrorCode(plain(ctx.get(self.unit.fault.code))), ctx.get(self.unit.offset)


def expected(bench, program, body, images):
    """Reference: what the engines must be given."""
    offsets = instruction_offsets(program)
    result = []
    for number in range(images):
        for index in range(body if number else 0, len(program)):
            opcode = Opcode(program[index][0] & 15)
            if opcode.name.lower() in NAMES:
                result.append(
                    (
                        opcode.name.lower(),
                        offsets[index],
                        program[index],
                        bench.settings["input_address"] + number * bench.settings["input_stride"],
                        bench.settings["output_address"] + number * bench.settings["output_stride"],
                    )
                )
    return result


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.bus_bits}x{g.burst_beats}")
@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize("images", [1, 3])
def test_instructions_equal_program(g, stall, images):
    program = random_program(images, 25)
    content = image(g, program, body=7)
    bench = Bench(g, content, stall=stall, latency=9, queue_stall=stall, image_count=images)

    async def main(ctx):
        await until(lambda: bench.finished, 20000)(ctx)
        assert ctx.get(bench.unit.images_done) == images
        assert not ctx.get(bench.unit.fault.valid)
        assert not ctx.get(bench.unit.outstanding)
        assert plain(ctx.get(bench.unit.stall)) == Stall.IDLE
        assert ctx.get(bench.unit.regions.image_bytes) == len(content)

    bench.run(main)
    assert bench.instructions == expected(bench, program, 7, images)
    end = max(address + beats * g.bus_bytes for _, address, beats in bench.memory.reads)
    assert end <= BASE + len(content)


def test_no_image_is_done_at_once():
    bench = Bench(TINY, image(TINY, random_program(1, 5)), image_count=0)

    async def main(ctx):
        await until(lambda: bench.finished)(ctx)
        assert ctx.get(bench.unit.images_done) == 0

    bench.run(main)
    assert not bench.instructions


@pytest.mark.parametrize("images", [1, 2])
def test_end_waits_for_the_engines(images):
    program = random_program(2, 3, barriers=False)
    bench = Bench(TINY, image(TINY, program), image_count=images)
    bench.idle = False

    async def main(ctx):
        await ctx.tick().repeat(200)
        assert len(bench.instructions) == 3
        assert bench.finished is None
        assert ctx.get(bench.unit.images_done) == 0
        assert plain(ctx.get(bench.unit.stall)) == Stall.DRAIN
        assert ctx.get(bench.unit.regions.input) == bench.settings["input_address"]
        bench.idle = True
        await until(lambda: bench.finished)(ctx)

    bench.run(main)
    assert len(bench.instructions) == 3 * images


def test_barrier_waits_for_the_engines():
    rng = random.Random(4)
    program = [random_instruction(rng, o) for o in (Opcode.LOAD, Opcode.BARRIER, Opcode.STORE)]
    program.append(isa.encode(Opcode.END))
    bench = Bench(TINY, image(TINY, program))
    bench.idle = False

    async def main(ctx):
        await ctx.tick().repeat(100)
        assert [entry[0] for entry in bench.instructions] == ["load"]
        bench.idle = True
        await until(lambda: bench.finished)(ctx)

    bench.run(main)
    assert [entry[0] for entry in bench.instructions] == ["load", "store"]


def test_instructions_flow_at_50_cycles_latency():
    g = geometry("kilomac")
    bench = Bench(g, image(g, random_program(3, 100, barriers=False)), latency=50)
    bench.run(until(lambda: bench.finished))
    beats = bench.memory.beats["r"]
    assert bench.finished < 1.25 * beats + 3 * 60


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"magic": isa.MAGIC ^ 1 << 31}, ErrorCode.MAGIC),
        ({"version": isa.VERSION + 1}, ErrorCode.VERSION),
        ({"geometry": TINY.identity ^ 1}, ErrorCode.GEOMETRY),
        ({"image_bytes": 0x40}, ErrorCode.ADDRESS),
        ({"image_bytes": 0}, ErrorCode.ADDRESS),
        ({"image_bytes": 0xFFFFFFF8}, ErrorCode.ADDRESS),
    ],
)
@pytest.mark.parametrize("g", [TINY, dataclasses.replace(TINY, bus_bits=32)], ids=["64", "32"])
def test_header_that_does_not_fit(g, header, code):
    if "geometry" in header:
        header = {"geometry": g.identity ^ 1}
    bench = Bench(g, image(g, random_program(1, 5), **header))

    async def main(ctx):
        offset = 0x40 if code is ErrorCode.ADDRESS else 0
        assert await bench.fault(ctx) == (code, offset)

    bench.run(main)
    assert not bench.instructions


def test_without_checks_an_image_may_reach_beyond_the_last_address():
    g = dataclasses.replace(TINY, checks=False)
    program = random_program(1, 5, barriers=False)
    bench = Bench(g, image(g, program, image_bytes=0xFFFFFFF8))
    bench.run(until(lambda: bench.finished))
    assert len(bench.instructions) == 5


def test_misaligned_image():
    bench = Bench(TINY, image(TINY, random_program(1, 5)), image_address=BASE + 4)

    async def main(ctx):
        assert await bench.fault(ctx) == (ErrorCode.ADDRESS, 0)

    bench.run(main)
    assert not bench.memory.reads


@pytest.mark.parametrize("offset", [0x44, 0x4000, 0x7FFFFFE0])
def test_program_that_is_not_in_the_image(offset):
    content = image(TINY, random_program(1, 5), program_offset=0x40)
    fields = isa.IMAGE_HEADER.decode(content[: isa.HEADER_BYTES])
    content = (
        isa.IMAGE_HEADER.encode({**fields, "program_offset": offset}) + content[isa.HEADER_BYTES :]
    )
    bench = Bench(TINY, content)

    async def main(ctx):
        assert await bench.fault(ctx) == (ErrorCode.ADDRESS, offset)

    bench.run(main)


def test_body_that_is_not_in_the_image():
    content = image(TINY, random_program(1, 5), body_offset=0x5000)
    bench = Bench(TINY, content, image_count=2)

    async def main(ctx):
        assert await bench.fault(ctx) == (ErrorCode.ADDRESS, 0x5000)

    bench.run(main)


def test_program_without_end_stops_at_the_images_end():
    program = random_program(1, 6, barriers=False)[:-1]
    content = image(TINY, program)
    bench = Bench(TINY, content)

    async def main(ctx):
        assert await bench.fault(ctx) == (ErrorCode.ADDRESS, len(content))

    bench.run(main)
    assert len(bench.instructions) == 6
    assert max(address + beats * 8 for _, address, beats in bench.memory.reads) <= BASE + len(
        content
    )


def test_illegal_instruction_is_named():
    program = random_program(1, 6, barriers=False)
    program[4] = bytes(32)
    bench = Bench(TINY, image(TINY, program), latency=5)

    async def main(ctx):
        where = instruction_offsets(program)[4]
        assert await bench.fault(ctx) == (ErrorCode.OPCODE, where)

    bench.run(main)
    assert len(bench.instructions) == 4


def test_read_error_counts_where_it_is_reached():
    program = random_program(1, 6, barriers=False)
    where = instruction_offsets(program)
    bench = Bench(TINY, image(TINY, program), latency=5)
    bench.memory.read_errors.add(BASE + where[3] + 16)

    async def main(ctx):
        assert await bench.fault(ctx) == (ErrorCode.READ_RESPONSE, where[3])

    bench.run(main)
    assert len(bench.instructions) == 3


def test_read_error_in_the_header():
    bench = Bench(TINY, image(TINY, random_program(1, 6)))
    bench.memory.read_errors.add(BASE + 8)

    async def main(ctx):
        assert await bench.fault(ctx) == (ErrorCode.READ_RESPONSE, 0)

    bench.run(main)


def test_read_error_behind_the_end_does_not_matter():
    program = random_program(1, 6)
    content = image(TINY, program)
    bench = Bench(TINY, image(TINY, program, size=len(content) + 256) + bytes(256))
    bench.memory.read_errors.add(BASE + len(content))
    bench.run(until(lambda: bench.finished))


@pytest.mark.parametrize(("deaf", "stall"), [("ar", Stall.ADDRESS), ("r", Stall.DATA)])
@pytest.mark.parametrize("when", [1, 60])
def test_stall_names_the_memory(deaf, stall, when):
    bench = Bench(TINY, image(TINY, random_program(1, 100, barriers=False)))

    async def main(ctx):
        await ctx.tick().repeat(when)
        bench.memory.deaf.add(deaf)
        await ctx.tick().repeat(200)
        assert plain(ctx.get(bench.unit.stall)) == stall

    bench.run(main)


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.COMPUTE, Opcode.STORE])
def test_stall_names_the_full_queue(opcode):
    program = [random_instruction(random.Random(1), opcode), isa.encode(Opcode.END)]
    bench = Bench(TINY, image(TINY, program), queue_stall=1.0)

    async def main(ctx):
        await ctx.tick().repeat(100)
        assert plain(ctx.get(bench.unit.stall)) == Stall[opcode.name]

    bench.run(main)
