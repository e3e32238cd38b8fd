"""Reads ahead: a contiguous stretch of DRAM as a stream of beats, room reserved for each."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.axi import read_beat, request
from palquant.hw.config import Geometry
from palquant.hw.decode import bits_above, fetched_beat

#: Instruction units that are read at once, if bursts may be that long.
BURST_UNITS = 4


class Prefetch(wiring.Component):
    """Reads beats from ``start`` on until told to stop, never more than there is room for.

    So its data never waits, and never blocks other data on the bus.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        go: ``In(1)``, strobe while ``empty``: begin.
        start: ``In(dram_bits)``, byte address, a multiple of the bus width.
        beats: ``In(dram_bits - log2(bus_bytes) + 1)``. Beats that may be read.
        flush: ``In(1)``. While high: ask for nothing more, drop all that is there or still comes.
        empty: ``Out(1)``. Nothing is buffered, taken and not released, or on its way.
        address: ``Out(stream.Signature(request(geometry)))``.
        data: ``In(stream.Signature(read_beat(geometry)))``, always ready; nothing may come that
            was not asked for.
        o: ``Out(stream.Signature(fetched_beat(geometry)))``, with ``error`` also where ``last`` is
            not what it should be.
        released: ``In(1)``, strobe: a beat that was taken no longer counts as buffered.
        exhausted: ``Out(1)``. All ``beats`` were read and taken; a cycle late.
        outstanding: ``Out(1)``. Bursts that were asked for are not answered.
    """

    def __init__(self, geometry: Geometry) -> None:
        beat = read_beat(geometry)
        byte_bits = geometry.bus_bytes.bit_length() - 1
        super().__init__(
            {
                "go": In(1),
                "start": In(geometry.dram_bits),
                "beats": In(geometry.dram_bits - byte_bits + 1),
                "flush": In(1),
                "empty": Out(1),
                "address": Out(stream.Signature(request(geometry))),
                "data": In(stream.Signature(beat)),
                "o": Out(stream.Signature(fetched_beat(geometry))),
                "released": In(1),
                "exhausted": Out(1),
                "outstanding": Out(1),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    @property
    def depth(self) -> int:
        """Beats that are read ahead at most."""
        return self._geometry.prefetch_units * isa.UNIT_BITS // self._geometry.bus_bits

    @property
    def burst_beats(self) -> int:
        """Beats that are read at once; a power of two."""
        return min(
            self._geometry.burst_beats, BURST_UNITS * isa.UNIT_BITS // self._geometry.bus_bits
        )

    def elaborate(self, platform: object) -> Module:
        """Ask while there is room, keep what comes, count both."""
        m = Module()
        byte_bits = self._geometry.bus_bytes.bit_length() - 1
        depth, burst_beats = self.depth, self.burst_beats
        beat_layout = fetched_beat(self._geometry)
        beat_bits = burst_beats.bit_length() - 1

        m.submodules.fifo = fifo = SyncFIFOBuffered(width=beat_layout.size, depth=depth)
        held = Signal()  # by a register behind the buffer
        room = Signal()
        m.d.comb += [
            fifo.w_en.eq(self.data.valid & ~self.flush),
            self.data.ready.eq(1),
            fifo.r_en.eq(room | self.flush),
        ]
        if self._geometry.overlap:
            # Block RAM takes most of a cycle to answer.
            m.d.comb += [self.o.valid.eq(held & ~self.flush), room.eq(~held | self.o.ready)]
            with m.If(room):
                m.d.sync += [self.o.payload.eq(fifo.r_data), held.eq(fifo.r_rdy)]
            with m.If(self.flush):
                m.d.sync += held.eq(0)
        else:
            m.d.comb += [
                self.o.payload.eq(fifo.r_data),
                self.o.valid.eq(fifo.r_rdy & ~self.flush),
                room.eq(self.o.ready),
            ]

        # Bursts end at multiples of their size, hence never cross 4 KiB.
        beat = Signal(self._geometry.dram_bits - byte_bits)
        left = Signal.like(self.beats)
        free = Signal(range(depth + 1), init=depth)
        coming = Signal(range(depth + 1))
        space = Signal(range(1, burst_beats + 1))
        size = Signal.like(space)
        asks = Signal()
        asked = self.address.valid & self.address.ready
        m.d.comb += space.eq(burst_beats - beat[:beat_bits])
        length = Mux(left <= space, left, space)
        burst = [
            self.address.payload.address.eq(Cat(Const(0, byte_bits), beat)),
            self.address.payload.length.eq(size - 1),
        ]
        wanted = ~self.flush & (free >= burst_beats)
        if self._geometry.overlap:
            # A burst's size is known a cycle behind where it begins, in time for the next one.
            pending = Signal()
            waiting = Signal()  # a burst was asked for that nobody has taken
            m.d.sync += [
                size.eq(length),
                pending.eq((left != 0) & ~asks & ~self.go & ~self.flush),
            ]
            m.d.comb += [
                self.address.valid.eq(waiting),
                asks.eq(~waiting & wanted & pending),
            ]
            with m.If(asks):
                m.d.sync += [waiting.eq(1), *burst]
            with m.Elif(asked):
                m.d.sync += waiting.eq(0)
        else:
            m.d.comb += [
                size.eq(length),
                self.address.valid.eq(wanted & (left != 0)),
                asks.eq(asked),
                *burst,
            ]
        with m.If(asks):
            m.d.sync += [beat.eq(beat + size), left.eq(left - size)]
        with m.If(self.go):
            m.d.sync += [beat.eq(self.start[byte_bits:]), left.eq(self.beats)]
        with m.Elif(self.flush):
            m.d.sync += left.eq(0)

        # So a beat is its burst's last where the next multiple begins, or where nothing follows.
        place = Signal(range(burst_beats))
        final = (place == burst_beats - 1) | (coming == 1)
        arriving = data.View(beat_layout, fifo.w_data)
        m.d.comb += [
            arriving.data.eq(self.data.payload.data),
            arriving.last.eq(self.data.payload.last),
            arriving.error.eq(self.data.payload.error | (self.data.payload.last != final)),
        ]
        if self._geometry.overlap:
            m.d.comb += arriving.above.eq(bits_above(self._geometry, self.data.payload.data))
        with m.If(self.go):
            m.d.sync += place.eq(self.start[byte_bits:])
        with m.Elif(self.data.valid):
            m.d.sync += place.eq(place + 1)

        # A place is taken when its beat is about to be asked for, and free when the beat is gone.
        dropped = [(each & self.flush) for each in (self.data.valid, fifo.r_rdy, held)]
        m.d.sync += [
            free.eq(free - Mux(asks, size, 0) + self.released + sum(dropped)),
            coming.eq(coming + Mux(asked, self.address.payload.length + 1, 0) - self.data.valid),
        ]
        m.d.comb += [
            self.outstanding.eq(coming != 0),
            self.empty.eq(~self.address.valid & (coming == 0) & (free == depth)),
        ]
        m.d.sync += self.exhausted.eq(self.empty & (left == 0) & ~self.go)
        return m
