"""Orders instructions: loads early enough to hide their latency, tokens wherever engines conflict.

Two instructions of different engines that touch the same bytes (one of them writing) are ordered
by a token from the earlier to the later one, in program order. Since engines work in order, only
the latest conflicting instruction of each other engine matters, and a wait that an earlier
instruction of the same engine already made covers all before it. So each instruction gives and
takes at most one token for each other engine, and no race is left by construction; ``races`` checks
the finished program nevertheless.

Two COMPUTEs are ordered by the pipeline that they share, but for one thing: the later one may read
what the earlier one has not written yet. How far they can overlap is a property of the machine:
``config.COMPUTES_UNDER_WAY`` are in the pipeline at most, two, so that when one starts only the one
before it can still have results to write. It drains, which means that it waits for them, if it
reads any of those. A machine that took more would need this rule to look further back, and the
constant says how far; a test holds it against the sequencer.

Every wait refers to an instruction that stands earlier in the program, and fetch is in order:
the oldest incomplete instruction can always proceed, whatever the depth of the queues. That
argument is not trusted either: ``deadlock`` plays each program through with the real queue depths.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property

from palquant.hw import isa
from palquant.hw.config import COMPUTES_UNDER_WAY, Geometry
from palquant.hw.isa import Cause, Memory, Opcode
from palquant.sw.accesses import Access, accesses
from palquant.sw.intervals import LastAccesses

ENGINES: dict[Opcode, str] = {
    Opcode.LOAD: "load",
    Opcode.COMPUTE: "compute",
    Opcode.STORE: "store",
}

_CAUSES = {
    Memory.WEIGHT: Cause.WEIGHTS,
    Memory.PARAMETER: Cause.PARAMETERS,
    Memory.ACTIVATION: Cause.ACTIVATIONS,
    Memory.RESIDUAL: Cause.ACTIVATIONS,
}

#: How many steps ahead of its COMPUTE a load of weights may stand in the program. Measured on
#: digits and ResNet-18: further ahead, loads fill their queue of four and keep the fetch unit from
#: COMPUTEs that could run; less far, their latency shows.
LOOKAHEAD = 3
#: How many steps behind the last user of their place rows stand that stand further ahead. The fetch
#: unit runs ahead of the COMPUTEs in their queue: rows that wait hold up the weights behind them.
CLEARANCE = 3
#: Beats after which a transfer of rows may make way for weights that are needed earlier.
PIECE = 512


@dataclass(eq=False)
class Instruction:
    """One instruction before encoding.

    Parameters:
        opcode: What it does.
        fields: Its fields; token fields are filled in by :func:`insert_tokens`.
        geometry: The machine, to derive accesses.
    """

    opcode: Opcode
    fields: dict[str, int]
    geometry: Geometry

    @cached_property
    def accesses(self) -> list[Access]:
        """Intervals that it reads and writes."""
        complete = {item.name: 0 for item in isa.LAYOUTS[self.opcode].fields} | self.fields
        return accesses(self.opcode, complete, self.geometry)

    @cached_property
    def cycles(self) -> int:
        """Cycles that it keeps its engine busy, latencies apart."""
        f = {item.name: 0 for item in isa.LAYOUTS[self.opcode].fields} | self.fields
        if self.opcode is not Opcode.COMPUTE:
            return f["rows"] * f["row_beats"]
        results = f["output_rows"] * f["output_columns"] * f["output_chunks"]
        beats, words = self.geometry.beats, isa.result_words(f)
        if f["source"] == isa.Source.POOL:  # each beat has words of its own
            return results * beats * max(words, f["steps"])
        return results * max(words, beats * f["steps"])

    def cuts(self) -> range:
        """Beats at which a transfer may be cut: none but the first if it has rows with strides."""
        return range(0, self.fields["row_beats"] if self.fields["rows"] == 1 else 1, PIECE)

    def cut(self, first: int, last: int | None = None) -> Instruction:
        """Beats ``first`` to ``last - 1`` of a transfer of one row; to its end without ``last``."""
        f = self.fields
        end = f["row_beats"] if last is None else last
        if (first, end) == (0, f["row_beats"]):
            return self
        moved = {
            "row_beats": end - first,
            "address": f["address"] + first,
            "dram_offset": f["dram_offset"] + first * self.geometry.bus_bytes,
        }
        return Instruction(self.opcode, f | moved, self.geometry)

    @property
    def moves_rows(self) -> bool:
        """Whether it transfers rows of a tensor, not weights or parameters."""
        return self.fields.get("memory") not in (Memory.WEIGHT, Memory.PARAMETER)

    def conflicts(self, other: Instruction) -> bool:
        """Whether the order of both instructions matters."""
        return any(a.conflicts(b) for a in self.accesses for b in other.accesses)

    def reads_from(self, other: Instruction) -> bool:
        """Whether it reads what ``other`` writes.

        COMPUTEs of one layer may pass between each other's pixels. Those of two layers are taken to
        touch all between their first and last byte: how chunks follow each other depends on channel
        permutations there, and cycles should not.
        """
        reads = [access for access in self.accesses if not access.write]
        writes = [access for access in other.accesses if access.write]
        if self.fields.get("layer", 0) != other.fields.get("layer", 0):
            reads = [access.whole() for access in reads]
        return any(a.conflicts(b) for a in reads for b in writes)

    def encode(self) -> bytes:
        """The instruction's bytes.

        Raises:
            InstructionError: The machine does not hold one of its values.
        """
        layout = isa.LAYOUTS[self.opcode]
        layout.require_held(self.fields, self.geometry)
        return layout.encode({"opcode": self.opcode, **self.fields})


@dataclass(eq=False)
class Step:
    """One COMPUTE with the loads that it needs and the stores that it makes possible."""

    loads: list[Instruction] = field(default_factory=list)
    computes: list[Instruction] = field(default_factory=list)
    stores: list[Instruction] = field(default_factory=list)

    def instructions(self) -> list[Instruction]:
        """All of them, in order."""
        return self.loads + self.computes + self.stores


def order_steps(steps: list[Step], lookahead: int = LOOKAHEAD) -> list[Instruction]:
    """Program order: each step's loads are moved ahead of earlier steps' computations.

    A load that overwrites what step m still uses stands behind the computation of step m + 1:
    there it waits in the load engine's queue only while step m finishes, and never keeps the
    fetch unit from a computation that could already run. Rows of tensors, of which there may be
    many at once, stand further ahead than weights and parameters where it takes the bus longer
    than ``lookahead`` steps to load them, but not where they would wait for stores themselves. They
    stand there in pieces, so that weights arrive between them.
    """
    ahead = _Ahead(steps, lookahead)
    program: list[Instruction] = []
    for loads, step in zip(ahead.loads, steps, strict=True):
        program += loads + step.computes + step.stores
    return program


class _Ahead:
    """Where loads stand.

    Parameters:
        steps: The steps.
        lookahead: How many steps ahead of its own a load stands, unless there is reason.

    Attributes:
        loads: Those that stand before each step's computation.
    """

    def __init__(self, steps: list[Step], lookahead: int) -> None:
        self.loads: list[list[Instruction]] = [[] for _ in steps]
        self._lookahead = lookahead
        self._times = _Times(steps)
        self._users, self._stores = LastAccesses(), LastAccesses()
        self._reached = {True: 0, False: 0}  # step before which the last rows stand, or constants
        for index, step in enumerate(steps):
            self._place(index, step)
            for user in step.computes + step.stores:
                self._users.add(user.accesses, index)
            for store in step.stores:
                self._stores.add(store.accesses, index)

    def _place(self, index: int, step: Step) -> None:
        near = max(0, index - self._lookahead)
        constants = [load for load in step.loads if not load.moves_rows]
        if constants:
            used = max(self._users.latest_conflict(load.accesses) for load in constants)
            self.loads[self._behind(False, index, near, used)] += constants
        rows = [load for load in step.loads if load.moves_rows]
        missing = sum(load.cycles for load in rows)
        for load in rows:
            used = self._users.latest_conflict(load.accesses)
            left = self._times.left(self._stores.latest_conflict(load.accesses))
            starts = list(load.cuts())
            places = []
            for start in starts:
                far = max(self._times.before(index, missing - start), used + CLEARANCE)
                places.append(self._behind(True, index, max(min(near, far), left), used))
            for place in sorted(set(places)):
                first = places.index(place)
                rest = starts[first + places.count(place) :]
                self.loads[place].append(load.cut(starts[first], *rest[:1]))
            missing -= load.cycles

    def _behind(self, rows: bool, index: int, earliest: int, used: int) -> int:
        """Step before which loads stand: ``earliest`` or later; each kind of loads in order."""
        if used >= earliest:
            earliest = used + 2
        self._reached[rows] = max(self._reached[rows], min(index, earliest))
        return self._reached[rows]


class _Times:
    """When steps begin, and their stores are over, if nothing is waited for.

    Parameters:
        steps: The steps.
    """

    def __init__(self, steps: list[Step]) -> None:
        self._starts, self._left = [0], []
        self._spare = [0]  # of those cycles, what weights and parameters leave to the bus
        left = 0
        for step in steps:
            work = sum(compute.cycles for compute in step.computes)
            constants = sum(load.cycles for load in step.loads if not load.moves_rows)
            self._starts.append(self._starts[-1] + work)
            self._spare.append(self._spare[-1] + max(0, work - constants))
            left = max(left, self._starts[-1]) + sum(store.cycles for store in step.stores)
            self._left.append(left)

    def before(self, index: int, beats: int) -> int:
        """The last step from which on the bus has time for some beats before step ``index``."""
        return max(0, bisect_right(self._spare, self._spare[index] - beats) - 1)

    def left(self, index: int) -> int:
        """The first step before which a step's stores are over; 0 for the stores of step -1."""
        return bisect_left(self._starts, self._left[index]) if index >= 0 else 0


def insert_tokens(program: list[Instruction]) -> None:
    """Fill in the token, cause and drain fields of a program, in place."""
    history = {name: LastAccesses() for name in ENGINES.values()}
    computes: list[Instruction] = []
    waited: dict[tuple[str, str], int] = {}
    for index, instruction in enumerate(program):
        engine = ENGINES[instruction.opcode]
        for other, past in history.items():
            if other == engine:
                continue
            last = past.latest_conflict(instruction.accesses)
            if last > waited.get((other, engine), -1):
                candidate = program[last]
                instruction.fields[f"wait_{other}"] = 1
                candidate.fields[f"signal_{engine}"] = 1
                waited[other, engine] = last
                if other == "load":
                    memory = Memory(candidate.fields["memory"])
                    instruction.fields["cause"] = _CAUSES[memory]
        if engine == "compute":
            if any(instruction.reads_from(each) for each in computes[1 - COMPUTES_UNDER_WAY :]):
                instruction.fields["drain"] = 1
            computes.append(instruction)
        history[engine].add(instruction.accesses, index)
