"""Proves that a finished program has no race: whatever it touches is ordered by what it says.

The tokens are derived by ``schedule``; this check shares nothing with it but ``accesses``, which
says what an instruction touches. It reads the program as the machine does, derives which
instructions are known to be complete when another starts, and refuses a program in which two
instructions touch the same bytes, one of them writing, and the second may start before the first
is complete.

What orders instructions:

- A token. The k-th wait of an engine for another takes the k-th token that the other gave, and an
  engine completes in order: the giver and all before it in its engine are complete.
- BARRIER and END, which wait until all engines are idle.
- The order within an engine, as far as it goes. LOADs write in order, since their bursts share one
  AXI identifier and beats are written as they arrive; STOREs read in order, and write in order for
  the same reason. The compute engine has one pipeline: what a COMPUTE reads and writes comes
  before what the next one reads *there* and writes, but its last results are written while the next
  one already reads inputs. Up to ``config.COMPUTES_UNDER_WAY`` are in it, unless one drains.

Knowledge is a vector clock: for each engine, how many of its instructions are complete. Since
engines complete in order, the last reader and the last writer of each byte in each engine decide,
and each access looks at those alone, and at those before them that are not complete either where it
meets nothing but gaps of theirs.

A run of several images repeats the body, from its first instruction to END. That END leaves no
token and no instruction behind, so that the images are in order; :func:`check_races` also makes
sure that what only the prologue brings on chip is still there in the next image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from palquant.errors import InstructionError
from palquant.hw.config import COMPUTES_UNDER_WAY, Geometry
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.accesses import Access, accesses, adds_in_place

Clock = tuple[int, int, int]
Cells = npt.NDArray[np.int64]

#: The engines in the order of a clock's elements, and what the token fields call them.
_ENGINES = (Opcode.LOAD, Opcode.COMPUTE, Opcode.STORE)
_NAMES = ("load", "compute", "store")
_COMPUTE = _ENGINES.index(Opcode.COMPUTE)


class Placed(NamedTuple):
    """One instruction of a program.

    Attributes:
        offset: Where it stands in the image, in bytes.
        opcode: What it does.
        fields: Its fields.
    """

    offset: int
    opcode: Opcode
    fields: dict[str, int]

    def __str__(self) -> str:
        return f"{self.opcode.name} at offset {self.offset:#x} (layer {self.fields['layer']})"


def check_races(
    program: Sequence[tuple[int, Opcode, dict[str, int]]], body_offset: int, geometry: Geometry
) -> None:
    """Refuse a program with a race, or whose body cannot be repeated.

    Parameters:
        program: Offset in the image, opcode and fields of each instruction, up to END.
        body_offset: Offset of the body's first instruction.
        geometry: The machine.

    Raises:
        InstructionError: Names both instructions, the memory and the bytes; or the instruction
            that waits for a token that no earlier one gave; or tokens that are left over where the
            body begins or ends; or what of the prologue does not hold for further images.
    """
    placed = [Placed(*item) for item in program]
    offsets = [item.offset for item in placed]
    if body_offset not in offsets:
        raise InstructionError(f"no instruction stands at the body's offset {body_offset:#x}")
    body = offsets.index(body_offset)
    known = known_complete(placed, body)
    touched = _Touched(placed, geometry)
    _check_order(placed, known, touched)
    _check_repetition(placed, body, touched)


def known_complete(program: Sequence[Placed], body: int = 0) -> list[Clock]:
    """How many instructions of each engine are complete, for certain, when each one starts.

    Parameters:
        program: The program.
        body: Index of the body's first instruction, before which all tokens must be taken.

    Returns:
        A clock for each instruction, in the order (load, compute, store).

    Raises:
        InstructionError: A wait for a token that no earlier instruction gave, a token from an
            engine to itself, or tokens left over.
    """
    begun = [0, 0, 0]
    known = [[0, 0, 0] for _ in _ENGINES]
    tokens: dict[tuple[int, int], deque[list[int]]] = {
        (a, b): deque() for a in range(3) for b in range(3)
    }
    clocks: list[Clock] = []
    for index, item in enumerate(program):
        if index == body:
            _require_no_tokens(tokens, f"before the body begins at offset {item.offset:#x}")
        if item.opcode not in _ENGINES:
            known = [list(begun) for _ in _ENGINES]
            clocks.append((begun[0], begun[1], begun[2]))
            continue
        engine = _ENGINES.index(item.opcode)
        if item.fields[f"wait_{_NAMES[engine]}"] or item.fields[f"signal_{_NAMES[engine]}"]:
            raise InstructionError(f"{item} exchanges a token with its own engine")
        clock = known[engine]
        if engine == _COMPUTE:
            under_way = 0 if item.fields["drain"] else COMPUTES_UNDER_WAY - 1
            clock[engine] = max(clock[engine], begun[engine] - under_way)
        for other, name in enumerate(_NAMES):
            if item.fields[f"wait_{name}"]:
                if not tokens[other, engine]:
                    raise InstructionError(f"{item} waits for a token that {name} has not given")
                clock[:] = map(max, clock, tokens[other, engine].popleft())
        clocks.append((clock[0], clock[1], clock[2]))
        begun[engine] += 1
        for other, name in enumerate(_NAMES):
            if item.fields[f"signal_{name}"]:
                token = list(clock)
                token[engine] = begun[engine]
                tokens[engine, other].append(token)
    _require_no_tokens(tokens, "at the program's end")
    return clocks


def _require_no_tokens(tokens: dict[tuple[int, int], deque[list[int]]], where: str) -> None:
    left = [f"{_NAMES[a]} to {_NAMES[b]}" for (a, b), waiting in tokens.items() if waiting]
    if left:
        raise InstructionError(f"tokens from {', '.join(left)} are left over {where}")


class _Use(NamedTuple):
    """An access with its interval in cells."""

    access: Access
    space: str
    first: int
    end: int


class _Touched:
    """The accesses of a program, each space cut into cells wherever an interval begins or ends.

    Attributes:
        uses: Accesses of each instruction.
        cells: Space -> number of cells.
    """

    def __init__(self, program: Sequence[Placed], geometry: Geometry) -> None:
        found = [
            [
                (access, _name(access.space))
                for access in accesses(item.opcode, item.fields, geometry)
                if access.low < access.high
            ]
            for item in program
        ]
        ends: dict[str, set[int]] = {}
        for each in found:
            for access, space in each:
                ends.setdefault(space, set()).update((access.low, access.high))
        cell = {
            space: {byte: number for number, byte in enumerate(sorted(bytes_))}
            for space, bytes_ in ends.items()
        }
        self.cells = {space: len(bytes_) for space, bytes_ in ends.items()}
        self.uses = [
            [
                _Use(access, space, cell[space][access.low], cell[space][access.high])
                for access, space in each
            ]
            for each in found
        ]

    def meets(self, index: int, access: Access) -> bool:
        """Whether an instruction conflicts with an access of another."""
        return any(use.access.conflicts(access) for use in self.uses[index])

    def conflict(self, first: int, second: int) -> str:
        """Where two instructions meet, in words; they conflict."""
        a, b = next(
            (a.access, b.access)
            for b in self.uses[second]
            for a in self.uses[first]
            if a.access.conflicts(b.access)
        )
        return f"bytes {max(a.low, b.low):#x} to {min(a.high, b.high) - 1:#x} of {_name(a.space)}"


def _name(space: Memory | Base) -> str:
    kind = "memory" if isinstance(space, Memory) else "region in DRAM"
    return f"the {space.name.lower()} {kind}"


def _check_order(program: Sequence[Placed], known: Sequence[Clock], touched: _Touched) -> None:
    """Each access comes after the conflicting ones before it in the program are complete."""
    # For each space, and each engine that reads (False) or writes (True) there: one more than the
    # engine's own number of the last instruction that did so to each cell.
    last: dict[str, dict[tuple[int, bool], Cells]] = {space: {} for space in touched.cells}
    members: list[list[int]] = [[] for _ in _ENGINES]
    for index, item in enumerate(program):
        uses = touched.uses[index]
        if not uses:
            continue
        engine, clock = _ENGINES.index(item.opcode), known[index]
        if not adds_in_place(item.opcode, item.fields) and any(
            a.access.conflicts(b.access)
            for a in uses
            if a.access.write
            for b in uses
            if not b.access.write
        ):
            raise InstructionError(f"{item} reads and writes {touched.conflict(index, index)}")
        for access, space, first, end in uses:
            for (other, writes), cells in last[space].items():
                if not (access.write or writes):
                    continue
                if other == engine and (engine != _COMPUTE or access.write):
                    continue
                latest = int(cells[first:end].max())
                # Cells are of whole intervals, whose pieces may lie between those of others.
                for before in reversed(members[other][clock[other] : latest]):
                    if touched.meets(before, access):
                        raise InstructionError(
                            f"{item} may begin before {program[before]} is complete: nothing "
                            f"orders what they do to {touched.conflict(before, index)}"
                        )
        members[engine].append(index)
        for access, space, first, end in uses:
            if (engine, access.write) not in last[space]:
                last[space][engine, access.write] = np.zeros(touched.cells[space], np.int64)
            last[space][engine, access.write][first:end] = len(members[engine])


def _check_repetition(program: Sequence[Placed], body: int, touched: _Touched) -> None:
    """What the prologue brings, and the body reads without bringing it again, is left alone."""
    brought: dict[str, Cells] = {}
    for index in range(body):
        for access, space, first, end in touched.uses[index]:
            if access.space in (Base.INPUT, Base.OUTPUT) and isinstance(access.space, Base):
                raise InstructionError(
                    f"{program[index]} stands before the body, which further images begin with, "
                    f"but touches {space}, which differs for each image"
                )
            if access.write:
                cells = brought.setdefault(space, np.full(touched.cells[space], -1))
                cells[first:end] = index
    # Until the body writes all of a cell, what it reads there is the prologue's.
    renewed = {space: cells < 0 for space, cells in brought.items()}
    reader = {space: np.full_like(cells, -1) for space, cells in brought.items()}
    writer = {space: np.full_like(cells, -1) for space, cells in brought.items()}
    for index in range(body, len(program)):
        for access, space, first, end in touched.uses[index]:
            if space not in brought:
                continue
            if not access.write:
                reader[space][first:end][~renewed[space][first:end]] = index
            else:
                writer[space][first:end] = index
                if _is_dense(program[index]):
                    renewed[space][first:end] = True
    for space, constants in brought.items():
        bad = np.flatnonzero((constants >= 0) & (reader[space] >= 0) & (writer[space] >= 0))
        if bad.size:
            cell = int(bad[0])
            constant, user, culprit = (
                int(cells[cell]) for cells in (constants, reader[space], writer[space])
            )
            raise InstructionError(
                f"{program[culprit]} overwrites {touched.conflict(constant, culprit)}, which only "
                f"{program[constant]} brings, before the body: {program[user]} would not find it "
                "in the next image"
            )


def _is_dense(item: Placed) -> bool:
    """Whether a writer leaves no byte of its interval as it was."""
    fields = item.fields
    return item.opcode is Opcode.LOAD and (
        fields["rows"] == 1 or fields["stride"] <= fields["row_beats"]
    )
