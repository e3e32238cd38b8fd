"""The whole accelerator in Amaranth's simulator, with a compute engine that is easy to predict.

The double stands where the compute engine stands, on the same interface. Its COMPUTE copies bus
beats from the activation memory to the output buffer, each XORed with a number made from the
layer, one beat a cycle: enough to see every token that comes too early.
"""

import random
from types import SimpleNamespace

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from axi_memory import AxiMemory
from lite_host import LiteHost
from programs import image
from simulation import simulate

from palquant.hw import isa
from palquant.hw.isa import Base, Memory, Opcode
from palquant.hw.layouts import LoadWrite, StoreRead, struct
from palquant.hw.registers import COUNTERS, REGISTERS, Activity
from palquant.hw.top import Accelerator

IMAGE, INPUT, OUTPUT = 0x10000, 0x14000, 0x18000
REGION_BYTES = 0x4000


def transformed(value, layer):
    """What a COMPUTE of the double makes of a beat."""
    return value ^ (layer * 0x9E3779B1 & 0xFFFFFFFF)


class ComputeDouble(wiring.Component):
    """See above. Attributes steer it: ``port_stall``, ``overrun_at`` (a layer)."""

    def __init__(self, geometry):
        super().__init__(
            {
                "instruction": In(stream.Signature(struct(isa.COMPUTE, geometry))),
                "complete": Out(1),
                "busy": Out(1),
                "load_write": In(LoadWrite(geometry)),
                "store_read": In(StoreRead(geometry)),
                "activity": Out(Activity),
                "overrun": Out(1),
                "saturated": Out(range(2 * geometry.lanes + 1)),
            }
        )
        self.geometry = geometry
        self.port_stall = 0.0
        self.overrun_at = None
        self.layers = []
        self._memories = {}

    def elaborate(self, platform):
        return Module()

    async def run(self, ctx):
        """The process that drives all outputs."""
        rng = random.Random(11)
        fields, step = None, 0
        load, store = self.load_write, self.store_read
        answers = [0] * (self.geometry.read_cycles - 1)
        while True:
            ctx.set(load.ready, rng.random() >= self.port_stall)
            ctx.set(store.ready, rng.random() >= self.port_stall)
            ctx.set(self.instruction.ready, fields is None)
            ctx.set(self.busy, fields is not None)
            working = fields is not None and 0 < step <= fields.output_columns
            ctx.set(self.activity, Activity.ARRAY if working else Activity.DEPENDENCY)
            ctx.set(self.saturated, self.saturations(fields.layer) if working else 0)
            ctx.set(self.complete, fields is not None and step == fields.output_columns + 1)
            ctx.set(self.overrun, fields is not None and fields.layer == self.overrun_at)
            _, _, *v = await ctx.tick().sample(
                load.valid, load.ready, load.memory, load.address, load.data,
                store.valid, store.ready, store.memory, store.address,
                self.instruction.valid, self.instruction.ready, self.instruction.payload,
            )  # fmt: skip
            if v[0] and v[1]:
                self._memories[v[2], v[3]] = v[4]
            found = rng.getrandbits(self.geometry.bus_bits)
            if v[5] and v[6]:
                found = self._memories[v[7], v[8]]
            answers.append(found)
            ctx.set(store.data, answers.pop(0))
            if working:
                beat = step - 1
                value = self._memories[Memory.ACTIVATION, fields.input_origin + beat]
                address = fields.code1_output_address + beat
                self._memories[Memory.OUTPUT, address] = transformed(value, fields.layer)
            if v[9] and v[10]:
                payload = v[11]
                names = ("layer", "output_columns", "input_origin", "code1_output_address")
                fields, step = SimpleNamespace(**{n: int(payload[n]) for n in names}), 0
                self.layers.append(fields.layer)
            elif fields is not None:
                step += 1
                if step > fields.output_columns + 1:
                    fields = None

    def saturations(self, layer):
        """Saturations of each beat of a COMPUTE."""
        return layer % (2 * self.geometry.lanes + 1)


