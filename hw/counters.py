"""Performance counters: where the cycles of a run went."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import Geometry
from palquant.hw.isa import Cause
from palquant.hw.registers import COUNTER_BITS, COUNTERS, Activity
from palquant.hw.tokens import Engine

#: Where the cycles go in which a COMPUTE waits for a load.
CAUSES = {
    Cause.WEIGHTS: Activity.WEIGHTS,
    Cause.ACTIVATIONS: Activity.ACTIVATIONS,
    Cause.PARAMETERS: Activity.PARAMETERS,
}
#: Widest increment: two values for each of at most 128 lanes can be clipped in one cycle.
INCREMENT_BITS = 9


class Attribution(wiring.Component):
    """Says what a cycle went to, with the reason why the next COMPUTE is held back.

    The compute engine's own word counts as long as it has something to do; where it is idle, the
    tokens that the next COMPUTE lacks do.

    Members:
        engine: ``In(Activity)``, from the compute engine.
        idle: ``In(1)``. The compute engine would take an instruction.
        pending: ``In(1)``. There is a next COMPUTE.
        missing: ``In(3)``, the tokens that it lacks.
        cause: ``In(2)``, what its load token stands for.
        activity: ``Out(Activity)``.
        next: ``Out(1)``. It is the next COMPUTE, not the one under way, that the cycle went to.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "engine": In(Activity),
                "idle": In(1),
                "pending": In(1),
                "missing": In(len(Engine)),
                "cause": In(2),
                "activity": Out(Activity),
                "next": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The engine's word first, then the tokens'."""
        m = Module()
        m.d.comb += [
            self.next.eq((self.engine == Activity.DEPENDENCY) & self.idle & self.pending),
            self.activity.eq(self.engine),
        ]
        with m.If(self.next & self.missing[Engine.LOAD]), m.Switch(self.cause):
            for cause, activity in CAUSES.items():
                with m.Case(cause):
                    m.d.comb += self.activity.eq(activity)
        with m.Elif(self.next & self.missing[Engine.STORE]):
            m.d.comb += self.activity.eq(Activity.OUTPUT)
        return m


class Counters(wiring.Component):
    """One counter for each name in ``COUNTERS``; all of them 0 without ``geometry.counters``.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        enable: ``In(1)``. The run is under way.
        activity: ``In(Activity)``.
        read_beat: ``In(1)``.
        fetch_beat: ``In(1)``.
        write_beat: ``In(1)``.
        saturated: ``In(9)``, values clipped in this cycle.
        values: ``Out(StructLayout)``, a field of 48 bits for each name, ``LATENCY`` cycles after
            what it counts.
    """

    #: From what is counted to the value that includes it.
    LATENCY = 2

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "enable": In(1),
                "activity": In(Activity),
                "read_beat": In(1),
                "fetch_beat": In(1),
                "write_beat": In(1),
                "saturated": In(INCREMENT_BITS),
                "values": Out(data.StructLayout(dict.fromkeys(COUNTERS, COUNTER_BITS))),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """A counter for each name."""
        m = Module()
        if not self._geometry.counters:
            return m
        increments = {
            "CYCLES": self.enable,
            "READ_BEATS": self.read_beat & self.enable,
            "FETCH_BEATS": self.fetch_beat & self.enable,
            "WRITE_BEATS": self.write_beat & self.enable,
            "SATURATIONS": self.saturated & self.enable.replicate(INCREMENT_BITS),
        }
        for activity in Activity:
            increments[activity.name] = (self.activity == activity) & self.enable
        for name, increment in increments.items():
            # A register in between keeps the long carry chains away from what they count.
            pending = Signal(len(increment), name=f"pending_{name.lower()}")
            m.d.sync += [
                pending.eq(increment),
                self.values[name].eq(self.values[name] + pending),
            ]
        return m
