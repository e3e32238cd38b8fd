"""The array in an FPGA's own carry chains: fewer tables than synthesis makes of adder trees."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.carry_chain import Technology, accumulate, make_chain
from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.delay import delay_line
from palquant.hw.heap_sum import Product, sum_products
from palquant.hw.layouts import ARRAY_CONTROL, Result
from palquant.hw.mac import DEFAULT_REGISTERS, tree_latency

__all__ = ["ChainedMacArray"]


class ChainedMacArray(wiring.Component):
    """Does what :class:`~palquant.hw.array.MacArray` does, in as many cycles.

    The products are never computed by themselves: the tables of the first level's carry chains
    take their factors. An accumulator's chain chooses between the sum and four times the sum in
    its own tables, which leaves no input for a third choice. So an accumulator is emptied before
    a sum begins rather than when it begins: in the cycle in which the last sum is complete, whose
    value goes to the result register directly.

    Controls must keep to this: ``clear`` comes only after a word that emits and is not ``empty``,
    or after a cycle without a word; and a word after one that emits and is not ``empty`` has
    ``clear``. The sequencer's do, since only sums that are held for the next instruction are
    ``empty``, and a cycle lies between instructions.

    Parameters:
        geometry: Sizes of the machine.
        registers: What the portable array's adder trees register; gives the same latency here.
        technology: What the chains are made of.

    Attributes:
        latency: Cycles from operands to the result's ``valid``.

    Members:
        As those of :class:`~palquant.hw.array.MacArray`.
    """

    def __init__(
        self,
        geometry: Geometry,
        registers: Sequence[int] = DEFAULT_REGISTERS,
        technology: Technology = Technology.GENERIC,
    ) -> None:
        self.geometry = geometry
        self.technology = technology
        self.latency = tree_latency(geometry.tin, registers) + 2
        super().__init__(
            {
                "control": In(ARRAY_CONTROL),
                "activation": In(geometry.activation_bits_per_word),
                "weights": In(geometry.weight_bits_per_word),
                "result": Out(Result(geometry)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Sums of a cycle, then sums of a result."""
        m = Module()
        g = self.geometry
        # One cycle fewer than there: the result register is filled in the accumulator's cycle.
        controls = delay_line(m, self.control, self.latency - 1, name="control", reset=True)
        following, adding = controls[-2:]
        complete = adding.valid & adding.emit
        empty = Signal()
        m.d.comb += empty.eq(
            (complete & ~adding.empty) | (~adding.valid & following.valid & following.clear)
        )

        def accumulator(name: str, bits: int, term: Value) -> Signal:
            """The result register of an accumulator of its own."""
            held = Signal(bits, name=name)
            kept = Signal(bits, name=f"{name}_result", reset_less=True)
            shifted = Cat(Const(0, DIGIT_BITS), held)
            terms = Cat(term, Const(0, bits))
            positions = [
                accumulate(terms[k], adding.shift, held[k], shifted[k]) for k in range(bits)
            ]
            total = make_chain(m, name, positions, self.technology)
            with m.If(adding.valid):
                m.d.sync += held.eq(total)
            with m.If(empty):
                m.d.sync += held.eq(0)
            with m.If(complete):
                m.d.sync += kept.eq(total)
            return kept

        for index in range(g.tout):
            own = self.weights.word_select(index, g.activation_bits_per_word)
            products: list[tuple[int, Product]] = [
                (i + j, (self.activation[lane + i], own[lane + j]))
                for lane in range(0, g.activation_bits_per_word, DIGIT_BITS)
                for i in range(DIGIT_BITS)
                for j in range(DIGIT_BITS)
            ]
            term = sum_products(m, products, self.latency - 1, self.technology, f"unit{index}")
            m.d.comb += self.result.sums[index].eq(
                accumulator(f"sum{index}", g.accumulator_bits, term)
            )
        lanes: list[tuple[int, Product]] = [
            (index % DIGIT_BITS, (bit, None)) for index, bit in enumerate(self.activation)
        ]
        term = sum_products(m, lanes, self.latency - 1, self.technology, "lanes")
        m.d.comb += self.result.activation_sum.eq(
            accumulator(
                "activation_sum", g.activation_sum_bits, term & adding.count.replicate(len(term))
            )
        )
        m.d.sync += [
            self.result.valid.eq(complete),
            self.result.tag.eq(adding.tag),
            self.result.first.eq(adding.first),
            self.result.last.eq(adding.last),
            self.result.empty.eq(adding.empty),
        ]
        return m
