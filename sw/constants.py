"""Weights and parameters: their bytes in the image, their places on chip, and the loads between.

A layer whose weights of one output chunk exceed the weight memory is cut by input chunks as well:
its sums stay in the array from COMPUTE to COMPUTE while the weights of further chunks arrive.

Both memories are rings: a block is written behind the one before it. Where all blocks of a group of
layers fit into half of a memory, they are loaded for its first tile and stay for the others; the
other half is what the next group's blocks need to arrive in time. Where those of the whole network
fit, each is loaded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from palquant.errors import CapacityError
from palquant.hw import isa
from palquant.hw.config import PARAMETER_ROWS
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.allocate import Ring
from palquant.sw.graph import Convolution
from palquant.sw.layer import Layer
from palquant.sw.network import PlacedNetwork
from palquant.sw.pack import GroupInput, group_input, pack_parameters, pack_weights
from palquant.sw.schedule import Instruction
from palquant.sw.segments import Part, Segment, cut_parts, cut_segments

#: Longest row of a transfer, in bus beats.
MAX_ROW_BEATS = (1 << 16) - 1
#: Blocks of output chunks that the weight memory holds at least: one computes while others load.
#: With few large blocks the array would wait for a whole one at each layer's start.
BLOCKS = 8


@dataclass
class ConstantData:
    """Weights and parameters in the order in which they are loaded.

    Parameters:
        alignment: Every block starts at a multiple of this.
    """

    alignment: int
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0

    def append(self, data: bytes) -> int:
        """Add a block and return its offset from the first."""
        offset = self.size
        padding = -len(data) % self.alignment
        self.chunks.append(data + bytes(padding))
        self.size += len(data) + padding
        return offset


@dataclass(frozen=True)
class Place:
    """Where the constants of a segment lie on chip.

    Parameters:
        slot: First parameter slot.
        weight: First weight word; 0 for pools.
        group: What the segment's convolution group reads; None for pools.
    """

    slot: int
    weight: int
    group: GroupInput | None


class Constants:
    """Cuts layers into segments whose constants fit on chip, and loads those.

    Parameters:
        network: The placed network.

    Attributes:
        data: Weights and parameters, offsets relative to their own start.
    """

    def __init__(self, network: PlacedNetwork) -> None:
        g = network.geometry
        self.network = network
        self.geometry = g
        self.data = ConstantData(g.bus_bytes)
        self._weights = Ring(g.weight_words)
        self._parameters = Ring(g.parameter_slots)
        layers = [(layer, self.segments(layer)) for layer in network.layers]
        self._all_fit = self._fit(layers, 1)
        self._stay = {Memory.WEIGHT: False, Memory.PARAMETER: False}
        self._slots: dict[Segment, int] = {}
        self._words: dict[Segment, tuple[int, GroupInput]] = {}
        self._offsets: dict[tuple[Segment, Memory, int], int] = {}

    def segments(self, layer: Layer) -> list[Segment]:
        """Segments of a layer, cut further so that weights and parameters fit their memories.

        Where not even one output chunk's weights fit, :meth:`parts` cuts its results.
        """
        g = self.geometry
        placed = self.network.assignment
        computed, target = placed.computed[layer.name], placed.target[layer.name]
        groups = layer.operation.groups if isinstance(layer.operation, Convolution) else 1
        most = g.parameter_slots // 2 // g.beats
        words = self._chunk_words(layer)
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

    def parts(self, layer: Layer) -> list[Part]:
        """Parts of each row of results, if the weights of one output chunk do not fit at once.

        Raises:
            CapacityError: The weights of one output chunk for one input chunk exceed half of the
                weight memory.
        """
        g = self.geometry
        words = self._chunk_words(layer)
        if words <= g.weight_words:
            return []
        # Half of the memory, so that the next part's weights arrive beside this one's.
        most = g.weight_words // 2 // self._tap_words(layer)
        if most < 1:
            # A lone input chunk needs no second buffer: its weights need not make way for others.
            needed = min(words, 2 * self._tap_words(layer))
            raise CapacityError(
                f"{layer.name}: one output chunk needs {needed} words of weight memory at least; "
                f"geometry {g.name} has {g.weight_words}"
            )
        node = layer.operation
        assert isinstance(node, Convolution)
        source = self.network.graph.types[self.network.stored(layer.input)]
        sums = isa.digits(source.bits) + isa.digits(node.weight_bits) - 1
        chunks = words // self._tap_words(layer)
        return cut_parts(layer.shape.width, sums, chunks, most)

    def begin(self, layers: list[tuple[Layer, list[Segment]]]) -> None:
        """Begin a group of layers that are computed tile by tile."""
        self._stay = self._stays(layers)
        self._slots.clear()
        self._words.clear()
        self._offsets.clear()

    def beats(self, layers: list[tuple[Layer, list[Segment]]], tiles: int) -> list[int]:
        """Bus beats that load each layer's constants for all tiles of a group of them."""
        g = self.geometry
        stays = self._stays(layers)
        beats = []
        for layer, segments in layers:
            chunks = self._chunks(segments)
            # By parts, the weights come anew for each pixel and digit sum.
            repeated = len({(part.column, part.digit_sum) for part in self.parts(layer)}) or 1
            bits = max((code.bits for code in layer.codes if code.bits < 8), default=0)
            words = self._chunk_words(layer) * chunks * repeated
            slots = chunks * g.beats * isa.parameter_rows(bits)
            words *= 1 if stays[Memory.WEIGHT] else tiles
            slots *= 1 if stays[Memory.PARAMETER] else tiles
            loaded = words * g.weight_bits_per_word + slots * g.parameter_bits_per_row
            beats.append(loaded // g.bus_bits)
        return beats

    def block_beats(self, layer: Layer) -> int:
        """Bus beats of the weights of a layer's largest segment."""
        g = self.geometry
        most = max(len(segment.outputs) for segment in self.segments(layer)) // g.tout
        return most * self._chunk_words(layer) * g.weight_bits_per_word // g.bus_bits

    def beside(self, layer: Layer) -> bool:
        """Whether weights arrive beside a computation: whether the memory holds two blocks."""
        most = self.geometry.weight_words * self.geometry.weight_bits_per_word
        fits = 2 * self.block_beats(layer) * self.geometry.bus_bits <= most
        return fits or bool(self.parts(layer))

    def result_words(self, layer: Layer) -> int:
        """Words that the array, or the pooling unit, takes for each result of one output chunk."""
        node = layer.operation
        if not isinstance(node, Convolution):
            rows, columns = node.kernel
            return rows * columns * self.geometry.beats
        source = self.network.graph.types[self.network.stored(layer.input)]
        return self._chunk_words(layer) * isa.digits(source.bits)

    def _stays(self, layers: list[tuple[Layer, list[Segment]]]) -> dict[Memory, bool]:
        """Which of a group's constants stay for all of its tiles."""
        half = self._fit(layers, 2)
        return {memory: half[memory] or self._all_fit[memory] for memory in half}

    def _fit(self, layers: list[tuple[Layer, list[Segment]]], share: int) -> dict[Memory, bool]:
        """Whether all constants of some layers fit into one ``share``-th of their memory."""
        g = self.geometry
        words = sum(self._chunk_words(layer) * self._chunks(parts) for layer, parts in layers)
        slots = sum(self._chunks(parts) for _, parts in layers) * g.beats
        return {
            Memory.WEIGHT: words <= g.weight_words // share,
            Memory.PARAMETER: slots <= g.parameter_slots // share,
        }

    def _chunks(self, segments: list[Segment]) -> int:
        """Output chunks of some segments."""
        return sum(len(segment.outputs) for segment in segments) // self.geometry.tout

    def place(
        self, index: int, layer: Layer, segment: Segment, part: Part | None = None
    ) -> tuple[Place, list[Instruction]]:
        """Where a segment's constants lie for the next COMPUTE, and the loads that bring them.

        A part brings the weights of its input chunks alone, and the parameters once for each row.
        """
        loads: list[Instruction] = []
        fresh = part is None or (part.begins and part.column == 0)
        if segment not in self._slots or (fresh and not self._stay[Memory.PARAMETER]):
            loads += self._load_parameters(index, layer, segment)
        if not isinstance(layer.operation, Convolution):
            return Place(self._slots[segment], 0, None), loads
        if segment not in self._words or not self._stay[Memory.WEIGHT]:
            loads += self._load_weights(index, layer, layer.operation, segment, part)
        weight, group = self._words[segment]
        return Place(self._slots[segment], weight, group), loads

    def _load_parameters(self, index: int, layer: Layer, segment: Segment) -> list[Instruction]:
        g = self.geometry
        chunks = len(segment.outputs) // g.tout
        self._slots[segment] = self._parameters.allocate(chunks * g.beats)
        ranges = self.network.ranges[layer.name]
        # The segment's base says the group of lanes that stay together; there may be more than 8.
        groups = segment.groups if segment.scatter > 1 else np.zeros_like(segment.groups)
        data = pack_parameters(layer, ranges, segment.outputs, groups, g)
        row_beats = g.parameter_bits_per_row // g.bus_bits
        offset = self._store(segment, Memory.PARAMETER, data.tobytes())
        first = self._slots[segment]
        rows = len(data) if g.strided else 1
        strides = {"stride": PARAMETER_ROWS * row_beats, "dram_stride": data.shape[1]}
        return [
            Instruction(
                Opcode.LOAD,
                {
                    "layer": index,
                    "memory": Memory.PARAMETER,
                    "base": Base.IMAGE,
                    "address": (first + done) * PARAMETER_ROWS * row_beats,
                    "rows": rows,
                    "row_beats": data.shape[1] // g.bus_bytes,
                    "dram_offset": offset + done * data.shape[1],
                    **(strides if g.strided else {}),
                },
                g,
            )
            for done in range(0, len(data), rows)
        ]

    def _load_weights(
        self, index: int, layer: Layer, node: Convolution, segment: Segment, part: Part | None
    ) -> list[Instruction]:
        g = self.geometry
        placement = self.network.assignment.tensors[layer.input]
        group = group_input(layer, node, placement, segment.group, g.tin)
        channels, first = group.channel, 0
        if part is not None:
            first = part.first_chunk
            channels = channels[first * g.tin : part.last_chunk * g.tin]
        words = pack_weights(node, segment.outputs, channels, g)
        start = self._weights.allocate(len(words))
        self._words[segment] = start, group
        data = words.tobytes()
        offset = self._store(segment, Memory.WEIGHT, data, first)
        beats = len(data) // g.bus_bytes
        address = start * g.weight_bits_per_word // g.bus_bits
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

    def _store(self, segment: Segment, memory: Memory, data: bytes, first_chunk: int = 0) -> int:
        """Offset of a segment's constants in the image; each is there once for all tiles."""
        key = segment, memory, first_chunk
        if key not in self._offsets:
            self._offsets[key] = self.data.append(data)
        return self._offsets[key]

    def _chunk_words(self, layer: Layer) -> int:
        """Weight words of one output chunk."""
        node = layer.operation
        if not isinstance(node, Convolution):
            return 0
        placement = self.network.assignment.tensors[layer.input]
        lanes = self.geometry.tin
        chunks = len(group_input(layer, node, placement, 0, lanes).channel) // lanes
        return self._tap_words(layer) * chunks

    @staticmethod
    def _tap_words(layer: Layer) -> int:
        """Weight words of one output chunk for one input chunk."""
        node = layer.operation
        assert isinstance(node, Convolution)
        rows, columns = map(int, node.weight.shape[2:])
        return isa.digits(node.weight_bits) * rows * columns
