"""What a group of layers costs, cut in a certain way: bus beats, and a rough number of cycles."""

from __future__ import annotations

from collections.abc import Sequence

from palquant.hw.config import Geometry
from palquant.sw.buffers import Role, Tiling
from palquant.sw.constants import Constants
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.strips import Span
from palquant.sw.tile import OnChip

#: Beats that a row of a transfer costs at least: each is a burst, of which few are in flight.
SHORT_ROW = 8
#: Cycles from the last beat of a store to the COMPUTE that waits for it, roughly.
ANSWER = 64


class Cost:
    """Costs of groups.

    Parameters:
        geometry: The machine.
        chip: What is on chip: it decides which tensors are loaded and stored.
        constants: Weights and parameters.
    """

    def __init__(self, geometry: Geometry, chip: OnChip, constants: Constants) -> None:
        self.geometry = geometry
        self.chip = chip
        self.constants = constants

    def estimate(self, group: Group, tiling: Tiling) -> tuple[int, int]:
        """Cycles that a group takes, roughly, and bus beats that it loads and stores.

        The array and both directions of the bus work beside each other. Where buffers are not
        doubled, a layer's rows move beside the other layers only, if there is more than one tile.
        Where weights do not stay, a tile waits for the first block of them, the more of it the
        longer the bus is busy with weights alone. What it costs that the pipeline drains
        between layers that take turns is made up for by loads and stores that are not waited for.
        """
        tiles, members = len(tiling.spans), group.members
        work = [self._work(group, member) for member in members]
        loaded = [self._loaded(group, tiling, number) for number in range(len(members))]
        stored = [
            sum(self._stored(group, member, spans[level]) for spans in tiling.spans)
            for member, level in zip(members, group.levels, strict=True)
        ]
        constants = self._constants(group, tiles)
        cycles = sum(work)
        if constants > self._constants(group, 1):
            # Each tile's weights arrive beside it, however low it is.
            height = members[-1].layer.shape.height
            for spans in tiling.spans:
                first, last = spans[-1]
                cycles += max(0, constants // tiles - sum(work) * (last - first) // height)
        if not tiling.doubled and tiles > 1:
            for own, moved in zip(work, map(sum, zip(loaded, stored, strict=True)), strict=True):
                cycles += max(0, moved - (sum(work) - own))
        if tiling.slices:
            cycles = self._sliced_cycles(group, tiling, work[0])
        cycles = max(cycles, sum(loaded) + constants, sum(stored))
        if len(members) > 1 and constants > self._constants(group, 1):
            block = max(self.constants.block_beats(each.layer) for each in members)
            cycles += tiles * block * constants // sum(work)
        return cycles, sum(loaded) + constants + sum(stored)

    def _sliced_cycles(self, group: Group, tiling: Tiling, work: int) -> int:
        """Cycles that a layer takes, roughly, if tiles are computed by slices of their channels.

        A slice waits until the results of the one before it have left.
        """
        (member,) = group.members
        loaded = stored = 0
        for spans in tiling.spans:
            first, last = spans[0]
            _, low, high = member.layer.input_rows(first, last)
            for part in tiling.slices:
                source, *results = (
                    max(part.words * layout.word_bytes // self.geometry.bus_bytes, SHORT_ROW)
                    * layout.shape.width
                    for layout in (member.reads[0], *member.writes)
                    if layout is member.reads[0]
                    or tiling.slice_in(Role.STRIP, member.index, layout, 0) is not None
                )
                loaded += (high - low) * source
                stored += (last - first) * sum(results) + ANSWER
        if not self.chip.loads(group, member.reads[0]):
            loaded = 0
        return max(work + stored, loaded) if tiling.doubled else work + stored + loaded

    def beats(self, group: Group, tiling: Tiling) -> int:
        """Bus beats that a group's tiles load and store."""
        return self.estimate(group, tiling)[1]

    def stored_beats(self, group: Group, spans: Sequence[Span]) -> int:
        """Bus beats that a group stores for some rows of each level."""
        return sum(
            self._stored(group, member, spans[level])
            for member, level in zip(group.members, group.levels, strict=True)
        )

    def _stored(self, group: Group, member: Member, span: Span) -> int:
        stored = (out for out in member.writes if self.chip.goes_to_dram(out, group))
        return (span[1] - span[0]) * sum(layout.row_beats for layout in stored)

    def _loaded(self, group: Group, tiling: Tiling, number: int) -> int:
        """Bus beats of the rows that a layer loads for all tiles."""
        member, level = group.members[number], group.levels[number]
        total = 0
        for operand, layout in enumerate(member.reads):
            if not self.chip.loads(group, layout):
                continue
            for first, last in (spans[level] for spans in tiling.spans):
                _, low, high = member.layer.input_rows(first, last)
                total += (last - first if operand else high - low) * layout.row_beats
        return total

    def _constants(self, group: Group, tiles: int) -> int:
        """Bus beats of a group's weights and parameters for all tiles."""
        layers = [(each.layer, self.constants.segments(each.layer)) for each in group.members]
        return self.constants.beats(layers, tiles)

    def _work(self, group: Group, member: Member) -> int:
        """Cycles that a layer's words take, or the words of its results where they are more."""
        g, layer = self.geometry, member.layer
        codes = [out for out in member.writes if out.type.kind is Kind.CODES]
        on_chip = (out for out in codes if group.kept[out.name] or out.name in group.strips)
        leaving = (out for out in codes if self.chip.goes_to_dram(out, group))
        steps = max(sum(out.digits for out in written) for written in (on_chip, leaving))
        chunks = sum(len(part.outputs) for part in self.constants.segments(layer)) // g.tout
        words = max(self.constants.result_words(layer), g.beats * max(1, steps))
        return layer.shape.height * layer.shape.width * chunks * words
