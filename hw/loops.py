"""The loops of a COMPUTE: where in the nest the sequencer is, one word a cycle.

Outermost first: output chunk, output row, output column, pass, weight digit, kernel row, kernel
column, input chunk. A pass is a sum of digit positions where the source is the array, and a beat
where it is pooling, which has neither weight digits nor input chunks.
"""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Source
from palquant.hw.layouts import struct

__all__ = ["ENTRY", "LoopNest"]

#: How a word was reached from the word before it: exactly one of these is 1. The loop that
#: stepped; loops inside it started again, loops outside it stayed.
ENTRY = data.StructLayout(
    {
        "start": 1,  # the instruction's first word
        "output_chunk": 1,
        "output_row": 1,
        "output_column": 1,
        "weight_pass": 1,  # a new pass, whose first weight digit is one lower
        "activation_pass": 1,  # a new pass, whose first activation digit is one lower; or a beat
        "weight_digit": 1,
        "kernel_row": 1,
        "kernel_column": 1,
        "input_chunk": 1,
    }
)


class LoopNest(wiring.Component):
    """Counts the loops of one COMPUTE and says what each word is.

    Loops count down, so that "last" is a register that is known before the word is due.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        fields: ``In(struct(isa.COMPUTE, geometry))``, the instruction; stable from ``load``
            to the last ``step``.
        load: ``In(1)``, strobe: go to the first word, in the next cycle.
        step: ``In(1)``, strobe: go to the next word, in the next cycle. Not along with ``load``.
        entry: ``Out(ENTRY)``, how the present word was reached.
        digit: ``Out(2)``, the present word's activation digit.
        first_plane: ``Out(1)``, its weight digit is 0.
        last_chunk: ``Out(1)``, it is the tap's last input chunk.
        emit: ``Out(1)``, it completes a result: an array output, or a pooled beat.
        finish: ``Out(1)``, it is the instruction's last.
        first_weight_digit: ``Out(2)``, weight digit of the first word.
        first_activation_digit: ``Out(2)``, its activation digit. Both mean nothing for pooling.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "fields": In(struct(isa.COMPUTE, geometry)),
                "load": In(1),
                "step": In(1),
                "entry": Out(ENTRY),
                "digit": Out(2),
                "first_plane": Out(1),
                "last_chunk": Out(1),
                "emit": Out(1),
                "finish": Out(1),
                "first_weight_digit": Out(2),
                "first_activation_digit": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Counters, innermost first; each steps when all inside it are in their last round."""
        m = Module()
        f = self.fields
        pooling = Signal()
        m.d.comb += pooling.eq(f.source == Source.POOL)

        def loop(name: str, rounds: Value, inner: Value) -> tuple[Signal, Signal, Signal]:
            """A counter that moves when ``inner`` is 1: in its last round, steps, ends."""
            left = Signal(len(rounds), name=f"{name}_left", reset_less=True)
            last = Signal(name=f"{name}_last", reset_less=True)
            steps = Signal(name=f"{name}_steps")
            ends = Signal(name=f"{name}_ends")
            m.d.comb += [steps.eq(inner & ~last), ends.eq(inner & last)]
            with m.If(self.load | (self.step & ends)):
                m.d.sync += [left.eq(rounds), last.eq(rounds == 1)]
            with m.Elif(self.step & inner):
                m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
            return last, steps, ends

        chunks = Mux(pooling, 1, f.input_chunks)
        chunk_last, chunk_steps, ends = loop("input_chunk", chunks, Const(1))
        _, kernel_column_steps, ends = loop("kernel_column", f.kernel_columns, ends)
        _, kernel_row_steps, window_ends = loop("kernel_row", f.kernel_rows, ends)

        # Weight digit j and activation digit i of the word, and those that its pass began with.
        weight, activation = Signal(2, reset_less=True), Signal(2, reset_less=True)
        pass_weight, pass_activation = Signal(2, reset_less=True), Signal(2, reset_less=True)
        several = self.geometry.weight_digits > 1
        # Known before the word is due, as those of the counters are.
        digits_last = Signal(reset_less=True, init=1)
        digit_steps = Signal()
        digits_end = Signal()
        m.d.comb += [
            digit_steps.eq(window_ends & ~digits_last),
            digits_end.eq(window_ends & digits_last),
        ]
        beats = self.geometry.beats
        passes = Mux(pooling, beats, f.digit_sum_first - f.digit_sum_last + 1)
        _, pass_steps, passes_end = loop(
            "pass", passes[: max(beats.bit_length(), len(f.digit_sum_first))], digits_end
        )
        _, output_column_steps, ends = loop("output_column", f.output_columns, passes_end)
        _, output_row_steps, ends = loop("output_row", f.output_rows, ends)
        _, output_chunk_steps, ends = loop("output_chunk", f.output_chunks, ends)

        highest = Signal(len(f.input_digits))  # activation digit
        lowers_weight = Signal()
        m.d.comb += [
            highest.eq(f.input_digits - 1),
            self.first_activation_digit.eq(
                Mux(f.digit_sum_first < highest, f.digit_sum_first, highest)
            ),
        ]
        if several:
            m.d.comb += [
                self.first_weight_digit.eq(f.digit_sum_first - self.first_activation_digit),
                lowers_weight.eq(~pooling & (pass_weight != 0)),
            ]
        next_weight, next_activation = Signal(2), Signal(2)
        m.d.comb += [next_weight.eq(weight), next_activation.eq(activation)]
        with m.If(self.load | passes_end):
            m.d.comb += [
                next_weight.eq(self.first_weight_digit),
                next_activation.eq(self.first_activation_digit),
            ]
        with m.Elif(pass_steps):
            # The next lower sum starts with the lowest weight digit that it has.
            with m.If(lowers_weight):
                m.d.comb += [
                    next_weight.eq(pass_weight - 1),
                    next_activation.eq(pass_activation),
                ]
            with m.Else():
                m.d.comb += [
                    next_weight.eq(pass_weight),
                    next_activation.eq(pass_activation - 1),
                ]
        with m.Elif(digit_steps):
            m.d.comb += [next_weight.eq(weight + 1), next_activation.eq(activation - 1)]
        with m.If(self.load | self.step):
            m.d.sync += [weight.eq(next_weight), activation.eq(next_activation)]
            if several:
                m.d.sync += digits_last.eq(
                    pooling | (next_weight == f.weight_digits - 1) | (next_activation == 0)
                )
            with m.If(self.load | passes_end | pass_steps):
                m.d.sync += [pass_weight.eq(next_weight), pass_activation.eq(next_activation)]

        with m.If(self.load):
            m.d.sync += [self.entry.eq(0), self.entry.start.eq(1)]
        with m.Elif(self.step):
            m.d.sync += [
                self.entry.start.eq(0),
                self.entry.output_chunk.eq(output_chunk_steps),
                self.entry.output_row.eq(output_row_steps),
                self.entry.output_column.eq(output_column_steps),
                self.entry.weight_pass.eq(pass_steps & lowers_weight),
                self.entry.activation_pass.eq(pass_steps & ~lowers_weight),
                self.entry.weight_digit.eq(digit_steps),
                self.entry.kernel_row.eq(kernel_row_steps),
                self.entry.kernel_column.eq(kernel_column_steps),
                self.entry.input_chunk.eq(chunk_steps),
            ]
        m.d.comb += [
            self.digit.eq(activation),
            self.first_plane.eq(weight == 0),
            self.last_chunk.eq(chunk_last),
            self.emit.eq(Mux(pooling, digits_end, passes_end)),
            self.finish.eq(ends),
        ]
        return m
