"""Turns placed layers into steps: loads, one COMPUTE, stores; for each tile of output rows.

Which layers are computed strip by strip together, and what stays on chip, is decided in ``plan``,
how tall a tile is in ``tile``, where weights and parameters lie in ``constants``; the fields of the
COMPUTE itself are filled in by ``compute_fields``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from palquant.hw.config import Geometry
from palquant.hw.isa import Memory, Opcode
from palquant.sw.buffers import Place, Role, Tiling
from palquant.sw.compute_fields import TileAddresses, compute_fields
from palquant.sw.constants import Constants
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork
from palquant.sw.plan import Planner
from palquant.sw.schedule import Instruction, Step
from palquant.sw.segments import Part, Segment
from palquant.sw.slices import ChannelSlice
from palquant.sw.strips import Span
from palquant.sw.tile import OnChip, Policy, home
from palquant.sw.transfers import Transfers


@dataclass(frozen=True, eq=False)
class _Tile:
    """What one layer of a group computes for one tile.

    Parameters:
        group: The layers that are computed together.
        tiling: How they are cut.
        number: Number of the tile.
        member: The layer.
        span: Its rows.
        turn: Number of the slice of channels, if the tile is computed in slices.
    """

    group: Group
    tiling: Tiling
    number: int
    member: Member
    span: Span
    turn: int = 0

    def slice_in(self, role: Role, layout: TensorLayout) -> ChannelSlice | None:
        """The slice of channels that a buffer of this layer holds, or None if it holds all."""
        return self.tiling.slice_in(role, self.member.index, layout, self.turn)

    @property
    def ends(self) -> bool:
        """Whether all channels are computed behind it."""
        return self.turn == max(1, len(self.tiling.slices)) - 1

    def find(
        self, role: Role, layout: TensorLayout, row: int, index: int | None = None
    ) -> Place | None:
        """Where a row lies in a buffer of this layer or of layer ``index``, if there is one."""
        index = self.member.index if index is None else index
        return self.tiling.find(role, index, layout.name, self.number, row, self.turn)


class Emitter:
    """Emits the steps of a whole network.

    Parameters:
        network: The placed network.
        policy: What stays on chip.

    Attributes:
        constants: Weights and parameters.
        transfers: Loads and stores, and where tensors lie in the output region.
        groups: Indices of the layers that were computed together.
    """

    def __init__(self, network: PlacedNetwork, policy: Policy) -> None:
        self.network = network
        self.geometry: Geometry = network.geometry
        self.constants = Constants(network)
        self.transfers = Transfers(network)
        self.chip = OnChip(network.geometry, policy, network.graph.output.name)
        self.planner = Planner(network, self.chip, self.constants)
        self.groups: list[tuple[int, ...]] = []
        self.steps: list[Step] = []

    def emit(self) -> list[Step]:
        """Emit all layers.

        Raises:
            CapacityError: A layer fits no tiling; names layer, memory, and the size it needs.
        """
        while (first := sum(map(len, self.groups))) < len(self.network.layers):
            fresh_input = self._keep_input(first)
            group, tiling = self.planner.begin(first)
            self._emit_group(group, tiling, fresh_input)
            self.planner.end(group, tiling)
            self.groups.append(tuple(member.index for member in group.members))
        return self.steps

    # Groups

    def _keep_input(self, index: int) -> bool:
        """Keep the network's input on chip, if it fits, from the first layer that reads it."""
        source = self.network.layouts[self.network.stored(self.network.layers[index].input)]
        is_input = source.name == self.network.graph.input.name
        return is_input and source.name not in self.chip.resident and self.chip.keep(source)

    def _emit_group(self, group: Group, tiling: Tiling, fresh_input: bool) -> None:
        turns = self.planner.segments(group, tiling)
        layers = [member.layer for member in group.members]
        self.constants.begin([each for parts in turns for each in zip(layers, parts, strict=True)])
        for number, spans in enumerate(tiling.spans):
            for turn, segments in enumerate(turns):
                for member, level, parts in zip(group.members, group.levels, segments, strict=True):
                    tile = _Tile(group, tiling, number, member, spans[level], turn)
                    self._emit_tile(tile, parts, fresh_input)
                    fresh_input = False

    def _emit_tile(self, tile: _Tile, segments: list[Segment], fresh_input: bool) -> None:
        loads = self._loads(tile, fresh_input)
        for first, last in self._turns(tile):
            rows = self._addresses(tile, first, last)
            steps = [step for part in segments for step in self._steps(tile.member, rows, part)]
            steps[0].loads += loads
            steps[-1].stores += self._stores(tile, first, last)
            self.steps += steps
            loads = []

    # Tiles

    def _turns(self, tile: _Tile) -> list[Span]:
        """Rows of a tile that are computed one after the other.

        Rows of the next tile take the places of those of this one, but for the last, which both
        read. Where they are stored as well, they leave while the last one is computed.
        """
        first, last = tile.span
        leaves = any(
            tile.group.shares_rows(layout.name)
            and home(layout) is Memory.RESIDUAL
            and self.chip.goes_to_dram(layout, tile.group)
            for layout in tile.member.writes
        )
        if leaves and last - first > 1 and last < tile.member.layer.shape.height:
            return [(first, last - 1), (last - 1, last)]
        return [(first, last)]

    def _addresses(self, tile: _Tile, first: int, last: int) -> TileAddresses:
        """Where some rows of a tile find their inputs, and where their results go."""
        group, member = tile.group, tile.member
        tap, low, high = member.layer.input_rows(first, last)
        stored = [out for out in member.writes if self.chip.goes_to_dram(out, group)]
        return TileAddresses(
            first_row=first,
            rows=last - first,
            input_start=self._read(tile, member.reads[0], low),
            input_tap=tap - low,
            input_rows=high - low,
            residual_in=self._added(tile, first),
            # Stores read the residual memory through the same port as a pool, every cycle of which
            # is a read, and would wait until it ends. In a group, the other layers give them time.
            # What leaves slice by slice does so before the next one is computed.
            gaps=len(group.members) == 1
            and any(
                home(out) is Memory.RESIDUAL and tile.slice_in(Role.STRIP, out) is None
                for out in stored
            ),
            resident={out.name: self._made(tile, out, first) for out in member.writes},
            buffer={out.name: tile.find(Role.WRITE, out, first) for out in member.writes},
        )

    def _read(self, tile: _Tile, layout: TensorLayout, row: int) -> Place:
        """Where a row of a tensor that a tile reads lies."""
        if layout.name in self.chip.resident:
            return Place.whole(layout, self.chip.resident[layout.name], row)
        if layout.name in tile.group.strips:
            found = tile.find(Role.STRIP, layout, row, tile.group.maker(layout.name))
        else:
            found = tile.find(Role.READ, layout, row)
        assert found is not None
        return found

    def _made(self, tile: _Tile, layout: TensorLayout, row: int) -> Place | None:
        """Where a row of a tensor that a tile makes lies, or None if it is in the output buffer."""
        if tile.group.kept[layout.name]:
            return Place.whole(layout, self.chip.resident[layout.name], row)
        return tile.find(Role.STRIP, layout, row)

    def _added(self, tile: _Tile, row: int) -> Place | None:
        """Where a row of the residuals that a tile adds lies, or None if it adds none."""
        member = tile.member
        if len(member.reads) == 1:
            return None
        if self.chip.adds_in_place(tile.group, member):
            (total,) = (layout for layout in member.writes if layout.name == member.sum)
            return self._made(tile, total, row)
        return self._read(tile, member.reads[1], row)

    def _loads(self, tile: _Tile, fresh_input: bool) -> list[Instruction]:
        """Loads of a tile's input rows and residual rows, where they are not on chip."""
        loads: list[Instruction] = []
        member = tile.member
        source, *residual = member.reads
        first, last = tile.span
        _, low, high = member.layer.input_rows(first, last)
        part = tile.slice_in(Role.READ, source)
        if fresh_input:
            low, high = 0, source.shape.height
        if fresh_input or self.chip.loads(tile.group, source):
            place, rows = self._read(tile, source, low), (low, high)
            if part is None:
                loads += self.transfers.rows(Opcode.LOAD, member.index, source, place.word, rows)
            else:
                loads += self.transfers.sliced(Opcode.LOAD, member.index, source, part, place, rows)
        if residual and self.chip.loads(tile.group, residual[0]):
            added, rows = self._added(tile, first), (first, last)
            assert added is not None
            loads += self.transfers.rows(Opcode.LOAD, member.index, residual[0], added.word, rows)
        return loads

    def _stores(self, tile: _Tile, first: int, last: int) -> list[Instruction]:
        """Stores of rows of a tile's results, where they are not to stay on chip alone."""
        stores: list[Instruction] = []
        for layout in tile.member.writes:
            if not self.chip.goes_to_dram(layout, tile.group):
                continue
            codes = layout.type.kind is Kind.CODES
            memory = Memory.OUTPUT if codes else Memory.RESIDUAL
            place = self._made(tile, layout, first)
            if codes:
                place = tile.find(Role.WRITE, layout, first)
            assert place is not None
            index = tile.member.index
            part = tile.slice_in(Role.STRIP, layout)
            if part is not None and not codes:
                stores += self.transfers.sliced(
                    Opcode.STORE, index, layout, part, place, (first, last)
                )
            elif tile.ends:
                # Rows that lie backwards leave one by one: a transfer has no negative strides.
                most = last - first if place.row_step > 0 else 1
                for row in range(first, last, most):
                    start, rows = place.word + (row - first) * place.row_step, (row, row + most)
                    stores += self.transfers.rows(Opcode.STORE, index, layout, start, rows, memory)
        return stores

    # Segments

    def _steps(self, member: Member, tile: TileAddresses, segment: Segment) -> Iterator[Step]:
        """One COMPUTE for a segment; one for each of its parts where weights do not fit at once."""
        layer = member.layer
        parts: list[Part | None] = [*self.constants.parts(layer)]
        for part in parts or [None]:
            place, loads = self.constants.place(member.index, layer, segment, part)
            fields = compute_fields(
                self.network, member.index, layer, tile, segment,
                place.group, place.slot, place.weight, part,
            )  # fmt: skip
            compute = Instruction(Opcode.COMPUTE, fields, self.geometry)
            yield Step(loads=loads, computes=[compute])
