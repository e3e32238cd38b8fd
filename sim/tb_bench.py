"""What the cocotb test benches share: clock, reset, a memory with faults, and a host.

The bus models are cocotbext-axi's, so that the machine meets somebody else's reading of AXI4. The
seed is cocotb's (``COCOTB_RANDOM_SEED``), printed at the start of every run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject, LogicObject
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave

from palquant.hw.config import Geometry
from palquant.hw.registers import REGISTERS, ErrorCode
from palquant.sim.programs import Program
from palquant.sw.regions import Regions

CLOCK_NS = 10
RESET_CYCLES = 8
#: Cycles within which a register access must be answered, stalls included.
REGISTER_CYCLES = 2000


class FaultyMemory:
    """Memory behind an AXI4 subordinate model: what was not written is poison.

    Parameters:
        base: First bus address.
        size: Bytes.
        rng: Source of the poison.

    Attributes:
        read_error: Byte address that cannot be read, or None.
        write_error: Byte address that cannot be written, or None.
    """

    def __init__(self, base: int, size: int, rng: random.Random) -> None:
        self.base = base
        self.contents = bytearray(rng.randbytes(size))
        self.read_error: int | None = None
        self.write_error: int | None = None

    def _start(self, address: int, length: int, error: int | None) -> int:
        start = address - self.base
        if start < 0 or start + length > len(self.contents):
            raise IndexError(f"{length} bytes at {address:#x} are outside the memory")
        if error is not None and address <= error < address + length:
            raise OSError(f"{error:#x} is faulty")  # the bus model answers SLVERR
        return start

    async def read(self, address: int, length: int) -> bytes:
        """Called by the bus model for each beat."""
        start = self._start(address, length, self.read_error)
        return bytes(self.contents[start : start + length])

    async def write(self, address: int, data: bytes) -> None:
        """Called by the bus model for each run of enabled bytes."""
        start = self._start(address, len(data), self.write_error)
        self.contents[start : start + len(data)] = data

    def load(self, address: int, data: bytes) -> None:
        """Backdoor write."""
        start = self._start(address, len(data), None)
        self.contents[start : start + len(data)] = data

    def dump(self, address: int, length: int) -> bytes:
        """Backdoor read."""
        start = self._start(address, length, None)
        return bytes(self.contents[start : start + length])


def _scalar(dut: HierarchyObject, name: str) -> LogicObject:
    """A one-bit port of the machine."""
    port = dut[name]
    assert isinstance(port, LogicObject)
    return port


class Bench:
    """A machine with its memory and its host.

    Parameters:
        dut: The machine.
        geometry: What it is.
        memory: First address and bytes of the memory.
        stall: Probability of a stall on every channel of both buses, each cycle.
    """

    def __init__(
        self,
        dut: HierarchyObject,
        geometry: Geometry,
        *,
        memory: tuple[int, int],
        stall: float = 0.0,
    ) -> None:
        self.dut = dut
        self.clk, self.rst, self.irq = (_scalar(dut, name) for name in ("clk", "rst", "irq"))
        self.geometry = geometry
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.memory = FaultyMemory(*memory, self.rng)
        self.bus = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=self.memory)
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        for interface in (self.bus, self.host):
            for log in (interface.write_if.log, interface.read_if.log):
                log.setLevel("WARNING")
        #: The five channels of the memory bus, for a test to pause.
        self.channels = {
            "AR": self.bus.read_if.ar_channel,
            "R": self.bus.read_if.r_channel,
            "AW": self.bus.write_if.aw_channel,
            "W": self.bus.write_if.w_channel,
            "B": self.bus.write_if.b_channel,
        }
        self.stall(stall)

    def stall(self, probability: float) -> None:
        """Let every channel of both buses pause at random."""
        host = (
            self.host.write_if.aw_channel,
            self.host.write_if.w_channel,
            self.host.write_if.b_channel,
            self.host.read_if.ar_channel,
            self.host.read_if.r_channel,
        )
        for channel in (*self.channels.values(), *host):
            channel.set_pause_generator(self._pauses(probability) if probability else None)
            channel.pause = False

    def _pauses(self, probability: float) -> Iterator[bool]:
        rng = random.Random(self.rng.random())
        while True:
            yield rng.random() < probability

    async def start(self) -> None:
        """Start the clock and reset the machine."""
        Clock(self.clk, CLOCK_NS, unit="ns", impl="gpi").start()
        await self.reset()

    async def reset(self) -> None:
        """Reset machine and buses; the memory keeps its contents."""
        self.rst.value = 1
        await ClockCycles(self.clk, RESET_CYCLES)
        self.rst.value = 0
        await RisingEdge(self.clk)

    # Registers

    async def write_bytes(self, offset: int, data: bytes, *, refused: bool = False) -> None:
        """Write some bytes of the register map, expecting OKAY, or SLVERR if ``refused``."""
        access = self.host.write(offset, data)
        answer = await with_timeout(access, REGISTER_CYCLES * CLOCK_NS, "ns")
        expected = AxiResp.SLVERR if refused else AxiResp.OKAY
        assert answer.resp == expected, f"write at {offset:#x}: {answer.resp!r}"

    async def read_word(self, offset: int, *, refused: bool = False) -> int:
        """Read a word of the register map, expecting OKAY, or SLVERR if ``refused``."""
        access = self.host.read(offset, 4)
        answer = await with_timeout(access, REGISTER_CYCLES * CLOCK_NS, "ns")
        expected = AxiResp.SLVERR if refused else AxiResp.OKAY
        assert answer.resp == expected, f"read at {offset:#x}: {answer.resp!r}"
        return int.from_bytes(answer.data, "little")

    async def write(self, name: str, value: int | None = None, **fields: int) -> None:
        """Write a register by name: a whole value, or fields."""
        register = REGISTERS[name]
        word = register.encode(**fields) if value is None else value
        await self.write_bytes(register.offset, word.to_bytes(4, "little"))

    async def read(self, name: str) -> int:
        """Read a register by name."""
        return await self.read_word(REGISTERS[name].offset)

    async def fields(self, name: str) -> dict[str, int]:
        """Read a register's fields."""
        return REGISTERS[name].decode(await self.read(name))

    # Runs

    async def prepare(self, image: bytes, regions: Regions, images: int) -> None:
        """Put an image into memory and tell the machine about it."""
        self.memory.load(regions.image, image)
        for name, value in regions.settings(images).items():
            await self.write(name, value)
        await self.write("INTERRUPT_ENABLE", done=1, error=1)

    async def ring(self) -> None:
        """Ring the doorbell."""
        await self.write("CONTROL", start=1)

    async def interrupt(self, cycles: int) -> None:
        """Wait for the interrupt, at most so many cycles."""
        if not self.irq.value:
            await First(RisingEdge(self.irq), Timer(cycles * CLOCK_NS, "ns"))
        await RisingEdge(self.clk)
        assert self.irq.value == 1, f"no interrupt within {cycles} cycles"

    async def expect(self, code: ErrorCode) -> None:
        """Check STATUS after an interrupt, and acknowledge the interrupt."""
        status = await self.fields("STATUS")
        failed = code is not ErrorCode.NONE
        assert ErrorCode(status["code"]) is code, f"{ErrorCode(status['code'])!r}, not {code!r}"
        assert status["error"] == failed
        assert status["done"] == (not failed)
        events = await self.fields("INTERRUPT_STATUS")
        assert events == {"done": int(not failed), "error": int(failed)}
        await self.write("INTERRUPT_STATUS", **events)
        await ClockCycles(self.clk, 2)
        assert self.irq.value == 0, "the interrupt was acknowledged and is still high"

    async def recover(self) -> None:
        """Stop as a driver would: CONTROL.reset, wait until it is done, forget old events."""
        await self.write("CONTROL", reset=1)
        for _ in range(100):
            status = await self.fields("STATUS")
            if not status["busy"]:
                break
        assert not any(status.values()), f"STATUS after a reset is {status}"
        await self.write("INTERRUPT_STATUS", done=1, error=1)
        assert await self.read("INTERRUPT_STATUS") == 0

    def load_inputs(self, program: Program, regions: Regions) -> None:
        """Put a program's inputs where the machine will look for them."""
        for index, row in enumerate(program.inputs):
            self.memory.load(regions.input + index * regions.input_stride, row.tobytes())

    def check_outputs(self, program: Program, regions: Regions, before: bytes) -> None:
        """Compare every byte of the output regions, those that must not change included."""
        shape = (len(program.outputs), regions.output_stride)
        expected = np.frombuffer(before, np.uint8).reshape(shape).copy()
        expected[:, np.flatnonzero(program.written)] = program.outputs[:, program.written]
        after = np.frombuffer(self.memory.dump(regions.output, len(before)), np.uint8)
        wrong = np.argwhere(after.reshape(shape) != expected)
        if len(wrong):
            image, place = wrong[0]
            touched = place < program.written.size and program.written[place]
            raise AssertionError(
                f"{len(wrong)} bytes are wrong, first: image {image}, output byte {place:#x}: "
                f"{after.reshape(shape)[image, place]:#04x}, expected "
                f"{expected[image, place]:#04x}{'' if touched else ' (must not be written)'}"
            )

    async def run(self, program: Program, regions: Regions, *, cycles: int) -> None:
        """Run a program to its end and check all that it did."""
        images = len(program.inputs)
        self.load_inputs(program, regions)
        before = self.memory.dump(regions.output, images * regions.output_stride)
        await self.prepare(program.image, regions, images)
        await self.ring()
        await self.interrupt(cycles)
        await self.expect(ErrorCode.NONE)
        assert await self.read("IMAGES_DONE") == images
        self.check_outputs(program, regions, before)


def geometry_of(parameters: Mapping[str, Any]) -> Geometry:
    """The geometry in a test bench's parameters."""
    return Geometry(**parameters["geometry"])
