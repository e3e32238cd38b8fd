"""Word addresses of a COMPUTE's beats, by additions only."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry

__all__ = ["AddressGenerator", "Advance"]


class Advance(enum.Enum, shape=3):  # type: ignore[call-arg]  # Amaranth has no types
    """Where a beat stands, seen from the beat before it."""

    FIRST = 0  #: the instruction's first beat
    BEAT = 1  #: the next beat of the same pixel and chunk
    COLUMN = 2  #: the next pixel of the row
    ROW = 3  #: the first pixel of the next row
    CHUNK = 4  #: the first pixel of the next chunk of output channels


class AddressGenerator(wiring.Component):
    """Follows beats in loop order: output chunk, row, column, beat.

    The address of a beat is ``base + row * row_stride + column * pixel_stride + chunk *
    chunk_step + the beat steps since its pixel's first beat``, modulo 2^address_bits.

    Parameters and strides are sampled with ``valid``, so that they can change from one
    instruction to the next, and the two steps from one beat to the next.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``In(1)``, a beat is presented.
        advance: ``In(Advance)``, how it follows its predecessor.
        base: ``In(address_bits)``, address of the first beat.
        row_stride: ``In(address_bits)``, words from one row to the next.
        pixel_stride: ``In(address_bits)``, words from one pixel to the next.
        chunk_step: ``In(address_bits)``, words from the first beat of the last chunk to this one's.
        beat_step: ``In(address_bits)``, words from the last beat to this one, within a pixel.
        address: ``Out(address_bits)``, the beat's address, ``LATENCY`` cycles later and until the
            next beat's.
    """

    #: Cycles from ``valid`` to ``address``.
    LATENCY = 2

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        bits = geometry.address_bits
        super().__init__(
            {
                "valid": In(1),
                "advance": In(Advance),
                "base": In(bits),
                "row_stride": In(bits),
                "pixel_stride": In(bits),
                "chunk_step": In(bits),
                "beat_step": In(bits),
                "address": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Two stages: choose what to add, and add it."""
        m = Module()
        bits = self.geometry.address_bits

        # First stage: what to add. Second stage: what to add it to, and the addition.
        valid = Signal()
        advance = Signal(Advance, reset_less=True)
        increment = Signal(bits, reset_less=True)
        m.d.sync += valid.eq(self.valid)
        with m.If(self.valid):
            m.d.sync += advance.eq(self.advance)
            with m.Switch(self.advance):
                for kind, amount in (
                    (Advance.FIRST, self.base),
                    (Advance.BEAT, self.beat_step),
                    (Advance.COLUMN, self.pixel_stride),
                    (Advance.ROW, self.row_stride),
                    (Advance.CHUNK, self.chunk_step),
                ):
                    with m.Case(kind):
                        m.d.sync += increment.eq(amount)

        pixel = Signal(bits, reset_less=True)  # first beat of this pixel,
        row = Signal(bits, reset_less=True)  # of this row's first pixel,
        chunk = Signal(bits, reset_less=True)  # and of this chunk's first row
        origin = Signal(bits)
        total = Signal(bits)
        with m.Switch(advance):
            for kind, start in (
                (Advance.BEAT, self.address),
                (Advance.COLUMN, pixel),
                (Advance.ROW, row),
                (Advance.CHUNK, chunk),
            ):
                with m.Case(kind):
                    m.d.comb += origin.eq(start)
        m.d.comb += total.eq(origin + increment)
        with m.If(valid):
            m.d.sync += self.address.eq(total)
            with m.If(advance != Advance.BEAT):
                m.d.sync += pixel.eq(total)
            with m.If((advance != Advance.BEAT) & (advance != Advance.COLUMN)):
                m.d.sync += row.eq(total)
            with m.If((advance == Advance.FIRST) | (advance == Advance.CHUNK)):
                m.d.sync += chunk.eq(total)
        return m
