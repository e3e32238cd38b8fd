"""Turns placed layers into steps: loads, one COMPUTE, stores; for each tile of output rows.

Which layers are computed strip by strip together, and what stays on chip, is decided in ``plan``,
how tall a tile is in ``tile``, where weights and parameters lie in ``constants``; the fields of the
COMPUTE itself are filled in by ``compute_fields``.
"""

from __future__ import annotations

from collections.abc import Iterator

from palquant.hw.config import Geometry
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.compute_fields import TileAddresses, compute_fields
from palquant.sw.constants import MAX_ROW_BEATS, Constants
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import Kind
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork
from palquant.sw.plan import Planner
from palquant.sw.schedule import Instruction, Step
from palquant.sw.segments import Part, Segment
from palquant.sw.tile import OnChip, Policy, Role, Tiling, home, input_rows


class Emitter:
    """Emits the steps of a whole network.

    Parameters:
        network: The placed network.
        policy: What stays on chip.

    Attributes:
        constants: Weights and parameters.
        offsets: Byte offset of each stored tensor in the output region.
        output_bytes: Size of the output region of one image.
        groups: Indices of the layers that were computed together.
    """

    def __init__(self, network: PlacedNetwork, policy: Policy) -> None:
        self.network = network
        self.geometry: Geometry = network.geometry
        self.constants = Constants(network)
        self.offsets: dict[str, int] = {}
        self.output_bytes = 0
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
        height = group.members[0].layer.shape.height
        segments = self.planner.segments(group)
        layers = [member.layer for member in group.members]
        self.constants.begin(list(zip(layers, segments, strict=True)))
        for first in range(0, height, tiling.rows):
            last = min(first + tiling.rows, height)
            for member, parts in zip(group.members, segments, strict=True):
                tile = self._addresses(member, group, tiling, first, last)
                loads = self._tile_loads(member, group, tile, fresh_input)
                fresh_input = False
                steps = [step for part in parts for step in self._steps(member, tile, part)]
                steps[0].loads += loads
                steps[-1].stores += self._tile_stores(member, group, tile, first, last)
                self.steps += steps

    # Tiles

    def _addresses(
        self, member: Member, group: Group, tiling: Tiling, first: int, last: int
    ) -> TileAddresses:
        """Where one tile of a layer finds its inputs and puts its results."""
        tap, low, high = input_rows(member.layer, first, last)

        def find(layout: TensorLayout, row: int) -> int:
            """Word of a tensor's row ``row``, the first that the tile reads."""
            if layout.name in self.chip.resident:
                return self.chip.resident[layout.name] + row * layout.row_words
            if layout.name in group.strips:
                found = tiling.find(Role.STRIP, group.maker(layout.name), layout.name, first)
            else:
                found = tiling.find(Role.READ, member.index, layout.name, first)
            assert found is not None
            return found

        tile = TileAddresses(
            first_row=first,
            rows=last - first,
            input_start=find(member.reads[0], low),
            input_tap=tap - low,
            input_low=low,
            input_rows=high - low,
        )
        tile.residual_leaves = any(
            home(layout) is Memory.RESIDUAL and self.chip.goes_to_dram(layout, group)
            for layout in member.writes
        )
        for layout in member.writes:
            start = tiling.find(Role.STRIP, member.index, layout.name, first)
            if group.kept[layout.name]:
                start = self.chip.resident[layout.name] + first * layout.row_words
            tile.resident[layout.name] = start
            tile.buffer[layout.name] = tiling.find(Role.WRITE, member.index, layout.name, first)
        if member.sum is not None and self.chip.adds_in_place(group, member):
            tile.residual_in = tile.resident[member.sum]
        elif len(member.reads) > 1:
            tile.residual_in = find(member.reads[1], first)
        return tile

    def _tile_loads(
        self, member: Member, group: Group, tile: TileAddresses, fresh_input: bool
    ) -> list[Instruction]:
        """Loads of a tile's input rows and residual rows, where they are not on chip."""
        loads = []
        source = member.reads[0]
        absent = [self.chip.loads(group, layout) for layout in member.reads]
        if fresh_input:
            start = self.chip.resident[source.name]
            loads += self._rows(Opcode.LOAD, member, source, start, 0, source.shape.height)
        elif absent[0]:
            rows = tile.input_rows
            loads += self._rows(Opcode.LOAD, member, source, tile.input_start, tile.input_low, rows)
        if len(member.reads) > 1 and absent[1]:
            assert tile.residual_in is not None
            residual = member.reads[1]
            loads += self._rows(
                Opcode.LOAD, member, residual, tile.residual_in, tile.first_row, tile.rows
            )
        return loads

    def _tile_stores(
        self, member: Member, group: Group, tile: TileAddresses, first: int, last: int
    ) -> list[Instruction]:
        """Stores of a tile's results, where they are not to stay on chip alone."""
        stores = []
        for layout in member.writes:
            if not self.chip.goes_to_dram(layout, group):
                continue
            codes = layout.type.kind is Kind.CODES
            memory = Memory.OUTPUT if codes else Memory.RESIDUAL
            start = tile.buffer[layout.name] if codes else tile.resident[layout.name]
            assert start is not None
            stores += self._rows(Opcode.STORE, member, layout, start, first, last - first, memory)
        return stores

    def _rows(
        self,
        opcode: Opcode,
        member: Member,
        layout: TensorLayout,
        start: int,
        first: int,
        rows: int,
        memory: Memory | None = None,
    ) -> list[Instruction]:
        """Transfers of ``rows`` rows of a tensor between DRAM and word ``start`` on chip."""
        g = self.geometry
        is_input = layout.name == self.network.graph.input.name
        base = Base.INPUT if is_input else Base.OUTPUT
        offset = (0 if is_input else self._dram(layout)) + first * layout.row_bytes
        address = start * layout.word_bytes // g.bus_bytes
        most = max(1, MAX_ROW_BEATS // layout.row_beats)
        found = []
        for done in range(0, rows, most):
            count = min(most, rows - done)
            found.append(
                Instruction(
                    opcode,
                    {
                        "layer": member.index,
                        "memory": home(layout) if memory is None else memory,
                        "base": base,
                        "rows": 1,
                        "row_beats": count * layout.row_beats,
                        "address": address + done * layout.row_beats,
                        "dram_offset": offset + done * layout.row_bytes,
                    },
                    g,
                )
            )
        return found

    def _dram(self, layout: TensorLayout) -> int:
        """Offset of a tensor in the output region, allotted when first asked for."""
        if layout.name not in self.offsets:
            self.offsets[layout.name] = self.output_bytes
            self.output_bytes += layout.bytes
        return self.offsets[layout.name]

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
