"""The supervisor: starts a run, ends it, and cleans up behind one that went wrong."""

from __future__ import annotations

from collections.abc import Iterable

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry
from palquant.hw.registers import ErrorCode

#: Who can end a run with an error, the first named first where several do in the same cycle.
SOURCES = ("fetch", "load", "compute", "store", "tokens", "bus", "watchdog")


class Report(wiring.Signature):
    """An error that ends the run, and whose it is.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``Out(1)``. The first cycle in which any report is valid counts.
        code: ``Out(ErrorCode)``.
        offset: ``Out(dram_bits)``, image offset of the instruction at fault.
    """

    def __init__(self, geometry: Geometry) -> None:
        offset = Out(geometry.dram_bits)
        super().__init__({"valid": Out(1), "code": Out(ErrorCode), "offset": offset})


class Supervisor(wiring.Component):
    """Knows whether a run is under way, and how the last one ended.

    A run begins with a reset of everything but the settings, and with ``go`` two cycles later:
    ``clear`` reaches what it resets through a register.
    An error halts it: nothing new starts, and what is under way on the bus comes to its end, which
    may take as long as the memory pleases. A reset by the host waits for that.

    The doorbell shows in ``busy`` and ``done`` from the cycle after ``start``. The end of a run
    shows three cycles after its last, when the counters have counted all of it.

    Parameters:
        geometry: Sizes of the machine.
        sources: Who can end a run with an error.

    Members:
        start: ``In(1)``, strobe. Without effect while busy or after an error.
        reset: ``In(1)``, strobe.
        finished: ``In(1)``, strobe: the run is complete.
        quiet: ``In(1)``. Nothing is outstanding on the bus.
        report_*: ``In(Report(geometry))``, for each of ``SOURCES``.
        clear: ``Out(1)``, resets the machine.
        starting: ``Out(1)``, from the cycle after ``start`` to ``go``. Settings must not change.
        go: ``Out(1)``, strobe: begin, two cycles after ``clear``.
        running: ``Out(1)``, from ``go`` to the end.
        halt: ``Out(1)``. Start nothing new.
        busy: ``Out(1)``.
        done: ``Out(1)``.
        error: ``Out(1)``.
        resetting: ``Out(1)``.
        code: ``Out(ErrorCode)``, NONE unless ``error``.
        offset: ``Out(dram_bits)``, of the instruction at fault; 0 unless ``error``.
        ended: ``Out(1)``, strobe: done.
        failed: ``Out(1)``, strobe: error.
    """

    def __init__(self, geometry: Geometry, sources: Iterable[str] = SOURCES) -> None:
        self._geometry = geometry
        self._sources = tuple(sources)
        super().__init__(
            {
                "start": In(1),
                "reset": In(1),
                "finished": In(1),
                "quiet": In(1),
                **{f"report_{name}": In(Report(geometry)) for name in self._sources},
                "clear": Out(1),
                "starting": Out(1),
                "go": Out(1),
                "running": Out(1),
                "halt": Out(1),
                "busy": Out(1),
                "done": Out(1),
                "error": Out(1),
                "resetting": Out(1),
                "code": Out(ErrorCode),
                "offset": Out(geometry.dram_bits),
                "ended": Out(1),
                "failed": Out(1),
            }
        )

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    @property
    def sources(self) -> tuple[str, ...]:
        """Who can end a run with an error."""
        return self._sources

    def elaborate(self, platform: object) -> Module:
        """A state for each answer to the question what the machine is doing."""
        m = Module()
        # From the cycle in which nothing new starts any more, quiet is for good; what hangs on it
        # reaches far.
        settled = Signal()
        halts = Signal()
        m.d.sync += [self.halt.eq(halts), settled.eq(self.quiet & self.halt)]
        failing = Signal()
        code = Signal(ErrorCode)
        offset = Signal(self._geometry.dram_bits)
        for name in reversed(self._sources):
            report = getattr(self, f"report_{name}")
            with m.If(report.valid):
                m.d.comb += [failing.eq(1), code.eq(report.code), offset.eq(report.offset)]

        # What the last cycle of a run came to.
        failed = Signal()
        first_code = Signal(ErrorCode)
        first_offset = Signal(self._geometry.dram_bits)

        def forget() -> None:
            m.d.sync += [self.done.eq(0), self.error.eq(0)]
            m.d.sync += [self.code.eq(ErrorCode.NONE), self.offset.eq(0)]

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.reset):
                    m.next = "RESET"
                with m.Elif(self.start):
                    forget()
                    m.next = "CLEAR"

            with m.State("CLEAR"):
                m.d.comb += [self.clear.eq(1), self.starting.eq(1), self.busy.eq(1)]
                m.next = "CLEARED"
                with m.If(self.reset):
                    m.next = "RESET"

            with m.State("CLEARED"):
                m.d.comb += [self.starting.eq(1), self.busy.eq(1)]
                m.next = "START"
                with m.If(self.reset):
                    m.next = "RESET"

            with m.State("START"):
                m.d.comb += [self.go.eq(1), self.starting.eq(1)]
                m.d.comb += [self.running.eq(1), self.busy.eq(1)]
                m.next = "RUN"
                with m.If(self.reset):
                    m.next = "RESET"

            with m.State("RUN"):
                m.d.comb += [self.running.eq(1), self.busy.eq(1)]
                m.d.sync += [failed.eq(failing), first_code.eq(code), first_offset.eq(offset)]
                with m.If(self.reset):
                    m.next = "RESET"
                with m.Elif(failing | self.finished):
                    m.next = "COUNT"

            # As long as the counters need for the last cycle: that, and Counters.LATENCY.
            with m.State("COUNT"):
                m.d.comb += [halts.eq(failed), self.busy.eq(1)]
                m.next = "SETTLE"
                with m.If(self.reset):
                    m.next = "RESET"
            with m.State("SETTLE"):
                m.d.comb += [halts.eq(failed), self.busy.eq(1)]
                with m.If(self.reset):
                    m.next = "RESET"
                with m.Elif(failed):
                    m.d.comb += self.failed.eq(1)
                    m.d.sync += [
                        self.error.eq(1),
                        self.code.eq(first_code),
                        self.offset.eq(first_offset),
                    ]
                    m.next = "HALT"
                with m.Else():
                    m.d.comb += self.ended.eq(1)
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"

            with m.State("HALT"):
                m.d.comb += [halts.eq(1), self.busy.eq(~settled)]
                with m.If(self.reset):
                    m.next = "RESET"

            with m.State("RESET"):
                m.d.comb += [halts.eq(1), self.busy.eq(1), self.resetting.eq(1)]
                with m.If(settled):
                    m.d.comb += self.clear.eq(1)
                    m.next = "WIPED"

            with m.State("WIPED"):
                m.d.comb += [self.busy.eq(1), self.resetting.eq(1)]
                forget()
                m.next = "IDLE"
        return m
