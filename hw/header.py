"""The image header: taken from the bus beat by beat, and judged."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.axi import read_beat
from palquant.hw.config import Geometry
from palquant.hw.queues import BEAT_BITS
from palquant.hw.registers import ErrorCode


class HeaderReader(wiring.Component):
    """Keeps offsets and sizes of the header and says whether this machine can run the image.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        clear: ``In(1)``. The header is not known: until its size comes, the image is the header.
        enable: ``In(1)``. Take the beat.
        index: ``In(5)``, the beat's number in the header.
        beat: ``In(read_beat(geometry))``.
        fields: ``Out(StructLayout)``, the header's offsets and sizes.
        verdict: ``Out(ErrorCode)``, NONE for a header that fits. Once all beats are there.
    """

    def __init__(self, geometry: Geometry) -> None:
        kept = data.StructLayout(
            {
                item.name: item.held_bits(geometry)
                for item in isa.IMAGE_HEADER.fields
                if item.limit == "dram_bits"
            }
        )
        super().__init__(
            {
                "clear": In(1),
                "enable": In(1),
                "index": In(BEAT_BITS),
                "beat": In(read_beat(geometry)),
                "fields": Out(kept),
                "verdict": Out(ErrorCode),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """Keep the offsets and sizes, compare everything else as it passes."""
        m = Module()
        bus_bits = self._geometry.bus_bits
        expected = {
            "magic": (isa.MAGIC, ErrorCode.MAGIC),
            "version": (isa.VERSION, ErrorCode.VERSION),
            "geometry": (self._geometry.identity, ErrorCode.GEOMETRY),
        }
        failed, too_large = Signal(), Signal()
        wrong = {name: Signal(name=f"{name}_wrong") for name in expected}
        with m.If(self.enable):
            m.d.sync += failed.eq(self.beat.error | (failed & (self.index != 0)))
            with m.If(self.index == 0):
                m.d.sync += too_large.eq(0)
            for item in isa.IMAGE_HEADER.fields:
                start = isa.IMAGE_HEADER.offsets[item.name]
                index = start // bus_bits
                part = self.beat.data[start % bus_bits :][: item.bits]
                with m.If(self.index == index):
                    if item.name in expected:
                        value, _ = expected[item.name]
                        m.d.sync += wrong[item.name].eq(part != value)
                    elif item.limit:
                        held = item.held_bits(self._geometry)
                        m.d.sync += self.fields[item.name].eq(part)
                        if held < item.bits:
                            with m.If(part[held:].any()):
                                m.d.sync += too_large.eq(1)

        with m.If(self.clear):
            m.d.sync += self.fields.image_bytes.eq(isa.HEADER_BYTES)

        with m.If(failed):
            m.d.comb += self.verdict.eq(ErrorCode.READ_RESPONSE)
        for name, (_, code) in expected.items():
            with m.Elif(wrong[name]):
                m.d.comb += self.verdict.eq(code)
        with m.Elif(too_large):
            m.d.comb += self.verdict.eq(ErrorCode.ADDRESS)
        return m
