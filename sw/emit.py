"""Turns a placed layer into steps: loads, one COMPUTE, stores; for each tile of output rows.

What stays on chip and how tall a tile is, is decided in ``tile``; the fields of the COMPUTE itself
are filled in by ``compute_fields``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from palquant.errors import CapacityError
from palquant.hw import isa
from palquant.hw.config import PARAMETER_ROWS, Geometry
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.allocate import Ring
from palquant.sw.compute_fields import TileAddresses, compute_fields
from palquant.sw.graph import Convolution, Kind
from palquant.sw.layer import Layer
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork
from palquant.sw.pack import group_input, pack_parameters, pack_weights
from palquant.sw.schedule import Instruction, Step
from palquant.sw.segments import Segment, cut_segments
from palquant.sw.tile import OnChip, Policy, Tiling, home, input_rows

MAX_ROW_BEATS = (1 << 16) - 1
#: Blocks of output chunks that the weight memory holds at least: one computes while others load.
#: With few large blocks the array would wait for a whole one at each layer's start.
BLOCKS = 8


@dataclass
class ConstantData:
    """Weights and parameters in the order in which they are loaded."""

    base: int
    alignment: int
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0

    def append(self, data: bytes) -> int:
        """Add a block and return its offset from the image's start."""
        offset = self.base + self.size
        padding = -len(data) % self.alignment
        self.chunks.append(data + bytes(padding))
        self.size += len(data) + padding
        return offset


