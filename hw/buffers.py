"""The memories that LOAD, STORE and the datapath share: one read and one write port each."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory, MemoryData, ReadPort
from amaranth.lib.wiring import In

from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.delay import delay_line
from palquant.hw.isa import Memory as MemoryName
from palquant.hw.layouts import LoadWrite, StoreRead, WordRead, WordWrite

__all__ = ["Scratchpad"]

#: Which interfaces a memory has; what nothing uses is not built.
_PORTS: dict[MemoryName, frozenset[str]] = {
    MemoryName.WEIGHT: frozenset({"read", "load"}),
    MemoryName.ACTIVATION: frozenset({"read", "write", "load"}),
    MemoryName.RESIDUAL: frozenset({"read", "write", "load", "store"}),
    MemoryName.OUTPUT: frozenset({"write", "store"}),
}


class Scratchpad(wiring.Component):
    """One on-chip memory, seen by the datapath as words and by the bus as beats.

    Words and beats are parts of one long string of bits, lowest address first, lowest bit first.
    A physical row holds a whole number of both: as many bits as the wider of the two, or, with
    narrow rows, a word, and a beat of several is loaded in as many cycles. The datapath never
    waits: a write goes before a load, a read before a store. What is read in the cycle in
    which any part of its row is written is undefined: programs that are free of races, and keep
    tensors in rows of their own, do not do so. Data come ``geometry.read_cycles`` after a read;
    where that is more than one, what is read and what is written goes through registers. Where a
    row holds several beats and the datapath reads as well, the row that a store reads is kept for
    the beats that follow: they need no port. What they are if the row is written meanwhile is
    undefined.

    Parameters:
        geometry: Sizes of the machine.
        memory: Which memory: ``WEIGHT``, ``ACTIVATION``, ``RESIDUAL`` or ``OUTPUT``.

    Attributes:
        words: Depth in words.
        word_bits: Width of a word.
        lane_bits: Width of a lane, the unit of write masks.
        row_bits: Width of a physical row.
        storage: The memory's contents, row by row, for backdoor access in simulation.

    Members:
        read: ``In(WordRead(word_bits))``; not for OUTPUT.
        write: ``In(WordWrite(word_bits // lane_bits, lane_bits))``; not for WEIGHT.
        load: ``In(LoadWrite(geometry))``; beats for other memories are ignored, and not ready;
            not for OUTPUT. A beat that takes several cycles is held until it is ready.
        store: ``In(StoreRead(geometry))``; likewise; only for RESIDUAL and OUTPUT.

    Raises:
        ValueError: The parameter memory, which is the post-processor's own.
    """

    def __init__(self, geometry: Geometry, memory: MemoryName) -> None:
        g = geometry
        sizes = {
            # Weights are written by LOAD alone, whole beats at a time.
            MemoryName.WEIGHT: (g.weight_words, g.weight_bits_per_word, g.bus_bits),
            MemoryName.ACTIVATION: (g.activation_words, g.activation_bits_per_word, DIGIT_BITS),
            MemoryName.RESIDUAL: (g.residual_words, g.residual_bits_per_word, g.residual_bits),
            MemoryName.OUTPUT: (g.output_words, g.activation_bits_per_word, DIGIT_BITS),
        }
        if memory not in sizes:
            raise ValueError(f"Memory must be one of {', '.join(m.name for m in sizes)}, "
                             f"not {memory!r}")  # fmt: skip
        self.geometry = geometry
        self.memory = memory
        self.words, self.word_bits, self.lane_bits = sizes[memory]
        self.row_bits = max(self.word_bits, g.bus_bits)
        if memory is MemoryName.ACTIVATION and g.narrow_rows:
            self.row_bits = self.word_bits
        self.storage = MemoryData(
            shape=unsigned(self.row_bits),
            depth=self.words * self.word_bits // self.row_bits,
            init=[],
        )
        ports = {
            "read": In(WordRead(g, self.word_bits)),
            "write": In(WordWrite(g, self.word_bits // self.lane_bits, self.lane_bits)),
            "load": In(LoadWrite(g)),
            "store": In(StoreRead(g)),
        }
        super().__init__({name: ports[name] for name in ports if name in _PORTS[memory]})

    def elaborate(self, platform: object) -> Module:
        """Arbitrate either port between the datapath and the bus."""
        m = Module()
        m.submodules.storage = storage = Memory(self.storage)
        self._elaborate_write(m, storage)
        self._elaborate_read(m, storage)
        return m

    def _place(self, address: Value, part_bits: int) -> tuple[Value, Value]:
        """Row and position within the row of a word or beat of ``part_bits`` bits."""
        low = (self.row_bits // part_bits).bit_length() - 1
        return address[low:], address[:low]

    def _elaborate_write(self, m: Module, storage: Memory) -> None:
        port = storage.write_port(granularity=self.lane_bits)
        ports = _PORTS[self.memory]
        part_bits = {
            "load": min(self.geometry.bus_bits, self.row_bits),
            "write": self.word_bits,
        }
        widest = max(bits for name, bits in part_bits.items() if name in ports)
        # What is written is repeated over the row, whose enables say where it goes.
        written = Signal(widest)
        row = Signal.like(port.addr)
        enables = Signal.like(port.en)
        cycles = self.geometry.read_cycles - 1
        m.d.comb += [
            port.addr.eq(delay_line(m, row, cycles, name="written_row")[-1]),
            port.en.eq(delay_line(m, enables, cycles, name="written_lanes", reset=True)[-1]),
            port.data.eq(
                delay_line(m, written, cycles, name="written")[-1].replicate(
                    self.row_bits // widest
                )
            ),
        ]

        def write(address: Value, mask: Value, data: Value) -> list[Any]:
            """Write a part of a row."""
            at, position = self._place(address, len(data))
            parts = self.row_bits // len(data)
            spread = Cat(Mux(position == k, mask, 0) for k in range(parts)) if parts > 1 else mask
            return [row.eq(at), enables.eq(spread), written.eq(data.replicate(widest // len(data)))]

        if "load" in ports:
            address, beat, last = self._elaborate_load_parts(m)
            mine = self.load.memory == self.memory
            lanes = len(beat) // self.lane_bits
            m.d.comb += self.load.ready.eq(mine & last)
            m.d.comb += write(address, Mux(self.load.valid & mine, (1 << lanes) - 1, 0), beat)
        if "write" in ports:
            with m.If(self.write.enable):
                m.d.comb += write(self.write.address, self.write.mask, self.write.data.as_value())
                if "load" in ports:
                    m.d.comb += self.load.ready.eq(0)

    def _elaborate_load_parts(self, m: Module) -> tuple[Value, Value, Value]:
        """What LOAD writes in this cycle.

        Returns:
            Its address, in parts of its size; the part itself, a beat or as much as a row holds;
            and whether it is the beat's last.
        """
        parts = self.geometry.bus_bits // self.row_bits
        if parts <= 1:
            return self.load.address, self.load.data, Const(1)
        part = Signal(range(parts))
        with m.If(~self.load.valid | (self.load.memory != self.memory)):
            m.d.sync += part.eq(0)
        with m.Elif(~self.write.enable):
            m.d.sync += part.eq(part + 1)
        return (
            Cat(part, self.load.address),
            self.load.data.word_select(part, self.row_bits),
            part == parts - 1,
        )

    def _elaborate_read(self, m: Module, storage: Memory) -> None:
        port = storage.read_port()
        ports = _PORTS[self.memory]
        row = Signal.like(port.addr)
        reads = Signal()
        cycles = self.geometry.read_cycles - 1
        m.d.comb += [
            port.addr.eq(delay_line(m, row, cycles, name="read_row")[-1]),
            port.en.eq(delay_line(m, reads, cycles, name="reads", reset=True)[-1]),
        ]

        def held(position: Value, enable: Value, name: str) -> Value:
            """The position that was asked for when what is read now was."""
            if not len(position):
                return position
            before = Signal.like(position, name=name)
            with m.If(enable):
                m.d.sync += before.eq(position)
            return delay_line(m, before, cycles, name=f"{name}_late")[-1]

        def part(row: Value, position: Value, part_bits: int) -> Value:
            return row.word_select(position, part_bits) if len(position) else row

        kept: Value = Const(0)
        if "store" in ports:
            bits = self.geometry.bus_bits
            at, position = self._place(self.store.address, bits)
            place = held(position, self.store.ready, "beat_position")
            data: Value = port.data
            if "read" in ports and len(position):
                kept, data = self._elaborate_kept_row(m, port, position)
            wanted = self.store.memory == self.memory
            m.d.comb += [
                self.store.ready.eq(wanted),
                row.eq(at),
                reads.eq(wanted & self.store.valid & ~kept),
                self.store.data.eq(part(data, place, bits)),
            ]
        if "read" in ports:
            at, position = self._place(self.read.address, self.word_bits)
            place = held(position, self.read.enable, "word_position")
            m.d.comb += self.read.data.eq(part(port.data, place, self.word_bits))
            with m.If(self.read.enable):
                m.d.comb += [row.eq(at), reads.eq(1)]
                if "store" in ports:
                    m.d.comb += self.store.ready.eq(wanted & kept)

    def _elaborate_kept_row(
        self, m: Module, port: ReadPort, position: Value
    ) -> tuple[Value, Value]:
        """The row that was read last for a store.

        Returns:
            Whether the beat that is asked for follows another of that row; and the row that the
            beat whose data are due comes from.
        """
        content = Signal(self.row_bits, reset_less=True)
        kept = Signal()
        m.d.comb += kept.eq(self.store.follows & (position != 0))
        cycles = self.geometry.read_cycles
        asked = self.store.valid & self.store.ready & ~kept
        arrives = delay_line(m, asked, cycles, name="asked", reset=True)[-1]
        from_content = delay_line(m, kept, cycles, name="kept", reset=True)[-1]
        with m.If(arrives):
            m.d.sync += content.eq(port.data)
        return kept, Mux(from_content, content, port.data)
