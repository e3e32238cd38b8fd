"""The cycle model of a transfer's rows: row walker and burst splitter."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from palquant.hw.config import Geometry
from palquant.hw.isa import Base
from palquant.hw.transfer import RowWalker
from palquant.sim.predict_events import Clock, Instruction
from palquant.sw.regions import Regions


@dataclass(frozen=True, eq=False)
class Burst:
    """A burst at the splitter's output.

    Attributes:
        instruction: Whose it is.
        local: On-chip address of its first beat.
        beats: Its length.
        last: Whether it is its instruction's last.
    """

    instruction: Instruction
    local: int
    beats: int
    last: bool

    @property
    def end(self) -> int:
        """On-chip address behind its last beat."""
        return self.local + self.beats


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a transfer on its way through the walker.

    Attributes:
        instruction: Whose it is.
        bursts: Its bursts.
        earliest: First cycle in which it could leave the walker's second stage.
        last: Whether it is its instruction's last.
    """

    instruction: Instruction
    bursts: list[Burst]
    earliest: int
    last: bool


class Rows:
    """Row walker and burst splitter: which burst can be taken when.

    Parameters:
        clock: The model's clock.
        geometry: The machine.
        regions: Where things lie in DRAM.
    """

    def __init__(self, clock: Clock, geometry: Geometry, regions: Regions) -> None:
        self._clock = clock
        self._geometry = geometry
        self._regions = regions
        self._walks: deque[Iterator[Row]] = deque()
        self._row: Row | None = None  # the next one for the splitter
        self._bursts: deque[Burst] = deque()  # of the row in the splitter
        self._split: Row | None = None
        self._entered = 0  # cycle in which the splitter took it
        self._freed = 0  # cycle in which its last burst left
        self._moved: int | None = None  # cycle in which the next row left the second stage
        self._walking = False  # rows of an instruction are in the first two stages
        self._ready = 0  # first cycle in which they are not, once that is known

    def take(self, cycle: int, instruction: Instruction) -> None:
        """The walker takes an instruction; only if :meth:`free`."""
        self._walking = True
        self._walks.append(self._rows(cycle, instruction))
        if self._row is None:
            self._row = self._next_row()
            self._resolve()

    def free(self, cycle: int) -> bool:
        """Whether the walker takes an instruction in this cycle."""
        return not self._walking and cycle >= self._ready

    def burst(self, cycle: int) -> Burst | None:
        """The burst at the splitter's output."""
        if self._split is None or cycle <= self._entered:
            return None
        return self._bursts[0]

    def next(self, cycle: int) -> None:
        """The burst is taken in this cycle."""
        self._bursts.popleft()
        self._clock.at(cycle + 1)
        if not self._bursts:
            self._split = None
            self._freed = cycle
            self._resolve()

    def _rows(self, cycle: int, instruction: Instruction) -> Iterator[Row]:
        f = instruction.fields
        regions, beat = self._regions, self._geometry.bus_bytes
        base = {
            Base.IMAGE: regions.image,
            Base.INPUT: regions.input + instruction.image * regions.input_stride,
            Base.OUTPUT: regions.output + instruction.image * regions.output_stride,
        }[Base(f["base"])]
        longest = self._geometry.burst_beats
        for row in range(f["rows"]):
            start = (base + f["dram_offset"] + row * f["dram_stride"]) // beat
            bursts = []
            local = f["address"] + row * f["stride"]
            left = f["row_beats"]
            final = row == f["rows"] - 1
            while left:
                size = min(left, longest - start % longest)
                bursts.append(Burst(instruction, local, size, final and size == left))
                start += size
                local += size
                left -= size
            # Each row is a cycle behind the one before; the third stage is the splitter's input.
            earliest = cycle + RowWalker.LATENCY - 1 + row
            yield Row(instruction, bursts, earliest, final)

    def _resolve(self) -> None:
        """Move on as far as it is known when: from second stage to third, from there on."""
        while self._row is not None:
            row = self._row
            if self._moved is None:
                # The third stage is free when the splitter took the row before.
                self._moved = max(row.earliest, self._entered)
                if row.last:
                    self._walking = False
                    self._ready = self._moved + 1
                    self._clock.at(self._ready)
            if self._split is not None:
                return
            self._entered = max(self._moved, self._freed) + 1
            self._split, self._bursts = row, deque(row.bursts)
            self._clock.at(self._entered + 1)
            self._moved = None
            self._row = self._next_row()

    def _next_row(self) -> Row | None:
        while self._walks:
            row = next(self._walks[0], None)
            if row is not None:
                return row
            self._walks.popleft()
        return None
