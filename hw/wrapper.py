"""A block between shift registers, so that it can be placed and routed by itself."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Wrapper"]


class Wrapper(wiring.Component):
    """Feeds a block's inputs from a register each, which fill from one pin.

    Its outputs are caught in registers as well, and leave by one pin: no device has as many pins
    as an array or a bus has bits.

    Parameters:
        block: The block.

    Members:
        i: ``In(1)``, into the first input register.
        take: ``In(1)``, outputs are caught; otherwise they shift out.
        o: ``Out(1)``, out of the last output register.
    """

    def __init__(self, block: wiring.Component) -> None:
        self._block = block
        super().__init__({"i": In(1), "take": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """One shift register before the block and one behind it, in the order of its members."""
        m = Module()
        m.submodules.block = block = self._block
        ports: dict[wiring.Flow, list[Value]] = {In: [], Out: []}
        for _, member, value in block.signature.flatten(block):
            ports[member.flow].append(Value.cast(value))
        inputs, outputs = Cat(ports[In]), Cat(ports[Out])
        held = Signal(len(inputs), reset_less=True)
        caught = Signal(len(outputs), reset_less=True)
        m.d.comb += [inputs.eq(held), self.o.eq(caught[0])]
        m.d.sync += held.eq(Cat(self.i, held))
        with m.If(self.take):
            m.d.sync += caught.eq(outputs)
        with m.Else():
            m.d.sync += caught.eq(caught[1:])
        return m
