"""The top module of a board's bitstream: the system, and its clock."""

from __future__ import annotations

from amaranth import ClockDomain, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In, Out

from palquant.hw.board_system import BoardSystem
from palquant.hw.boards import Board, PhaseLockedLoop
from palquant.hw.fpga import FAMILIES
from palquant.hw.place_and_route import DEVICES

__all__ = ["BoardTop"]

#: Seconds of silence after which a frame that is not complete is dropped. Longer than a USB host
#: may pause within what it was given to send.
FRAME_TIMEOUT = 0.1


class BoardTop(wiring.Component):
    """The top module of a board's bitstream.

    Parameters:
        board: The board.
        contents: What the on-chip memory holds at power-on.

    Members:
        clk: ``In(1)``, the oscillator.
        rx: ``In(1)``, serial line from the USB bridge.
        tx: ``Out(1)``, serial line to it.
        led: ``Out(1)``, on while an image runs.
        Each port of ``board.held_high``: ``Out(1)``, 1.
    """

    def __init__(self, board: Board, contents: bytes = b"") -> None:
        self._board = board
        self._system = BoardSystem(
            board.geometry,
            board.memory_rows,
            board.divisor,
            round(FRAME_TIMEOUT * board.clock_hz),
            contents,
            technology=FAMILIES[DEVICES[board.device].family].technology,
            large=board.large_memory,
        )
        held = {port: Out(1) for port in board.held_high}
        super().__init__({"clk": In(1), "rx": In(1), "tx": Out(1), "led": Out(1), **held})

    def elaborate(self, platform: object) -> Module:
        """A clock for the system. Registers begin as the bitstream says: no reset is needed."""
        m = Module()
        m.domains.sync = domain = ClockDomain()
        m.submodules.system = system = self._system
        loop = self._board.loop
        if loop is None:
            m.d.comb += domain.clk.eq(self.clk)
        else:
            self._make_clock(m, domain, loop)
        m.d.comb += [getattr(self, port).eq(1) for port in self._board.held_high]
        m.d.comb += [system.rx.eq(self.rx), self.tx.eq(system.tx)]
        m.d.comb += self.led.eq(system.busy ^ self._board.led_inverted)
        return m

    def _make_clock(self, m: Module, domain: ClockDomain, loop: PhaseLockedLoop) -> None:
        """The machine waits in reset until the clock is stable."""
        stable = Signal()
        m.submodules.loop = Instance(
            "EHXPLLL",
            p_CLKI_DIV=loop.divider, p_CLKFB_DIV=loop.feedback, p_CLKOP_DIV=loop.output,
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_CPHASE=loop.output // 2 - 1, p_CLKOP_FPHASE=0,
            p_FEEDBK_PATH="CLKOP", p_OUTDIVIDER_MUXA="DIVA", p_PLLRST_ENA="DISABLED",
            i_CLKI=self.clk, i_CLKFB=domain.clk, i_RST=Const(0, 1), i_STDBY=Const(0, 1),
            i_PHASESEL0=Const(0, 1), i_PHASESEL1=Const(0, 1), i_PHASEDIR=Const(1, 1),
            i_PHASESTEP=Const(1, 1), i_PHASELOADREG=Const(1, 1), i_PLLWAKESYNC=Const(0, 1),
            i_ENCLKOP=Const(0, 1), o_CLKOP=domain.clk, o_LOCK=stable,
            # Charge pump and loop filter, which nextpnr takes from attributes, as ecppll sets them.
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
        )  # fmt: skip
        # The loop locks at any time; all registers have to leave reset in the same cycle.
        m.submodules.reset = ResetSynchronizer(~stable, domain="sync")
