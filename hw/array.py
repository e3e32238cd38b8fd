"""The array: ``tout`` dot-product units, their Horner accumulators, and the result register."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.delay import delay_line
from palquant.hw.layouts import ARRAY_CONTROL, Result
from palquant.hw.mac import AdderTree, DotProduct, spread_registers, tree_levels

__all__ = ["MacArray"]


class MacArray(wiring.Component):
    """Broadcasts an activation word to ``tout`` units, each with its own weights, and adds up.

    An accumulator stays put while its output is summed: it goes on from 0, from itself, or from 4
    times itself (Horner's rule over digit positions), as the control says. When a sum is complete
    it moves to a second register, so that the next one starts in the very next cycle.
    S, the sum of activations, is kept once for all units. Nothing saturates: the compiler proves
    that sums fit their registers.

    Parameters:
        geometry: Sizes of the machine. ``array_registers`` are spread over the levels of the adder
            trees; those that are more than levels delay the operands.

    Attributes:
        latency: Cycles from operands to the result's ``valid``; its sums come a cycle later.

    Members:
        control: ``In(ARRAY_CONTROL)``.
        activation: ``In(2 * tin)``, a digit per lane, along with ``control``.
        weights: ``In(2 * tin * tout)``, unit-major: the digit of unit o, lane l is at bits
            2 * (o * tin + l); along with ``control``.
        result: ``Out(Result(geometry))``.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        # A cycle's sums, the accumulator.
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
        controls = delay_line(m, self.control, self.latency, name="control", reset=True)
        adding, complete = controls[-2], controls[-1]
        levels = tree_levels(g.tin)
        registers = spread_registers(levels, min(g.array_registers, levels + 1))
        delay = g.array_registers - len(registers)
        activation = delay_line(m, self.activation, delay, name="activation")[-1]
        weights = delay_line(m, self.weights, delay, name="weights")[-1]

        def accumulate(name: str, bits: int, term: Value, enable: Value) -> Signal:
            """An accumulator's second register: it follows when a result is complete."""
            total = Signal(bits, name=name, reset_less=True)
            start = Signal(bits, name=f"{name}_start")
            kept = Signal(bits, name=f"{name}_result", reset_less=True)
            m.d.comb += start.eq(
                Mux(adding.clear, 0, Mux(adding.shift, total << DIGIT_BITS, total))
            )
            with m.If(adding.valid):
                m.d.sync += total.eq(start + Mux(enable, term, 0))
            if g.settles:  # the next result's words come when this one's beats are gone
                return total
            with m.If(complete.valid & complete.emit):
                m.d.sync += kept.eq(total)
            return kept

        for index in range(g.tout):
            m.submodules[f"unit{index}"] = unit = DotProduct(g.tin, registers)
            m.d.comb += [
                unit.a.eq(activation),
                unit.c.eq(weights.word_select(index, g.activation_bits_per_word)),
                self.result.sums[index].eq(
                    accumulate(f"sum{index}", g.accumulator_bits, unit.o, True)
                ),
            ]
        # The same depth as a unit's tree, so that both sums meet the same control.
        m.submodules.lanes = lanes = AdderTree(g.tin, (1 << DIGIT_BITS) - 1, registers)
        m.d.comb += [
            lanes.i.eq(activation),
            self.result.activation_sum.eq(
                accumulate("activation_sum", g.activation_sum_bits, lanes.o, adding.count)
            ),
        ]
        m.d.sync += [
            self.result.valid.eq(adding.valid & adding.emit),
            self.result.tag.eq(adding.tag),
            self.result.first.eq(adding.first),
            self.result.last.eq(adding.last),
            self.result.empty.eq(adding.empty),
        ]
        return m