class Tiles:
    """A program of tiles, each loaded, computed and stored, with two buffers of each kind.

    Attributes:
        program: Encoded instructions.
        loaded, stored, saturations: Beats and values of one image.
    """

    def __init__(self, geometry, *, count=6, seed=0, max_beats=20):
        rng = random.Random(seed)
        self.geometry = geometry
        self.tiles = []
        self.program = []
        self.loaded = self.stored = 0
        place = 0
        for tile in range(count):
            beats = rng.randint(1, max_beats)
            buffer = tile % 2 * max_beats
            row = {"stride": beats, "rows": 1, "row_beats": beats, "layer": tile}
            late, early = tile >= 2, tile + 2 < count
            self.program += [
                isa.encode(
                    Opcode.LOAD, memory=Memory.ACTIVATION, base=Base.INPUT, address=buffer,
                    dram_offset=place, wait_compute=late, signal_compute=1, **row,
                ),
                isa.encode(
                    Opcode.COMPUTE, wait_load=1, wait_store=late, signal_load=early,
                    signal_store=1, cause=isa.Cause.ACTIVATIONS, layer=tile,
                    input_origin=buffer, output_columns=beats, code1_output_address=buffer,
                ),
                isa.encode(
                    Opcode.STORE, memory=Memory.OUTPUT, base=Base.OUTPUT, address=buffer,
                    dram_offset=place, wait_compute=1, signal_compute=early, **row,
                ),
            ]  # fmt: skip
            if rng.random() < 0.2:
                self.program.append(isa.encode(Opcode.BARRIER))
            self.tiles.append((tile, beats, place))
            place += beats * geometry.bus_bytes
            self.loaded += beats
            self.stored += beats
        self.program.append(isa.encode(Opcode.END))
        self.bytes = place

    def reference(self, data):
        """Output region of an image from its input region."""
        step = self.geometry.bus_bytes
        result = b""
        for layer, beats, place in self.tiles:
            for beat in range(beats):
                start = place + beat * step
                value = int.from_bytes(data[start : start + step], "little")
                result += transformed(value, layer).to_bytes(step, "little")
        return result


class Machine:
    """An accelerator with its memory and its host."""

    def __init__(self, geometry, *, stall=0.0, latency=0, host_stall=0.0, **memory):
        self.geometry = geometry
        self.double = ComputeDouble(geometry)
        self.dut = Accelerator(geometry, self.double)
        self.master = self._ports("m_axi_")
        self.memory = AxiMemory(
            geometry.bus_bits, read=self.master, write=self.master, base=IMAGE,
            size=3 * REGION_BYTES, latency=latency, stall=stall, interleave=True, **memory,
        )  # fmt: skip
        self.host = LiteHost(self._ports("s_axil_"), stall=host_stall)

    def _ports(self, prefix):
        members = self.dut.signature.members
        return SimpleNamespace(
            **{n.removeprefix(prefix): getattr(self.dut, n) for n in members if prefix in n}
        )

    def run(self, main, *background):
        """Simulate until ``main`` ends."""
        simulate(self.dut, main, self.memory.run, self.double.run, *background)

    def load(self, program, **header):
        """Put an image into memory."""
        content = image(self.geometry, program, **header)
        assert len(content) <= REGION_BYTES
        self.memory.load(IMAGE, content)

    async def write(self, ctx, name, value=None, **fields):
        """Write a register."""
        register = REGISTERS[name]
        word = register.encode(**fields) if value is None else value
        assert await self.host.write(ctx, register.offset, word) == 0

    async def read(self, ctx, name):
        """Fields of a register, or its value if it has but one."""
        register = REGISTERS[name]
        word, response = await self.host.read(ctx, register.offset)
        assert response == 0
        fields = register.decode(word)
        return fields.get("value", fields)

    async def counters(self, ctx):
        """All counters by name."""
        values = {}
        for name in COUNTERS:
            low, high = await self.read(ctx, f"{name}_LOW"), await self.read(ctx, f"{name}_HIGH")
            values[name] = high << 32 | low
        return values

    async def start(self, ctx, *, images=1, stride=0, watchdog=2000, **settings):
        """Write all settings and ring the doorbell."""
        values = {
            "IMAGE_ADDRESS": IMAGE,
            "INPUT_ADDRESS": INPUT,
            "OUTPUT_ADDRESS": OUTPUT,
            "INPUT_STRIDE": stride,
            "OUTPUT_STRIDE": stride,
            "IMAGE_COUNT": images,
            "WATCHDOG_LIMIT": watchdog,
            **settings,
        }
        for name, value in values.items():
            await self.write(ctx, name, value)
        await self.write(ctx, "INTERRUPT_ENABLE", done=1, error=1)
        await self.write(ctx, "CONTROL", start=1)

    async def interrupt(self, ctx, limit=20000):
        """Wait for the interrupt, acknowledge it; returns STATUS."""
        for _ in range(limit):
            if ctx.get(self.dut.irq):
                break
            await ctx.tick()
        events = await self.read(ctx, "INTERRUPT_STATUS")
        status = await self.read(ctx, "STATUS")
        assert events == {"done": status["done"], "error": status["error"]}
        assert sum(events.values()) == 1, f"no event within {limit} cycles"
        await self.write(ctx, "INTERRUPT_STATUS", **events)
        assert not ctx.get(self.dut.irq)
        return status
