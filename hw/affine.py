"""Requantisation, residual addition and ReLU: the value path from the array to the quantisers.

In this order, each step optional: ``v = saturate((v * M + B) >> Sh)``, ``v = max(v, 0)``,
``v = saturate(v + residual)``, ``v = max(v, 0)``. See ``docs/numerics.md``, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line, lane_registers, lane_stage
from palquant.hw.layouts import struct
from palquant.hw.parameters import SlotRead

__all__ = ["CONTROLS", "Affine", "compute", "result_bits"]

#: Fields of COMPUTE that say what happens to a beat.
CONTROLS = data.StructLayout(
    {
        name: struct(isa.COMPUTE)[name].shape
        for name in (
            "affine",
            "relu_before",
            "residual",
            "relu_after",
            "saturation_bits",
            "raw",
        )
    }
)

#: A function of a stage's number, a name, and a function of the controls: its value for each lane.
Shared = Callable[[int, str, Callable[[Any], Any]], list[Any]]

#: Narrowest and widest saturation.
_NARROW, _WIDE = 8, 16


def result_bits(geometry: Geometry) -> int:
    """Width of the signed results: that of the values, or of raw results."""
    return max(geometry.value_bits, geometry.result_bits)


def saturate(value: int, bits: int) -> int:
    """Clip to the signed range of ``bits`` bits."""
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def compute(
    value: int,
    controls: Mapping[str, int],
    *,
    scale: int = 1,
    offset: int = 0,
    shift: int = 0,
    residual: int = 0,
    valid: int = 1,
) -> tuple[int, int]:
    """What :class:`Affine` makes of one lane.

    Parameters:
        value: The value before the affine step.
        controls: The fields of :data:`CONTROLS`.
        scale: M.
        offset: B.
        shift: Sh.
        residual: What the addition adds.
        valid: Whether the lane holds a channel.

    Returns:
        The value behind the last step, and how many of the two saturations changed it.
    """
    saturations = 0
    if controls["affine"]:
        value = (value * scale + offset) >> shift
    if not controls["raw"]:
        bits = controls["saturation_bits"]
        if controls["affine"]:
            saturations += value != saturate(value, bits)
            value = saturate(value, bits)
        if controls["relu_before"]:
            value = max(value, 0)
        if controls["residual"]:
            value += residual
            saturations += value != saturate(value, bits)
            value = saturate(value, bits)
        if controls["relu_after"]:
            value = max(value, 0)
    return (value, saturations) if valid else (0, 0)


class Affine(wiring.Component):
    """Takes one beat of ``lanes`` values a cycle, and delivers it ``LATENCY`` cycles later.

    Parameters come from the parameter memory, each field read just before the stage that needs
    it. Where a beat is not affine, M = 1, B = 0 and Sh = 0 take the value through unharmed. Raw
    results are the affine step's and skip the rest. Data registers move with beats only, so that
    results stay until the next beat's.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``In(1)``, a beat starts.
        slot: ``In(range(parameter_slots))``, its parameter slot.
        controls: ``In(CONTROLS)``, what to do with it.
        values: ``In(signed(value_bits)).array(lanes)``, its values, ``VALUE_DELAY`` cycles later.
        residuals: ``In(signed(residual_bits)).array(lanes)``, what to add, ``RESIDUAL_DELAY``
            cycles after ``valid``.
        scale: ``Out(SlotRead)`` of M.
        offset: ``Out(SlotRead)`` of B.
        shift: ``Out(SlotRead)`` of Sh.
        lane_valid: ``Out(SlotRead)`` of the lanes that hold a channel.
        results: ``Out(signed(result_bits)).array(lanes)``, 0 in lanes that hold no channel.
        used: ``Out(lanes)``, the lanes that hold a channel, with the results.
        saturated: ``Out(range(2 * lanes + 1))``, saturations that changed the value of a valid
            lane, of the affine step and of the addition together; a few cycles late.
    """

    #: Cycles from ``valid`` to ``values``.
    VALUE_DELAY = 2
    #: Cycles from ``valid`` to ``residuals``.
    RESIDUAL_DELAY = 7
    #: Cycles from ``valid`` to ``results``.
    LATENCY = 11

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "valid": In(1),
                "slot": In(range(g.parameter_slots)),
                "controls": In(CONTROLS),
                "values": In(signed(g.value_bits)).array(g.lanes),
                "residuals": In(signed(g.residual_bits)).array(g.lanes),
                "scale": Out(SlotRead(g, signed(g.scale_bits))),
                "offset": Out(SlotRead(g, signed(g.offset_bits))),
                "shift": Out(SlotRead(g, unsigned(5))),
                "lane_valid": Out(SlotRead(g, unsigned(1))),
                "results": Out(signed(result_bits(g))).array(g.lanes),
                "used": Out(g.lanes),
                "saturated": Out(range(2 * g.lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The pipeline of each lane, and the controls that all lanes share."""
        m = Module()
        valid = delay_line(m, self.valid, self.LATENCY - 1, name="valid", reset=True)
        stays = self.geometry.settles
        slot = delay_line(m, self.slot, 6, name="slot", stays=stays)
        controls = delay_line(m, self.controls, self.LATENCY - 1, name="controls", stays=stays)
        for read, stage in (
            (self.scale, 0),
            (self.offset, 2),
            (self.shift, 4),
            (self.lane_valid, 6),
        ):
            m.d.comb += [read.enable.eq(valid[stage]), read.slot.eq(slot[stage])]

        # What all lanes share reaches far: each has registers of its own for it.
        lanes = self.geometry.lanes
        enables = [[self.valid] * lanes]
        enables += [
            lane_stage(m, valid, stage, lanes, "lane_valid", together=stays)
            for stage in range(1, self.LATENCY)
        ]

        def shared(stage: int, name: str, value: Callable[[Any], Any]) -> list[Any]:
            """A function of the controls in a stage, for each lane."""
            line = [value(each) for each in controls[: stage + 1]]
            return lane_stage(m, line, stage, lanes, name, together=stays)

        total = self._multiply_add(m, enables, shared)
        shifted = self._shift(m, enables, shared, total)
        self._finish(m, valid, enables, controls, shared, shifted)
        return m

    def _multiply_add(self, m: Module, enables: list[list[Any]], shared: Shared) -> list[Any]:
        """Stages 1 to 4: ``value * M + B`` of each lane, which exist in stage 5."""
        g = self.geometry
        split = min(g.multiplier_bits, g.value_bits) - 1  # unsigned, a bit less than signed
        scales = zip(shared(1, "scales", _affine), self.scale.data, strict=True)
        factors = [Mux(affine, scale, 1) for affine, scale in scales]
        factors = lane_registers(
            m, enables[1], "factor", signed(g.scale_bits), factors, stays=g.settles
        )

        operands = list(zip(self.values, factors, strict=True))
        shape = signed(split + g.scale_bits)
        products = [value[:split] * factor for value, factor in operands]
        low = lane_registers(m, enables[2], "low", shape, products)
        shape = signed(g.value_bits - split + g.scale_bits)
        products = [value[split:].as_signed() * factor for value, factor in operands]
        high = lane_registers(m, enables[2], "high", shape, products)

        shape = signed(max(split + g.scale_bits, g.offset_bits) + 1)
        given = zip(shared(3, "offsets", _affine), self.offset.data, strict=True)
        offsets = [Mux(affine, offset, 0) for affine, offset in given]
        sums = [a + b for a, b in zip(low, offsets, strict=True)]
        low = lane_registers(m, enables[3], "low_sum", shape, sums, stays=g.settles)
        high = lane_registers(m, enables[3], "high_late", high[0].shape(), high, stays=g.settles)

        # A product needs one bit less, but for the two most negative operands.
        shape = signed(max(g.value_bits + g.scale_bits, g.offset_bits + 1, result_bits(g)))
        totals = [
            Cat(lower[:split], upper + (lower >> split)).as_signed()
            for lower, upper in zip(low, high, strict=True)
        ]
        return lane_registers(m, enables[4], "total", shape, totals)

    def _shift(
        self, m: Module, enables: list[list[Any]], shared: Shared, totals: list[Any]
    ) -> list[Any]:
        """Stages 5 and 6: arithmetic shift right, by bytes and then by bits."""
        shape = totals[0].shape()
        given = zip(shared(5, "shifts", _affine), self.shift.data, strict=True)
        amounts = [Mux(affine, shift, 0) for affine, shift in given]
        byte_amounts = [Cat(Const(0, 3), amount[3:]) for amount in amounts]
        stays = self.geometry.settles
        bits = lane_registers(m, enables[5], "shift_bits", 3, amounts, stays=stays)
        values = [value >> by for value, by in zip(totals, byte_amounts, strict=True)]
        values = lane_registers(m, enables[5], "shifted_bytes", shape, values, stays=stays)
        values = [value >> by for value, by in zip(values, bits, strict=True)]
        return lane_registers(m, enables[6], "shifted", shape, values)

    def _finish(
        self,
        m: Module,
        valid: list[Any],
        enables: list[list[Any]],
        controls: list[Any],
        shared: Shared,
        shifted: list[Any],
    ) -> None:
        """Stages 7 to 10: saturation, ReLU and residual addition, saturation and ReLU."""
        g = self.geometry
        bits = result_bits(g)
        stays = g.settles
        used = delay_line(m, Cat(self.lane_valid.data), 3, name="used", stays=stays)
        # The bits from 7 to 14 that are copies of the sign at the width to saturate to.
        extension = Signal(_WIDE - _NARROW, reset_less=True)
        wanted = (0xFF << (controls[6].saturation_bits - _NARROW)[:4])[: len(extension)]
        m.d.sync += extension.eq(wanted)
        line = [wanted, *delay_line(m, extension, 3, name="extension", stays=stays)]
        extensions = [
            lane_stage(m, line, stage, g.lanes, "lane_extension", together=stays)
            for stage in range(1, 5)
        ]

        # Stage 7: does the affine result exceed its width?
        saturates = shared(7, "saturates", lambda c: c.affine & ~c.raw)
        exceeds = [
            saturate & _exceeds(value, extension)
            for saturate, value, extension in zip(saturates, shifted, extensions[0], strict=True)
        ]
        exceeds = lane_registers(m, enables[7], "exceeds", 1, exceeds, stays=stays)
        signs = [value[-1] for value in shifted]
        signs = lane_registers(m, enables[7], "sign", 1, signs, stays=stays)
        values = lane_registers(m, enables[7], "value", signed(bits), shifted, stays=stays)
        adds = shared(7, "adds", lambda c: c.residual & ~c.raw)
        addends = [
            Mux(add, residual, 0) for add, residual in zip(adds, self.residuals, strict=True)
        ]
        addends = lane_registers(
            m, enables[7], "addend", signed(g.residual_bits), addends, stays=stays
        )

        # Stage 8: saturation, ReLU, addition.
        cuts = shared(8, "cuts_before", lambda c: c.relu_before & ~c.raw)
        limited = [
            Mux(cut & sign, 0, Mux(exceed, _limit(sign, extension), value))
            for cut, exceed, sign, value, extension in zip(
                cuts, exceeds, signs, values, extensions[1], strict=True
            )
        ]
        sums = [value + addend for value, addend in zip(limited, addends, strict=True)]
        # Residuals are there for a cycle only.
        sums = lane_registers(m, enables[7 if stays else 8], "sum", signed(bits + 1), sums)

        # Stage 9: does the sum exceed its width?
        saturates = shared(9, "sum_saturates", lambda c: c.residual & ~c.raw)
        sum_exceeds = [
            saturate & _exceeds(value, extension)
            for saturate, value, extension in zip(saturates, sums, extensions[2], strict=True)
        ]
        sum_exceeds = lane_registers(m, enables[9], "sum_exceeds", 1, sum_exceeds, stays=stays)
        sums = lane_registers(m, enables[9], "sum_late", signed(bits + 1), sums, stays=stays)

        # Stage 10: saturation, ReLU.
        with m.If(valid[10]):
            m.d.sync += self.used.eq(used[3])
        cuts = shared(10, "cuts_after", lambda c: c.relu_after & ~c.raw)
        limited = [
            Mux(exceed, _limit(value[-1], extension), value)
            for exceed, value, extension in zip(sum_exceeds, sums, extensions[3], strict=True)
        ]
        results = [
            Mux(cut & value[-1] | ~lane, 0, result)
            for cut, value, lane, result in zip(cuts, sums, used[3], limited, strict=True)
        ]
        results = lane_registers(m, enables[10], "result", signed(bits), results)
        m.d.comb += [port.eq(result) for port, result in zip(self.results, results, strict=True)]

        # Which saturations changed a lane in use: both of a beat are counted together.
        before = Signal(g.lanes, reset_less=True)
        m.d.sync += before.eq(Cat(exceeds) & used[1])
        before = delay_line(m, before, 1, name="before")[-1]
        clipped = Signal(2 * g.lanes)
        m.d.sync += clipped.eq(0)
        with m.If(valid[10]):
            m.d.sync += clipped.eq(Cat(before, Cat(sum_exceeds) & used[3]))
        m.d.comb += self.saturated.eq(_registered_sum(m, list(clipped)))


