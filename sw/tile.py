"""What stays on chip, and how tall the tiles of a group of layers can be.

Tensors that fit stay in on-chip memory from the layer that makes them to the last that reads
them. Others pass through buffers, tile by tile; with more than one tile each buffer that is loaded
or stored is doubled, so that the next tile's transfers run beside this tile's computation. Which
rows each layer of a group computes for a tile, and where they lie in a buffer, is worked out in
``strips``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from palquant.errors import CapacityError
from palquant.hw.config import Geometry
from palquant.hw.isa import Memory
from palquant.sw.allocate import FreeList
from palquant.sw.buffers import Buffer, Key, Role, Tiling
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.layout import TensorLayout
from palquant.sw.slices import Slices
from palquant.sw.strips import Run, Span, back_and_forth, in_order, reversed_where, tile_spans

#: Share of a memory from which on a tensor stays only if it must.
LARGE = 1 / 4


@dataclass(frozen=True)
class Policy:
    """How generously on-chip memory is given to whole tensors.

    Parameters:
        resident: Largest share of a memory that one tensor may keep.
        keep_all: Store every tensor to DRAM, so that each can be compared.
        slices: Whether pools of which not one row fits are computed by slices of their channels.
    """

    resident: float
    keep_all: bool
    slices: bool = False


@dataclass(frozen=True)
class _Buffer:
    """What a buffer is to hold, and whether the bus uses it while the next tile computes."""

    memory: Memory
    row_words: int
    pixel_words: int
    rows: int
    runs: list[Run]
    doubled: bool
    slices: Slices = ()

    @classmethod
    def of(
        cls, memory: Memory, layout: TensorLayout, rows: int, runs: list[Run], doubled: bool
    ) -> _Buffer:
        """A buffer of whole rows of a tensor."""
        return cls(memory, layout.row_words, layout.pixel_words, rows, runs, doubled)

    @property
    def words(self) -> int:
        return self.rows * self.row_words

    def sliced(self, slices: Slices, width: int, doubled: bool) -> _Buffer:
        """A buffer of the same rows of ``width`` pixels that holds one slice of them."""
        pixel = slices[0].pixel_words
        return replace(
            self, row_words=width * pixel, pixel_words=pixel, doubled=doubled, slices=slices
        )


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

    def tile(
        self,
        group: Group,
        most: int | None = None,
        slices: Slices = (),
        single: bool = False,
    ) -> Tiling:
        """Allot the buffers of the tallest tile that fits.

        Parameters:
            group: The layers.
            most: Rows of a tile at most.
            slices: How the channels of a lone pool are cut; empty if they are not.
            single: Whether no buffer is doubled.

        Raises:
            CapacityError: Not even one output row fits; names layer, memory, and what it needs.
        """
        height = group.members[-1].layer.shape.height
        name = " + ".join(member.layer.name for member in group.members)
        staying = {memory: space.used for memory, space in self._memories.items()}
        shortage: tuple[Memory, int] | None = None
        for rows, copies in _candidates(height, bool(slices)):
            if most is not None and rows > most:
                continue
            copies = 1 if single else copies
            spans = tile_spans(group, rows)
            wanted = self._buffers(group, spans, slices)
            extents_fit = _extents_fit(group, spans, self.geometry)
            shortage = None
            # Rotation spreads buffers; where they do not fit like that, they may fit side by side.
            for rotate in (True, False):
                before = self.state()
                buffers, full = self._allot(wanted, copies, rotate)
                if full is None and extents_fit:
                    return Tiling(rows, spans, buffers, copies > 1, slices)
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
        channels = f" of {slices[0].pitch} channels" if slices else ""
        raise CapacityError(
            f"{name}: one output row{channels} at a time needs {needed} words of "
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
            buffers[key] = Buffer(
                buffer.memory, got, buffer.row_words, buffer.pixel_words, buffer.runs, buffer.slices
            )
        return buffers, None

    def loads(self, group: Group, layout: TensorLayout) -> bool:
        """Whether a tensor that a layer of a group reads comes from DRAM, tile by tile."""
        return layout.name not in self.resident and layout.name not in group.strips

    def adds_in_place(self, group: Group, member: Member) -> bool:
        """Whether a layer's sums take the place of the residuals that it loads."""
        if member.sum is None or group.shares_rows(member.sum):
            return False
        return self.loads(group, member.reads[1])

    def _buffers(
        self, group: Group, spans: list[tuple[Span, ...]], slices: Slices
    ) -> dict[Key, _Buffer]:
        """Each buffer that some tiles need."""
        wanted: dict[Key, _Buffer] = {}
        for member, level in zip(group.members, group.levels, strict=True):
            own = [tile[level] for tile in spans]
            in_place = self.adds_in_place(group, member)
            for number, layout in enumerate(member.reads):
                if not self.loads(group, layout) or (number and in_place):
                    continue
                read = own if number else [member.layer.input_rows(*span)[1:] for span in own]
                buffer = _Buffer.of(home(layout), layout, *in_order(read), True)
                if slices:
                    buffer = buffer.sliced(slices, layout.shape.width, True)
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
                    buffer = _Buffer.of(home(layout), layout, height, runs, doubled)
                    if slices:
                        # A pool waits for loads in the first place: while its results leave, the
                        # next slice's inputs arrive. The room is worth more to larger slices.
                        buffer = buffer.sliced(slices, layout.shape.width, False)
                    wanted[Role.STRIP, member.index, layout.name] = buffer
                if stored and codes:
                    # Both memories have their rows in the same order: an instruction knows one.
                    # So all slices share a row here, which leaves as a whole.
                    buffer = _Buffer.of(
                        Memory.OUTPUT, layout, rows, reversed_where(runs, own), True
                    )
                    wanted[Role.WRITE, member.index, layout.name] = buffer
        return wanted


def home(layout: TensorLayout) -> Memory:
    """The memory where a tensor stays if it stays on chip."""
    return Memory.ACTIVATION if layout.type.kind is Kind.CODES else Memory.RESIDUAL


def _candidates(height: int, sliced: bool) -> Iterator[tuple[int, int]]:
    """Rows of a tile and copies of its buffers, the best first.

    One tile needs no second buffer, if all channels are computed at once; nor can the last resort,
    single rows one after the other, afford one.
    """
    yield height, 2 if sliced else 1
    rows = height
    for count in range(2, height + 1):
        if -(-height // count) < rows:
            rows = -(-height // count)
            yield rows, 2
    if height > 1 or sliced:
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
