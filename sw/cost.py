"""What a group of layers costs, cut in a certain way: bus beats, and a rough number of cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.sw.buffers import Role, Tiling
from palquant.sw.constants import Constants
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.strips import Span
from palquant.sw.tile import OnChip

#: Beats that a row of a transfer costs at least: each is a burst, of which few are in flight.
SHORT_ROW = 8
#: Cycles that a transfer takes besides its beats until the COMPUTE that waits for it, roughly.
ANSWER = 64


@dataclass(frozen=True)
class _Share:
    """What a layer takes for all tiles of its group.

    Parameters:
        work: Cycles of its words, or of its results.
        taken: Cycles of those or of the constants' way over the bus, whichever is longer in a tile.
        constants: Bus beats of weights and parameters.
        rows: Bus beats of input rows that are loaded.
        residuals: Bus beats of residuals that are loaded.
        stored: Bus beats that are stored.
    """

    work: int
    taken: int
    constants: int
    rows: int
    residuals: int
    stored: int

    @property
    def spare(self) -> int:
        """Cycles that its constants leave to other loads."""
        return self.taken - self.constants


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
        shares = self._shares(group, tiling)
        work = sum(share.work for share in shares)
        constants = sum(share.constants for share in shares)
        loads = sum(share.rows + share.residuals for share in shares) + constants
        stores = sum(share.stored for share in shares)
        if tiling.slices:
            cycles = self._sliced_cycles(group, tiling, work)
        else:
            cycles = sum(share.taken for share in shares)
            if not tiling.doubled and tiles > 1:
                waits = [self._waits(group, shares, number) for number in range(len(shares))]
                cycles += sum(wait + tiles * ANSWER for wait in waits if wait > 0)
        cycles = max(cycles, loads, stores)
        if len(members) > 1 and constants > sum(self._constants(group, 1)):
            block = max(self.constants.block_beats(each.layer) for each in members)
            cycles += tiles * block * constants // work
        return cycles, loads + stores

    def _shares(self, group: Group, tiling: Tiling) -> list[_Share]:
        """What each layer of a group takes for all tiles."""
        tiles, shares = len(tiling.spans), []
        constants = self._constants(group, tiles)
        for member, level, beats in zip(group.members, group.levels, constants, strict=True):
            spans = [tile[level] for tile in tiling.spans]
            work, height = self._work(group, member), member.layer.shape.height
            each_tile = ((work * (last - first) // height, beats // tiles) for first, last in spans)
            beside = self.constants.beside(member.layer)
            rows, residuals = self._loaded(group, member, spans)
            shares.append(
                _Share(
                    work=work,
                    # No weights arrive before a tile's turn: there is no room for more of them.
                    taken=sum(max(pair) if beside else sum(pair) for pair in each_tile),
                    constants=beats,
                    rows=rows,
                    residuals=residuals,
                    stored=sum(self._stored(group, member, span) for span in spans),
                )
            )
        return shares

    def _waits(self, group: Group, shares: list[_Share], number: int) -> int:
        """Cycles that a layer waits for beats of its rows if they have single buffers, if above 0.

        Rows arrive, and leave, while other layers are computed; weights of those go first.
        Residuals whose place the layer's sums take arrive when these are read, and have left.
        """
        member, own = group.members[number], shares[number]
        others = shares[number + 1 :] + shares[:number]
        spare = sum(share.spare for share in others)
        waits = [own.rows + own.residuals - spare, own.stored - spare]
        if self.chip.adds_in_place(group, member):
            (sums,) = (layout for layout in member.writes if layout.name == member.sum)
            readers = [later for later, each in enumerate(group.members) if sums in each.reads]
            others = shares[max([number, *readers]) + 1 :] + shares[:number]
            leaves = own.stored if self.chip.goes_to_dram(sums, group) else 0
            waits.append(own.residuals + leaves - sum(share.spare for share in others))
        return max(waits)

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

    def _loaded(self, group: Group, member: Member, spans: list[Span]) -> tuple[int, int]:
        """Bus beats of the input rows that a layer loads for some tiles, and of residuals."""
        beats = [0, 0]
        for operand, layout in enumerate(member.reads):
            if not self.chip.loads(group, layout):
                continue
            for first, last in spans:
                _, low, high = member.layer.input_rows(first, last)
                beats[operand] += (last - first if operand else high - low) * layout.row_beats
        rows, residuals = beats
        return rows, residuals

    def _constants(self, group: Group, tiles: int) -> list[int]:
        """Bus beats of each layer's weights and parameters for all tiles."""
        layers = [(each.layer, self.constants.segments(each.layer)) for each in group.members]
        return self.constants.beats(layers, tiles)

    def _work(self, group: Group, member: Member) -> int:
        """Cycles that a layer's words take, or its results where they take more."""
        g, layer = self.geometry, member.layer
        codes = {out.name: out for out in member.writes if out.type.kind is Kind.CODES}
        fields: dict[str, int] = {"raw": layer.logits is not None}
        for number in (1, 2):
            for name in ("bits", "to_activation", "to_output"):
                fields[f"code{number}_{name}"] = 0
        for number, code in enumerate(layer.codes, 1):
            out = codes[code.tensor]
            fields |= {
                f"code{number}_bits": code.bits,
                f"code{number}_to_activation": group.kept[out.name] or out.name in group.strips,
                f"code{number}_to_output": self.chip.goes_to_dram(out, group),
            }
        words = self.constants.result_words(layer)
        results = 0
        for part in self.constants.segments(layer):
            steps = isa.beat_steps(fields | {"scatter_groups": part.scatter}, g)
            results += len(part.outputs) // g.tout * max(words, g.beats * steps)
        return layer.shape.height * layer.shape.width * results
