"""An engine's instruction queue: written in bus beats by the fetch unit, read whole."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.layouts import struct

#: Bus beats of the longest instruction are counted with this many bits: 3 units on a 32-bit bus.
BEAT_BITS = 5


class QueueWrite(wiring.Signature):
    """Beats of one instruction on their way into a queue.

    Members:
        room: ``In(1)``. There is a free place; it is kept until ``commit``.
        enable: ``Out(1)``. Write this beat into the free place.
        commit: ``Out(1)``, with the last beat: the instruction is complete.
        beat: ``Out(5)``, which beat of the instruction this is.
        data: ``Out(bus_bits)``.
        offset: ``Out(dram_bits)``, byte offset of the instruction in the image.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "room": In(1),
                "enable": Out(1),
                "commit": Out(1),
                "beat": Out(BEAT_BITS),
                "data": Out(geometry.bus_bits),
                "offset": Out(geometry.dram_bits),
            }
        )


class InstructionQueue(wiring.Component):
    """Holds ``queue_depth`` instructions.

    Beats go straight to their place in memory, so that no register of an instruction's width is
    needed to put it together; bits that the machine does not hold are not stored.

    Parameters:
        geometry: Sizes of the machine.
        layout: The instructions' table, at least as wide as the bus.

    Members:
        write: ``In(QueueWrite(geometry))``.
        read: ``Out(stream.Signature(struct(layout, geometry)))``, one cycle after the commit.
        offset: ``Out(dram_bits)``, byte offset in the image of the instruction at ``read``; 0
            without diagnosis.
    """

    def __init__(self, geometry: Geometry, layout: isa.Layout) -> None:
        super().__init__(
            {
                "write": In(QueueWrite(geometry)),
                "read": Out(stream.Signature(struct(layout, geometry))),
                "offset": Out(geometry.dram_bits),
            }
        )
        self._geometry = geometry
        self._layout = layout

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    @property
    def layout(self) -> isa.Layout:
        """The instructions' table."""
        return self._layout

    def elaborate(self, platform: object) -> Module:
        """A memory for each beat, written one by one and read together."""
        m = Module()
        depth = self._geometry.queue_depth
        level = Signal(range(depth + 1))
        written = Signal(range(depth))  # depth is a power of two: both wrap by themselves
        read = Signal(range(depth))
        taken = self.read.valid & self.read.ready
        m.d.comb += [self.write.room.eq(level != depth), self.read.valid.eq(level != 0)]
        m.d.sync += [
            level.eq(level + self.write.commit - taken),
            written.eq(written + self.write.commit),
            read.eq(read + taken),
        ]

        def store(name: str, data: Value, enable: Value) -> Signal:
            memory = Memory(shape=len(data), depth=depth, init=[])
            m.submodules[name] = memory
            write_port = memory.write_port()
            read_port = memory.read_port(domain="comb")
            m.d.comb += [
                write_port.addr.eq(written),
                write_port.data.eq(data),
                write_port.en.eq(enable),
                read_port.addr.eq(read),
            ]
            return read_port.data

        bus_bits = self._geometry.bus_bits
        parts = []
        for beat, first in enumerate(range(0, self._layout.used, bus_bits)):
            held = []
            for item in self._layout.fields:
                start = self._layout.offsets[item.name] - first
                end = min(start + item.held_bits(self._geometry), bus_bits)
                if max(start, 0) < end:
                    held.append(self.write.data[max(start, 0) : end])
            if held:
                enable = self.write.enable & (self.write.beat == beat)
                parts.append(store(f"beat{beat}", Cat(held), enable))
        m.d.comb += self.read.payload.eq(Cat(parts))
        if self._geometry.diagnosis:
            m.d.comb += self.offset.eq(store("offset", self.write.offset, self.write.commit))
        return m