def _affine(controls: Any) -> Any:
    """Whether the affine step is wanted."""
    return controls.affine


def _exceeds(value: Value, extension: Value) -> Value:
    """Whether a value exceeds the width to saturate to.

    Parameters:
        value: At least 17 bits.
        extension: The bits from 7 to 14 that are copies of the sign in a value that fits.
    """
    differs = (value[:-1] ^ value[1:])[_NARROW - 1 :]
    return (differs & Cat(extension, Const(-1, len(differs) - len(extension)))).any()


def _limit(sign: Value, extension: Value) -> Value:
    """The greatest value that fits, or the least where ``sign`` is set."""
    signs = sign.replicate(len(extension))
    return Cat((~sign).replicate(_NARROW - 1), ~(extension ^ signs), sign).as_signed()


def _registered_sum(m: Module, values: list[Any]) -> Any:
    """Sum of unsigned values, eight at a time with a register behind each addition."""
    level = 0
    while len(values) > 1:
        sums = []
        for k in range(0, len(values), 8):
            part = values[k : k + 8]
            bound = sum((1 << len(value)) - 1 for value in part)
            total = Signal(range(bound + 1), name=f"count{level}_{k // 8}")
            m.d.sync += total.eq(sum(part[1:], start=part[0]))
            sums.append(total)
        values, level = sums, level + 1
    return values[0]
