"""Decides layer by layer what stays on chip, and which layers are computed strip by strip together.

Layers that could join (see ``fuse``) do so if that takes less time than computing them one after
the other, or as long and fewer beats on the bus: a group's strips are sometimes lower than a
layer's own tiles, and weights that do not stay are loaded for each; but what the bus does beside a
long computation takes no time. An estimate decides (see ``cost``).
"""

from __future__ import annotations

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
                tiling = self.chip.tile(group, 1 if by_parts else None)
                if not by_parts or not group.levels[-1]:
                    return group, tiling
            except CapacityError as refusal:
                if len(group.members) == 1:
                    return group, self._slice(group, refusal)
            most = len(group.members) - 1
            self.chip.restore(before)

    def _slice(self, group: Group, refusal: CapacityError) -> Tiling:
        """The best way to compute a lone layer in slices of its channels, if it is a pool.

        Raises:
            CapacityError: ``refusal`` if it is not, or not to be sliced; otherwise what the
                smallest slice needs.
        """
        (member,) = group.members
        kept, best = self.chip.state(), None
        if self.chip.policy.slices:
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
