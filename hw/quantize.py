"""Quantisation to codes: a search of per-channel thresholds, or clamping to 8 bits.

The thresholds of a channel form a search tree (``isa.tree_order``): position 1 is compared first,
and position p is followed by 2p where the value lies below, by 2p + 1 where it does not. A code of
b bits is the place among the leaves that b comparisons lead to, which is the number of thresholds
that the value reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.affine import result_bits
from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line, lane_registers, lane_stage
from palquant.hw.parameters import SlotRead, ThresholdReads
from palquant.hw.threshold_search import LEVEL_CYCLES

__all__ = ["CODE_BITS", "Quantize", "compute"]

#: Width of the widest code, which is found by clamping.
CODE_BITS = 8
#: Levels of the deepest search tree of any geometry.
_LEVELS = 4


def compute(
    value: int, bits: int, *, thresholds: Mapping[int, int] = {}, negate: int = 0, used: int = 1
) -> int:
    """The code of one lane.

    Parameters:
        value: Value to be quantised.
        bits: Code width: 1 to 4, or 8.
        thresholds: By position in the search tree, 1 to 2^bits - 1.
        negate: Whether -value is compared.
        used: Whether the lane holds a channel.
    """
    if not used:
        return 0
    if bits == CODE_BITS:
        return max(0, min((1 << CODE_BITS) - 1, value))
    position = 1
    for _ in range(bits):
        position = 2 * position + ((-value if negate else value) >= thresholds[position])
    return position - (1 << bits)


class Quantize(wiring.Component):
    """Makes the codes of one tensor, a beat of ``lanes`` values in ``search_cycles`` or more.

    A level of the search tree is compared, and the next one's threshold asked for, every
    ``LEVEL_CYCLES`` cycles; a code narrower than the deepest tree passes the rest unchanged. Only
    the low ``threshold_bits`` bits of a value are compared: that it fits is proved when its layer
    is compiled.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``In(1)``, a beat starts.
        slot: ``In(range(parameter_slots))``, its parameter slot.
        bits: ``In(4)``, its code width: 1 to ``threshold_levels``, or 8. With 0, codes are 0.
        values: ``In(signed(result_bits)).array(lanes)``, its values, ``VALUE_DELAY`` cycles later.
        used: ``In(lanes)``, the lanes that hold a channel, with the values.
        negate: ``Out(SlotRead)``, whether -v is compared.
        thresholds: ``Out(ThresholdReads(geometry))``.
        codes: ``Out(8).array(lanes)``, ``LATENCY`` cycles after ``valid`` and until the next
            beat's; 0 in lanes that hold no channel.
        overrun: ``Out(1)``, strobe: beats came too fast, a threshold was not read.
    """

    #: Cycles from ``valid`` to ``values``.
    VALUE_DELAY = 1
    #: Cycles from ``valid`` to ``codes``.
    LATENCY = VALUE_DELAY + 2 + LEVEL_CYCLES * (_LEVELS - 1)

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "valid": In(1),
                "slot": In(range(g.parameter_slots)),
                "bits": In(4),
                "values": In(signed(result_bits(g))).array(g.lanes),
                "used": In(g.lanes),
                "negate": Out(SlotRead(g, unsigned(1))),
                "thresholds": Out(ThresholdReads(g)),
                "codes": Out(CODE_BITS).array(g.lanes),
                "overrun": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One stage to prepare the values, ``LEVEL_CYCLES`` for each level of the tree."""
        m = Module()
        g = self.geometry
        count = g.threshold_levels
        valid = delay_line(m, self.valid, self.LATENCY - 1, name="valid", reset=True)
        slot = delay_line(m, self.slot, self.LATENCY - 1, name="slot", stays=g.settles)
        bits = delay_line(m, self.bits, self.LATENCY - 1, name="bits", stays=g.settles)
        delay = self.LATENCY - 1 - self.VALUE_DELAY
        used = delay_line(m, self.used, delay, name="used", stays=g.settles)
        m.d.comb += [self.negate.enable.eq(valid[0]), self.negate.slot.eq(slot[0])]

        # What all lanes share reaches far: each has registers of its own for it.
        enables = [[valid[0]] * g.lanes]
        enables += [
            lane_stage(m, valid, stage, g.lanes, "lane_valid", together=g.settles)
            for stage in range(1, self.LATENCY)
        ]

        def wanted(level: int, stage: int) -> Value:
            """Whether a beat's search goes as deep as a level."""
            return (bits[stage] > level) & (bits[stage] != CODE_BITS)

        def known_before(value: Value, name: str) -> Value:
            """The value a stage later, from a register; itself where what a beat needs stays."""
            if g.settles:
                return value
            signal = Signal(name=name)
            m.d.sync += signal.eq(value)
            return signal

        # What was read stays where nothing else is read before the beat is gone.
        stays = g.settles and count <= 2 and g.code_tensors == 1
        first = self.thresholds.first
        m.d.comb += [
            first.enable.eq(valid[self.VALUE_DELAY]),
            first.slot.eq(slot[self.VALUE_DELAY]),
        ]
        read = [list(first.data)]
        if count > 1:
            deeper = self.thresholds.deeper
            answers = list(deeper.data)
            if not stays:
                answers = [
                    Signal.like(word, name=f"answer_{k}", reset_less=True)
                    for k, word in enumerate(answers)
                ]
                m.d.sync += [a.eq(word) for a, word in zip(answers, deeper.data, strict=True)]
            read += [answers] * (count - 1)

        clamps = [number == CODE_BITS for number in bits[:2]]
        clamps = lane_stage(m, clamps, 1, g.lanes, "clamps", together=g.settles)
        shape = signed(g.threshold_bits + 1)
        narrow = [value[: g.threshold_bits].as_signed() for value in self.values]
        compared = [Mux(n, -v, v) for v, n in zip(narrow, self.negate.data, strict=True)]
        compared = lane_registers(m, enables[1], "compared_1", shape, compared, stays=g.settles)
        codes = [
            Mux(clamp & ~value[-1], _clamped(value), 0)
            for clamp, value in zip(clamps, self.values, strict=True)
        ]
        codes = lane_registers(m, enables[1], "code_1", CODE_BITS, codes, stays=g.settles)
        asking: list[Value] = []
        for stage in range(self.VALUE_DELAY + 1, self.LATENCY):
            level, between = divmod(stage - self.VALUE_DELAY - 1, LEVEL_CYCLES)
            known = codes
            if not between and level < count:
                # The first `level` bits of a code are known, and in this stage one more. They are
                # the place of the threshold that comes next.
                longer = [
                    Cat(value >= threshold, code)[:CODE_BITS]
                    for value, threshold, code in zip(compared, read[level], codes, strict=True)
                ]
                line = [wanted(level, stage - 1), wanted(level, stage)]
                name = f"searches_{level}"
                searches = lane_stage(m, line, 1, g.lanes, name, together=g.settles)
                known = [
                    Mux(search, more, code)
                    for search, more, code in zip(searches, longer, codes, strict=True)
                ]
                if level + 1 < count:
                    at = stage if g.settles else stage - 1
                    asks = known_before(valid[at] & wanted(level + 1, at), f"asks_{level + 1}")
                    asking.append(asks)
                    with m.If(asks):
                        m.d.comb += [deeper.enable.eq(1), deeper.slot.eq(slot[stage])]
                        m.d.comb += [
                            port.eq(Cat(more[: level + 1], Const(1, 1)))
                            for port, more in zip(deeper.position, longer, strict=True)
                        ]
            if stage + 1 < self.LATENCY:
                name = f"code_{stage}"
                codes = lane_registers(m, enables[stage], name, CODE_BITS, known, stays=stays)
                if stage < self.VALUE_DELAY + 1 + LEVEL_CYCLES * (count - 1):
                    name = f"compared_{stage}"
                    compared = lane_registers(
                        m, enables[stage], name, shape, compared, stays=g.settles
                    )
            else:
                known = [Mux(lane, code, 0) for lane, code in zip(used[-1], known, strict=True)]
                codes = lane_registers(m, enables[stage], "code", CODE_BITS, known)
                m.d.comb += [port.eq(code) for port, code in zip(self.codes, codes, strict=True)]
        m.d.comb += self.overrun.eq(Cat(a & b for a, b in combinations(asking, 2)).any())
        return m


def _clamped(value: Value) -> Value:
    """A non-negative value, or the greatest code where it is greater."""
    return Mux(value[CODE_BITS:].any(), (1 << CODE_BITS) - 1, value[:CODE_BITS])
