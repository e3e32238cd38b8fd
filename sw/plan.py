"""Decides layer by layer what stays on chip, and which layers are computed strip by strip together.

Layers that could join (see ``fuse``) do so if that takes less time than computing them one after
the other, or as long and fewer beats on the bus: a group's strips are sometimes lower than a
layer's own tiles, and weights that do not stay are loaded for each; but what the bus does beside a
long computation takes no time. An estimate decides (see ``cost``).
"""

from __future__ import annotations

from typing import Any

from palquant.errors import CapacityError
from palquant.hw.config import Geometry
from palquant.sw.buffers import Tiling
from palquant.sw.constants import Constants
from palquant.sw.cost import Cost
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork
from palquant.sw.segments import Segment
from palquant.sw.slices import slicings
from palquant.sw.tile import OnChip, home

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
        self.cost = Cost(network.geometry, chip, constants)

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
        best, least = count, self.cost.estimate(group, tiling)
        for most in range(count - 1, 0, -1):
            self.chip.restore(before)
            try:
                cost = self._cost_apart(first, count, most)
            except CapacityError:
                continue
            if cost < least:
                best, least = most, cost
        self.chip.restore(before)
        return self._longest(first, best)

    def end(self, group: Group, tiling: Tiling) -> None:
        """Give back a group's buffers, and the tensors that nobody reads any more."""
        self.chip.release_buffers(tiling)
        for name in list(self.chip.resident):
            if self.network.last_use(name) <= group.members[-1].index:
                self.chip.release(self.network.layouts[name])

    def segments(self, group: Group, tiling: Tiling) -> list[list[list[Segment]]]:
        """Segments of each layer of a group, for each slice of channels that tiles are cut into."""
        whole = [self.constants.segments(member.layer) for member in group.members]
        if not tiling.slices:
            return [whole]
        lanes = self.geometry.tout
        return [[part.cut(segments, lanes) for segments in whole] for part in tiling.slices]

    # Groups

    def _longest(self, first: int, most: int) -> tuple[Group, Tiling]:
        """As many layers as join and fit, but no more than ``most``."""
        before = self.chip.state()
        while True:
            group = self._collect(first, most)
            by_parts = any(self.constants.parts(member.layer) for member in group.members)
            try:
                # Where a result takes several COMPUTEs, they see one row of results at a time.
                if not by_parts:
                    return self._roomier(group, self._cut(group), before)
                tiling = self.chip.tile(group, 1)
                if not group.levels[-1]:
                    return group, tiling
            except CapacityError as refusal:
                if len(group.members) == 1:
                    return group, self._slice(group, refusal)
            most = len(group.members) - 1
            self.chip.restore(before)

    def _roomier(self, group: Group, tiling: Tiling, before: Any) -> tuple[Group, Tiling]:
        """Without results that stay, if the room that they take leaves low tiles in single buffers.

        Parameters:
            group: The layers.
            tiling: How they are cut.
            before: What was allotted before the group was formed.
        """
        if tiling.doubled or len(tiling.spans) == 1:
            return group, tiling
        after = self.chip.state()
        self.chip.restore(before)
        other = self._collect(group.members[0].index, len(group.members), lean=True)
        if other.kept != group.kept and len(other.members) == len(group.members):
            roomier = self._cut(other)
            # The next layer has to load them.
            again = sum(
                layout.shape.height * layout.row_beats
                for layout in map(self.network.layouts.__getitem__, group.kept)
                if group.kept[layout.name] and not other.kept[layout.name]
            )
            cost = self.cost.estimate(other, roomier)[0] + again
            if cost < self.cost.estimate(group, tiling)[0]:
                return other, roomier
        self.chip.restore(after)
        return group, tiling

    def _cut(self, group: Group) -> Tiling:
        """A group in tiles as tall as fit.

        Weights that do not stay are loaded for each tile. Where that takes longer than to wait for
        transfers, tiles are taller, and no buffer is doubled.

        Raises:
            CapacityError: Not even one output row fits.
        """
        before = self.chip.state()
        tiling = self.chip.tile(group)
        layers = [(each.layer, self.constants.segments(each.layer)) for each in group.members]
        once, often = (self.constants.beats(layers, count) for count in (1, len(tiling.spans)))
        if often == once or not tiling.doubled:
            return tiling
        after = self.chip.state()
        self.chip.restore(before)
        taller = self.chip.tile(group, single=True)
        if self.cost.estimate(group, taller) < self.cost.estimate(group, tiling):
            return taller
        self.chip.restore(after)
        return tiling

    def _slice(self, group: Group, refusal: CapacityError) -> Tiling:
        """The best way to compute a lone layer in slices of its channels, if it is a pool.

        Raises:
            CapacityError: ``refusal`` if it is not, or not to be sliced; otherwise what the
                smallest slice needs.
        """
        (member,) = group.members
        kept, best = self.chip.state(), None
        if self.chip.policy.slices and self.geometry.strided:
            for slices in slicings(member, self.constants.segments(member.layer), self.geometry):
                self.chip.restore(kept)
                try:
                    tiling = self.chip.tile(group, slices=slices)
                except CapacityError as error:
                    refusal = error
                    continue
                cost = self.cost.estimate(group, tiling)
                if best is None or cost < best[0]:
                    best = cost, tiling, self.chip.state()
        if best is None:
            raise refusal
        self.chip.restore(best[2])
        return best[1]

    def _collect(self, first: int, most: int, lean: bool = False) -> Group:
        group = Group()
        for index in range(first, len(self.network.layers)):
            member = Member.of(self.network, index)
            if len(group.members) == most or (group.members and not group.joins(member)):
                break
            group = self._append(group, member, most, lean)
        return group

    def _append(self, group: Group, member: Member, most: int, lean: bool) -> Group:
        """Append a layer, and keep of its results what is read later and fits.

        A large result that only the next layer reads, row by row, does better as strips: the room
        is worth more to tensors that are read with a halo, or much later. That is if the next layer
        joins; otherwise it stays as well, unless the group is to be ``lean`` and it crowds others.
        """
        net, index = self.network, member.index
        later = [
            layout
            for layout in member.writes
            if net.last_use(layout.name) > index and layout.type.kind is not Kind.LOGITS
        ]
        passing = [layout for layout in later if self._passing(layout, index)]
        staying = [out for out in later if out in passing or not self._crowds(member, out)]
        before = self.chip.state()
        others = [layout for layout in staying if layout not in passing]
        longer = group.with_member(member, self._keep(member, others), net)
        if passing and (len(longer.members) == most or not longer.joins(Member.of(net, index + 1))):
            self.chip.restore(before)
            if lean:
                staying = [layout for layout in staying if not self._crowds(member, layout)]
            longer = group.with_member(member, self._keep(member, staying), net)
        return longer

    def _keep(self, member: Member, layouts: list[TensorLayout]) -> dict[str, bool]:
        """Keep some of a layer's results, as far as they fit; says which of all stay."""
        kept = dict.fromkeys((layout.name for layout in member.writes), False)
        return kept | {layout.name: self.chip.keep(layout) for layout in layouts}

    def _passing(self, layout: TensorLayout, index: int) -> bool:
        last = self.network.last_use(layout.name)
        if last != index + 1 or not self.chip.large(layout):
            return False
        reader = Member.of(self.network, last)
        return reader.row_local(layout.name) or reader.by_window(layout.name)

    def _lower(self, group: Group, tiling: Tiling) -> Tiling:
        """Lower tiles, where they move no more beats.

        What the last tile stores leaves when the group's computation is over, and the next layer
        may have to wait for it.
        """
        beats = self.cost.beats(group, tiling)
        while (
            not tiling.slices
            and tiling.rows > 1
            and self.cost.stored_beats(group, tiling.spans[0]) > MAX_TAIL_BEATS
        ):
            before = self.chip.state()
            self.chip.release_buffers(tiling)
            try:
                lower = self.chip.tile(group, -(-tiling.rows // 2))
            except CapacityError:  # smaller blocks may leave gaps that no buffer fits
                lower = tiling
            if lower is tiling or not lower.doubled or self.cost.beats(group, lower) > beats:
                self.chip.restore(before)
                break
            tiling = lower
        return tiling

    def _crowds(self, member: Member, layout: TensorLayout) -> bool:
        """Whether a large result would leave little room for the rows that its layer reads.

        They overlap from tile to tile: the lower the tiles, the more often rows are loaded.
        """
        source = member.reads[0]
        kernel, stride, _ = member.layer.window
        return (
            kernel > stride
            and self.chip.large(layout)
            and home(source) is home(layout)
            and source.name not in self.chip.resident
        )

    # Cost

    def _cost_apart(self, first: int, count: int, most: int) -> tuple[int, int]:
        """Cost of layers of which the first ``most`` are joined, and no others."""
        cycles, beats, index = 0, 0, first
        while index < first + count:
            group, tiling = self._longest(index, most if index == first else 1)
            more = self.cost.estimate(group, tiling)
            cycles, beats = cycles + more[0], beats + more[1]
            self.end(group, tiling)
            index += len(group.members)
        return cycles, beats
