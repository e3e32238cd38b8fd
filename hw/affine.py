"""Requantisation, residual addition and ReLU: the value path from the array to the quantisers.

In this order, each step optional: ``v = saturate((v * M + B) >> Sh)``, ``v = max(v, 0)``,
``v = saturate(v + residual)``, ``v = max(v, 0)``. See ``docs/numerics.md``, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line
from palquant.hw.layouts import COMPUTE
from palquant.hw.parameters import SlotRead

__all__ = ["CONTROLS", "Affine", "compute", "result_bits"]

#: Fields of COMPUTE that say what happens to a beat.
CONTROLS = data.StructLayout(
    {
        name: COMPUTE[name].shape
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

#: Unsigned operand of an 18 x 18 signed multiplier, as DSP blocks have it.
_DSP_BITS = 17
#: Narrowest and widest saturation.
_NARROW, _WIDE = 8, 16


def result_bits(geometry: Geometry) -> int:
    """Width of the signed results: that of the values, or 32 bits for raw results."""
    return max(geometry.value_bits, 32)


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
    LATENCY = 10

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
        slot = delay_line(m, self.slot, 6, name="slot")
        controls = delay_line(m, self.controls, self.LATENCY - 1, name="controls")
        for read, stage in (
            (self.scale, 0),
            (self.offset, 2),
            (self.shift, 4),
            (self.lane_valid, 6),
        ):
            m.d.comb += [read.enable.eq(valid[stage]), read.slot.eq(slot[stage])]

        # The bits from 7 to 14 that are copies of the sign at the width to saturate to.
        extension = Signal(_WIDE - _NARROW, reset_less=True)
        m.d.sync += extension.eq(0xFF << (controls[6].saturation_bits - _NARROW)[:4])
        extensions = delay_line(m, extension, 2, name="extension")

        clipped = []
        for lane in range(self.geometry.lanes):
            total = self._multiply_add(m, lane, valid, controls)
            shifted, sign, beyond = self._shift(m, lane, valid, controls, total)
            clipped += self._finish(m, lane, valid, controls, extensions, shifted, sign, beyond)
        m.d.comb += self.saturated.eq(_registered_sum(m, clipped))
        return m

    def _multiply_add(self, m: Module, lane: int, valid: list[Any], controls: list[Any]) -> Signal:
        """Stages 1 to 4: ``value * M + B``, of which the result exists in stage 5."""
        g = self.geometry
        split = min(_DSP_BITS, g.value_bits - 1)

        multiplier = Signal(signed(g.scale_bits), name=f"multiplier_{lane}", reset_less=True)
        with m.If(valid[1]):
            m.d.sync += multiplier.eq(Mux(controls[1].affine, self.scale.data[lane], 1))

        value = self.values[lane]
        low = Signal(signed(split + g.scale_bits), name=f"low_{lane}", reset_less=True)
        high = Signal(
            signed(g.value_bits - split + g.scale_bits), name=f"high_{lane}", reset_less=True
        )
        with m.If(valid[2]):
            m.d.sync += low.eq(value[:split] * multiplier)
            m.d.sync += high.eq(value[split:].as_signed() * multiplier)

        partial = Signal(
            signed(max(len(low), g.offset_bits) + 1), name=f"partial_{lane}", reset_less=True
        )
        high_late = Signal.like(high, name=f"high_late_{lane}")
        with m.If(valid[3]):
            m.d.sync += partial.eq(low + Mux(controls[3].affine, self.offset.data[lane], 0))
            m.d.sync += high_late.eq(high)

        # A product of value_bits + scale_bits - 1 bits, but for the two most negative operands.
        bits = max(g.value_bits + g.scale_bits, g.offset_bits + 1)
        total = Signal(signed(bits), name=f"total_{lane}", reset_less=True)
        with m.If(valid[4]):
            m.d.sync += total.eq(Cat(partial[:split], high_late + (partial >> split)))
        return total

    def _shift(
        self, m: Module, lane: int, valid: list[Any], controls: list[Any], total: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Stages 5 and 6: arithmetic shift right, by bytes and then by bits.

        Returns:
            The result's low bits, its sign, and whether it has significant bits above the low
            bits, in stage 7.
        """
        amount = Mux(controls[5].affine, self.shift.data[lane], 0)
        coarse = Signal(total.shape(), name=f"coarse_{lane}", reset_less=True)
        fine = Signal(3, name=f"fine_{lane}", reset_less=True)
        with m.If(valid[5]):
            m.d.sync += coarse.eq(total >> Cat(Const(0, 3), amount[3:]))
            m.d.sync += fine.eq(amount)

        bits = result_bits(self.geometry)
        full = Signal(signed(max(len(total), bits + 1)), name=f"full_{lane}")
        shifted = Signal(signed(bits), name=f"shifted_{lane}", reset_less=True)
        sign = Signal(name=f"sign_{lane}", reset_less=True)
        beyond = Signal(name=f"beyond_{lane}", reset_less=True)
        m.d.comb += full.eq(coarse >> fine)
        with m.If(valid[6]):
            m.d.sync += shifted.eq(full)
            m.d.sync += sign.eq(full[-1])
            m.d.sync += beyond.eq((full[bits:] ^ full[-1].replicate(len(full) - bits)).any())
        return shifted, sign, beyond

    def _finish(
        self,
        m: Module,
        lane: int,
        valid: list[Any],
        controls: list[Any],
        extensions: list[Signal],
        shifted: Signal,
        sign: Signal,
        beyond: Signal,
    ) -> list[Signal]:
        """Stages 7 to 9: saturation, ReLU and residual addition, saturation and ReLU.

        Returns:
            Two flags: whether each of the saturations changed a valid lane's value.
        """
        bits = result_bits(self.geometry)
        clipped = [Signal(name=f"clipped{k}_{lane}") for k in range(2)]
        m.d.sync += [flag.eq(0) for flag in clipped]
        used = delay_line(m, self.lane_valid.data[lane], 2, name=f"used_{lane}")

        exceeds, limited = _saturated(shifted, sign, beyond, extensions[0])
        value = Signal(signed(bits), name=f"value_{lane}", reset_less=True)
        addend = Signal(signed(self.geometry.residual_bits), name=f"addend_{lane}", reset_less=True)
        with m.If(valid[7]):
            saturates = controls[7].affine & ~controls[7].raw
            adds = controls[7].residual & ~controls[7].raw
            m.d.sync += value.eq(Mux(saturates & exceeds, limited, shifted))
            m.d.sync += clipped[0].eq(saturates & exceeds & used[0])
            m.d.sync += addend.eq(Mux(adds, self.residuals[lane], 0))

        total = Signal(signed(bits + 1), name=f"sum_{lane}", reset_less=True)
        with m.If(valid[8]):
            cuts = controls[8].relu_before & ~controls[8].raw & value[-1]
            m.d.sync += total.eq(Mux(cuts, 0, value) + addend)

        exceeds, limited = _saturated(total[:-1], total[-1], Const(0), extensions[2])
        with m.If(valid[9]):
            saturates = controls[9].residual & ~controls[9].raw
            cuts = controls[9].relu_after & ~controls[9].raw & total[-1]
            m.d.sync += self.results[lane].eq(
                Mux(cuts | ~used[2], 0, Mux(saturates & exceeds, limited, total))
            )
            m.d.sync += self.used[lane].eq(used[2])
            m.d.sync += clipped[1].eq(saturates & exceeds & used[2])
        return clipped


