"""The pooling unit: a window of residual words, reduced lane by lane."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line
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
        arrived, reducing, complete = controls[-3:]
        if g.settles:  # the next window's words come when this one's beat is gone
            reducing = arrived
        padding = delay_line(m, self.padding, g.read_cycles, name="padding")[-1]
        identity = Signal(signed(g.residual_bits))
        m.d.comb += [
            # Where there is padding something is read all the same: it is known late.
            self.read.enable.eq(self.control.valid),
            self.read.address.eq(self.address),
            identity.eq(Mux(arrived.sum, 0, -(1 << (g.residual_bits - 1)))),
        ]
        for lane in range(g.lanes):
            tap = Signal(signed(g.residual_bits), name=f"tap{lane}", reset_less=True)
            reduced = Signal(signed(g.pool_bits), name=f"reduced{lane}", reset_less=True)
            value = Signal(signed(g.pool_bits), name=f"value{lane}", reset_less=True)
            word = tap.eq(Mux(padding, identity, self.read.data[lane]))
            if g.settles:
                m.d.comb += word
            else:
                with m.If(arrived.valid):
                    m.d.sync += word
            with m.If(reducing.valid):
                with m.If(reducing.clear):
                    m.d.sync += reduced.eq(tap)
                with m.Elif(reducing.sum):
                    m.d.sync += reduced.eq(reduced + tap)
                with m.Elif(tap > reduced):
                    m.d.sync += reduced.eq(tap)
            if g.settles:
                m.d.comb += value.eq(reduced)
            else:
                with m.If(complete.valid & complete.emit):
                    m.d.sync += value.eq(reduced)
            m.d.comb += self.pooled.values[lane].eq(value)
        m.d.comb += [
            self.pooled.valid.eq(complete.valid & complete.emit),
            self.pooled.tag.eq(complete.tag),
            self.pooled.first.eq(complete.first),
            self.pooled.last.eq(complete.last),
        ]
        return m