class Emitter:
    """Emits the steps of a whole network.

    Parameters:
        network: The placed network.
        policy: What stays on chip.

    Attributes:
        constants: Weights and parameters, offsets relative to their own start.
        offsets: Byte offset of each stored tensor in the output region.
        output_bytes: Size of the output region of one image.
    """

    def __init__(self, network: PlacedNetwork, policy: Policy) -> None:
        g = network.geometry
        self.network = network
        self.geometry: Geometry = g
        self.constants = ConstantData(0, g.bus_bytes)
        self.offsets: dict[str, int] = {}
        self.output_bytes = 0
        self.weights = Ring(g.weight_words)
        self.parameters = Ring(g.parameter_slots)
        self.chip = OnChip(g, policy, network.graph.output.name)
        self.steps: list[Step] = []

    def emit(self) -> list[Step]:
        """Emit all layers.

        Raises:
            CapacityError: A layer fits no tiling; names layer, memory, and the size it needs.
        """
        for index, layer in enumerate(self.network.layers):
            self._layer(index, layer)
        return self.steps

    # Tensors

    def _dram(self, layout: TensorLayout) -> int:
        """Offset of a tensor in the output region, allotted when first asked for."""
        if layout.name not in self.offsets:
            self.offsets[layout.name] = self.output_bytes
            self.output_bytes += layout.bytes
        return self.offsets[layout.name]

    # Layers

    def _layer(self, index: int, layer: Layer) -> None:
        net = self.network
        source = net.layouts[net.stored(layer.input)]
        reads = [source] + ([net.layouts[layer.residual]] if layer.residual else [])
        writes = [net.layouts[name] for name in layer.outputs]
        is_input = source.name == net.graph.input.name
        fresh_input = is_input and source.name not in self.chip.resident and self.chip.keep(source)
        kept = {}
        for layout in writes:
            used = net.last_use(layout.name) > index
            logits = layout.type.kind is Kind.LOGITS
            kept[layout.name] = used and not logits and self.chip.keep(layout)
        tiling = self.chip.tile(layer, reads, writes, kept)
        rows = tiling.rows
        segments = self._segments(layer)
        height = layer.shape.height
        for number, first in enumerate(range(0, height, rows)):
            last = min(first + rows, height)
            tile = self._addresses(layer, reads, writes, kept, tiling, first, last)
            loads = self._tile_loads(index, layer, reads, tile, fresh_input and number == 0)
            steps = [self._step(index, layer, tile, segment) for segment in segments]
            steps[0].loads = loads + steps[0].loads
            steps[-1].stores += self._tile_stores(index, writes, tile, first, last)
            self.steps += steps
        self.chip.release_buffers(tiling)
        for name in list(self.chip.resident):
            if net.last_use(name) <= index:
                self.chip.release(net.layouts[name])

    def _addresses(
        self,
        layer: Layer,
        reads: list[TensorLayout],
        writes: list[TensorLayout],
        kept: dict[str, bool],
        tiling: Tiling,
        first: int,
        last: int,
    ) -> TileAddresses:
        """Where one tile finds its inputs and puts its results."""
        tap, low, high = input_rows(layer, first, last)

        def find(prefix: str, layout: TensorLayout) -> int | None:
            if f"{prefix} {layout.name}" not in tiling.buffers:
                return None
            _, starts = tiling.buffers[f"{prefix} {layout.name}"]
            return starts[first // tiling.rows % len(starts)]

        source = reads[0]
        buffer = find("read", source)
        start = (
            self.chip.resident[source.name] + low * source.row_words if buffer is None else buffer
        )
        tile = TileAddresses(
            first_row=first,
            rows=last - first,
            input_start=start,
            input_tap=tap - low,
            input_low=low,
            input_rows=high - low,
        )
        if len(reads) > 1:
            layout = reads[1]
            buffer = find("read", layout)
            resident = buffer is None
            tile.residual_in = (
                self.chip.resident[layout.name] + first * layout.row_words if resident else buffer
            )
        for layout in writes:
            buffer = find("write", layout)
            resident_start = None
            if kept[layout.name]:
                resident_start = self.chip.resident[layout.name] + first * layout.row_words
            tile.resident[layout.name] = resident_start
            tile.buffer[layout.name] = buffer
        return tile

    def _tile_loads(
        self,
        index: int,
        layer: Layer,
        reads: list[TensorLayout],
        tile: TileAddresses,
        fresh_input: bool,
    ) -> list[Instruction]:
        """Loads of a tile's input rows and residual rows, where they do not stay on chip."""
        loads = []
        source = reads[0]
        if fresh_input:
            start = self.chip.resident[source.name]
            loads += self._rows(Opcode.LOAD, index, source, start, 0, source.shape.height)
        elif source.name not in self.chip.resident:
            rows = tile.input_rows
            loads += self._rows(Opcode.LOAD, index, source, tile.input_start, tile.input_low, rows)
        if len(reads) > 1 and reads[1].name not in self.chip.resident:
            assert tile.residual_in is not None
            loads += self._rows(
                Opcode.LOAD, index, reads[1], tile.residual_in, tile.first_row, tile.rows
            )
        return loads

    def _tile_stores(
        self, index: int, writes: list[TensorLayout], tile: TileAddresses, first: int, last: int
    ) -> list[Instruction]:
        stores = []
        for layout in writes:
            start = tile.buffer[layout.name]
            memory = Memory.OUTPUT if layout.type.kind is Kind.CODES else Memory.RESIDUAL
            kept = {layout.name: start is None}
            if start is None and memory is Memory.RESIDUAL and self.chip.goes_to_dram(layout, kept):
                start = tile.resident[layout.name]
            if start is not None:
                stores += self._rows(
                    Opcode.STORE, index, layout, start, first, last - first, memory
                )
        return stores

    def _rows(
        self,
        opcode: Opcode,
        index: int,
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
                        "layer": index,
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

    # Segments

    def _segments(self, layer: Layer) -> list[Segment]:
        """Segments of a layer, cut further so that weights and parameters fit their memories."""
        g = self.geometry
        placed = self.network.assignment
        computed, target = placed.computed[layer.name], placed.target[layer.name]
        groups = layer.operation.groups if isinstance(layer.operation, Convolution) else 1
        most = g.parameter_slots // 2 // g.beats
        words = self._chunk_words(layer)
        if words > g.weight_words:
            raise CapacityError(
                f"{layer.name}: one output chunk needs {words} weight words; geometry {g.name} "
                f"has {g.weight_words}"
            )
        if words:
            most = min(most, g.weight_words // BLOCKS // words)
        if layer.permutation is not None:
            # A permutation decides how many chunks go to the same group one after the other.
            # With one COMPUTE for each chunk, a layer takes as long whatever its permutation is.
            most = 1
        most = max(1, most)
        parts = []
        for segment in cut_segments(computed, target, groups, g.tout):
            chunks = len(segment.outputs) // g.tout
            for first in range(0, chunks, most):
                parts.append(segment.part(first, min(first + most, chunks), g.tout))
        return parts

    def _chunk_words(self, layer: Layer) -> int:
        """Weight words of one output chunk."""
        node = layer.operation
        if not isinstance(node, Convolution):
            return 0
        placement = self.network.assignment.tensors[layer.input]
        lanes = self.geometry.tin
        chunks = len(group_input(layer, node, placement, 0, lanes).channel) // lanes
        rows, columns = map(int, node.weight.shape[2:])
        return isa.digits(node.weight_bits) * rows * columns * chunks

    def _step(self, index: int, layer: Layer, tile: TileAddresses, segment: Segment) -> Step:
        g = self.geometry
        net = self.network
        step = Step()
        chunks = len(segment.outputs) // g.tout
        slot = self.parameters.allocate(chunks * g.beats)
        data = pack_parameters(layer, net.ranges[layer.name], segment.outputs, segment.groups, g)
        row_beats = g.parameter_bits_per_row // g.bus_bits
        offset = self.constants.append(data.tobytes())
        step.loads.append(
            Instruction(
                Opcode.LOAD,
                {
                    "layer": index,
                    "memory": Memory.PARAMETER,
                    "base": Base.IMAGE,
                    "address": slot * PARAMETER_ROWS * row_beats,
                    "stride": PARAMETER_ROWS * row_beats,
                    "rows": len(data),
                    "row_beats": data.shape[1] // g.bus_bytes,
                    "dram_offset": offset,
                    "dram_stride": data.shape[1],
                },
                g,
            )
        )
        weight_address = 0
        group = None
        if isinstance(layer.operation, Convolution):
            node = layer.operation
            placement = net.assignment.tensors[layer.input]
            group = group_input(layer, node, placement, segment.group, g.tin)
            words = pack_weights(node, segment.outputs, group.channel, g)
            weight_address = self.weights.allocate(len(words))
            step.loads += self._weight_loads(index, words.tobytes(), weight_address)
        fields = compute_fields(net, index, layer, tile, segment, group, slot, weight_address)
        step.computes.append(Instruction(Opcode.COMPUTE, fields, g))
        return step

    def _weight_loads(self, index: int, data: bytes, word: int) -> list[Instruction]:
        g = self.geometry
        offset = self.constants.append(data)
        beats = len(data) // g.bus_bytes
        address = word * g.weight_bits_per_word // g.bus_bits
        return [
            Instruction(
                Opcode.LOAD,
                {
                    "layer": index,
                    "memory": Memory.WEIGHT,
                    "base": Base.IMAGE,
                    "rows": 1,
                    "row_beats": min(MAX_ROW_BEATS, beats - done),
                    "address": address + done,
                    "dram_offset": offset + done * g.bus_bytes,
                },
                g,
            )
            for done in range(0, beats, MAX_ROW_BEATS)
        ]
