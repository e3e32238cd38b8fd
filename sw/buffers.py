"""The on-chip buffers of a group of layers, and where rows lie in them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from palquant.hw.isa import Memory
from palquant.sw.layout import TensorLayout
from palquant.sw.slices import ChannelSlice, Slices
from palquant.sw.strips import Run, Span


class Role(enum.Enum):
    """What a buffer is for."""

    READ = "read"  #: rows loaded from DRAM
    WRITE = "write"  #: rows on their way to DRAM
    STRIP = "strip"  #: rows that one layer of a group makes and another reads


#: Role of a buffer, index of the layer that it belongs to, and the tensor.
Key = tuple[Role, int, str]


@dataclass(frozen=True)
class Place:
    """Where the rows of a tensor lie.

    Parameters:
        word: First word of a row; of a slice's row, where it would be with all channels there.
        row_step: Words from it to the next row; negative where rows lie backwards.
        pixel_step: Words from a pixel to the next.
    """

    word: int
    row_step: int
    pixel_step: int

    @classmethod
    def whole(cls, layout: TensorLayout, start: int, row: int) -> Place:
        """Place of a row of a tensor that is in a memory as a whole, from word ``start`` on."""
        return cls(start + row * layout.row_words, layout.row_words, layout.pixel_words)


@dataclass(frozen=True)
class Buffer:
    """A buffer, or as many of them as tiles take turns with.

    Parameters:
        memory: Where.
        starts: First word of each copy.
        row_words: Words of a row.
        pixel_words: Words of a pixel.
        runs: Rows in it, tile by tile.
        slices: Slices of channels that take turns within each tile; empty if it holds all channels.
    """

    memory: Memory
    starts: list[int]
    row_words: int
    pixel_words: int
    runs: list[Run]
    slices: Slices = ()

    def find(self, tile: int, row: int, turn: int = 0) -> Place:
        """Where a tensor's row lies during a tile, when its slice number ``turn`` is computed."""
        start, run = self.starts[tile % len(self.starts)], self.runs[tile]
        if self.slices:
            start = self.starts[(tile * len(self.slices) + turn) % len(self.starts)]
            start -= self.slices[turn].first_word
        word = start + run.find(row) * self.row_words
        return Place(word, run.step * self.row_words, self.pixel_words)


@dataclass(frozen=True)
class Tiling:
    """How a group of layers is cut.

    Parameters:
        rows: Output rows of the last layer in a tile; the last tile may have fewer.
        spans: Rows that the layers of each level compute, tile by tile.
        buffers: (role, layer's index, tensor) -> buffer.
        doubled: Whether the next tile's transfers can run beside this tile's computation.
        slices: Slices of channels that each tile is computed in; empty if all at once.
    """

    rows: int
    spans: list[tuple[Span, ...]]
    buffers: dict[Key, Buffer]
    doubled: bool
    slices: Slices = ()

    def find(
        self, role: Role, index: int, tensor: str, tile: int, row: int, turn: int = 0
    ) -> Place | None:
        """Where a tensor's row lies during a tile, or None if there is no such buffer."""
        buffer = self.buffers.get((role, index, tensor))
        return None if buffer is None else buffer.find(tile, row, turn)

    def slice_in(
        self, role: Role, index: int, layout: TensorLayout, turn: int
    ) -> ChannelSlice | None:
        """The slice that a buffer holds in its turn, or None if it holds all channels, or is not.

        Without a buffer the tensor is on chip as a whole.
        """
        buffer = self.buffers.get((role, index, layout.name))
        return None if buffer is None or not buffer.slices else buffer.slices[turn]
