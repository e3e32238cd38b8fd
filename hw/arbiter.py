"""Two readers that share one AXI4 read port."""

from __future__ import annotations

import enum
from typing import Any

from amaranth import Module, Mux, ShapeLike, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect

from palquant.hw.axi import ID_BITS, ReadChannels, address_constants, read_beat, request
from palquant.hw.config import Geometry


class ReadSource(enum.IntEnum):
    """Who reads: the transaction's identifier."""

    FETCH = 0
    LOAD = 1


class RegisterSlice(wiring.Component):
    """Passes a stream on with registers in ``valid``, payload and ``ready``.

    Parameters:
        shape: Shape of the payload.

    Members:
        i: ``In(stream.Signature(shape))``.
        o: ``Out(stream.Signature(shape))``, one cycle later.
    """

    LATENCY = 1

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})
        self._shape = shape

    @property
    def shape(self) -> ShapeLike:
        """Shape of the payload."""
        return self._shape

    def elaborate(self, platform: object) -> Module:
        """Two places that take turns; neither hangs on ``ready``, which is late and wide."""
        m = Module()
        places = [Signal(self._shape, name=f"place_{k}", reset_less=True) for k in range(2)]
        next_in, next_out, full = Signal(), Signal(), Signal()
        comes, goes = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            comes.eq(self.i.valid & ~full),
            goes.eq(self.o.valid & self.o.ready),
            self.o.payload.eq(Mux(next_out, places[1], places[0])),
        ]
        for number, place in enumerate(places):
            with m.If(~full & (next_in == number)):
                m.d.sync += place.eq(self.i.payload)
        m.d.sync += [
            next_in.eq(next_in ^ comes),
            next_out.eq(next_out ^ goes),
            full.eq(self.o.valid & ~goes & (full | comes)),
            self.o.valid.eq(comes | full | (self.o.valid & ~goes)),
        ]
        return m


class ReadArbiter(wiring.Component):
    """Lets the fetch unit and the load engine share the read channels.

    Each uses its own identifier (:class:`ReadSource`), so the memory may answer them in any order.
    Whoever asks for a burst must be able to take all of its beats, sooner or later, without the
    other's help. The fetch unit asks rarely and goes first.

    A beat for a reader that expects none is dropped, so that readers need not guard against it.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        fetch: ``In(stream.Signature(request(geometry)))``.
        load: ``In(stream.Signature(request(geometry)))``.
        halt: ``In(1)``. No further burst is taken while it is high.
        fetch_expects: ``In(1)``. Bursts that the fetch unit asked for are not answered; high if
            not connected.
        load_expects: ``In(1)``. The same of the load engine.
        fetch_data: ``Out(stream.Signature(read_beat(geometry)))``.
        load_data: ``Out(stream.Signature(read_beat(geometry)))``.
        fetch_waits: ``Out(1)``. An address of the fetch unit waits for the memory.
        load_waits: ``Out(1)``. An address of the load engine waits for the memory.
        unexpected: ``Out(1)``, strobe: a beat was dropped.
        bus: ``Out(ReadChannels(bus_bits))``.
    """

    #: From a burst's acceptance to ARVALID.
    ADDRESS_LATENCY = 1
    #: From RVALID to the reader; none where instructions do not overlap.
    DATA_LATENCY = RegisterSlice.LATENCY

    def __init__(self, geometry: Geometry) -> None:
        beat = read_beat(geometry)
        super().__init__(
            {
                "fetch": In(stream.Signature(request(geometry))),
                "load": In(stream.Signature(request(geometry))),
                "halt": In(1),
                "fetch_expects": In(1, init=1),
                "load_expects": In(1, init=1),
                "fetch_data": Out(stream.Signature(beat)),
                "load_data": Out(stream.Signature(beat)),
                "fetch_waits": Out(1),
                "load_waits": Out(1),
                "unexpected": Out(1),
                "bus": Out(ReadChannels(geometry.bus_bits)),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """A register for the address, a slice for the data, the identifier as the switch.

        Where instructions do not overlap, a beat waits in the memory until its reader takes it.
        """
        m = Module()
        bus = self.bus
        for name, value in address_constants(self._geometry).items():
            m.d.comb += getattr(bus, "ar" + name).eq(value)

        free = Signal()
        m.d.comb += [
            free.eq((~bus.arvalid | bus.arready) & ~self.halt),
            self.fetch.ready.eq(free),
            self.load.ready.eq(free & ~self.fetch.valid),
            self.fetch_waits.eq(bus.arvalid & ~bus.arready & (bus.arid == ReadSource.FETCH)),
            self.load_waits.eq(bus.arvalid & ~bus.arready & (bus.arid == ReadSource.LOAD)),
        ]
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.If(free):
            chosen = Mux(self.fetch.valid, self.fetch.payload, self.load.payload)
            burst = data.View(request(self._geometry), chosen)
            m.d.sync += [
                bus.arvalid.eq(self.fetch.valid | self.load.valid),
                bus.araddr.eq(burst.address),
                bus.arlen.eq(burst.length),
                bus.arid.eq(Mux(self.fetch.valid, ReadSource.FETCH, ReadSource.LOAD)),
            ]

        received = data.StructLayout({"id": ID_BITS, "beat": read_beat(self._geometry)})
        arriving = stream.Signature(received).create()
        m.d.comb += [
            arriving.valid.eq(bus.rvalid),
            bus.rready.eq(arriving.ready),
            arriving.payload.id.eq(bus.rid),
            arriving.payload.beat.data.eq(bus.rdata),
            arriving.payload.beat.last.eq(bus.rlast),
            arriving.payload.beat.error.eq(bus.rresp[1]),
        ]
        beats: Any = arriving
        if self._geometry.overlap:
            m.submodules.slice = slice_ = RegisterSlice(received)
            connect(m, arriving, slice_.i)
            beats = slice_.o
        m.d.comb += [
            self.fetch_data.payload.eq(beats.payload.beat),
            self.load_data.payload.eq(beats.payload.beat),
        ]
        to_fetch = beats.payload.id == ReadSource.FETCH
        with m.If(~Mux(to_fetch, self.fetch_expects, self.load_expects)):
            m.d.comb += [self.unexpected.eq(beats.valid), beats.ready.eq(1)]
        with m.Elif(to_fetch):
            m.d.comb += [
                self.fetch_data.valid.eq(beats.valid),
                beats.ready.eq(self.fetch_data.ready),
            ]
        with m.Else():
            m.d.comb += [
                self.load_data.valid.eq(beats.valid),
                beats.ready.eq(self.load_data.ready),
            ]
        return m
