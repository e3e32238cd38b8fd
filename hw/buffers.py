"""The memories that LOAD, STORE and the datapath share: one read and one write port each."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory, MemoryData, ReadPort
from amaranth.lib.wiring import In

from palquant.hw.config import DIGIT_BITS, Geometry
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
    tensors in rows of their own, do not do so. Where a row holds several beats
    and the datapath reads as well, the row that a store reads is kept for the beats that follow:
    they need no port. What they are if the row is written meanwhile is undefined.

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

        def spread(
            mask: Value, data: Value, position: Value, part_bits: int
        ) -> tuple[Value, Value]:
            """Enables and data of a row, of which one part is written."""
            parts = self.row_bits // part_bits
            enables = Cat(Mux(position == k, mask, 0) for k in range(parts)) if parts > 1 else mask
            return enables, data.replicate(parts)

        if "load" in ports:
            address, beat, last = self._elaborate_load_parts(m)
            part_bits = len(beat)
            row, position = self._place(address, part_bits)
            everything = (1 << part_bits // self.lane_bits) - 1
            enables, data = spread(
                Mux(self.load.valid & (self.load.memory == self.memory), everything, 0)[
                    : part_bits // self.lane_bits
                ],
                beat,
                position,
                part_bits,
            )
            m.d.comb += [
                self.load.ready.eq((self.load.memory == self.memory) & last),
                port.addr.eq(row),
                port.en.eq(enables),
                port.data.eq(data),
            ]
        if "write" in ports:
            row, position = self._place(self.write.address, self.word_bits)
            enables, data = spread(
                self.write.mask, self.write.data.as_value(), position, self.word_bits
            )
            with m.If(self.write.enable):
                m.d.comb += [port.addr.eq(row), port.en.eq(enables), port.data.eq(data)]
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
        m.d.comb += port.en.eq(0)

        def held(position: Value, enable: Value, name: str) -> Value:
            """The position that was asked for in the cycle before."""
            if not len(position):
                return position
            before = Signal.like(position, name=name)
            with m.If(enable):
                m.d.sync += before.eq(position)
            return before

        def part(row: Value, position: Value, part_bits: int) -> Value:
            return row.word_select(position, part_bits) if len(position) else row

        kept: Value = Const(0)
        if "store" in ports:
            bits = self.geometry.bus_bits
            row, position = self._place(self.store.address, bits)
            place = held(position, self.store.ready, "beat_position")
            data: Value = port.data
            if "read" in ports and len(position):
                kept, data = self._elaborate_kept_row(m, port, position)
            wanted = self.store.memory == self.memory
            m.d.comb += [
                self.store.ready.eq(wanted),
                port.addr.eq(row),
                port.en.eq(wanted & self.store.valid & ~kept),
                self.store.data.eq(part(data, place, bits)),
            ]
        if "read" in ports:
            row, position = self._place(self.read.address, self.word_bits)
            place = held(position, self.read.enable, "word_position")
            m.d.comb += self.read.data.eq(part(port.data, place, self.word_bits))
            with m.If(self.read.enable):
                m.d.comb += [port.addr.eq(row), port.en.eq(1)]
                if "store" in ports:
                    m.d.comb += self.store.ready.eq(wanted & kept)

    def _elaborate_kept_row(
        self, m: Module, port: ReadPort, position: Value
    ) -> tuple[Value, Value]:
        """The row that was read last for a store.

        Returns:
            Whether the beat that is asked for follows another of that row; and the row that the
            beat of the cycle before comes from.
        """
        content = Signal(self.row_bits, reset_less=True)
        kept, from_content, read_before = Signal(), Signal(), Signal()
        m.d.comb += kept.eq(self.store.follows & (position != 0))
        m.d.sync += [
            read_before.eq(self.store.valid & self.store.ready & ~kept),
            from_content.eq(kept),
        ]
        with m.If(read_before):
            m.d.sync += content.eq(port.data)
        return kept, Mux(from_content, content, port.data)
