"""The host link: requests from a serial line become AXI4-Lite transactions."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from palquant.hw.axi import Lite
from palquant.hw.frames import FrameDecoder, FrameEncoder
from palquant.hw.link import LinkStatus
from palquant.hw.registers import REGISTER_BITS
from palquant.hw.request_buffer import ADDRESS_BITS, STATUS_BITS, RequestBuffer
from palquant.hw.serial import SerialReceiver, SerialTransmitter

__all__ = ["HostLink"]


class HostLink(wiring.Component):
    """Executes requests, one at a time; the protocol is described in ``docs/host-link.md``.

    A request is kept in memory until its checksum has been found right. The words of a READ go into
    the same memory before the first of them is sent, since their status is sent first.

    Parameters:
        divisor: Clock cycles of a bit on the line, at least 4.
        timeout: Clock cycles without a byte after which a frame that has begun is given up. Bytes
            without a pause are 10 bits apart.

    Members:
        rx: ``In(1)``, from the host; not synchronous to anything.
        tx: ``Out(1)``, to the host: a register.
        bus: ``Out(Lite(32))``. One transaction at a time; every output is a register, or a function
            of registers alone.

    Raises:
        ValueError: ``divisor`` or ``timeout`` is too small.
    """

    def __init__(self, divisor: int, timeout: int) -> None:
        self._receiver = SerialReceiver(divisor)
        self._transmitter = SerialTransmitter(divisor)
        self._decoder = FrameDecoder(timeout)
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1, init=1), "bus": Out(Lite(ADDRESS_BITS))}
        )

    @property
    def divisor(self) -> int:
        """Clock cycles of a bit on the line."""
        return self._receiver.divisor

    @property
    def timeout(self) -> int:
        """Clock cycles without a byte after which a frame is given up."""
        return self._decoder.timeout

    def elaborate(self, platform: object) -> Module:
        """The stages from line to line, and what is done with a request between them."""
        m = Module()
        m.submodules.receiver = receiver = self._receiver
        m.submodules.decoder = decoder = self._decoder
        m.submodules.request = request = RequestBuffer()
        m.submodules.encoder = encoder = FrameEncoder()
        m.submodules.transmitter = transmitter = self._transmitter
        connect(m, receiver.o, decoder.i)
        connect(m, encoder.o, transmitter.i)
        busy = Signal()  # a request that was understood is executed or answered
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            decoder.damaged.eq(receiver.error),
            decoder.busy.eq(busy),
            request.byte.eq(decoder.byte),
            request.write.eq(decoder.write),
            request.busy.eq(busy),
        ]
        with m.If(decoder.boundary & ~busy):
            m.d.comb += request.restart.eq(1)

        bus = self.bus
        value = Signal(REGISTER_BITS, reset_less=True)
        m.d.comb += [
            bus.awaddr.eq(request.address),
            bus.araddr.eq(request.address),
            bus.wdata.eq(value),
            bus.wstrb.eq(0b1111),
            request.value.eq(value[:8]),
        ]
        for channel in ("aw", "w", "ar"):
            with m.If(getattr(bus, f"{channel}ready")):
                m.d.sync += getattr(bus, f"{channel}valid").eq(0)

        status = Signal(STATUS_BITS, reset_less=True)
        failed = Signal(reset_less=True)  # how the last WRITE ended
        with m.FSM():
            with m.State("LISTEN"):
                with m.If(decoder.broken):
                    m.d.sync += status.eq(LinkStatus.TRUNCATED)
                    m.next = "STATUS"
                with m.Elif(decoder.end):
                    m.next = "STATUS"
                    with m.If(~decoder.intact & ~request.too_long):
                        m.d.sync += status.eq(LinkStatus.CHECKSUM)
                    with m.Else():
                        m.d.sync += [
                            status.eq(request.status),
                            busy.eq(request.status < LinkStatus.LENGTH),
                        ]
                        with m.If(request.status == LinkStatus.OK):
                            with m.If(request.repeated):
                                m.d.sync += status.eq(Mux(failed, LinkStatus.BUS, LinkStatus.OK))
                            with m.Else():
                                m.next = "BEGIN"
            self._execute(m, request, value, status)
            self._answer(m, request, encoder, status, busy)
        with m.If(request.keep):
            m.d.sync += failed.eq(status != LinkStatus.OK)
        return m

    def _execute(self, m: Module, request: RequestBuffer, value: Signal, status: Signal) -> None:
        """Word by word, between memory and bus."""
        bus = self.bus

        def shift(byte: Signal) -> None:
            m.d.sync += value.eq(Cat(value[8:], byte))
            m.d.comb += request.step.eq(1)

        def answered(response: Signal, following: str) -> None:
            m.d.comb += request.advance.eq(1)
            m.next = following
            with m.If(response[1]):
                m.d.sync += status.eq(LinkStatus.BUS)
                m.d.comb += request.restart.eq(1)
                m.next = "STATUS"

        with m.State("BEGIN"):
            m.d.comb += request.rewind.eq(1)
            m.next = "WORD"
        with m.State("WORD"):
            with m.If(request.done):
                m.d.comb += request.restart.eq(1)
                m.next = "STATUS"
            with m.Elif(request.is_write):
                m.next = "FETCH"
            with m.Else():
                m.d.sync += bus.arvalid.eq(1)
                m.next = "READ"
        with m.State("FETCH"):
            shift(request.data)
            m.next = "NEXT"
            with m.If(request.last_byte):
                m.d.sync += [bus.awvalid.eq(1), bus.wvalid.eq(1)]
                m.next = "WRITE"
        with m.State("NEXT"):
            m.next = "FETCH"
        with m.State("WRITE"):
            m.d.comb += bus.bready.eq(1)
            with m.If(bus.bvalid):
                answered(bus.bresp, "WORD")
        with m.State("READ"):
            m.d.comb += bus.rready.eq(1)
            with m.If(bus.rvalid):
                m.d.sync += value.eq(bus.rdata)
                answered(bus.rresp, "STORE")
        with m.State("STORE"):
            m.d.comb += request.store.eq(1)
            shift(request.data)  # any byte: nothing is read from above
            with m.If(request.last_byte):
                m.next = "WORD"

    def _answer(
        self,
        m: Module,
        request: RequestBuffer,
        encoder: FrameEncoder,
        status: Signal,
        busy: Signal,
    ) -> None:
        """Status, tag, words; the tag is read from where the request's lies, one place further.

        Without ``busy``, the buffer already belongs to the next request.
        """
        item = encoder.i.payload
        m.d.comb += item.byte.eq(Mux(busy, request.data, 0))
        with m.State("STATUS"):
            m.d.comb += [encoder.i.valid.eq(1), item.byte.eq(status)]
            with m.If(encoder.i.ready):
                m.d.comb += request.step.eq(busy)
                m.next = "STATUS READ"
        with m.State("STATUS READ"):
            m.next = "TAG"
        with m.State("TAG"):
            m.d.comb += encoder.i.valid.eq(1)
            with m.If(encoder.i.ready):
                m.d.comb += request.rewind.eq(busy)
                m.next = "TAG READ"
        with m.State("TAG READ"):
            m.next = "WORDS"
        with m.State("WORDS"):
            m.d.comb += [
                encoder.i.valid.eq(1),
                item.end.eq(request.is_write | request.done | (status != LinkStatus.OK)),
            ]
            with m.If(encoder.i.ready):
                with m.If(~item.end):
                    m.d.comb += request.step.eq(1)
                    m.next = "TAG READ"
                with m.Else():
                    m.d.sync += busy.eq(0)
                    m.d.comb += [
                        request.restart.eq(busy),
                        request.keep.eq(status < LinkStatus.ADDRESS),
                    ]
                    m.next = "LISTEN"
