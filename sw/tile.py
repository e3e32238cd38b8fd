"""What stays on chip, and how tall the tiles of a group of layers can be.

Tensors that fit stay in on-chip memory from the layer that makes them to the last that reads
them. Others pass through buffers, tile by tile; with more than one tile each buffer that is loaded
or stored is doubled, so that the next tile's transfers run beside this tile's computation. All
layers of a group have tiles of the same rows.
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
from palquant.sw.graph import Convolution, Kind
from palquant.sw.layer import Layer
from palquant.sw.layout import TensorLayout

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
    """Memory and words of a buffer, and whether the bus uses it while the next tile computes."""

    memory: Memory
    words: int
    doubled: bool


@dataclass(frozen=True)
class Tiling:
    """How a group of layers is cut.

    Parameters:
        rows: Output rows of a tile; the last tile may have fewer.
        buffers: (role, layer's index, tensor) -> memory, and the first word of each copy.
        doubled: Whether the next tile's transfers can run beside this tile's computation.
    """

    rows: int
    buffers: dict[Key, tuple[Memory, list[int]]]
    doubled: bool

    def find(self, role: Role, index: int, tensor: str, first: int) -> int | None:
        """First word of a buffer for the tile that starts at output row ``first``, or None."""
        if (role, index, tensor) not in self.buffers:
            return None
        _, starts = self.buffers[role, index, tensor]
        return starts[first // self.rows % len(starts)]


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
        for memory, starts in tiling.buffers.values():
            for start in starts:
                self._memories[memory].release(start)

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
        height = group.members[0].layer.shape.height
        name = " + ".join(member.layer.name for member in group.members)
        staying = {memory: space.used for memory, space in self._memories.items()}
        shortage: tuple[Memory, int] | None = None
        for rows, copies in _candidates(height):
            if most is not None and rows > most:
                continue
            wanted = self._buffers(group, rows)
            extents_fit = all(_extents_fit(member, rows, self.geometry) for member in group.members)
            shortage = None
            # Rotation spreads buffers; where they do not fit like that, they may fit side by side.
            for rotate in (True, False):
                before = self.state()
                buffers, full = self._allot(wanted, copies, rotate)
                if full is None and extents_fit:
                    return Tiling(rows, buffers, copies > 1)
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
    ) -> tuple[dict[Key, tuple[Memory, list[int]]], Memory | None]:
        """Allot buffers; also the memory that is too small, if one is."""
        buffers: dict[Key, tuple[Memory, list[int]]] = {}
        for key, buffer in wanted.items():
            space = self._memories[buffer.memory]
            count = copies if buffer.doubled else 1
            starts = [space.allocate(buffer.words, rotate) for _ in range(count)]
            got = [start for start in starts if start is not None]
            if len(got) < count:
                return {}, buffer.memory
            buffers[key] = (buffer.memory, got)
        return buffers, None

    def _buffers(self, group: Group, rows: int) -> dict[Key, _Buffer]:
        """Each buffer that a tile of ``rows`` output rows needs."""
        wanted: dict[Key, _Buffer] = {}
        for member in group.members:
            for number, layout in enumerate(member.reads):
                if layout.name in self.resident or layout.name in group.strips:
                    continue
                kernel, stride, _ = window(member.layer)
                tall = min(member.layer.input_shape.height, (rows - 1) * stride + kernel)
                words = (rows if number else tall) * layout.row_words
                wanted[Role.READ, member.index, layout.name] = _Buffer(home(layout), words, True)
            for layout in member.writes:
                words = rows * layout.row_words
                stored = self.goes_to_dram(layout, group)
                codes = layout.type.kind is Kind.CODES
                if stored and codes:
                    key = (Role.WRITE, member.index, layout.name)
                    wanted[key] = _Buffer(Memory.OUTPUT, words, True)
                if not group.kept[layout.name] and (not codes or layout.name in group.strips):
                    # Residuals are stored from where the next layer finds them.
                    doubled = stored and not codes
                    key = (Role.STRIP, member.index, layout.name)
                    wanted[key] = _Buffer(home(layout), words, doubled)
        return wanted


def home(layout: TensorLayout) -> Memory:
    """The memory where a tensor stays if it stays on chip."""
    return Memory.ACTIVATION if layout.type.kind is Kind.CODES else Memory.RESIDUAL


def input_rows(layer: Layer, first: int, last: int) -> tuple[int, int, int]:
    """Row of the first tap, and the rows that exist, for output rows first to last - 1."""
    kernel, stride, padding = window(layer)
    height = layer.input_shape.height
    top = first * stride - padding
    bottom = (last - 1) * stride - padding + kernel
    # Where all taps are padding, a row is named all the same.
    low = min(max(0, top), height - 1)
    return top, low, max(low + 1, min(height, bottom))


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


def _extents_fit(member: Member, rows: int, geometry: Geometry) -> bool:
    limit = (1 << geometry.extent_bits) - 1
    layer = member.layer
    _, first, last = input_rows(layer, 0, rows)
    widest = max(layer.shape.width, layer.input_shape.width)
    return max(rows, widest, last - first) <= limit


def window(layer: Layer) -> tuple[int, int, int]:
    """Height, vertical stride and vertical padding of a layer's window."""
    node = layer.operation
    kernel = node.weight.shape[2] if isinstance(node, Convolution) else node.kernel[0]
    return kernel, node.stride[0], node.padding[0]
