"""What a run needs, wired together: fetch, queues, tokens, the three engines, counters."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from palquant.hw import isa
from palquant.hw.arbiter import ReadArbiter
from palquant.hw.axi import ReadChannels, WriteChannels
from palquant.hw.config import Geometry
from palquant.hw.counters import Attribution, Counters
from palquant.hw.delay import copy_register
from palquant.hw.fetch import FetchUnit, Settings
from palquant.hw.load import LoadEngine
from palquant.hw.queues import InstructionQueue
from palquant.hw.registers import (
    COUNTER_BITS,
    COUNTERS,
    REGISTERS,
    Activity,
    ErrorCode,
    Stall,
)
from palquant.hw.store import StoreEngine
from palquant.hw.supervisor import SOURCES, Report
from palquant.hw.tokens import LAYER_BITS, Dispatcher, Engine, TokenCounters
from palquant.hw.watchdog import OldestInstruction, Watchdog

#: COMPUTEs and STOREs that can have begun and not completed; the engines themselves hold fewer.
IN_FLIGHT = 4

#: Tables of the engines' instructions.
_LAYOUTS = {
    Engine.LOAD: isa.TRANSFER,
    Engine.COMPUTE: isa.COMPUTE,
    Engine.STORE: isa.TRANSFER,
}


class Trace(wiring.Signature):
    """What a profiler wants to see, in every cycle: each a cycle late.

    Members:
        layer: ``Out(12)``, of the COMPUTE that runs or is waited for.
        activity: ``Out(Activity)``.
        load_busy: ``Out(1)``. A LOAD is under way.
        load_layer: ``Out(12)``, of the oldest of them.
        store_busy: ``Out(1)``. A STORE is under way.
        store_layer: ``Out(12)``, of the oldest of them.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "layer": Out(LAYER_BITS),
                "activity": Out(Activity),
                "load_busy": Out(1),
                "load_layer": Out(LAYER_BITS),
                "store_busy": Out(1),
                "store_layer": Out(LAYER_BITS),
            }
        )


