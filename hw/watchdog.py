"""The watchdog: notices that nothing happens any more."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line
from palquant.hw.tokens import Engine


class Watchdog(wiring.Component):
    """Counts cycles without progress.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        enable: ``In(1)``. The run is under way.
        progress: ``In(1)``. Something happened in this cycle.
        limit: ``In(watchdog_bits)``, cycles; 0 turns the watchdog off.
        expired: ``Out(1)``. ``limit`` cycles in a row went by without progress. Two cycles late.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "enable": In(1),
                "progress": In(1),
                "limit": In(geometry.watchdog_bits),
                "expired": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count up, and back to 0 on progress."""
        m = Module()
        count = Signal.like(self.limit)
        progress = Signal()  # it comes from all over the machine
        m.d.sync += progress.eq(self.progress)
        with m.If(progress | ~self.enable):
            m.d.sync += [count.eq(0), self.expired.eq(0)]
        with m.Else():
            m.d.sync += [
                count.eq(count + 1),
                self.expired.eq((count + 1 >= self.limit) & (self.limit != 0)),
            ]
        return m


class OldestInstruction(wiring.Component):
    """The instruction that holds everything up: the oldest one in program order, not complete.

    Programs run from low to high offsets, and no two images' instructions are under way at once,
    so the oldest is the one with the lowest offset. ``LATENCY`` cycles late.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``In(3)``. The engine has an instruction that is not complete.
        offsets: ``In(ArrayLayout(dram_bits, 3))``, image offset of the engine's oldest.
        otherwise: ``In(dram_bits)``, what counts if there is none.
        offset: ``Out(dram_bits)``.
    """

    #: From offsets to the lowest of them.
    LATENCY = len(Engine) + 1

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "valid": In(len(Engine)),
                "offsets": In(data.ArrayLayout(geometry.dram_bits, len(Engine))),
                "otherwise": In(geometry.dram_bits),
                "offset": Out(geometry.dram_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The lowest of up to three: a comparison a cycle."""
        m = Module()
        bits = len(self.offset)
        otherwise = delay_line(m, self.otherwise, self.LATENCY - 1, name="otherwise")[-1]
        found, lowest = Signal(name="found_0"), Signal(bits, name="lowest_0")
        m.d.sync += [found.eq(self.valid[0]), lowest.eq(self.offsets[0])]
        for k in range(1, len(Engine)):
            valid = delay_line(m, self.valid[k], k, name=f"valid{k}")[-1]
            offset = delay_line(m, self.offsets[k], k, name=f"offset{k}")[-1]
            both = Signal(name=f"found_{k}")
            better = Signal(bits, name=f"lowest_{k}")
            lower = valid & (~found | (offset < lowest))
            m.d.sync += [both.eq(found | valid), better.eq(Mux(lower, offset, lowest))]
            found, lowest = both, better
        m.d.sync += self.offset.eq(Mux(found, lowest, otherwise))
        return m
