"""Frames of the host link: escapes and checksum, undone on the way in and done on the way out."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import link

__all__ = ["ITEM", "Checksum", "FrameDecoder", "FrameEncoder"]

#: What a frame to send is made of: a byte of it, or its ``end``, at which ``byte`` is nothing.
ITEM = data.StructLayout({"byte": 8, "end": 1})


def _difference(byte: Value) -> Value:
    """Bits in which a byte differs from what stands for it behind ESC, for either of the two.

    END and ESC, and what stands for them, differ in bit 0 in the same way.
    """
    return Mux(byte[0], link.ESC ^ link.ESC_ESC, link.END ^ link.ESC_END)


class Checksum(wiring.Component):
    """The checksum of the bytes so far, a byte a cycle.

    Members:
        clear: ``In(1)``. Begin anew; wins over ``enable``.
        enable: ``In(1)``. Take ``byte`` in.
        shift: ``In(1)``, with ``enable``: instead, move the second byte to where the first one is.
        byte: ``In(8)``.
        value: ``Out(8)``, the next byte of the checksum to send.
        intact: ``Out(1)``. The last bytes were the checksum of those before.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "clear": In(1),
                "enable": In(1),
                "shift": In(1),
                "byte": In(8),
                "value": Out(8),
                "intact": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Eight steps of the bitwise checksum, written out; what each step feeds back is shared."""
        m = Module()
        register = Signal(link.CHECKSUM_BITS, reset_less=True)
        state: list[Value] = list(register)
        for number, bit in enumerate(self.byte):
            feedback = Signal(name=f"feedback_{number}")
            # Without feedback, steps only shift.
            m.d.comb += feedback.eq((state[0] ^ bit) & ~self.shift)
            shifted = [*state[1:], Const(0, 1)]
            state = [
                old ^ feedback if link.CHECKSUM_POLYNOMIAL >> place & 1 else old
                for place, old in enumerate(shifted)
            ]
        with m.If(self.clear):
            m.d.sync += register.eq(link.CHECKSUM_ONES)
        with m.Elif(self.enable):
            m.d.sync += register.eq(Cat(state))
        m.d.comb += [
            self.value.eq(~register[:8]),
            self.intact.eq(register == link.CHECKSUM_RESIDUE ^ link.CHECKSUM_ONES),
        ]
        return m


class FrameDecoder(wiring.Component):
    """Frames from bytes. Every END begins a new frame; frames without a byte are not reported.

    A frame that is given up is reported once, at once; what is left of it, up to END, is dropped.

    Parameters:
        timeout: Clock cycles without a byte after which a frame that has begun is given up;
            at least 1.

    Members:
        i: ``In(stream.Signature(8, always_ready=True))``.
        damaged: ``In(1)``, strobe: a byte was lost on the line.
        busy: ``In(1)``. Whatever frame a byte belongs to that comes meanwhile is dropped whole.
        byte: ``Out(8)``, a byte of the frame, checksum included.
        write: ``Out(1)``, strobe with ``byte``.
        boundary: ``Out(1)``, strobe: what comes is a new frame.
        end: ``Out(1)``, strobe with ``boundary``: the frame is over, and no ``busy`` frame.
        intact: ``Out(1)``, with ``end``: its checksum is right.
        broken: ``Out(1)``, strobe: the frame is given up, for a pause, a bad escape or a lost byte.

    Raises:
        ValueError: ``timeout`` is too small.
    """

    def __init__(self, timeout: int) -> None:
        if timeout < 1:
            raise ValueError(f"A timeout is at least 1 cycle, not {timeout}")
        self._timeout = timeout
        super().__init__(
            {
                "i": In(stream.Signature(8, always_ready=True)),
                "damaged": In(1),
                "busy": In(1),
                "byte": Out(8),
                "write": Out(1),
                "boundary": Out(1),
                "end": Out(1),
                "intact": Out(1),
                "broken": Out(1),
            }
        )

    @property
    def timeout(self) -> int:
        """Clock cycles after which a frame is given up."""
        return self._timeout

    def elaborate(self, platform: object) -> Module:
        """A frame has begun, the last byte was ESC, the rest is dropped: a bit of state each."""
        m = Module()
        m.submodules.checksum = checksum = Checksum()
        received = self.i.payload
        begun, escaped, dropped = Signal(), Signal(), Signal()
        left = Signal(range(-1, self._timeout), reset_less=True)
        ends, escapes, given_up = Signal(), Signal(), Signal()
        m.d.comb += [
            ends.eq(received == link.END),
            escapes.eq(received == link.ESC),
            self.byte.eq(received),
            checksum.byte.eq(self.byte),
            checksum.enable.eq(self.write),
            self.boundary.eq(self.i.valid & ends),
            checksum.clear.eq(self.boundary),
            self.intact.eq(checksum.intact),
            self.broken.eq(given_up & ~dropped & ~self.busy),
        ]
        with m.If(escaped):
            m.d.comb += self.byte.eq(received ^ _difference(received))

        with m.If(self.i.valid | ~begun | dropped):
            m.d.sync += left.eq(self._timeout - 1)
        with m.Else():
            m.d.sync += left.eq(left - 1)

        with m.If(self.damaged | left[-1]):
            m.d.comb += given_up.eq(1)
        with m.If(self.i.valid):
            m.d.sync += [begun.eq(~ends), escaped.eq(escapes)]
            with m.If(escaped & (received != link.ESC_END) & (received != link.ESC_ESC)):
                m.d.comb += given_up.eq(1)
            with m.Elif(ends):
                m.d.comb += self.end.eq(begun & ~dropped)
            with m.Elif(~escapes):
                m.d.comb += self.write.eq(~dropped & ~self.busy)
        with m.If(self.boundary):
            m.d.sync += dropped.eq(0)
        with m.Elif(given_up | (self.busy & self.i.valid)):
            m.d.sync += dropped.eq(1)
        return m


class FrameEncoder(wiring.Component):
    """Bytes from frames: END, the frame and its checksum with escapes, END.

    Members:
        i: ``In(stream.Signature(ITEM))``, any number of bytes, then an end.
        o: ``Out(stream.Signature(8))``.
    """

    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(ITEM)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        """A byte that must be escaped is sent in two steps."""
        m = Module()
        m.submodules.checksum = checksum = Checksum()
        byte = Signal(unsigned(8))
        escaped = Signal()
        plain, special, taken = Signal(), Signal(), Signal()
        m.d.comb += [
            special.eq((byte == link.END) | (byte == link.ESC)),
            taken.eq(plain & self.o.valid & self.o.ready & (escaped | ~special)),
            checksum.byte.eq(byte),
            checksum.enable.eq(taken),
        ]
        with m.If(~plain):
            m.d.comb += self.o.payload.eq(link.END)
        with m.Elif(~special):
            m.d.comb += self.o.payload.eq(byte)
        with m.Elif(~escaped):
            m.d.comb += self.o.payload.eq(link.ESC)
        with m.Else():
            m.d.comb += self.o.payload.eq(byte ^ _difference(byte))
        with m.If(plain & self.o.valid & self.o.ready):
            m.d.sync += escaped.eq(special & ~escaped)

        m.d.comb += byte.eq(self.i.payload.byte)
        with m.FSM():
            with m.State("BEGIN"):
                m.d.comb += [self.o.valid.eq(self.i.valid), checksum.clear.eq(1)]
                with m.If(self.i.valid & self.o.ready):
                    m.next = "FRAME"
            with m.State("FRAME"):
                m.d.comb += [
                    plain.eq(1),
                    self.o.valid.eq(self.i.valid & ~self.i.payload.end),
                    self.i.ready.eq(self.i.payload.end | taken),
                ]
                with m.If(self.i.valid & self.i.payload.end):
                    m.next = "LOW"
            for state, following in (("LOW", "HIGH"), ("HIGH", "END")):
                with m.State(state):
                    m.d.comb += [
                        plain.eq(1),
                        self.o.valid.eq(1),
                        byte.eq(checksum.value),
                        checksum.shift.eq(1),
                    ]
                    with m.If(taken):
                        m.next = following
            with m.State("END"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "BEGIN"
        return m
