"""Transfers of rows, or of slices of their pixels, between DRAM and on-chip memory."""

from __future__ import annotations

from palquant.hw.config import Geometry
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.buffers import Place
from palquant.sw.constants import MAX_ROW_BEATS
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork
from palquant.sw.schedule import Instruction
from palquant.sw.slices import ChannelSlice
from palquant.sw.tile import home

#: Most rows of a transfer.
MAX_ROWS = (1 << 16) - 1


class Transfers:
    """Makes LOADs and STOREs, and allots tensors their place in the output region.

    Parameters:
        network: The placed network.

    Attributes:
        offsets: Byte offset of each stored tensor in the output region.
        output_bytes: Size of the output region of one image.
    """

    def __init__(self, network: PlacedNetwork) -> None:
        self.network = network
        self.geometry: Geometry = network.geometry
        self.offsets: dict[str, int] = {}
        self.output_bytes = 0

    def rows(
        self,
        opcode: Opcode,
        layer: int,
        layout: TensorLayout,
        start: int,
        span: tuple[int, int],
        memory: Memory | None = None,
    ) -> list[Instruction]:
        """Transfers of rows of a tensor, which lie one behind the other on chip too.

        Parameters:
            opcode: LOAD or STORE.
            layer: Index of the layer that the transfer belongs to.
            layout: The tensor.
            start: Word of the first row on chip.
            span: First row, and the one behind the last.
            memory: Where on chip, if not where the tensor stays.
        """
        first, last = span
        base, offset = self._origin(layout, first)
        address = start * layout.word_bytes // self.geometry.bus_bytes
        most = max(1, MAX_ROW_BEATS // layout.row_beats)
        return [
            Instruction(
                opcode,
                {
                    "layer": layer,
                    "memory": home(layout) if memory is None else memory,
                    "base": base,
                    "rows": 1,
                    "row_beats": min(most, last - row) * layout.row_beats,
                    "address": address + (row - first) * layout.row_beats,
                    "dram_offset": offset + (row - first) * layout.row_bytes,
                },
                self.geometry,
            )
            for row in range(first, last, most)
        ]

    def sliced(
        self,
        opcode: Opcode,
        layer: int,
        layout: TensorLayout,
        part: ChannelSlice,
        place: Place,
        span: tuple[int, int],
    ) -> list[Instruction]:
        """Transfers of a slice of the channels of some rows: one row of a transfer for each pixel.

        Parameters:
            opcode: LOAD or STORE.
            layer: Index of the layer that the transfer belongs to.
            layout: The tensor, of residuals; its pixels are whole bus beats.
            part: The slice.
            place: Place of the first row on chip; rows follow each other without a gap.
            span: First row, and the one behind the last.
        """
        first, last = span
        beat = self.geometry.bus_bytes
        assert place.row_step == layout.shape.width * place.pixel_step
        base, offset = self._origin(layout, first)
        stride = place.pixel_step * layout.word_bytes // beat
        pixel_bytes = layout.pixel_words * layout.word_bytes
        skipped = part.first_word * layout.word_bytes
        address = (place.word + part.first_word) * layout.word_bytes // beat
        pixels = (last - first) * layout.shape.width
        return [
            Instruction(
                opcode,
                {
                    "layer": layer,
                    "memory": home(layout),
                    "base": base,
                    "rows": min(MAX_ROWS, pixels - pixel),
                    "row_beats": part.words * layout.word_bytes // beat,
                    "address": address + pixel * stride,
                    "stride": stride,
                    "dram_offset": offset + skipped + pixel * pixel_bytes,
                    "dram_stride": pixel_bytes,
                },
                self.geometry,
            )
            for pixel in range(0, pixels, MAX_ROWS)
        ]

    def _origin(self, layout: TensorLayout, row: int) -> tuple[Base, int]:
        """Region of a tensor in DRAM, and offset of a row in it."""
        if layout.name == self.network.graph.input.name:
            return Base.INPUT, row * layout.row_bytes
        if layout.name not in self.offsets:  # allotted when first asked for
            self.offsets[layout.name] = self.output_bytes
            self.output_bytes += layout.bytes
        return Base.OUTPUT, self.offsets[layout.name] + row * layout.row_bytes