class Core(wiring.Component):
    """Runs an image when told to, and reports what goes wrong.

    Parameters:
        geometry: Sizes of the machine.
        compute: The compute engine.

    Members:
        clear: ``In(1)``, strobe: all units are reset in the next cycle.
        go: ``In(1)``, strobe: begin with ``settings``, two cycles after ``clear`` at the earliest.
        running: ``In(1)``. Count cycles, watch for progress.
        halt: ``In(1)``. Start nothing new, bring what is on the bus to its end.
        settings: ``In(Settings(geometry))``.
        watchdog_limit: ``In(watchdog_bits)``.
        read: ``Out(ReadChannels(bus_bits))``.
        write: ``Out(WriteChannels(bus_bits))``.
        finished: ``Out(1)``, strobe.
        quiet: ``Out(1)``. Nothing is outstanding on the bus.
        images_done: ``Out(count_bits)``.
        stall: ``Out(StructLayout)``, the fields of the register STALL, a cycle late.
        counters: ``Out(StructLayout)``, as of :class:`~palquant.hw.counters.Counters`.
        trace: ``Out(Trace())``.
        traced: ``Out(1)``. What it says is of a run.
        report_*: ``Out(Report(geometry))``, for each of ``supervisor.SOURCES``.
    """

    def __init__(self, geometry: Geometry, compute: wiring.Component) -> None:
        stalls = {name: field.bits for name, (field, _) in REGISTERS["STALL"].fields.items()}
        super().__init__(
            {
                "go": In(1),
                "clear": In(1),
                "running": In(1),
                "halt": In(1),
                "settings": In(Settings(geometry)),
                "watchdog_limit": In(geometry.watchdog_bits),
                "read": Out(ReadChannels(geometry.bus_bits)),
                "write": Out(WriteChannels(geometry.bus_bits)),
                "finished": Out(1),
                "quiet": Out(1),
                "images_done": Out(geometry.count_bits),
                "stall": Out(data.StructLayout(stalls)),
                "counters": Out(data.StructLayout(dict.fromkeys(COUNTERS, COUNTER_BITS))),
                "trace": Out(Trace()),
                "traced": Out(1),
                **{f"report_{name}": Out(Report(geometry)) for name in SOURCES},
            }
        )
        self._geometry = geometry
        self._compute = compute

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    @property
    def compute(self) -> wiring.Component:
        """The compute engine."""
        return self._compute

    def elaborate(self, platform: object) -> Module:
        """Make the units and connect them; see the methods below for what is only observed."""
        m = Module()
        geometry, compute = self._geometry, self._compute

        arbiter = ReadArbiter(geometry)
        self._add(m, "arbiter", arbiter)
        fetch = FetchUnit(geometry)
        self._add(m, "fetch", fetch)
        load = LoadEngine(geometry)
        self._add(m, "load", load)
        store = StoreEngine(geometry)
        self._add(m, "store", store)
        self._add(m, "compute", compute)
        tokens = TokenCounters(geometry)
        self._add(m, "tokens", tokens)
        engines = {Engine.LOAD: load, Engine.COMPUTE: compute, Engine.STORE: store}
        in_flight = {
            Engine.LOAD: geometry.outstanding_bursts,
            Engine.COMPUTE: IN_FLIGHT,
            Engine.STORE: IN_FLIGHT,
        }

        # The bus.
        connect(m, fetch.address, arbiter.fetch)
        connect(m, arbiter.fetch_data, fetch.data)
        connect(m, load.address, arbiter.load)
        connect(m, arbiter.load_data, load.data)
        connect(m, arbiter.bus, flipped(self.read))
        connect(m, store.bus, flipped(self.write))
        connect(m, load.write, compute.load_write)
        connect(m, store.read, compute.store_read)
        m.d.comb += [
            arbiter.halt.eq(self.halt),
            arbiter.fetch_expects.eq(fetch.outstanding),
            arbiter.load_expects.eq(load.outstanding),
            load.halt.eq(self.halt),
            store.halt.eq(self.halt),
            fetch.address_waits.eq(arbiter.fetch_waits),
            load.address_waits.eq(arbiter.load_waits),
            self.quiet.eq(~fetch.outstanding & ~load.outstanding & ~store.outstanding),
        ]

        # The program.
        connect(m, flipped(self.settings), fetch.settings)
        connect(m, fetch.regions, load.regions, store.regions)
        m.d.comb += [
            fetch.start.eq(self.go),
            self.finished.eq(fetch.done),
            self.images_done.eq(fetch.images_done),
        ]

        # Instructions and tokens.
        dispatchers = {}
        for engine, unit in engines.items():
            name = engine.name.lower()
            queue = InstructionQueue(geometry, _LAYOUTS[engine])
            dispatcher = Dispatcher(geometry, engine, _LAYOUTS[engine], in_flight[engine])
            self._add(m, f"queue_{name}", queue)
            self._add(m, f"dispatch_{name}", dispatcher)
            connect(m, getattr(fetch, f"queue_{name}"), queue.write)
            connect(m, queue.read, dispatcher.queue)
            connect(m, dispatcher.instruction, unit.instruction)
            m.d.comb += [
                dispatcher.queue_offset.eq(queue.offset),
                dispatcher.complete.eq(unit.complete),
                dispatcher.available.eq(tokens.available[engine]),
                dispatcher.halt.eq(self.halt),
                tokens.take[engine].eq(dispatcher.take),
                tokens.give[engine].eq(dispatcher.give),
            ]
            dispatchers[engine] = dispatcher
        m.d.comb += fetch.engines_idle.eq(Cat(d.idle for d in dispatchers.values()).all())

        self._report(m, arbiter, fetch, engines, dispatchers, tokens)
        self._observe(m, fetch, engines, dispatchers)
        self._count(m, arbiter, engines, dispatchers)
        return m

    def _add(self, m: Module, name: str, unit: wiring.Component) -> None:
        """Add a unit that ``clear`` resets, a cycle later: through a register near it."""
        clear = copy_register(m, self.clear, f"clear_{name}")
        m.submodules[name] = ResetInserter(clear)(unit)

    def _report(
        self,
        m: Module,
        arbiter: ReadArbiter,
        fetch: FetchUnit,
        engines: Mapping[Engine, wiring.Component],
        dispatchers: Mapping[Engine, Dispatcher],
        tokens: TokenCounters,
    ) -> None:
        """Errors, each with the offset of the instruction at fault."""
        m.d.comb += [
            self.report_fetch.valid.eq(fetch.fault.valid),
            self.report_fetch.code.eq(fetch.fault.code),
            self.report_compute.valid.eq(engines[Engine.COMPUTE].overrun),
            self.report_compute.code.eq(ErrorCode.OVERRUN),
            self.report_compute.offset.eq(dispatchers[Engine.COMPUTE].oldest),
            self.report_tokens.code.eq(ErrorCode.TOKEN_OVERFLOW),
        ]
        for engine in (Engine.LOAD, Engine.STORE):
            report = getattr(self, f"report_{engine.name.lower()}")
            fault, dispatcher = engines[engine].fault, dispatchers[engine]
            m.d.comb += [
                report.valid.eq(fault.valid),
                report.code.eq(fault.code),
                report.offset.eq(Mux(fault.newest, dispatcher.newest, dispatcher.oldest)),
            ]

        # Tokens are given on completion, which is in order: by the oldest instruction.
        oldest = OldestInstruction(self._geometry)
        self._add(m, "oldest", oldest)
        if self._geometry.diagnosis:
            m.d.comb += [
                self.report_fetch.offset.eq(fetch.offset),
                oldest.otherwise.eq(fetch.offset),
            ]
        # Far to go: a cycle later.
        m.d.sync += self.report_tokens.valid.eq(tokens.overflow.any())
        for engine, dispatcher in dispatchers.items():
            m.d.comb += [
                oldest.valid[engine].eq(~dispatcher.idle),
                oldest.offsets[engine].eq(dispatcher.oldest),
            ]
            with m.If(tokens.overflow[engine]):
                m.d.sync += self.report_tokens.offset.eq(dispatcher.oldest)

        # Nobody asked for what nobody expects: all that can be said is what was under way.
        unasked = engines[Engine.STORE].unexpected
        m.d.comb += [
            self.report_bus.valid.eq(arbiter.unexpected | unasked),
            self.report_bus.code.eq(
                Mux(arbiter.unexpected, ErrorCode.READ_RESPONSE, ErrorCode.WRITE_RESPONSE)
            ),
            self.report_bus.offset.eq(oldest.offset),
        ]

        watchdog = Watchdog(self._geometry)
        self._add(m, "watchdog", watchdog)
        read, write = self.read, self.write
        handshakes = [
            read.arvalid & read.arready,
            read.rvalid & read.rready,
            write.awvalid & write.awready,
            write.wvalid & write.wready,
            write.bvalid & write.bready,
        ]
        activity = engines[Engine.COMPUTE].activity
        words = [activity == Activity.ARRAY, activity == Activity.POOL]
        complete = [unit.complete for unit in engines.values()]
        m.d.comb += [
            watchdog.enable.eq(self.running),
            watchdog.limit.eq(self.watchdog_limit),
            watchdog.progress.eq(Cat(handshakes, words, complete).any()),
            self.report_watchdog.valid.eq(watchdog.expired),
            self.report_watchdog.code.eq(ErrorCode.WATCHDOG),
            self.report_watchdog.offset.eq(oldest.offset),
        ]

    def _observe(
        self,
        m: Module,
        fetch: FetchUnit,
        engines: Mapping[Engine, wiring.Component],
        dispatchers: Mapping[Engine, Dispatcher],
    ) -> None:
        """What each unit waits for, and the layers that loads and stores work on; a cycle late."""
        m.d.sync += self.stall.fetch.eq(fetch.stall)
        for engine in (Engine.LOAD, Engine.STORE):
            name, unit, dispatcher = engine.name.lower(), engines[engine], dispatchers[engine]
            m.d.sync += [
                self.stall[name].eq(Mux(unit.busy, unit.stall, dispatcher.waits)),
                getattr(self.trace, f"{name}_busy").eq(unit.busy),
                getattr(self.trace, f"{name}_layer").eq(dispatcher.oldest_layer),
            ]
        compute = engines[Engine.COMPUTE]
        m.d.sync += self.stall.compute.eq(dispatchers[Engine.COMPUTE].waits)
        with m.If(compute.activity == Activity.DRAIN):
            m.d.sync += self.stall.compute.eq(Stall.DRAIN)
        with m.Elif(compute.busy):
            m.d.sync += self.stall.compute.eq(Stall.RUNNING)

    def _count(
        self,
        m: Module,
        arbiter: ReadArbiter,
        engines: Mapping[Engine, wiring.Component],
        dispatchers: Mapping[Engine, Dispatcher],
    ) -> None:
        """Where the cycles go."""
        compute, dispatcher = engines[Engine.COMPUTE], dispatchers[Engine.COMPUTE]
        attribution = Attribution()
        self._add(m, "attribution", attribution)
        # As late as the engine says what it did.
        next_layer = Signal.like(dispatcher.next_layer)
        newest_layer = Signal.like(dispatcher.newest_layer)
        m.d.sync += [
            attribution.idle.eq(compute.instruction.ready),
            attribution.pending.eq(dispatcher.pending),
            attribution.missing.eq(dispatcher.missing),
            attribution.cause.eq(dispatcher.queue.payload.cause),
            next_layer.eq(dispatcher.next_layer),
            newest_layer.eq(dispatcher.newest_layer),
        ]
        m.d.comb += [
            attribution.engine.eq(compute.activity),
            self.trace.activity.eq(attribution.activity),
            self.trace.layer.eq(Mux(attribution.next, next_layer, newest_layer)),
        ]
        counters = Counters(self._geometry)
        self._add(m, "counters", counters)
        m.d.sync += [
            self.traced.eq(self.running),
            counters.read_beat.eq(arbiter.load_data.valid & arbiter.load_data.ready),
            counters.fetch_beat.eq(arbiter.fetch_data.valid & arbiter.fetch_data.ready),
            counters.write_beat.eq(self.write.wvalid & self.write.wready),
            counters.saturated.eq(compute.saturated),
        ]
        m.d.comb += [
            counters.enable.eq(self.traced),
            counters.activity.eq(attribution.activity),
            self.counters.eq(counters.values),
        ]
