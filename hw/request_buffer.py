"""A request on its way from the line to the bus, or an answer's words on their way back."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from palquant.hw import link
from palquant.hw.link import Command, LinkStatus

__all__ = ["ADDRESS_BITS", "STATUS_BITS", "RequestBuffer"]

#: Bits of a byte address.
ADDRESS_BITS = 32

#: Places for bytes of a frame; twice as many are one block RAM of 4 kbit.
_PLACES = link.FRAME_BYTES + 1
#: Place of a frame's first byte: the header lies at the end, so that words begin at place 0.
_FIRST = _PLACES - link.HEADER_BYTES
#: Low bits of a place that tell the header's bytes apart.
_HEADER_BITS = link.HEADER_BYTES.bit_length()
#: Low bits of a place that tell a word's bytes apart.
_BYTE_BITS = 2
#: Bits of a LinkStatus.
STATUS_BITS = 3


class RequestBuffer(wiring.Component):
    """A request: its header in registers, all of it in memory.

    The memory has room for two. One keeps the last WRITE that was executed; while the next request
    arrives in the other, the two are compared byte by byte. That is how a repeated WRITE is
    noticed, whatever else arrived in between.

    Bytes arrive at least two cycles apart, which is what the comparison takes.

    Members:
        byte: ``In(8)``, the next byte of a request.
        write: ``In(1)``, strobe with ``byte``.
        restart: ``In(1)``. The next byte is a request's first; also goes to the first place.
        rewind: ``In(1)``. Go to the place of the first word.
        step: ``In(1)``. Go to the next place.
        advance: ``In(1)``. Go to the next word's address.
        busy: ``In(1)``. ``data`` is this request's, not the last WRITE's, and ``store`` works.
        value: ``In(8)``.
        store: ``In(1)``. Write ``value`` to this place.
        keep: ``In(1)``. The request was executed; a WRITE is now the last one.
        data: ``Out(8)``, what was in memory at the place of a cycle ago.
        last_byte: ``Out(1)``. This place is that of a word's last byte.
        done: ``Out(1)``. This place is behind the last word.
        is_write: ``Out(1)``. The command is WRITE.
        address: ``Out(32)``, of the word at hand.
        status: ``Out(3)``, a member of LinkStatus: what the request is answered with before it is
            executed, if its checksum is right.
        too_long: ``Out(1)``. There was no room for it.
        repeated: ``Out(1)``. It is the last WRITE once more.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "byte": In(8),
                "write": In(1),
                "restart": In(1),
                "rewind": In(1),
                "step": In(1),
                "advance": In(1),
                "busy": In(1),
                "value": In(8),
                "store": In(1),
                "keep": In(1),
                "data": Out(8),
                "last_byte": Out(1),
                "done": Out(1),
                "is_write": Out(1),
                "address": Out(ADDRESS_BITS),
                "status": Out(STATUS_BITS),
                "too_long": Out(1),
                "repeated": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One counter is the place of the byte that arrives, is stored or is read."""
        m = Module()
        too_long = Signal(reset_less=True)
        place = Signal(range(_PLACES), reset_less=True)
        half = Signal()  # of the memory, where this request is
        kept = Signal()  # the other half is a WRITE
        same = Signal(reset_less=True)
        m.submodules.memory = memory = Memory(shape=unsigned(8), depth=2 * _PLACES, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [
            read.addr.eq(Cat(place, half ^ ~self.busy)),
            write.addr.eq(Cat(place, half)),
            write.data.eq(Mux(self.busy, self.value, self.byte)),
            write.en.eq(self.write | self.store),
            # Never both, or logic would be built for reading where something is being written.
            read.en.eq(~write.en),
            self.data.eq(read.data),
            self.last_byte.eq(place[:_BYTE_BITS].all()),
            self.repeated.eq(same & kept),
            self.too_long.eq(too_long),
        ]
        in_header = self._header(m, place)

        m.d.sync += place.eq(place + (self.write | self.step))
        with m.If(self.rewind):
            m.d.sync += place.eq(0)
        with m.If(self.write):
            with m.If(read.data != self.byte):
                m.d.sync += same.eq(0)
            # As far as the header's places, rounded down to what is easy to compare.
            with m.If(~in_header & place[_HEADER_BITS:].all()):
                m.d.sync += too_long.eq(1)
        with m.If(self.restart):
            m.d.sync += [place.eq(_FIRST), in_header.eq(1), same.eq(1), too_long.eq(0)]
        with m.If(self.keep):
            m.d.sync += [half.eq(~half), kept.eq(self.is_write)]
        return m

    def _header(self, m: Module, place: Signal) -> Signal:
        """The header's registers and what follows from them; returns whether it is arriving."""
        in_header = Signal(reset_less=True)
        is_write = Signal(reset_less=True)
        is_command = Signal(reset_less=True)
        words = Signal(8, reset_less=True)
        aligned = Signal(reset_less=True)
        address = Signal(ADDRESS_BITS - _BYTE_BITS, reset_less=True)
        m.d.comb += self.address[_BYTE_BITS:].eq(address)
        # What is added besides is 0 in all that is kept. It makes the sum depend on what loading
        # depends on, so that a bit of both is one look-up table of four inputs, with its carry.
        loading = Signal(ADDRESS_BITS - _BYTE_BITS)
        total = Signal(ADDRESS_BITS - _BYTE_BITS + 1)
        m.d.comb += total.eq(Cat(self.advance, address) + Cat(self.advance, loading))
        m.d.sync += address.eq(total[1:])
        with m.If(self.write & in_header), m.Switch(place[:_HEADER_BITS]):
            with m.Case(self._position("command")):
                m.d.sync += [
                    is_write.eq(self.byte == Command.WRITE),
                    is_command.eq((self.byte == Command.READ) | (self.byte == Command.WRITE)),
                ]
            with m.Case(self._position("words")):
                m.d.sync += words.eq(self.byte)
            for number in range(ADDRESS_BITS // 8):
                with m.Case(self._position("address") + number):
                    bits = slice(max(8 * number - _BYTE_BITS, 0), 8 * (number + 1) - _BYTE_BITS)
                    part = address[bits]
                    m.d.comb += loading[bits].eq(~0)
                    m.d.sync += part.eq(self.byte[8 - len(part) :])
                    if number == 0:
                        m.d.sync += aligned.eq(self.byte[:_BYTE_BITS] == 0)
        with m.If(self.write & place[:_HEADER_BITS].all()):
            m.d.sync += in_header.eq(0)

        # Behind the words, the checksum took the first half of one more.
        word = place[_BYTE_BITS:]
        complete = Signal()
        m.d.comb += [
            self.is_write.eq(is_write),
            self.done.eq(word == words),
            complete.eq(
                Mux(self.is_write, self.done, word == 0)
                & (place[:_BYTE_BITS] == link.CHECKSUM_BYTES)
                & (words <= link.MAX_WORDS)
            ),
        ]
        with m.If(in_header | self.too_long):
            m.d.comb += self.status.eq(LinkStatus.LENGTH)
        with m.Elif(~is_command):
            m.d.comb += self.status.eq(LinkStatus.COMMAND)
        with m.Elif(~complete):
            m.d.comb += self.status.eq(LinkStatus.LENGTH)
        with m.Elif(~aligned):
            m.d.comb += self.status.eq(LinkStatus.ADDRESS)
        return in_header

    @staticmethod
    def _position(field: str) -> int:
        return (_FIRST + link.offset(link.REQUEST, field)) % (1 << _HEADER_BITS)
