"""The store engine: rows of bus beats from on-chip memories to DRAM."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from palquant.hw import isa
from palquant.hw.axi import LENGTH_BITS, BurstSplitter, WriteChannels, address_constants
from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line
from palquant.hw.isa import Base
from palquant.hw.layouts import MEMORY_BITS, StoreRead, struct
from palquant.hw.registers import ErrorCode, Stall
from palquant.hw.transfer import STORABLE, Fault, Regions, RowWalker

#: Beats between the on-chip memory and the bus: one being read, and the latency of the buffer
#: until its place is free again, so that beats follow one another without a gap.
_BUFFER_BEATS = 8


class StoreEngine(wiring.Component):
    """Executes STOREs in order.

    The beats of one burst are read while those before it are still on their way, with a cycle
    between bursts. A STORE is
    complete when the memory has acknowledged its last burst; up to ``outstanding_bursts`` wait for
    that at a time.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        instruction: ``In(stream.Signature(struct(isa.TRANSFER, geometry)))``.
        regions: ``In(Regions(geometry))``.
        read: ``Out(StoreRead(geometry))``.
        bus: ``Out(WriteChannels(bus_bits))``.
        halt: ``In(1)``. Begin no further burst; end those begun with beats that write nothing.
        complete: ``Out(1)``, strobe; none comes after an error response, which one with a wrong
            identifier is too, or when halted.
        busy: ``Out(1)``. An instruction is not complete.
        outstanding: ``Out(1)``. Bursts are not acknowledged.
        unexpected: ``Out(1)``, strobe: a response that no burst waits for was dropped.
        fault: ``Out(Fault())``.
        stall: ``Out(Stall)``; IDLE when not busy.
    """

    #: From an instruction's acceptance to AWVALID, which rises one cycle after its burst is taken.
    ADDRESS_LATENCY = RowWalker.LATENCY + 2
    #: From the arrival of a beat's data to WVALID.
    DATA_LATENCY = 2

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "instruction": In(stream.Signature(struct(isa.TRANSFER, geometry))),
                "regions": In(Regions(geometry)),
                "read": Out(StoreRead(geometry)),
                "bus": Out(WriteChannels(geometry.bus_bits)),
                "halt": In(1),
                "complete": Out(1),
                "busy": Out(1),
                "outstanding": Out(1),
                "unexpected": Out(1),
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
        """Take bursts, read their beats, send them, wait for the responses."""
        m = Module()
        bus = self.bus
        limit = self._geometry.outstanding_bursts

        m.submodules.walker = walker = RowWalker(self._geometry, STORABLE, (Base.OUTPUT,))
        m.submodules.splitter = splitter = BurstSplitter(self._geometry)
        connect(m, flipped(self.instruction), walker.instruction)
        connect(m, flipped(self.regions), walker.regions)
        connect(m, walker.rows, splitter.i)

        # A burst is taken when its address can go out and the beats of the one before are read:
        # when the last of those is, is known too late in its cycle.
        burst = splitter.o.payload
        in_flight = Signal(range(limit + 1))
        reading = Signal()
        asked_last = Signal()
        taken = splitter.o.valid & splitter.o.ready
        m.d.comb += splitter.o.ready.eq(
            ~self.halt & (~bus.awvalid | bus.awready) & (in_flight != limit) & ~reading
        )
        for name, value in address_constants(self._geometry).items():
            m.d.comb += getattr(bus, "aw" + name).eq(value)
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        with m.If(taken):
            m.d.sync += [
                bus.awvalid.eq(1),
                bus.awaddr.eq(burst.address),
                bus.awlen.eq(burst.length),
            ]

        # Ask for its beats as long as the buffer has room for them. When halted, go through the
        # same motions without the memory, which may have stopped to answer.
        memory = Signal(MEMORY_BITS)
        local = Signal(self._geometry.address_bits)
        left = Signal(LENGTH_BITS)
        room = Signal(range(_BUFFER_BEATS + 1), init=_BUFFER_BEATS)
        asked = Signal()
        m.d.comb += [
            self.read.valid.eq(reading & (room != 0) & ~self.halt),
            self.read.memory.eq(memory),
            self.read.address.eq(local),
            asked.eq(reading & (room != 0) & (self.read.ready | self.halt)),
            asked_last.eq(asked & (left == 0)),
        ]
        with m.If(asked):
            m.d.sync += [local.eq(local + 1), left.eq(left - 1), self.read.follows.eq(1)]
        with m.If(asked_last):
            m.d.sync += reading.eq(0)
        with m.If(taken):
            m.d.sync += [
                reading.eq(1),
                self.read.follows.eq(0),
                memory.eq(burst.memory),
                local.eq(burst.local),
                left.eq(burst.length),
            ]

        beat = data.StructLayout({"data": self._geometry.bus_bits, "last": 1, "enable": 1})
        m.submodules.buffer = buffer = SyncFIFOBuffered(width=beat.size, depth=_BUFFER_BEATS)
        arriving = data.View(beat, buffer.w_data)
        cycles = self._geometry.read_cycles
        asked_before = delay_line(m, asked, cycles, name="asked", reset=True)[-1]
        last_before = delay_line(m, left == 0, cycles, name="last")[-1]
        leaving = data.View(beat, buffer.r_data)
        sent = bus.wvalid & bus.wready
        m.d.comb += [
            buffer.w_en.eq(asked_before),
            arriving.data.eq(self.read.data),
            arriving.last.eq(last_before),
            arriving.enable.eq(~self.halt),
            bus.wvalid.eq(buffer.r_rdy),
            bus.wdata.eq(leaving.data),
            bus.wstrb.eq(leaving.enable.replicate(len(bus.wstrb))),
            bus.wlast.eq(leaving.last),
            buffer.r_en.eq(bus.wready),
        ]
        m.d.sync += room.eq(room - asked + sent)

        # Responses come in order, as all bursts have the same identifier, and each behind its
        # burst's last beat.
        m.submodules.ends = ends = SyncFIFO(width=1, depth=limit)
        owed = Signal(range(limit + 1))
        acknowledged = bus.bvalid & (owed != 0)
        failed = acknowledged & (bus.bresp[1] | (bus.bid != bus.awid))
        broken = Signal()
        with m.If(failed):
            m.d.sync += broken.eq(1)
        m.d.comb += [
            bus.bready.eq(1),
            self.unexpected.eq(bus.bvalid & (owed == 0)),
            ends.w_en.eq(taken),
            ends.w_data.eq(burst.last),
            ends.r_en.eq(acknowledged),
        ]
        m.d.sync += [
            in_flight.eq(in_flight + taken - acknowledged),
            owed.eq(owed + (sent & bus.wlast) - acknowledged),
        ]

        m.d.comb += [
            self.outstanding.eq(in_flight != 0),
            self.busy.eq(walker.busy | splitter.o.valid | (in_flight != 0)),
            self.complete.eq(acknowledged & ends.r_data & ~self.halt & ~failed & ~broken),
            self.fault.valid.eq(failed | walker.fault.valid),
            self.fault.code.eq(Mux(failed, ErrorCode.WRITE_RESPONSE, walker.fault.code)),
            self.fault.newest.eq(~failed),
        ]

        with m.If(self.read.valid & ~self.read.ready):
            m.d.comb += self.stall.eq(Stall.MEMORY)
        with m.Elif(bus.awvalid & ~bus.awready):
            m.d.comb += self.stall.eq(Stall.ADDRESS)
        with m.Elif(bus.wvalid & ~bus.wready):
            m.d.comb += self.stall.eq(Stall.DATA)
        with m.Elif((in_flight != 0) & ~reading & ~buffer.r_rdy):
            m.d.comb += self.stall.eq(Stall.RESPONSE)
        with m.Elif(self.busy):
            m.d.comb += self.stall.eq(Stall.RUNNING)
        return m
