"""The cycle model of LOAD and STORE, and of the read channel that LOAD and fetch share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from palquant.hw.arbiter import ReadArbiter
from palquant.hw.config import Geometry
from palquant.hw.isa import Memory
from palquant.hw.store import StoreEngine
from palquant.sim.predict_compute import Port, Ports
from palquant.sim.predict_events import Clock, Dispatch
from palquant.sim.predict_rows import Burst, Rows

#: Where the datapath's writes go before LOAD's.
_LOAD_PORTS = {
    Memory.ACTIVATION: Port.ACTIVATION_WRITE,
    Memory.RESIDUAL: Port.RESIDUAL_WRITE,
}
#: Where the datapath's reads go before STORE's.
_STORE_PORTS = {Memory.RESIDUAL: Port.RESIDUAL_READ}


@dataclass
class ReadBurst:
    """A burst on the read channel.

    Attributes:
        arrival: First cycle in which the memory could present a beat.
        writes: Writes on chip that its beats take, one a cycle.
        port: The port that these need.
        begins: Called with the cycle of the first beat's delivery, where that is all that counts.
        ends: Called in the cycle after the last beat's delivery, where that counts.
    """

    arrival: int
    writes: int
    port: Port | None
    begins: Callable[[int], None] | None
    ends: Callable[[int], None] | None


class ReadChannel:
    """Bursts one after the other, in the order of their addresses; a beat a cycle at most.

    Parameters:
        clock: The model's clock.
        ports: The datapath's use of memory ports.
        latency: Cycles from an address, or from a write's last data, to the memory's answer.
    """

    def __init__(self, clock: Clock, ports: Ports, latency: int) -> None:
        self._clock = clock
        self._ports = ports
        self._latency = latency
        self._waiting: deque[ReadBurst] = deque()
        self._current: ReadBurst | None = None
        self._first = 0
        self._end = 0  # first cycle behind the current burst

    def ask(
        self,
        cycle: int,
        writes: int,
        port: Port | None,
        ends: Callable[[int], None] | None = None,
        begins: Callable[[int], None] | None = None,
    ) -> None:
        """The arbiter takes a burst's address; see :class:`ReadBurst`."""
        arrival = cycle + ReadArbiter.ADDRESS_LATENCY + self._latency
        self._waiting.append(ReadBurst(arrival, writes, port, begins, ends))
        if self._current is None:
            self._begin()

    def replan(self, port: Port) -> None:
        """The datapath's use of a port has become known further."""
        if self._current is not None and self._current.port is port:
            self._plan(self._current)

    def _begin(self) -> None:
        self._current = burst = self._waiting.popleft()
        self._first = max(self._end, burst.arrival + ReadArbiter.DATA_LATENCY)
        if burst.begins is not None:
            burst.begins(self._first)
        self._end = 0
        self._plan(burst)

    def _plan(self, burst: ReadBurst) -> None:
        end = self._ports.last(burst.port, self._first, burst.writes) + 1
        if end != self._end:
            self._end = end
            self._clock.at(end, self._finish)

    def _finish(self, cycle: int) -> None:
        if self._current is None or cycle != self._end:
            return  # planned otherwise meanwhile
        burst, self._current = self._current, None
        if burst.ends is not None:
            burst.ends(cycle)
        if self._waiting:
            self._begin()


