"""Predicts a run's cycles without RTL: what each layer of a compiled network will take.

    prediction = predict(image, Bus(latency=50))
    print(prediction.profile.cycles, [layer.cycles for layer in prediction.profile.layers])

A model of the machine's timing, driven by the program in the image's bytes: instructions one by
one, transfers burst by burst, COMPUTEs as a whole. It knows no data. Its constants are the
gateware's; tests hold it against RTL, cycle by cycle. ``predict_fetch``, ``predict_transfer`` and
``predict_compute`` model the units; here stand the order of COMPUTEs, and the account of where
cycles go (:mod:`palquant.hw.counters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from palquant.errors import InputError
from palquant.hw.config import Geometry
from palquant.hw.core import IN_FLIGHT
from palquant.hw.counters import CAUSES
from palquant.hw.isa import Cause, Source
from palquant.hw.registers import Activity
from palquant.hw.tokens import Engine
from palquant.sim.bus import Bus
from palquant.sim.predict_compute import ComputeTiming, Port, Ports
from palquant.sim.predict_events import Clock, Dispatch, Instruction, Tokens
from palquant.sim.predict_fetch import Fetch, PrefetchModel
from palquant.sim.predict_rows import Rows
from palquant.sim.predict_transfer import Load, ReadChannel, Store
from palquant.sim.run import LayerProfile, Profile
from palquant.sw.emulator import Emulator, Program
from palquant.sw.image import MemoryImage
from palquant.sw.regions import Regions

#: Cycles from the doorbell to the run's first: the supervisor's states IDLE, CLEAR and CLEARED.
_BEFORE = 3
#: Cycles from the run's last to the interrupt: the supervisor's states COUNT and SETTLE.
_AFTER = 2


@dataclass(frozen=True)
class Prediction:
    """What a run of several images behind one doorbell is expected to take.

    Parameters:
        profile: Its cycles, as :func:`~palquant.sim.run.profile` would say.
        read_beats: Bus beats that LOADs read (counter READ_BEATS).
        fetch_beats: Bus beats that the fetch unit reads (counter FETCH_BEATS).
        write_beats: Bus beats that STOREs write (counter WRITE_BEATS).
    """

    profile: Profile
    read_beats: int
    fetch_beats: int
    write_beats: int


class Account:
    """Cycles by layer and activity."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, Activity], tuple[int, int, int]] = {}

    def add(self, layer: int, activity: Activity, cycles: int, first: int, last: int) -> None:
        """So many cycles, the first and last of which are these."""
        if cycles > 0:
            before, start, _ = self._entries.get((layer, activity), (0, first, 0))
            self._entries[layer, activity] = (before + cycles, start, last)

    def profile(self, image: MemoryImage, images: int, cycles: int) -> Profile:
        """As :func:`palquant.sim.run.profile` makes it from a simulation."""
        layers = []
        for index, record in enumerate(image.layers):
            parts = {
                activity: entry
                for (layer, activity), entry in sorted(self._entries.items())
                if layer == index
            }
            layers.append(
                LayerProfile(
                    name=record.name,
                    quantized=record.quantized,
                    cycles=sum(count for count, _, _ in parts.values()),
                    ideal_cycles=record.macs * record.passes * images / image.geometry.peak_macs,
                    activity={activity.name: count for activity, (count, _, _) in parts.items()},
                    first=min((first + _BEFORE for _, first, _ in parts.values()), default=0),
                    last=max((last + _BEFORE for _, _, last in parts.values()), default=0),
                )
            )
        return Profile(images, cycles, layers)


