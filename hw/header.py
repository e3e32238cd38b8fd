"""The image header: taken from the bus beat by beat, and judged."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.axi import read_beat
from palquant.hw.config import Geometry
from palquant.hw.layouts import IMAGE_HEADER
from palquant.hw.queues import BEAT_BITS
from palquant.hw.registers import ErrorCode


class HeaderReader(wiring.Component):
    """Keeps the header and says whether this machine can run the image.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        enable: ``In(1)``. Take the beat.
        index: ``In(5)``, the beat's number in the header.
        beat: ``In(read_beat(geometry))``.
        fields: ``Out(IMAGE_HEADER)``.
        verdict: ``Out(ErrorCode)``, NONE for a header that fits. Once all beats are there.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "enable": In(1),
                "index": In(BEAT_BITS),
                "beat": In(read_beat(geometry)),
                "fields": Out(IMAGE_HEADER),
                "verdict": Out(ErrorCode),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """Keep the beats, compare the fields."""
        m = Module()
        bus_bits = self._geometry.bus_bits
        bits = self.fields.as_value()
        failed = Signal()
        with m.If(self.enable):
            m.d.sync += failed.eq(self.beat.error | (failed & (self.index != 0)))
            with m.Switch(self.index):
                for index, first in enumerate(range(0, isa.IMAGE_HEADER.used, bus_bits)):
                    with m.Case(index):
                        m.d.sync += bits[first : first + bus_bits].eq(self.beat.data)

        with m.If(failed):
            m.d.comb += self.verdict.eq(ErrorCode.READ_RESPONSE)
        with m.Elif(self.fields.magic != isa.MAGIC):
            m.d.comb += self.verdict.eq(ErrorCode.MAGIC)
        with m.Elif(self.fields.version != isa.VERSION):
            m.d.comb += self.verdict.eq(ErrorCode.VERSION)
        with m.Elif(self.fields.geometry != self._geometry.identity):
            m.d.comb += self.verdict.eq(ErrorCode.GEOMETRY)
        return m
