"""What stays on chip, and how tall the tiles of a group of layers can be.

Tensors that fit stay in on-chip memory from the layer that makes them to the last that reads
them. Others pass through buffers, tile by tile; with more than one tile each buffer that is loaded
or stored is doubled, so that the next tile's transfers run beside this tile's computation. Which
rows each layer of a group computes for a tile, and where they lie in a buffer, is worked out in
``strips``.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from palquant.errors import CapacityError
from palquant.hw.config import Geometry
from palquant.hw.isa import Memory
from palquant.sw.allocate import FreeList
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.layout import TensorLayout
from palquant.sw.strips import Run, Span, back_and_forth, in_order, reversed_where, tile_spans

#: Share of a memory from which on a tensor stays only if it must.
LARGE = 1 / 4


@dataclass(frozen=True)
class Policy:
    """How generously on-chip memory is given to whole tensors.

    Parameters:
        resident: Largest share of a memory that one tensor may keep.
        keep_all: Store every tensor to DRAM, so that each can be compared.
    """

    resident: float
    keep_all: bool


class Role(enum.Enum):
    """What a buffer is for."""

    READ = "read"  #: rows loaded from DRAM
    WRITE = "write"  #: rows on their way to DRAM
    STRIP = "strip"  #: rows that one layer of a group makes and another reads


#: Role of a buffer, index of the layer that it belongs to, and the tensor.
Key = tuple[Role, int, str]


@dataclass(frozen=True)
class _Buffer:
    """What a buffer is to hold, and whether the bus uses it while the next tile computes."""

    memory: Memory
    row_words: int
    rows: int
    runs: list[Run]
    doubled: bool

    @property
    def words(self) -> int:
        return self.rows * self.row_words


@dataclass(frozen=True)
class Place:
    """Where the rows of a tensor lie.

    Parameters:
        word: First word of a row.
        step: Rows from it to the next one in memory: 1 or -1.
    """

    word: int
    step: int = 1


@dataclass(frozen=True)
class Buffer:
    """A buffer, or as many of them as tiles take turns with.

    Parameters:
        memory: Where.
        starts: First word of each copy.
        row_words: Words of a row.
        runs: Rows in it, tile by tile.
    """

    memory: Memory
    starts: list[int]
    row_words: int
    runs: list[Run]

    def find(self, tile: int, row: int) -> Place:
        """Where a tensor's row lies during a tile."""
        start, run = self.starts[tile % len(self.starts)], self.runs[tile]
        return Place(start + run.find(row) * self.row_words, run.step)


@dataclass(frozen=True)
class Tiling:
    """How a group of layers is cut.

    Parameters:
        rows: Output rows of the last layer in a tile; the last tile may have fewer.
        spans: Rows that the layers of each level compute, tile by tile.
        buffers: (role, layer's index, tensor) -> buffer.
        doubled: Whether the next tile's transfers can run beside this tile's computation.
    """

    rows: int
    spans: list[tuple[Span, ...]]
    buffers: dict[Key, Buffer]
    doubled: bool

    def find(self, role: Role, index: int, tensor: str, tile: int, row: int) -> Place | None:
        """Where a tensor's row lies during a tile, or None if there is no such buffer."""
        buffer = self.buffers.get((role, index, tensor))
        return None if buffer is None else buffer.find(tile, row)


