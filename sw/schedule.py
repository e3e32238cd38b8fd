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

#: How many steps ahead of its COMPUTE a load may stand in the program. Measured on digits and
#: ResNet-18: further ahead, loads fill their queue of four and keep the fetch unit from COMPUTEs
#: that could run; less far, their latency shows.
LOOKAHEAD = 3


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
    fetch unit from a computation that could already run.
    """
    ahead: list[list[Instruction]] = [[] for _ in steps]
    position = 0
    users = LastAccesses()
    for index, step in enumerate(steps):
        earliest = max(0, index - lookahead)
        last = max((users.latest_conflict(load.accesses) for load in step.loads), default=-1)
        if last >= earliest:
            earliest = min(index, last + 2)
        position = max(position, earliest)  # loads stay in order among themselves
        ahead[position] += step.loads
        for user in step.computes + step.stores:
            users.add(user.accesses, index)
    program: list[Instruction] = []
    for loads, step in zip(ahead, steps, strict=True):
        program += loads + step.computes + step.stores
    return program


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
