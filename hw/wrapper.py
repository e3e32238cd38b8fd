"""The array between shift registers, so that it can be placed and routed by itself."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.array import MacArray
from palquant.hw.chained_array import ChainedMacArray

__all__ = ["WrappedArray"]


class WrappedArray(wiring.Component):
    """Feeds an array's inputs from a register each, which fill from one pin.

    Its results are caught in registers as well, and leave by one pin.

    Parameters:
        array: The array.

    Members:
        i: ``In(1)``, into the first input register.
        take: ``In(1)``, results are caught; otherwise they shift out.
        o: ``Out(1)``, out of the last result register.
    """

    def __init__(self, array: MacArray | ChainedMacArray) -> None:
        self._array = array
        super().__init__({"i": In(1), "take": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """One shift register before the array and one behind it."""
        m = Module()
        m.submodules.array = array = self._array
        inputs = Cat(array.control.as_value(), array.activation, array.weights)
        held = Signal(len(inputs), reset_less=True)
        result = array.result
        outputs = Cat(
            *result.sums, result.activation_sum,
            result.valid, result.tag, result.first, result.last, result.empty,
        )  # fmt: skip
        caught = Signal(len(outputs), reset_less=True)
        m.d.comb += [inputs.eq(held), self.o.eq(caught[0])]
        m.d.sync += held.eq(Cat(self.i, held))
        with m.If(self.take):
            m.d.sync += caught.eq(outputs)
        with m.Else():
            m.d.sync += caught.eq(caught[1:])
        return m
