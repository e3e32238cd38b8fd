"""Operand fetch: the two memory reads of the array, lined up, with padding put in."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line
from palquant.hw.layouts import ARRAY_CONTROL, WordRead

__all__ = ["OperandFetch"]


class OperandFetch(wiring.Component):
    """Turns addresses into a pair of words for the array.

    The activation word is registered behind its memory, since it goes to every unit; the weight
    word, which is ``tout`` times as wide, goes straight from its memory to the units, and is
    therefore read a cycle later.

    Parameters:
        geometry: Sizes of the machine.

    Attributes:
        latency: Cycles from ``control`` to ``array_control``.

    Members:
        control: ``In(ARRAY_CONTROL)``, what the array will do with the pair.
        address: ``In(address_bits)``, activation word; this and the following come along with
            ``control``.
        weight_address: ``In(address_bits)``, weight word.
        padding: ``In(1)``, the activation word is ``pad_word`` rather than memory.
        pad_word: ``In(2 * tin)``.
        activation_read: ``Out(WordRead(2 * tin))``.
        weight_read: ``Out(WordRead(2 * tin * tout))``.
        array_control: ``Out(ARRAY_CONTROL)``, ``control`` after :attr:`latency` cycles.
        activation: ``Out(2 * tin)``, along with ``array_control``.
        weights: ``Out(2 * tin * tout)``, likewise.
    """

    #: Registers behind the memories.
    REGISTERS = 1

    def __init__(self, geometry: Geometry) -> None:
        self._reads = geometry.read_cycles
        self.latency = self._reads + self.REGISTERS
        activation, weights = geometry.activation_bits_per_word, geometry.weight_bits_per_word
        super().__init__(
            {
                "control": In(ARRAY_CONTROL),
                "address": In(geometry.address_bits),
                "weight_address": In(geometry.address_bits),
                "padding": In(1),
                "pad_word": In(activation),
                "activation_read": Out(WordRead(geometry, activation)),
                "weight_read": Out(WordRead(geometry, weights)),
                "array_control": Out(ARRAY_CONTROL),
                "activation": Out(activation),
                "weights": Out(weights),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Activations are read at once and registered; weights are read a cycle later."""
        m = Module()
        controls = delay_line(m, self.control, self.latency, name="control", reset=True)
        weight_address = Signal.like(self.weight_address)
        padding = delay_line(m, self.padding, self._reads, name="padding")[-1]
        pad_word = delay_line(m, self.pad_word, self._reads, name="pad_word")[-1]
        m.d.comb += [
            # Where there is padding something is read all the same: it is known late.
            self.activation_read.enable.eq(self.control.valid),
            self.activation_read.address.eq(self.address),
            self.weight_read.enable.eq(controls[1].valid),
            self.weight_read.address.eq(weight_address),
            self.weights.eq(self.weight_read.data),
            self.array_control.eq(controls[-1]),
        ]
        m.d.sync += [
            weight_address.eq(self.weight_address),
            self.activation.eq(Mux(padding, pad_word, self.activation_read.data)),
        ]
        return m
