"""The watchdog: notices that nothing happens any more."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.delay import delay_line
from palquant.hw.registers import REGISTER_BITS
from palquant.hw.tokens import Engine


class Watchdog(wiring.Component):
    """Counts cycles without progress.

    Members:
        enable: ``In(1)``. The run is under way.
        progress: ``In(1)``. Something happened in this cycle.
        limit: ``In(32)``, cycles; 0 turns the watchdog off.
        expired: ``Out(1)``. ``limit`` cycles in a row went by without progress. Two cycles late.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(1),
                "progress": In(1),
                "limit": In(REGISTER_BITS),
                "expired": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count up, and back to 0 on progress."""
        m = Module()
        count = Signal(REGISTER_BITS)
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

    Members:
        valid: ``In(3)``. The engine has an instruction that is not complete.
        offsets: ``In(ArrayLayout(32, 3))``, image offset of the engine's oldest.
        otherwise: ``In(32)``, what counts if there is none.
        offset: ``Out(32)``.
    """

    #: From offsets to the lowest of them.
    LATENCY = len(Engine) + 1

    def __init__(self) -> None:
        super().__init__(
            {
                "valid": In(len(Engine)),
                "offsets": In(data.ArrayLayout(isa.DRAM_BITS, len(Engine))),
                "otherwise": In(isa.DRAM_BITS),
                "offset": Out(isa.DRAM_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The lowest of up to three: a comparison a cycle."""
        m = Module()
        otherwise = delay_line(m, self.otherwise, self.LATENCY - 1, name="otherwise")[-1]
        found, lowest = Signal(name="found_0"), Signal(isa.DRAM_BITS, name="lowest_0")
        m.d.sync += [found.eq(self.valid[0]), lowest.eq(self.offsets[0])]
        for k in range(1, len(Engine)):
            valid = delay_line(m, self.valid[k], k, name=f"valid{k}")[-1]
            offset = delay_line(m, self.offsets[k], k, name=f"offset{k}")[-1]
            both = Signal(name=f"found_{k}")
            better = Signal(isa.DRAM_BITS, name=f"lowest_{k}")
            lower = valid & (~found | (offset < lowest))
            m.d.sync += [both.eq(found | valid), better.eq(Mux(lower, offset, lowest))]
            found, lowest = both, better
        m.d.sync += self.offset.eq(Mux(found, lowest, otherwise))
        return m
