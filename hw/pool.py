"""The pooling unit: a window of residual words, reduced lane by lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line, lane_stage
from palquant.hw.isa import PoolOperation
from palquant.hw.layouts import POOL_CONTROL, Pooled, WordRead

__all__ = ["PoolingUnit", "reference"]


def reference(taps: Sequence[int | None], operation: PoolOperation, residual_bits: int) -> int:
    """A lane's reduced window; ``None`` is a padding tap.

    The maximum of nothing but padding is the smallest residual, its sum is 0.
    """
    values = [tap for tap in taps if tap is not None]
    if operation is PoolOperation.SUM:
        return sum(values)
    return max(values, default=-(1 << (residual_bits - 1)))


class PoolingUnit(wiring.Component):
    """Reduces windows of residual words to their maximum or sum, one word a cycle.

    Sums wrap at ``pool_bits``: the compiler proves that they do not.

    Parameters:
        geometry: Sizes of the machine.

    Attributes:
        latency: Cycles from the ``control`` of a window's last word to the beat's ``valid``.

    Members:
        control: ``In(POOL_CONTROL)``, what to do with the word at ``address``.
        address: ``In(address_bits)``, residual word; along with ``control``.
        padding: ``In(1)``, the word is padding; along with ``control``.
        read: ``Out(WordRead(ArrayLayout(signed(residual_bits), lanes)))``.
        pooled: ``Out(Pooled(geometry))``.
    """

    #: Registers behind the memory: its word, the reduction. That of the result is filled later.
    REGISTERS = 2

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.latency = geometry.read_cycles + self.REGISTERS
        super().__init__(
            {
                "control": In(POOL_CONTROL),
                "address": In(geometry.address_bits),
                "padding": In(1),
                "read": Out(
                    WordRead(
                        geometry,
                        data.ArrayLayout(signed(geometry.residual_bits), geometry.lanes),
                    )
                ),
                "pooled": Out(Pooled(geometry)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Read, replace padding by the operation's identity, reduce, keep."""
        m = Module()
        g = self.geometry
        controls = delay_line(m, self.control, self.latency, name="control", reset=True)
        complete = controls[-1]
        paddings = delay_line(m, self.padding, g.read_cycles, name="padding")
        m.d.comb += [
            # Where there is padding something is read all the same: it is known late.
            self.read.enable.eq(self.control.valid),
            self.read.address.eq(self.address),
        ]

        def shared(index: int, name: str, value: Callable[[Any], Any]) -> list[Any]:
            """A function of the controls in a stage, for each lane: they reach far."""
            line = [value(controls[index - 1]), value(controls[index])]
            return lane_stage(m, line, 1, g.lanes, name, together=g.settles)

        arrives = shared(-3, "arrives", lambda c: c.valid)
        sums = shared(-3, "sums", lambda c: c.sum)
        # Where beats come one at a time, the next window's words come when this one's is gone.
        index = -3 if g.settles else -2
        reduces = shared(index, "reduces", lambda c: c.valid)
        clears = shared(index, "clears", lambda c: c.clear)
        adds = shared(index, "adds", lambda c: c.sum)
        completes = shared(-1, "completes", lambda c: c.valid & c.emit)
        pads = lane_stage(m, paddings, g.read_cycles, g.lanes, "pads", together=g.settles)
        for lane in range(g.lanes):
            tap = Signal(signed(g.residual_bits), name=f"tap{lane}", reset_less=True)
            reduced = Signal(signed(g.pool_bits), name=f"reduced{lane}", reset_less=True)
            value = Signal(signed(g.pool_bits), name=f"value{lane}", reset_less=True)
            identity = Mux(sums[lane], 0, -(1 << (g.residual_bits - 1)))
            word = tap.eq(Mux(pads[lane], identity, self.read.data[lane]))
            if g.settles:
                m.d.comb += word
            else:
                with m.If(arrives[lane]):
                    m.d.sync += word
            with m.If(reduces[lane]):
                with m.If(clears[lane]):
                    m.d.sync += reduced.eq(tap)
                with m.Elif(adds[lane]):
                    m.d.sync += reduced.eq(reduced + tap)
                with m.Elif(tap > reduced):
                    m.d.sync += reduced.eq(tap)
            if g.settles:
                m.d.comb += value.eq(reduced)
            else:
                with m.If(completes[lane]):
                    m.d.sync += value.eq(reduced)
            m.d.comb += self.pooled.values[lane].eq(value)
        m.d.comb += [
            self.pooled.valid.eq(complete.valid & complete.emit),
            self.pooled.tag.eq(complete.tag),
            self.pooled.first.eq(complete.first),
            self.pooled.last.eq(complete.last),
        ]
        return m
