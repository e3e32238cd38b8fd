"""Recognises an instruction while it passes by, one bus beat at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.axi import read_beat
from palquant.hw.config import Geometry
from palquant.hw.isa import Opcode
from palquant.hw.queues import BEAT_BITS
from palquant.hw.tokens import Engine

#: The engine that executes an instruction; the fetch unit itself executes the others.
ENGINES = {
    Opcode.LOAD: Engine.LOAD,
    Opcode.COMPUTE: Engine.COMPUTE,
    Opcode.STORE: Engine.STORE,
}

_OPCODE_BITS = isa.HEADER[0].bits
#: So many bits are looked at together in two levels of tables of four inputs.
_FEW_BITS = 16


def _last_fields(geometry: Geometry) -> list[int]:
    """Where, in a beat that ends some instruction's fields or lies behind them, these end.

    Only those are listed above which more bits stand than a few tables can look at.
    """
    starts = set()
    for layout in isa.LAYOUTS.values():
        for index in range(layout.used // geometry.bus_bits, layout.size // geometry.bus_bits):
            starts.add(max(layout.used - index * geometry.bus_bits, 0))
    return sorted(start for start in starts if geometry.bus_bits - start > _FEW_BITS)


def bits_above(geometry: Geometry, beat: Value) -> Value:
    """Whether bits are set above the end of fields: a bit for each place where fields can end."""
    return Cat(beat[start:].any() for start in _last_fields(geometry))


def fetched_beat(geometry: Geometry) -> data.StructLayout:
    """A beat of the program, with what takes longest to tell of it: :func:`bits_above`.

    Where instructions do not overlap there is time to find that out of the beat itself.
    """
    if not geometry.overlap:
        return read_beat(geometry)
    above = len(_last_fields(geometry))
    return data.StructLayout({**read_beat(geometry).members, "above": above})


class Decoder(wiring.Component):
    """Says what the beat at hand belongs to; no registers inside.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        data: ``In(bus_bits)``, the beat.
        above: ``In``, :func:`bits_above` of it.
        index: ``In(5)``, its number in its instruction.
        held: ``In(4)``, the opcode, from the instruction's beat 0; ignored at beat 0.
        opcode: ``Out(4)``.
        engines: ``Out(3)``. One-hot: whose instruction it is.
        last: ``Out(1)``. It is the instruction's last beat.
        illegal: ``Out(1)``. Unknown opcode, tokens from or to the engine itself or without an
            engine, reserved bits that are set, or a value that this machine does not hold.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "data": In(geometry.bus_bits),
                "above": In(len(_last_fields(geometry))),
                "index": In(BEAT_BITS),
                "held": In(_OPCODE_BITS),
                "opcode": Out(_OPCODE_BITS),
                "engines": Out(len(Engine)),
                "last": Out(1),
                "illegal": Out(1),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """Look at the opcode, then at what it does not allow."""
        m = Module()
        bus_bits = self._geometry.bus_bits
        first = self.index == 0
        m.d.comb += self.opcode.eq(Mux(first, self.data[:_OPCODE_BITS], self.held))
        with m.Switch(self.opcode):
            for opcode, layout in isa.LAYOUTS.items():
                with m.Case(opcode):
                    m.d.comb += self.last.eq(self.index == layout.size // bus_bits - 1)
                    with m.If(self._not_held(layout) | (first & self._bad_tokens(opcode))):
                        m.d.comb += self.illegal.eq(1)
                    if opcode in ENGINES:
                        m.d.comb += self.engines[ENGINES[opcode]].eq(1)
            with m.Default():
                m.d.comb += self.illegal.eq(1)
        return m

    def _not_held(self, layout: isa.Layout) -> Value:
        """Whether this beat has bits of the layout that no register holds, and that matter.

        Above the last field they must be 0, above what is held of a field 0 or copies of its sign.
        """
        bus_bits = self._geometry.bus_bits
        cut = [(layout.used, layout.size, False)]
        for item in layout.fields if self._geometry.checks else ():
            start = layout.offsets[item.name]
            held = start + item.held_bits(self._geometry)
            if held < start + item.bits:
                cut.append((held, start + item.bits, item.signed))
        found = []
        starts = _last_fields(self._geometry)
        for index in range(layout.size // bus_bits):
            first, matters = index * bus_bits, []
            for start, end, signed in cut:
                low, high = max(start - first, 0), min(end - first, bus_bits)
                if low < high and end == layout.size and not signed and low in starts:
                    matters.append(self.above[starts.index(low)])
                elif low < high:
                    # extent_bits are so many that a sign is in the same beat as what is above it.
                    part = self.data[low:high]
                    sign = self.data[start - first - 1] if signed else Const(0, 1)
                    matters.append((part ^ sign.replicate(len(part))).any())
            if matters:
                found.append((self.index == index) & Cat(matters).any())
        return Cat(found).any()

    def _bad_tokens(self, opcode: Opcode) -> Value:
        """Whether this beat 0 has token bits that the opcode's engine must not have."""
        bits = []
        for engine in Engine:
            if opcode not in ENGINES or engine is ENGINES[opcode]:
                for kind in ("wait", "signal"):
                    bits.append(self.data[isa.CONTROL.offsets[f"{kind}_{engine.name.lower()}"]])
        return Cat(bits).any()


class DecodedBeats(wiring.Component):
    """A register for the beat at hand and for what it is.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        restart: ``In(1)``, strobe while nothing is there: the next beat begins something.
        instructions: ``In(1)``. What comes are instructions, otherwise it is a header.
        flush: ``In(1)``. Drop the beat; ``i`` must bring none.
        i: ``In(stream.Signature(fetched_beat(geometry)))``.
        o: ``Out(stream.Signature(read_beat(geometry)))``.
        released: ``Out(1)``, strobe: a beat leaves.
        index: ``Out(5)``, its number in its instruction, or in the header.
        opcode: ``Out(4)``; this and the following as of :class:`Decoder`.
        engines: ``Out(3)``.
        last: ``Out(1)``.
        illegal: ``Out(1)``.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "restart": In(1),
                "instructions": In(1),
                "flush": In(1),
                "i": In(stream.Signature(fetched_beat(geometry))),
                "o": Out(stream.Signature(read_beat(geometry))),
                "released": Out(1),
                "index": Out(BEAT_BITS),
                "opcode": Out(_OPCODE_BITS),
                "engines": Out(len(Engine)),
                "last": Out(1),
                "illegal": Out(1),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """Decode what arrives, and keep it until it is taken."""
        m = Module()
        m.submodules.decoder = decoder = Decoder(self._geometry)
        index = Signal(BEAT_BITS)  # of the beat that arrives
        m.d.comb += [
            decoder.data.eq(self.i.payload.data),
            decoder.index.eq(index),
        ]
        if self._geometry.overlap:
            self._register(m, decoder, index)
        else:
            self._pass(m, decoder, index)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += index.eq(index + 1)
            with m.If(self.instructions & decoder.last):
                m.d.sync += index.eq(0)
        with m.If(self.restart):
            m.d.sync += index.eq(0)
        return m

    def _register(self, m: Module, decoder: Decoder, index: Signal) -> None:
        m.d.comb += [
            self.i.ready.eq(~self.o.valid | self.o.ready),
            self.released.eq(self.o.valid & (self.o.ready | self.flush)),
            decoder.above.eq(self.i.payload.above),
            decoder.held.eq(self.opcode),
        ]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                *(
                    self.o.payload[name].eq(self.i.payload[name])
                    for name in self.o.payload.shape().members
                ),
                self.index.eq(index),
                self.opcode.eq(decoder.opcode),
                self.engines.eq(decoder.engines),
                self.last.eq(decoder.last),
                self.illegal.eq(decoder.illegal),
            ]
        with m.If(self.flush):
            m.d.sync += self.o.valid.eq(0)

    def _pass(self, m: Module, decoder: Decoder, index: Signal) -> None:
        """No registers: there is time."""
        held = Signal.like(self.opcode)
        m.d.comb += [
            self.i.ready.eq(self.o.ready),
            self.o.valid.eq(self.i.valid),
            self.o.payload.eq(self.i.payload),
            self.released.eq(self.i.valid & self.i.ready),
            decoder.above.eq(bits_above(self._geometry, self.i.payload.data)),
            decoder.held.eq(held),
            self.index.eq(index),
            self.opcode.eq(decoder.opcode),
            self.engines.eq(decoder.engines),
            self.last.eq(decoder.last),
            self.illegal.eq(decoder.illegal),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += held.eq(decoder.opcode)
