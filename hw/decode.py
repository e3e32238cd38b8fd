"""Recognises an instruction while it passes by, one bus beat at a time."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
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


class Decoder(wiring.Component):
    """Says what the beat at hand belongs to; no registers inside.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        data: ``In(bus_bits)``, the beat.
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
        for index in range(layout.size // bus_bits):
            first, matters = index * bus_bits, []
            for start, end, signed in cut:
                low, high = max(start - first, 0), min(end - first, bus_bits)
                if low < high:
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
