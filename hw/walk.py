"""Addresses and coordinates of a COMPUTE's words, by additions only."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Source
from palquant.hw.layouts import struct
from palquant.hw.loops import ENTRY

__all__ = ["WindowWalk", "coordinate_bits"]


def coordinate_bits(geometry: Geometry) -> int:
    """Signed bits that hold every row and column that an instruction can reach.

    That is where its window starts, plus strides, plus the window's extent.
    """
    most = {item.name: item.held(geometry).max for item in isa.COMPUTE.fields}
    return 1 + max(
        (
            most[f"first_{axis}"]
            + most[f"output_{axis}s"] * most[f"stride_{axis}s"]
            + most[f"kernel_{axis}s"]
        ).bit_length()
        for axis in ("row", "column")
    )


#: Loops of the activation or residual address, outermost first. Each remembers the address at
#: which its present round began.
_LEVELS = (
    "output_chunk",
    "output_row",
    "output_column",
    "pass",
    "weight_digit",
    "kernel_row",
    "kernel_column",
)


def _any(*bits: Value) -> Value:
    result = bits[0]
    for bit in bits[1:]:
        result = result | bit
    return result


def _chosen(*choices: tuple[Value, Value]) -> Value:
    """The value whose selecting bit is 1, of which at most one is."""
    return _any(*(Mux(select, value, 0) for select, value in choices))


class WindowWalk(wiring.Component):
    """Follows a loop nest with the addresses of its words.

    A word's address is that at which the loop that stepped began its round, plus this loop's step;
    it is where all loops inside begin theirs. So one adder serves all loops.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        fields: ``In(struct(isa.COMPUTE, geometry))``, the instruction; stable from ``load``
            to the last ``step``.
        load: ``In(1)``, strobe: prepare for the instruction's first word.
        step: ``In(1)``, strobe: move to the word that ``entry`` describes, in the next cycle.
        entry: ``In(ENTRY)``, of the loop nest that ``load`` and ``step`` go to as well.
        first_weight_digit: ``In(2)``, of the same.
        first_activation_digit: ``In(2)``, of the same.
        address: ``Out(address_bits)``, activation word or residual word.
        weight_address: ``Out(address_bits)``, weight word.
        row: ``Out(signed(coordinate_bits(geometry)))``, input row of the word's tap.
        column: ``Out(signed(coordinate_bits(geometry)))``, its input column.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "fields": In(struct(isa.COMPUTE, geometry)),
                "load": In(1),
                "step": In(1),
                "entry": In(ENTRY),
                "first_weight_digit": In(2),
                "first_activation_digit": In(2),
                "address": Out(geometry.address_bits),
                "weight_address": Out(geometry.address_bits),
                "row": Out(signed(coordinate_bits(geometry))),
                "column": Out(signed(coordinate_bits(geometry))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Inputs, weights and coordinates, each with an adder of its own."""
        m = Module()
        pooling = Signal()
        m.d.comb += pooling.eq(self.fields.source == Source.POOL)
        self._elaborate_input(m, pooling)
        self._elaborate_weight(m)
        self._elaborate_coordinates(m)
        return m

    def _elaborate_input(self, m: Module, pooling: Signal) -> None:
        f, entry, bits = self.fields, self.entry, self.geometry.address_bits
        starts = {name: Signal(bits, name=f"{name}_start") for name in _LEVELS}
        start, step, address = Signal(bits), Signal(bits), Signal(bits)
        down = Signal(bits)
        entered = {
            "output_chunk": entry.start | entry.output_chunk,
            "output_row": entry.output_row,
            "output_column": entry.output_column,
            "pass": entry.weight_pass | entry.activation_pass,
            "weight_digit": entry.weight_digit,
            "kernel_row": entry.kernel_row,
            "kernel_column": entry.kernel_column,
        }
        m.d.comb += [
            down.eq(-1),
            start.eq(
                _chosen(
                    *((entered[name], starts[name]) for name in _LEVELS),
                    (entry.input_chunk, self.address),
                )
            ),
            # A digit sum one lower has an activation digit one lower, or a weight digit; each
            # further weight digit goes with the next lower activation digit.
            step.eq(
                _chosen(
                    (entry.output_chunk & pooling, self.geometry.beats),
                    (entry.output_row, f.input_row_stride),
                    (entry.output_column, f.input_pixel_stride),
                    (entry.activation_pass, Mux(pooling, 1, down)),
                    (entry.weight_digit, down),
                    (entry.kernel_row, f.input_row_step),
                    (entry.kernel_column, f.input_pixel_step),
                    (entry.input_chunk, f.input_digits),
                )
            ),
            address.eq(start + step),
        ]
        with m.If(self.step):
            m.d.sync += self.address.eq(address)
            restarts: list[Value] = []
            for name in _LEVELS:
                restarts.append(entered[name])
                with m.If(_any(*restarts)):
                    m.d.sync += starts[name].eq(address)
        with m.If(self.load):
            digit = Mux(pooling, 0, self.first_activation_digit)
            m.d.sync += starts["output_chunk"].eq(f.input_origin + digit)

    def _elaborate_weight(self, m: Module) -> None:
        f, entry, bits = self.fields, self.entry, self.geometry.address_bits
        chunk_start, pass_start, digit_start = (
            Signal(bits, name=f"weight_{name}_start") for name in ("chunk", "pass", "digit")
        )
        start, step, address = (
            Signal(bits, name=f"weight_{name}") for name in ("start", "step", "next")
        )
        chunk_entered, pass_entered = Signal(), Signal()
        result_entered = Signal()
        m.d.comb += [
            chunk_entered.eq(entry.start | entry.output_chunk),
            result_entered.eq(chunk_entered | entry.output_row | entry.output_column),
            pass_entered.eq(entry.weight_pass | entry.activation_pass),
            start.eq(
                _chosen(
                    (result_entered, chunk_start),
                    (pass_entered, pass_start),
                    (entry.weight_digit, digit_start),
                    (
                        entry.kernel_row | entry.kernel_column | entry.input_chunk,
                        self.weight_address,
                    ),
                )
            ),
            step.eq(
                _chosen(
                    (entry.output_chunk, f.weight_chunk),
                    (entry.weight_pass, -f.weight_plane),
                    (entry.weight_digit, f.weight_plane),
                    (entry.kernel_row | entry.kernel_column | entry.input_chunk, 1),
                )
            ),
            address.eq(start + step),
        ]
        with m.If(self.step):
            m.d.sync += self.weight_address.eq(address)
            with m.If(chunk_entered):
                m.d.sync += chunk_start.eq(address)
            with m.If(result_entered | pass_entered):
                m.d.sync += pass_start.eq(address)
            with m.If(result_entered | pass_entered | entry.weight_digit):
                m.d.sync += digit_start.eq(address)
        with m.If(self.load):
            planes = Mux(self.first_weight_digit[0], f.weight_plane, 0) + Mux(
                self.first_weight_digit[1], f.weight_plane << 1, 0
            )
            m.d.sync += chunk_start.eq(f.weight_address + planes)

    def _elaborate_coordinates(self, m: Module) -> None:
        f, entry = self.fields, self.entry
        frame = Signal()  # the row starts anew
        m.d.comb += frame.eq(entry.start | entry.output_chunk)
        window = Signal()  # the kernel starts anew at the same output pixel
        m.d.comb += window.eq(entry.weight_pass | entry.activation_pass | entry.weight_digit)

        def follow(
            coordinate: Signal,
            first: Value,
            stride: Value,
            begins: Value,
            strides: Value,
            returns: Value,
            steps: Value,
        ) -> None:
            """A coordinate that begins, strides, returns to the last of both, or steps by 1."""
            origin = Signal.like(coordinate, name=f"{coordinate.name}_origin")
            reached = Signal.like(coordinate, name=f"{coordinate.name}_next")
            with m.If(begins):
                m.d.comb += reached.eq(first)
            with m.Elif(strides | returns):
                m.d.comb += reached.eq(origin + Mux(strides, stride, 0))
            with m.Else():
                m.d.comb += reached.eq(coordinate + steps)
            with m.If(self.step):
                m.d.sync += coordinate.eq(reached)
                with m.If(begins | strides):
                    m.d.sync += origin.eq(reached)

        follow(
            self.row,
            f.first_row,
            f.stride_rows,
            begins=frame,
            strides=entry.output_row,
            returns=window | entry.output_column,
            steps=entry.kernel_row,
        )
        follow(
            self.column,
            f.first_column,
            f.stride_columns,
            begins=frame | entry.output_row,
            strides=entry.output_column,
            returns=window | entry.kernel_row,
            steps=entry.kernel_column,
        )
