"""The cycle model of the fetch unit and of its prefetch buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Opcode
from palquant.hw.prefetch import BURST_UNITS
from palquant.hw.tokens import Engine
from palquant.sim.predict_events import ENGINES, Clock, Dispatch, Instruction
from palquant.sim.predict_transfer import ReadChannel

#: From a write into Amaranth's ``SyncFIFOBuffered`` to the entry at its output.
_FIFO_LATENCY = 2
#: From there to the fetch unit: a register behind the buffer, another behind the decoder.
_REGISTERS = 2
#: From the decision to read on (``start``, the header's verdict, an empty buffer behind END) to
#: the cycle in which the state behind BEGIN is reached: LOCATE and BEGIN.
_RESTART = 3
#: From there to the cycle in which the prefetch can ask for its first burst: its size is known
#: a cycle behind ``go``, which shows in the next cycle.
_SIZE = 1


class State(Enum):
    """States of the fetch unit; the short ones are cycles between two of these."""

    HEADER = auto()
    RUN = auto()
    FLUSH = auto()
    WAIT = auto()


class PrefetchModel:
    """Bursts that are read ahead, and when their beats can be taken.

    Parameters:
        clock: The model's clock.
        channel: The read channel.
        geometry: The machine.

    Attributes:
        depth: Beats that are read ahead at most.
        burst_beats: Beats that are read at once.
        beats: Beats that were asked for so far.
    """

    def __init__(self, clock: Clock, channel: ReadChannel, geometry: Geometry) -> None:
        # As Prefetch.depth and Prefetch.burst_beats.
        self.depth = geometry.prefetch_units * isa.UNIT_BITS // geometry.bus_bits
        unit_beats = BURST_UNITS * isa.UNIT_BITS // geometry.bus_bits
        self.burst_beats = min(geometry.burst_beats, unit_beats)
        self._clock = clock
        self._channel = channel
        self._free = self.depth
        self._place = 0
        self._left = 0
        self._from = 0  # first cycle in which it may ask
        self._address = -1  # last cycle in which an address was valid
        self._unknown = 0  # bursts whose beats have no cycle yet
        self._arrivals: deque[int] = deque()
        self._size = 0  # of the burst whose address is or was valid last
        self._popped = -1  # last cycle in which a beat was taken
        self.beats = 0

    def go(self, cycle: int, place: int, beats: int) -> None:
        """From ``cycle`` on, read ``beats`` beats from bus beat ``place`` on."""
        self._place, self._left, self._from = place, beats, cycle
        self._clock.at(cycle)

    def asks(self, cycle: int) -> bool:
        """Whether its address is valid in this cycle, and goes before the load engine's."""
        return cycle == self._address

    def step(self, cycle: int) -> None:
        """Ask for a burst if there is room for a long one, and no address is valid."""
        if cycle == self._address:
            size = self._size
            self._channel.ask(cycle, size, None, begins=self._arrives(size))
            self._clock.at(cycle + 1)
        elif cycle >= self._from and self._left and self._free >= self.burst_beats:
            self._size = min(self._left, self.burst_beats - self._place % self.burst_beats)
            self._free -= self._size
            self._place += self._size
            self._left -= self._size
            self._unknown += 1
            self.beats += self._size
            self._address = cycle + 1
            self._clock.at(cycle + 1)

    def _arrives(self, beats: int) -> Callable[[int], None]:
        def begins(first: int) -> None:
            self._unknown -= 1
            self._arrivals.extend(range(first, first + beats))
            self._clock.at(first + _FIFO_LATENCY + _REGISTERS)

        return begins

    def valid(self, cycle: int) -> bool:
        """Whether a beat can be taken in this cycle."""
        if not self._arrivals or cycle <= self._popped:
            return False
        since = self._arrivals[0] + _FIFO_LATENCY + _REGISTERS
        if cycle < since:
            self._clock.at(since)
        return cycle >= since

    def pop(self, cycle: int) -> None:
        """Take a beat; its place is free in the next cycle."""
        self._arrivals.popleft()
        self._popped = cycle
        self._free += 1
        self._clock.at(cycle + 1)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._left = 0

    def flushed(self, cycle: int) -> int | None:
        """With ``flush`` since ``cycle``: when it is empty; None as long as that is not known."""
        if self._unknown:
            return None
        # Beats that have left the buffer for a register are dropped at once.
        empty, popped = cycle, -1
        arrivals = deque(self._arrivals)
        for _ in range(_REGISTERS):
            if not arrivals:
                break
            left = max(arrivals[0] + _FIFO_LATENCY, popped + 1)
            if left >= cycle:
                break
            arrivals.popleft()
            empty, popped = cycle + 1, left
        popped = cycle - 1
        for arrival in arrivals:
            if arrival < cycle:  # in the buffer, which it leaves beat by beat
                popped = max(arrival + _FIFO_LATENCY, popped + 1, cycle)
                empty = max(empty, popped + 1)
            else:  # dropped where it arrives
                empty = max(empty, arrival + 1)
        self._arrivals.clear()
        self._free = self.depth
        return empty