class Load:
    """The load engine.

    Parameters:
        clock: The model's clock.
        dispatch: Its dispatcher.
        rows: Its rows.
        channel: The read channel.
        geometry: The machine.
        blocked: Whether the fetch unit's address goes first in a cycle.
    """

    def __init__(
        self,
        clock: Clock,
        dispatch: Dispatch,
        rows: Rows,
        channel: ReadChannel,
        geometry: Geometry,
        blocked: Callable[[int], bool],
    ) -> None:
        self._clock = clock
        self._dispatch = dispatch
        self._rows = rows
        self._channel = channel
        self._limit = geometry.outstanding_bursts
        self._activation_cycles = geometry.activation_load_cycles
        self._blocked = blocked
        self._in_flight = 0
        self.beats = 0  # asked for so far

    def step(self, cycle: int) -> None:
        """Ask for a burst, take an instruction."""
        burst = self._rows.burst(cycle)
        if burst is not None and self._in_flight < self._limit:
            if self._blocked(cycle):
                self._clock.at(cycle + 1)
            else:
                self._ask(cycle, burst)
        if self._rows.free(cycle):
            head = self._dispatch.head(cycle)
            if head is not None:
                self._dispatch.take(cycle)
                self._rows.take(cycle, head)

    def _ask(self, cycle: int, burst: Burst) -> None:
        def ends(now: int) -> None:
            self._in_flight -= 1
            if burst.last:
                self._dispatch.complete(now, burst.instruction)

        self._in_flight += 1
        self.beats += burst.beats
        self._rows.next(cycle)
        port = _LOAD_PORTS.get(Memory(burst.instruction.fields["memory"]))
        each = self._activation_cycles if port is Port.ACTIVATION_WRITE else 1
        self._channel.ask(cycle, burst.beats * each, port, ends)


class Store:
    """The store engine and the write channels.

    Parameters:
        clock: The model's clock.
        dispatch: Its dispatcher.
        rows: Its rows.
        ports: The datapath's use of memory ports.
        geometry: The machine.
        latency: Cycles from an address, or from a write's last data, to the memory's answer.
    """

    def __init__(
        self,
        clock: Clock,
        dispatch: Dispatch,
        rows: Rows,
        ports: Ports,
        geometry: Geometry,
        latency: int,
    ) -> None:
        self._clock = clock
        self._dispatch = dispatch
        self._rows = rows
        self._ports = ports
        self._limit = geometry.outstanding_bursts
        self._latency = latency
        self._data_latency = geometry.read_cycles + StoreEngine.DATA_LATENCY
        self._in_flight = 0
        self._row_beats = max(1, geometry.residual_bits_per_word // geometry.bus_bits)
        self._reading: tuple[int, Burst, Port | None] | None = None
        self._end = 0  # cycle in which the last beat of the burst is read
        self._free = 0  # first cycle in which the next one may begin
        self._response = 0  # cycle of the last response
        self.beats = 0  # asked for so far

    def step(self, cycle: int) -> None:
        """Begin a burst, take an instruction."""
        burst = self._rows.burst(cycle)
        free = self._reading is None and cycle >= self._free
        if burst is not None and self._in_flight < self._limit and free:
            port = _STORE_PORTS.get(Memory(burst.instruction.fields["memory"]))
            self._in_flight += 1
            self.beats += burst.beats
            self._rows.next(cycle)
            self._reading = (cycle + 1, burst, port)
            self._end = 0
            self._plan()
        if self._rows.free(cycle):
            head = self._dispatch.head(cycle)
            if head is not None:
                self._dispatch.take(cycle)
                self._rows.take(cycle, head)

    def replan(self, port: Port) -> None:
        """The datapath's use of a port has become known further."""
        if self._reading is not None and self._reading[2] is port:
            self._plan()

    def _plan(self) -> None:
        assert self._reading is not None
        end = self._last(*self._reading)
        if end != self._end:
            self._end = end
            self._clock.at(end, self._read)

    def _last(self, first: int, burst: Burst, port: Port | None) -> int:
        """Cycle in which the last beat is read, the first from cycle ``first`` on."""
        if port is None or self._row_beats == 1:
            return self._ports.last(port, first, burst.beats)
        # A burst reads a row once, for all of its beats.
        needed = [not local % self._row_beats for local in range(burst.local, burst.end)]
        needed[0] = True
        return self._ports.last_of_rows(port, first, needed)

    def _read(self, cycle: int) -> None:
        """The last beat of a burst is read: the next one may begin, the response follows."""
        if self._reading is None or cycle != self._end:
            return  # planned otherwise meanwhile
        _, burst, _ = self._reading
        self._reading = None
        self._free = cycle + 1
        self._clock.at(self._free)
        sent = cycle + self._data_latency
        self._response = max(sent + self._latency, self._response + 1)

        def acknowledged(now: int) -> None:
            self._in_flight -= 1
            if burst.last:
                self._dispatch.complete(now, burst.instruction)

        self._clock.at(self._response + 1, acknowledged)
