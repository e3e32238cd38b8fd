"""Tokens: who waits for whom, and the dispatch of instructions that have what they wait for."""

from __future__ import annotations

import enum
from typing import Any

from amaranth import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.layouts import struct
from palquant.hw.registers import Stall

#: Width of a layer index.
LAYER_BITS = next(item.bits for item in isa.HEADER if item.name == "layer")


class Engine(enum.IntEnum):
    """The three engines, in the order of the instruction header's token bits."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


#: One bit for each engine.
_PER_ENGINE = data.ArrayLayout(len(Engine), len(Engine))


class TokenCounters(wiring.Component):
    """Six counters, one for each ordered pair of engines.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        give: ``In(ArrayLayout(3, 3))``; ``give[a][b]`` is a strobe, a token from ``a`` to ``b``.
        take: ``In(ArrayLayout(3, 3))``; ``take[b][a]`` is a strobe, ``b`` takes a token from ``a``.
        available: ``Out(ArrayLayout(3, 3))``; ``available[b][a]``: there is one, from the cycle
            after it was given.
        overflow: ``Out(3)``, strobe: the engine gave more tokens than a counter can hold.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        super().__init__(
            {
                "give": In(_PER_ENGINE),
                "take": In(_PER_ENGINE),
                "available": Out(_PER_ENGINE),
                "overflow": Out(len(Engine)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count up, count down."""
        m = Module()
        for giver in Engine:
            overflows = []
            for taker in Engine:
                if giver is taker:
                    continue
                count = Signal(
                    self._geometry.token_bits, name=f"{giver.name}_to_{taker.name}".lower()
                )
                given = self.give[giver][taker]
                taken = self.take[taker][giver]
                m.d.sync += count.eq(count + given - taken)
                m.d.comb += self.available[taker][giver].eq(count != 0)
                overflows.append(given & ~taken & count.all())
            m.d.comb += self.overflow[giver].eq(Cat(overflows).any())
        return m


class Dispatcher(wiring.Component):
    """Hands one engine its instructions, each when its tokens are there, and gives theirs.

    Completion is in order, so a small queue remembers what follows from it. Where instructions do
    not overlap, the instruction itself stays at the head of its queue until it is complete, and the
    engine finds its fields there.
    An instruction may start in the cycle after its last token is there, at the earliest: whether
    it may is a register, since much hangs on the start.

    Parameters:
        geometry: Sizes of the machine.
        engine: Whose instructions these are.
        layout: Their table.
        in_flight: Instructions that the engine can have begun and not completed, at most. It is 1
            where instructions do not overlap.

    Members:
        queue: ``In(stream.Signature(struct(layout, geometry)))``, from the instruction queue.
        queue_offset: ``In(dram_bits)``, image offset of the instruction there.
        instruction: ``Out(stream.Signature(struct(layout, geometry)))``, to the engine. Its
            tokens are taken in the cycle in which the engine takes it.
        complete: ``In(1)``, strobe from the engine.
        available: ``In(3)``, tokens from other engines.
        take: ``Out(3)``, strobes.
        give: ``Out(3)``, strobes, in the cycle of ``complete``.
        halt: ``In(1)``. Hand out nothing more.
        pending: ``Out(1)``. There is a next instruction.
        missing: ``Out(3)``. It is held back for these tokens.
        waits: ``Out(Stall)``, the same in words; IDLE if nothing is held back.
        idle: ``Out(1)``. Nothing waits and nothing is under way.
        oldest: ``Out(dram_bits)``, image offset of the oldest instruction that is not complete.
        newest: ``Out(dram_bits)``, image offset of the instruction that the engine took last.
        next_layer: ``Out(12)``, layer of the next instruction.
        newest_layer: ``Out(12)``, layer of the instruction that the engine took last.
        oldest_layer: ``Out(12)``, layer of the oldest instruction that the engine works on.
    """

    def __init__(
        self, geometry: Geometry, engine: Engine, layout: isa.Layout, in_flight: int
    ) -> None:
        instructions = stream.Signature(struct(layout, geometry))
        super().__init__(
            {
                "queue": In(instructions),
                "queue_offset": In(geometry.dram_bits),
                "instruction": Out(instructions),
                "complete": In(1),
                "available": In(len(Engine)),
                "take": Out(len(Engine)),
                "give": Out(len(Engine)),
                "halt": In(1),
                "pending": Out(1),
                "missing": Out(len(Engine)),
                "waits": Out(Stall),
                "idle": Out(1),
                "oldest": Out(geometry.dram_bits),
                "newest": Out(geometry.dram_bits),
                "next_layer": Out(LAYER_BITS),
                "newest_layer": Out(LAYER_BITS),
                "oldest_layer": Out(LAYER_BITS),
            }
        )
        self._geometry = geometry
        self._engine = engine
        self._layout = layout
        self._in_flight = in_flight

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    @property
    def engine(self) -> Engine:
        """Whose instructions these are."""
        return self._engine

    @property
    def layout(self) -> isa.Layout:
        """The instructions' table."""
        return self._layout

    @property
    def in_flight(self) -> int:
        """Instructions that the engine can have begun and not completed, at most."""
        return self._in_flight

    def elaborate(self, platform: object) -> Module:
        """The next instruction on one side, those begun on the other."""
        m = Module()
        head = self.queue.payload
        waits = Cat(head[f"wait_{engine.name.lower()}"] for engine in Engine)
        signals = Cat(head[f"signal_{engine.name.lower()}"] for engine in Engine)

        ready = Signal()  # nothing but a token can hold the head back
        waiting = Signal()  # the head has not begun
        started = self.instruction.valid & self.instruction.ready
        # Tokens that are there stay until this engine takes them.
        complete = Signal()
        has_all = waiting & ((waits & ~self.available) == 0)
        if self._geometry.overlap:
            m.d.sync += complete.eq(has_all & ~started)
        else:
            m.d.comb += complete.eq(has_all)
        m.d.comb += [
            self.instruction.payload.eq(head),
            self.instruction.valid.eq(complete & ready),
            self.take.eq(waits & started.replicate(len(Engine))),
            self.next_layer.eq(head.layer),
            self.pending.eq(waiting),
            self.missing.eq(waits & ~self.available & waiting.replicate(len(Engine))),
        ]
        if self._geometry.overlap:
            self._remember(m, head, signals, ready, started, waiting)
        else:
            self._hold(m, head, signals, ready, started, waiting)

        for engine in reversed(Engine):
            with m.If(self.missing[engine]):
                m.d.comb += self.waits.eq(Stall[engine.name])
        return m

    def _remember(
        self, m: Module, head: Any, signals: Value, ready: Signal, started: Value, waiting: Signal
    ) -> None:
        """The head makes room when it begins; what follows from it is kept until it completes."""
        begun = data.StructLayout(
            {"signals": len(Engine), "layer": LAYER_BITS, "offset": self._geometry.dram_bits}
        )
        m.submodules.begun = fifo = SyncFIFO(width=begun.size, depth=self._in_flight)
        entry = data.View(begun, fifo.w_data)
        oldest = data.View(begun, fifo.r_data)
        m.d.comb += [
            ready.eq(fifo.w_rdy & ~self.halt),
            waiting.eq(self.queue.valid),
            self.queue.ready.eq(started),
            entry.signals.eq(signals),
            entry.layer.eq(head.layer),
            entry.offset.eq(self.queue_offset),
            fifo.w_en.eq(started),
            fifo.r_en.eq(self.complete),
            self.give.eq(oldest.signals & self.complete.replicate(len(Engine))),
            self.idle.eq(~self.queue.valid & ~fifo.r_rdy),
            self.oldest.eq(self.queue_offset),
            self.oldest_layer.eq(oldest.layer),
        ]
        with m.If(fifo.r_rdy):
            m.d.comb += self.oldest.eq(oldest.offset)
        with m.If(started):
            m.d.sync += [self.newest.eq(self.queue_offset), self.newest_layer.eq(head.layer)]

    def _hold(
        self, m: Module, head: Any, signals: Value, ready: Signal, started: Value, waiting: Signal
    ) -> None:
        """The head stays where it is until it completes."""
        begun = Signal()
        with m.If(started):
            m.d.sync += begun.eq(1)
        with m.If(self.complete):
            m.d.sync += begun.eq(0)
        m.d.comb += [
            ready.eq(~begun & ~self.halt),
            waiting.eq(self.queue.valid & ~begun),
            self.queue.ready.eq(self.complete),
            self.give.eq(signals & self.complete.replicate(len(Engine))),
            self.idle.eq(~self.queue.valid),
            self.oldest.eq(self.queue_offset),
            self.newest.eq(self.queue_offset),
            self.oldest_layer.eq(head.layer),
            self.newest_layer.eq(head.layer),
        ]