class Fetch:
    """The fetch unit: program order, queues that are full, images.

    Parameters:
        clock: The model's clock.
        prefetch: Its buffer.
        dispatches: The engines' queues.
        geometry: The machine.
        address: Byte address of the memory image.
        image_bytes: Its size.
        programs: For each image, offset and instructions of what is executed for it.

    Attributes:
        done: Cycle of the strobe ``done``, or None.
    """

    def __init__(
        self,
        clock: Clock,
        prefetch: PrefetchModel,
        dispatches: Mapping[Engine, Dispatch],
        geometry: Geometry,
        address: int,
        image_bytes: int,
        programs: Sequence[tuple[int, Sequence[Instruction]]],
    ) -> None:
        self._clock = clock
        self._prefetch = prefetch
        self._dispatches = dispatches
        self._bus_bytes = geometry.bus_bytes
        self._address = address
        self._image_bytes = image_bytes
        self._programs = deque(programs)
        self._instructions: deque[Instruction] = deque()
        self._state = State.HEADER
        self._since = 0  # first cycle in that state
        self._beat = 0  # of the header or instruction
        self._last = False  # the last image's END was read
        self._idle: int | None = None  # since when the engines have nothing to do
        self.done: int | None = None

    def start(self, cycle: int) -> None:
        """The run begins."""
        self._locate(cycle, 0, isa.HEADER_BYTES)

    def _locate(self, cycle: int, offset: int, end: int) -> None:
        """The state LOCATE follows on ``cycle``."""
        place, beats = (self._address + offset), end - offset
        self._prefetch.go(
            cycle + _RESTART + _SIZE, place // self._bus_bytes, beats // self._bus_bytes
        )

    def _enter(self, cycle: int, state: State) -> None:
        self._state, self._since, self._beat = state, cycle, 0
        self._clock.at(cycle)

    def _next_program(self, cycle: int) -> None:
        offset, instructions = self._programs.popleft()
        self._instructions = deque(instructions)
        self._locate(cycle, offset, self._image_bytes)

    def step(self, cycle: int) -> None:
        """What the state does in this cycle."""
        self._prefetch.step(cycle)
        if not all(dispatch.idle for dispatch in self._dispatches.values()):
            self._idle = None
        elif self._idle is None:
            self._idle = cycle
        if cycle < self._since or self.done is not None:
            return
        match self._state:
            case State.HEADER:
                self._header(cycle)
            case State.RUN:
                self._run(cycle)
            case State.FLUSH:
                self._flush(cycle)
            case State.WAIT:
                self._wait(cycle)

    def _header(self, cycle: int) -> None:
        if self._prefetch.valid(cycle):
            self._prefetch.pop(cycle)
            self._beat += 1
            if self._beat == isa.HEADER_BYTES // self._bus_bytes:
                judged = cycle + 1
                self._next_program(judged)
                self._enter(judged + _RESTART, State.RUN)

    def _run(self, cycle: int) -> None:
        if not self._prefetch.valid(cycle):
            return
        instruction = self._instructions[0]
        engine = ENGINES.get(instruction.opcode)
        if engine is not None and not self._dispatches[engine].room:
            return
        self._prefetch.pop(cycle)
        self._beat += 1
        if self._beat < isa.LAYOUTS[instruction.opcode].size // (8 * self._bus_bytes):
            return
        self._instructions.popleft()
        self._beat = 0
        if engine is not None:
            self._dispatches[engine].push(cycle, instruction)
        elif instruction.opcode is Opcode.BARRIER:
            self._enter(cycle + 1, State.WAIT)
        else:
            self._prefetch.stop()
            self._enter(cycle + 1, State.FLUSH)

    def _flush(self, cycle: int) -> None:
        empty = self._prefetch.flushed(self._since)
        if empty is None:
            return
        if not self._programs:
            self._last = True
            self._enter(empty + 1, State.WAIT)
        else:
            self._next_program(empty)
            self._enter(empty + _RESTART, State.WAIT)

    def _wait(self, cycle: int) -> None:
        if self._idle is None:
            return
        if cycle == self._idle:  # it shows a cycle later
            self._clock.at(cycle + 1)
            return
        if self._last:
            self.done = cycle
        else:
            self._enter(cycle + 1, State.RUN)
