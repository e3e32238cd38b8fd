"""A serial line, 8N1: a start bit (0), eight bits of data from the lowest on, a stop bit (1)."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["MIN_DIVISOR", "SerialReceiver", "SerialTransmitter"]

#: Fewest clock cycles of a bit: with fewer, the middle of a bit is hard to tell from its ends.
MIN_DIVISOR = 4

_DATA_BITS = 8


def _checked(divisor: int) -> int:
    if divisor < MIN_DIVISOR:
        raise ValueError(f"A bit takes at least {MIN_DIVISOR} cycles, not {divisor}")
    return divisor


class SerialReceiver(wiring.Component):
    """Bytes from a serial line.

    Bits are sampled in their middle. A start bit that is over by then was a glitch. Behind a byte
    without a stop bit, the line must be high before another one can begin, so that a line that is
    held low is one damaged byte.

    Parameters:
        divisor: Clock cycles of a bit, at least ``MIN_DIVISOR``.

    Members:
        rx: ``In(1)``, the line; not synchronous to anything.
        o: ``Out(stream.Signature(8, always_ready=True))``, in the middle of the stop bit.
        error: ``Out(1)``, strobe. The stop bit was 0, and the byte is lost.

    Raises:
        ValueError: ``divisor`` is too small.
    """

    def __init__(self, divisor: int) -> None:
        self._divisor = _checked(divisor)
        super().__init__(
            {
                "rx": In(1, init=1),
                "o": Out(stream.Signature(_DATA_BITS, always_ready=True)),
                "error": Out(1),
            }
        )

    @property
    def divisor(self) -> int:
        """Clock cycles of a bit."""
        return self._divisor

    def elaborate(self, platform: object) -> Module:
        """Half a bit to the middle of the start bit, and from there on whole bits."""
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        before = Signal(init=1)
        active = Signal()
        starting = Signal(reset_less=True)
        timer = Signal(range(self._divisor), reset_less=True)
        # A 1 that was there first and leaves last, so that nobody has to count bits.
        mark = 1 << _DATA_BITS
        bits = Signal(_DATA_BITS + 1, reset_less=True)
        stop = Signal()

        m.d.sync += before.eq(line)
        m.d.comb += [
            stop.eq(active & (timer == 0) & bits[0]),
            self.o.payload.eq(bits[1:]),
            self.o.valid.eq(stop & line),
            self.error.eq(stop & ~line),
        ]
        with m.If(~active):
            m.d.sync += [
                timer.eq(self._divisor // 2 - 1),
                active.eq(before & ~line),
                starting.eq(1),
                bits.eq(mark),
            ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divisor - 1), starting.eq(0)]
            with m.If(starting):
                m.d.sync += active.eq(~line)
            with m.Else():
                m.d.sync += [bits.eq(Cat(bits[1:], line)), active.eq(~bits[0])]
        return m


class SerialTransmitter(wiring.Component):
    """Bytes onto a serial line, one behind the other without a pause if there are any.

    Parameters:
        divisor: Clock cycles of a bit, at least ``MIN_DIVISOR``.

    Members:
        i: ``In(stream.Signature(8))``, taken at the beginning of the start bit.
        tx: ``Out(1)``, the line: a register.

    Raises:
        ValueError: ``divisor`` is too small.
    """

    def __init__(self, divisor: int) -> None:
        self._divisor = _checked(divisor)
        super().__init__({"i": In(stream.Signature(_DATA_BITS)), "tx": Out(1, init=1)})

    @property
    def divisor(self) -> int:
        """Clock cycles of a bit."""
        return self._divisor

    def elaborate(self, platform: object) -> Module:
        """The stop bit is the highest 1 of all: where no other is left, it is on the line."""
        m = Module()
        bits = Signal(_DATA_BITS + 2, init=1)
        timer = Signal(range(self._divisor))
        m.d.comb += [
            self.tx.eq(bits[0]),
            self.i.ready.eq((bits[1:] == 0) & (timer == 0)),
        ]
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(~self.i.ready):
            m.d.sync += [bits.eq(bits[1:]), timer.eq(self._divisor - 1)]
        with m.Elif(self.i.valid):
            m.d.sync += [
                bits.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))),
                timer.eq(self._divisor - 1),
            ]
        return m