def _saturated(low: Value, sign: Value, beyond: Value, extension: Value) -> tuple[Value, Value]:
    """Whether a value exceeds its width, and the limit on its side.

    Parameters:
        low: The value's low bits, at least 16.
        sign: Its sign.
        beyond: Whether any bit above ``low`` differs from the sign.
        extension: The bits from 7 to 14 that are copies of the sign in a value that fits.
    """
    signs = sign.replicate(len(extension))
    differs = ((low[_NARROW - 1 : _WIDE - 1] ^ signs) & extension).any()
    differs |= (low[_WIDE - 1 :] ^ sign.replicate(len(low) - _WIDE + 1)).any()
    limit = Cat((~sign).replicate(_NARROW - 1), ~(extension ^ signs), sign)
    return differs | beyond, limit.as_signed()


def _registered_sum(m: Module, values: list[Signal]) -> Signal:
    """Sum of unsigned values, four at a time with a register behind each addition."""
    level = 0
    while len(values) > 1:
        sums = []
        for k in range(0, len(values), 4):
            part = values[k : k + 4]
            bound = sum((1 << len(value)) - 1 for value in part)
            total = Signal(range(bound + 1), name=f"count{level}_{k // 4}")
            m.d.sync += total.eq(sum(part[1:], start=part[0]))
            sums.append(total)
        values, level = sums, level + 1
    return values[0]
