"""The array in an FPGA's own carry chains: fewer tables than synthesis makes of adder trees."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.carry_chain import Technology, accumulate, make_chain
from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.delay import copy_register, delay_line
from palquant.hw.heap_sum import Product, sum_levels, sum_products
from palquant.hw.layouts import ARRAY_CONTROL, Result

__all__ = ["ChainedMacArray", "ChainedUnit"]


#: Units that a copy of the activation word goes to.
UNITS_PER_COPY = 4


def _products(activation: Value, weights: Value | None) -> list[tuple[int, Product]]:
    """Bits of the products of all digits, or of the digits alone, and what each is worth."""
    products: list[tuple[int, Product]] = []
    for index, bit in enumerate(activation):
        own = index % DIGIT_BITS
        if weights is None:
            products.append((own, (bit, None)))
            continue
        digit = weights[index - own : index - own + DIGIT_BITS]
        products += [(own + k, (bit, digit[k])) for k in range(DIGIT_BITS)]
    return products


class ChainedUnit(wiring.Component):
    """A dot product and its accumulator.

    Parameters:
        lanes: Digits of a word.
        bits: Width of the accumulator.
        latency: Cycles from the operands to their sum. The controls are those of the cycle before.
        technology: What the chains are made of.
        weighted: Whether digits are multiplied by weights, or only summed.

    Members:
        activation: ``In(2 * lanes)``.
        weights: ``In(2 * lanes)``, if weighted.
        add: ``In(1)``, the sum is added to the accumulator,
        count: ``In(1)``, as it is, otherwise 0 is; if not weighted.
        shift: ``In(1)``, to 4 times what the accumulator holds.
        complete: ``In(1)``, along with ``add``: the total is a result.
        empty: ``In(1)``, the accumulator holds 0 in the next cycle.
        total: ``Out(bits)``, the last result.
    """

    def __init__(
        self,
        lanes: int,
        bits: int,
        latency: int,
        technology: Technology,
        *,
        weighted: bool = True,
    ) -> None:
        self.latency = latency
        self.technology = technology
        self.weighted = weighted
        width = lanes * DIGIT_BITS
        controls = ("add", "count", "shift", "complete", "empty")
        super().__init__(
            {
                "activation": In(width),
                **({"weights": In(width)} if weighted else {}),
                **{name: In(1) for name in controls},
                "total": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One sum of all products of bits, one chain for the accumulator."""
        m = Module()
        products = _products(self.activation, self.weights if self.weighted else None)
        term = sum_products(m, products, self.latency, self.technology)
        bits = len(self.total)
        # The controls reach every bit of every unit: a register for each unit's own.
        names = ("add", "count", "shift", "complete", "empty")
        add, count, shift, complete, empty = (
            copy_register(m, getattr(self, name), f"own_{name}") for name in names
        )
        held = Signal(bits, reset_less=True)  # emptied before a sum begins
        shifted = Cat(Const(0, DIGIT_BITS), held)
        if not self.weighted:
            term = term & count.replicate(len(term))
        terms = Cat(term, Const(0, bits))
        positions = [accumulate(terms[k], shift, held[k], shifted[k]) for k in range(bits)]
        total = make_chain(m, "accumulator", positions, self.technology)
        kept = Signal(bits, reset_less=True)
        with m.If(add):
            m.d.sync += held.eq(total)
        with m.If(empty):
            m.d.sync += held.eq(0)
        with m.If(complete):
            m.d.sync += kept.eq(total)
        m.d.comb += self.total.eq(kept)
        return m


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
        technology: What the chains are made of.

    Attributes:
        latency: Cycles from operands to the result's ``valid``; its sums come a cycle later.

    Members:
        As those of :class:`~palquant.hw.array.MacArray`.
    """

    def __init__(
        self,
        geometry: Geometry,
        technology: Technology = Technology.GENERIC,
    ) -> None:
        self.geometry = geometry
        self.technology = technology
        self.latency = geometry.array_registers + 1
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
        # One cycle fewer than there: the result register is filled in the accumulator's cycle. One
        # cycle fewer again: each unit has a register for its controls.
        controls = delay_line(m, self.control, self.latency - 1, name="control", reset=True)
        following, adding = controls[-2:]
        complete = adding.valid & adding.emit
        empty = Signal()
        m.d.comb += empty.eq(
            (complete & ~adding.empty) | (~adding.valid & following.valid & following.clear)
        )

        latency = self.latency
        # Registers that no level needs bring the operands closer.
        widest = _products(self.activation, self.weights[: len(self.activation)])
        delay = max(latency - sum_levels(widest, self.technology), 0)
        weights = delay_line(m, self.weights, delay, name="weights")[-1]
        activation = delay_line(m, self.activation, max(delay - 1, 0), name="activation")[-1]

        def unit(name: str, bits: int, *, weighted: bool) -> ChainedUnit:
            made = ChainedUnit(g.tin, bits, latency - delay, self.technology, weighted=weighted)
            m.submodules[name] = made
            m.d.comb += [
                made.activation.eq(copy),
                made.add.eq(adding.valid),
                made.count.eq(adding.count),
                made.shift.eq(adding.shift),
                made.complete.eq(complete),
                made.empty.eq(empty),
            ]
            return made

        copy: Value = activation
        for index in range(g.tout):
            if delay and index % UNITS_PER_COPY == 0:
                copy = copy_register(m, activation, f"activation_copy{index // UNITS_PER_COPY}")
            own = unit(f"unit{index}", g.accumulator_bits, weighted=True)
            m.d.comb += [
                own.weights.eq(weights.word_select(index, g.activation_bits_per_word)),
                self.result.sums[index].eq(own.total),
            ]
        lanes = unit("lanes", g.activation_sum_bits, weighted=False)
        m.d.comb += self.result.activation_sum.eq(lanes.total)
        # The units' controls are a cycle late: the sums come in the cycle after these.
        flags = Cat(complete, adding.tag, adding.first, adding.last, adding.empty)
        late = delay_line(m, flags, 1, name="flags")[-1]
        result = self.result
        m.d.comb += Cat(result.valid, result.tag, result.first, result.last, result.empty).eq(late)
        return m
