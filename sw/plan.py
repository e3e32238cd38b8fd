"""Decides layer by layer what stays on chip, and which layers are computed strip by strip together.

Layers that could join (see ``fuse``) do so if that moves fewer beats over the bus than computing
them one after the other: a group's strips are sometimes lower than a layer's own tiles, and weights
that do not stay are loaded for each.
"""

from __future__ import annotations

from palquant.errors import CapacityError
from palquant.hw.config import Geometry
from palquant.sw.constants import Constants
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork
from palquant.sw.segments import Segment
from palquant.sw.tile import OnChip, Tiling, home, input_rows, window

#: Beats that a group's last tile may store; taller tiles are lowered if that costs nothing.
MAX_TAIL_BEATS = 2048


class Planner:
    """Forms groups of layers, in order, and allots their memory.

    Parameters:
        network: The placed network.
        chip: Space in the on-chip memories.
        constants: Weights and parameters.
    """

    def __init__(self, network: PlacedNetwork, chip: OnChip, constants: Constants) -> None:
        self.network = network
        self.geometry: Geometry = network.geometry
        self.chip = chip
        self.constants = constants

    def begin(self, first: int) -> tuple[Group, Tiling]:
        """The layer ``first`` and those that join it, and how all of them are cut.

        Raises:
            CapacityError: The layer fits no tiling; names layer, memory, and the size it needs.
        """
        group, tiling = self._form(first)
        return group, self._lower(group, tiling)

    def _form(self, first: int) -> tuple[Group, Tiling]:
        """The layer ``first`` and those that join it, in tiles as tall as fit."""
        before = self.chip.state()
        group, tiling = self._longest(first, len(self.network.layers) - first)
        count = len(group.members)
        if count == 1:
            return group, tiling
        together = self._beats(group, tiling)
        joined = self.chip.state()
        self.chip.restore(before)
        try:
            apart = self._beats_apart(first, count)
        except CapacityError:
            apart = together
        if apart < together:
            self.chip.restore(before)
            return self._longest(first, 1)
        self.chip.restore(joined)
        return group, tiling

    def end(self, group: Group, tiling: Tiling) -> None:
        """Give back a group's buffers, and the tensors that nobody reads any more."""
        self.chip.release_buffers(tiling)
        for name in list(self.chip.resident):
            if self.network.last_use(name) <= group.members[-1].index:
                self.chip.release(self.network.layouts[name])

    def segments(self, group: Group) -> list[list[Segment]]:
        """Segments of each layer of a group."""
        return [self.constants.segments(member.layer) for member in group.members]

    # Groups

    def _longest(self, first: int, most: int) -> tuple[Group, Tiling]:
        """As many layers as join and fit, but no more than ``most``."""
        before = self.chip.state()
        while True:
            group = self._collect(first, most)
            by_parts = any(self.constants.parts(member.layer) for member in group.members)
            try:
                # Where a result takes several COMPUTEs, they see one row of results at a time.
                return group, self.chip.tile(group, 1 if by_parts else None)
            except CapacityError:
                most = len(group.members) - 1
                if not most:
                    raise
                self.chip.restore(before)

    def _collect(self, first: int, most: int) -> Group:
        group = Group()
        for index in range(first, len(self.network.layers)):
            member = Member.of(self.network, index)
            if len(group.members) == most or (group.members and not group.joins(member)):
                break
            group = self._append(group, member, most)
        return group

    def _append(self, group: Group, member: Member, most: int) -> Group:
        """Append a layer, and keep of its results what is read later and fits.

        A large result that only the next layer reads, row by row, does better as strips: the room
        is worth more to tensors that are read with a halo, or much later. That is if the next layer
        joins.
        """
        net, index = self.network, member.index
        kept = dict.fromkeys((layout.name for layout in member.writes), False)
        passing = []
        for layout in member.writes:
            if net.last_use(layout.name) <= index or layout.type.kind is Kind.LOGITS:
                continue
            if self._passing(layout, index):
                passing.append(layout)
            elif not self._crowds(member, layout):
                kept[layout.name] = self.chip.keep(layout)
        longer = group.with_member(member, kept, net)
        if passing and (len(longer.members) == most or not longer.joins(Member.of(net, index + 1))):
            for layout in passing:
                kept[layout.name] = self.chip.keep(layout)
            longer = group.with_member(member, kept, net)
        return longer

    def _passing(self, layout: TensorLayout, index: int) -> bool:
        last = self.network.last_use(layout.name)
        following = last == index + 1 and Member.of(self.network, last).row_local(layout.name)
        return following and self.chip.large(layout)

    def _lower(self, group: Group, tiling: Tiling) -> Tiling:
        """Lower tiles, where they move no more beats.

        What the last tile stores leaves when the group's computation is over, and the next layer
        may have to wait for it.
        """
        beats = self._beats(group, tiling)
        while tiling.rows > 1 and self._stored_beats(group) * tiling.rows > MAX_TAIL_BEATS:
            before = self.chip.state()
            self.chip.release_buffers(tiling)
            try:
                lower = self.chip.tile(group, -(-tiling.rows // 2))
            except CapacityError:  # smaller blocks may leave gaps that no buffer fits
                lower = tiling
            if lower is tiling or not lower.doubled or self._beats(group, lower) > beats:
                self.chip.restore(before)
                break
            tiling = lower
        return tiling

    def _crowds(self, member: Member, layout: TensorLayout) -> bool:
        """Whether a large result would leave little room for the rows that its layer reads.

        They overlap from tile to tile: the lower the tiles, the more often rows are loaded.
        """
        source = member.reads[0]
        kernel, stride, _ = window(member.layer)
        return (
            kernel > stride
            and self.chip.large(layout)
            and home(source) is home(layout)
            and source.name not in self.chip.resident
        )

    # Cost

    def _stored_beats(self, group: Group) -> int:
        """Bus beats that a group stores for one row of results."""
        return sum(
            layout.row_beats
            for member in group.members
            for layout in member.writes
            if self.chip.goes_to_dram(layout, group)
        )

    def _beats_apart(self, first: int, count: int) -> int:
        """Bus beats of layers that are computed one after the other."""
        total = 0
        for index in range(first, first + count):
            group, tiling = self._longest(index, 1)
            total += self._beats(group, tiling)
            self.end(group, tiling)
        return total

    def _beats(self, group: Group, tiling: Tiling) -> int:
        """Bus beats that a group's tiles load and store."""
        height = group.members[0].layer.shape.height
        tiles = range(0, height, tiling.rows)
        layers = [member.layer for member in group.members]
        total = self.constants.beats(
            list(zip(layers, self.segments(group), strict=True)), len(tiles)
        )
        for member in group.members:
            for number, layout in enumerate(member.reads):
                if not self.chip.loads(group, layout):
                    continue
                for first in tiles:
                    last = min(first + tiling.rows, height)
                    _, low, high = input_rows(member.layer, first, last)
                    total += (last - first if number else high - low) * layout.row_beats
        return total + height * self._stored_beats(group)