class OnChip:
    """Space in the activation memory, the residual memory and the output buffer.

    Parameters:
        geometry: The machine.
        policy: What may stay.
        result: Name of the network's result, which always goes to DRAM.

    Attributes:
        resident: Tensors that are in on-chip memory as a whole -> their first word.
    """

    def __init__(self, geometry: Geometry, policy: Policy, result: str) -> None:
        g = geometry
        self.geometry = g
        self.policy = policy
        self.result = result
        words_per_beat = max(1, g.bus_bits // g.activation_bits_per_word)
        self._memories = {
            Memory.ACTIVATION: FreeList(g.activation_words, words_per_beat),
            Memory.RESIDUAL: FreeList(g.residual_words, g.residual_words_per_row, rotate=True),
            Memory.OUTPUT: FreeList(g.output_words, words_per_beat, rotate=True),
        }
        self.resident: dict[str, int] = {}

    def keep(self, layout: TensorLayout) -> bool:
        """Keep a whole tensor on chip if the policy and the memory allow."""
        memory = self._memories[home(layout)]
        if layout.words > self.policy.resident * memory.size:
            return False
        start = memory.allocate(layout.words)
        if start is None:
            return False
        self.resident[layout.name] = start
        return True

    def state(self) -> Any:
        """Everything that is allotted, for :meth:`restore`."""
        return copy.deepcopy((self._memories, self.resident))

    def restore(self, state: Any) -> None:
        """Go back to an earlier :meth:`state`, as often as one likes."""
        self._memories, self.resident = copy.deepcopy(state)

    def large(self, layout: TensorLayout) -> bool:
        """Whether a tensor would take so much of its memory that others miss the room."""
        return layout.words > LARGE * self._memories[home(layout)].size

    def release(self, layout: TensorLayout) -> None:
        """Give back the space of a tensor that stayed."""
        self._memories[home(layout)].release(self.resident.pop(layout.name))

    def release_buffers(self, tiling: Tiling) -> None:
        """Give back a group's buffers."""
        for buffer in tiling.buffers.values():
            for start in buffer.starts:
                self._memories[buffer.memory].release(start)

    def goes_to_dram(self, layout: TensorLayout, group: Group) -> bool:
        """Whether a tensor that a group makes is stored to DRAM."""
        if self.policy.keep_all or layout.name == self.result:
            return True
        return not group.kept[layout.name] and not group.passes(layout.name)

    def tile(self, group: Group, most: int | None = None) -> Tiling:
        """Allot the buffers of the tallest tile that fits.

        Parameters:
            group: The layers.
            most: Rows of a tile at most.

        Raises:
            CapacityError: Not even one output row fits; names layer, memory, and what it needs.
        """
        height = group.members[-1].layer.shape.height
        name = " + ".join(member.layer.name for member in group.members)
        staying = {memory: space.used for memory, space in self._memories.items()}
        shortage: tuple[Memory, int] | None = None
        for rows, copies in _candidates(height):
            if most is not None and rows > most:
                continue
            spans = tile_spans(group, rows)
            wanted = self._buffers(group, spans)
            extents_fit = _extents_fit(group, spans, self.geometry)
            shortage = None
            # Rotation spreads buffers; where they do not fit like that, they may fit side by side.
            for rotate in (True, False):
                before = self.state()
                buffers, full = self._allot(wanted, copies, rotate)
                if full is None and extents_fit:
                    return Tiling(rows, spans, buffers, copies > 1)
                self.restore(before)
                if full is None:
                    break
                needed = sum(
                    other.words * (copies if other.doubled else 1)
                    for other in wanted.values()
                    if other.memory is full
                )
                shortage = (full, needed + staying[full])
        if shortage is None:
            raise CapacityError(
                f"{name}: rows of {group.members[0].layer.shape.width} pixels exceed the "
                f"{self.geometry.extent_bits}-bit extents of an instruction"
            )
        memory, needed = shortage
        raise CapacityError(
            f"{name}: one output row at a time needs {needed} words of "
            f"{memory.name.lower()} memory; geometry {self.geometry.name} has "
            f"{self._memories[memory].size}"
        )

    def _allot(
        self, wanted: dict[Key, _Buffer], copies: int, rotate: bool
    ) -> tuple[dict[Key, Buffer], Memory | None]:
        """Allot buffers; also the memory that is too small, if one is."""
        buffers: dict[Key, Buffer] = {}
        for key, buffer in wanted.items():
            space = self._memories[buffer.memory]
            count = copies if buffer.doubled else 1
            starts = [space.allocate(buffer.words, rotate) for _ in range(count)]
            got = [start for start in starts if start is not None]
            if len(got) < count:
                return {}, buffer.memory
            buffers[key] = Buffer(buffer.memory, got, buffer.row_words, buffer.runs)
        return buffers, None

    def loads(self, group: Group, layout: TensorLayout) -> bool:
        """Whether a tensor that a layer of a group reads comes from DRAM, tile by tile."""
        return layout.name not in self.resident and layout.name not in group.strips

    def adds_in_place(self, group: Group, member: Member) -> bool:
        """Whether a layer's sums take the place of the residuals that it loads."""
        if member.sum is None or group.shares_rows(member.sum):
            return False
        return self.loads(group, member.reads[1])

    def _buffers(self, group: Group, spans: list[tuple[Span, ...]]) -> dict[Key, _Buffer]:
        """Each buffer that some tiles need."""
        wanted: dict[Key, _Buffer] = {}
        for member, level in zip(group.members, group.levels, strict=True):
            own = [tile[level] for tile in spans]
            in_place = self.adds_in_place(group, member)
            for number, layout in enumerate(member.reads):
                if not self.loads(group, layout) or (number and in_place):
                    continue
                read = own if number else [member.layer.input_rows(*span)[1:] for span in own]
                buffer = _Buffer(home(layout), layout.row_words, *in_order(read), True)
                wanted[Role.READ, member.index, layout.name] = buffer
            for layout in member.writes:
                stored = self.goes_to_dram(layout, group)
                codes = layout.type.kind is Kind.CODES
                rows, runs = in_order(own)
                if not group.kept[layout.name] and (not codes or layout.name in group.strips):
                    # Residuals are stored from where the next layer finds them.
                    doubled = (stored and not codes) or (in_place and layout.name == member.sum)
                    height = rows
                    if group.shares_rows(layout.name) and len(spans) > 1:
                        (height, runs), doubled = back_and_forth(own), False
                    buffer = _Buffer(home(layout), layout.row_words, height, runs, doubled)
                    wanted[Role.STRIP, member.index, layout.name] = buffer
                if stored and codes:
                    # Both memories have their rows in the same order: an instruction knows one.
                    buffer = _Buffer(
                        Memory.OUTPUT, layout.row_words, rows, reversed_where(runs, own), True
                    )
                    wanted[Role.WRITE, member.index, layout.name] = buffer
        return wanted


def home(layout: TensorLayout) -> Memory:
    """The memory where a tensor stays if it stays on chip."""
    return Memory.ACTIVATION if layout.type.kind is Kind.CODES else Memory.RESIDUAL


def _candidates(height: int) -> Iterator[tuple[int, int]]:
    """Rows of a tile and copies of its buffers, the best first.

    One tile needs no second buffer; nor can the last resort, single rows one after the other,
    afford one.
    """
    yield height, 1
    rows = height
    for count in range(2, height + 1):
        if -(-height // count) < rows:
            rows = -(-height // count)
            yield rows, 2
    if height > 1:
        yield 1, 1


def _extents_fit(group: Group, spans: list[tuple[Span, ...]], geometry: Geometry) -> bool:
    limit = (1 << geometry.extent_bits) - 1
    for member, level in zip(group.members, group.levels, strict=True):
        layer = member.layer
        widest = max(layer.shape.width, layer.input_shape.width)
        for span in {tile[level] for tile in spans}:
            _, first, last = layer.input_rows(*span)
            if max(span[1] - span[0], widest, last - first) > limit:
                return False
    return True
