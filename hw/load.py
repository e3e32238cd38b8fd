"""The load engine: rows of bus beats from DRAM into on-chip memories."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from palquant.hw import isa
from palquant.hw.axi import LENGTH_BITS, BurstSplitter, read_beat, request
from palquant.hw.config import Geometry
from palquant.hw.isa import Base
from palquant.hw.layouts import MEMORY_BITS, LoadWrite, struct
from palquant.hw.registers import ErrorCode, Stall
from palquant.hw.transfer import LOADABLE, Fault, Regions, RowWalker


def _pending(geometry: Geometry) -> data.StructLayout:
    """What must be known of a burst when its data arrives."""
    local = geometry.address_bits
    return data.StructLayout(
        {"memory": MEMORY_BITS, "local": local, "length": LENGTH_BITS, "last": 1}
    )


class LoadEngine(wiring.Component):
    """Executes LOADs in order, several bursts, of several LOADs, in flight.

    Addresses run ahead of data: while the bursts of one LOAD are being answered, those of the next
    are already asked for. A LOAD is complete in the cycle that writes its last beat on chip.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        instruction: ``In(stream.Signature(struct(isa.TRANSFER, geometry)))``.
        regions: ``In(Regions(geometry))``.
        address: ``Out(stream.Signature(request(geometry)))``, to the read arbiter.
        address_waits: ``In(1)``. An address sent waits for the memory.
        data: ``In(stream.Signature(read_beat(geometry)))``, all bursts in order; nothing may come
            that was not asked for.
        write: ``Out(LoadWrite(geometry))``.
        halt: ``In(1)``. Write nothing more, take and drop what is on its way. The read arbiter
            must take no address either.
        complete: ``Out(1)``, strobe; none comes after an error response, which a beat that is
            wrongly marked as its burst's last, or not marked, is too.
        busy: ``Out(1)``. An instruction is not complete.
        outstanding: ``Out(1)``. Bursts that were asked for are not answered.
        fault: ``Out(Fault())``.
        stall: ``Out(Stall)``; IDLE when not busy.
    """

    #: From an instruction's acceptance to its first address.
    ADDRESS_LATENCY = RowWalker.LATENCY + 1
    #: From a beat's arrival to its write.
    DATA_LATENCY = 0

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "instruction": In(stream.Signature(struct(isa.TRANSFER, geometry))),
                "regions": In(Regions(geometry)),
                "address": Out(stream.Signature(request(geometry))),
                "address_waits": In(1),
                "data": In(stream.Signature(read_beat(geometry))),
                "write": Out(LoadWrite(geometry)),
                "halt": In(1),
                "complete": Out(1),
                "busy": Out(1),
                "outstanding": Out(1),
                "fault": Out(Fault()),
                "stall": Out(Stall),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """Addresses on one side, data on the other, a queue of bursts between them."""
        m = Module()
        limit = self._geometry.outstanding_bursts
        layout = _pending(self._geometry)

        m.submodules.walker = walker = RowWalker(self._geometry, LOADABLE, tuple(Base))
        m.submodules.splitter = splitter = BurstSplitter(self._geometry)
        connect(m, flipped(self.instruction), walker.instruction)
        connect(m, flipped(self.regions), walker.regions)
        connect(m, walker.rows, splitter.i)

        # Addresses go out while bursts may be in flight; what they are for goes to a queue.
        in_flight = Signal(range(limit + 1))
        burst = splitter.o.payload
        asked = self.address.valid & self.address.ready
        m.d.comb += [
            self.address.valid.eq(splitter.o.valid & (in_flight != limit)),
            self.address.payload.address.eq(burst.address),
            self.address.payload.length.eq(burst.length),
            splitter.o.ready.eq(self.address.ready & (in_flight != limit)),
        ]
        entry = Signal(layout)
        m.d.comb += [entry[name].eq(burst[name]) for name, _ in layout]

        # Data goes where the oldest burst in flight wants it.
        current = Signal(layout)
        receiving = Signal()
        accepted = self.data.valid & self.data.ready
        final = Signal()  # the beat that comes is the burst's last
        m.d.comb += [
            self.write.valid.eq(receiving & self.data.valid & ~self.halt),
            self.write.memory.eq(current.memory),
            self.write.address.eq(current.local),
            self.write.data.eq(self.data.payload.data),
            self.data.ready.eq(receiving & (self.write.ready | self.halt)),
        ]
        with m.If(accepted):
            m.d.sync += [
                current.local.eq(current.local + 1),
                current.length.eq(current.length - 1),
                final.eq(current.length == 1),
            ]
        if limit == 1:
            with m.If(asked):
                m.d.sync += [current.eq(entry), receiving.eq(1), final.eq(entry.length == 0)]
            with m.Elif(accepted & final):
                m.d.sync += receiving.eq(0)
        else:
            m.submodules.pending = pending = SyncFIFO(width=layout.size, depth=limit)
            m.d.comb += [
                pending.w_en.eq(asked),
                pending.w_data.eq(entry),
                pending.r_en.eq(~receiving | (accepted & final)),
            ]
            with m.If(pending.r_en):
                following = data.View(layout, pending.r_data)
                m.d.sync += [
                    current.eq(following),
                    receiving.eq(pending.r_rdy),
                    final.eq(following.length == 0),
                ]
        m.d.sync += in_flight.eq(in_flight + asked - (accepted & final))

        failed = accepted & (self.data.payload.error | (self.data.payload.last != final))
        broken = Signal()
        with m.If(failed):
            m.d.sync += broken.eq(1)
        m.d.comb += [
            self.outstanding.eq(in_flight != 0),
            self.busy.eq(walker.busy | splitter.o.valid | (in_flight != 0)),
            self.complete.eq(accepted & final & current.last & ~self.halt & ~failed & ~broken),
            self.fault.valid.eq(failed | walker.fault.valid),
            self.fault.code.eq(Mux(failed, ErrorCode.READ_RESPONSE, walker.fault.code)),
            self.fault.newest.eq(~failed),
        ]

        with m.If(self.write.valid & ~self.write.ready):
            m.d.comb += self.stall.eq(Stall.MEMORY)
        with m.Elif(self.address_waits | (self.address.valid & ~self.address.ready)):
            m.d.comb += self.stall.eq(Stall.ADDRESS)
        with m.Elif(receiving & ~self.data.valid):
            m.d.comb += self.stall.eq(Stall.DATA)
        with m.Elif(self.busy):
            m.d.comb += self.stall.eq(Stall.RUNNING)
        return m