class Compute:
    """The sequencer, as far as it takes instructions; what each of them does is known then.

    Parameters:
        clock: The model's clock.
        dispatch: The engine's dispatcher.
        geometry: The machine.
        ports: Learns which memory ports a COMPUTE keeps busy.
        account: Where the cycles go.
    """

    def __init__(
        self, clock: Clock, dispatch: Dispatch, geometry: Geometry, ports: Ports, account: Account
    ) -> None:
        self._clock = clock
        self._dispatch = dispatch
        self._geometry = geometry
        self._ports = ports
        self._account = account
        self._ready = 0  # first cycle in which the sequencer takes an instruction
        self._room = 0  # first cycle in which fewer than two are under way
        self._finish = -1  # last cycle with a word
        self._complete = -1  # cycle in which the last instruction taken is complete
        self._paced = 0
        self._layer = 0  # of the instruction taken last
        self._source: int | None = None

    def step(self, cycle: int) -> list[Port]:
        """Take an instruction if there is one; returns the memory ports that it will use."""
        if cycle < self._ready:
            return []
        head = self._dispatch.head(cycle)
        if head is None:
            return []
        f = head.fields
        self._attribute_wait(cycle, f)
        self._dispatch.take(cycle)
        self._layer = f["layer"]

        set_up = cycle + 1
        if f["drain"] or self._source not in (None, f["source"]):
            set_up = max(set_up, self._complete + 1)
        timing = ComputeTiming(self._geometry, f, set_up + 1, self._paced)
        self._attribute_run(cycle, set_up, timing, f)
        self._source, self._paced, self._finish = f["source"], timing.paced, timing.finish
        self._room = self._complete + 1
        self._ready = max(timing.finish + 1, self._room)
        self._complete = timing.complete
        self._clock.at(self._ready)
        self._clock.at(timing.complete + 1, lambda now: self._dispatch.complete(now, head))
        return self._ports.add(timing)

    def _attribute_wait(self, cycle: int, f: Mapping[str, int]) -> None:
        """Cycles since the last word, up to the one in which the next instruction is taken."""
        pending, tokens = self._dispatch.pending_since()
        startable = self._dispatch.startable_since()
        now = self._finish + 1

        def until(end: int, layer: int, activity: Activity) -> None:
            nonlocal now
            end = min(end, cycle)
            self._account.add(layer, activity, end - now, now, end - 1)
            now = max(now, end)

        # As Attribution does: the engine's own word as long as it has no room.
        held_back = min(self._room, startable)
        until(max(pending, held_back), self._layer, Activity.DEPENDENCY)
        until(tokens.get(Engine.LOAD, 0), f["layer"], CAUSES[Cause(f["cause"])])
        until(tokens.get(Engine.STORE, 0), f["layer"], Activity.OUTPUT)
        until(startable, f["layer"], Activity.DEPENDENCY)
        until(cycle, self._layer, Activity.DRAIN)
        if self._finish < cycle:
            self._account.add(f["layer"], Activity.DEPENDENCY, 1, cycle, cycle)

    def _attribute_run(
        self, cycle: int, set_up: int, timing: ComputeTiming, f: Mapping[str, int]
    ) -> None:
        """Set-up and words."""
        layer = f["layer"]
        works = Activity.POOL if f["source"] == Source.POOL else Activity.ARRAY
        stalls = Activity.MERGE if f["scatter_groups"] > 1 else Activity.OUTPUT
        self._account.add(layer, Activity.DRAIN, set_up - cycle - 1, cycle + 1, set_up - 1)
        self._account.add(layer, Activity.DEPENDENCY, 1, set_up, set_up)
        self._account.add(layer, stalls, timing.stalled, set_up + 1, timing.finish)
        self._account.add(layer, works, timing.words, set_up + 1, timing.finish)

    def end(self, cycle: int) -> None:
        """The run's last cycle: what follows on the last word belongs to the last layer."""
        self._account.add(
            self._layer, Activity.DEPENDENCY, cycle - self._finish, self._finish + 1, cycle
        )


def predict(image: MemoryImage, bus: Bus | None = None, images: int = 1) -> Prediction:
    """The cycles of one doorbell's run.

    Parameters:
        image: The compiled network.
        bus: How the memory behaves; its latency alone, since the model knows no chance.
        images: Images behind the doorbell, at least 1.

    Raises:
        ExecutionError: The program cannot be decoded, or waits for itself.
        ImageError: The header does not fit the geometry.
        InputError: No image, a bus that stalls, mixes its answers, or fails, or a machine whose
            instructions do not overlap.
    """
    bus = bus or Bus()
    if bus != Bus(latency=bus.latency, seed=bus.seed):
        raise InputError(f"cycles can be predicted for a bus of fixed latency only, not for {bus}")
    if bus.latency < 1:
        raise InputError(f"the bus's latency must be at least 1, not {bus.latency}")
    if images < 1:
        raise InputError(f"images must be at least 1, not {images}")
    geometry = image.geometry
    if not geometry.overlap:
        raise InputError(
            f"cycles of geometry {geometry.name} cannot be predicted: its instructions do not "
            "overlap"
        )
    emulator = Emulator(geometry, image.data)
    programs = [
        (emulator.program[0][0], _instructions(emulator.program, 0)),
        *((emulator.body[0][0], _instructions(emulator.body, i)) for i in range(1, images)),
    ]
    regions = Regions.place(
        geometry, len(image.data), image.input_bytes, image.output_bytes, images
    )

    clock, tokens, ports, account = Clock(), Tokens(), Ports(), Account()
    in_flight = {
        Engine.LOAD: geometry.outstanding_bursts,
        Engine.COMPUTE: IN_FLIGHT,
        Engine.STORE: IN_FLIGHT,
    }
    dispatch = {
        engine: Dispatch(clock, tokens, engine, geometry, in_flight[engine]) for engine in Engine
    }
    channel = ReadChannel(clock, ports, bus.latency)
    prefetch = PrefetchModel(clock, channel, geometry)
    fetch = Fetch(clock, prefetch, dispatch, geometry, regions.image, len(image.data), programs)
    rows = {engine: Rows(clock, geometry, regions) for engine in (Engine.LOAD, Engine.STORE)}
    load = Load(clock, dispatch[Engine.LOAD], rows[Engine.LOAD], channel, geometry, prefetch.asks)
    store = Store(clock, dispatch[Engine.STORE], rows[Engine.STORE], ports, geometry, bus.latency)
    compute = Compute(clock, dispatch[Engine.COMPUTE], geometry, ports, account)

    def compute_step(cycle: int) -> None:
        for port in compute.step(cycle):
            channel.replan(port)
            store.replan(port)

    fetch.start(0)
    clock.run((fetch.step, load.step, store.step, compute_step), lambda: fetch.done is not None)
    assert fetch.done is not None
    compute.end(fetch.done)
    cycles = _BEFORE + fetch.done + 1 + _AFTER
    return Prediction(
        profile=account.profile(image, images, cycles),
        read_beats=load.beats,
        fetch_beats=prefetch.beats,
        write_beats=store.beats,
    )


def _instructions(program: Program, image: int) -> list[Instruction]:
    return [Instruction.decoded(opcode, fields, image) for _, opcode, fields in program]
