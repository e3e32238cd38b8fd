"""What stays on chip, and how tall the tiles of a layer can be.

Tensors that fit stay in on-chip memory from the layer that makes them to the last that reads
them. Others pass through buffers, tile by tile; with more than one tile each buffer is doubled,
so that the next tile's transfers run beside this tile's computation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from palquant.errors import CapacityError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Memory
from palquant.sw.allocate import FreeList
from palquant.sw.graph import Convolution, Kind
from palquant.sw.layer import Layer
from palquant.sw.layout import TensorLayout


@dataclass(frozen=True)
class Policy:
    """How generously on-chip memory is given to whole tensors.

    Parameters:
        resident: Largest share of a memory that one tensor may keep.
        keep_all: Store every tensor to DRAM, so that each can be compared.
    """

    resident: float
    keep_all: bool


@dataclass(frozen=True)
class Tiling:
    """How one layer is cut.

    Parameters:
        rows: Output rows of a tile; the last tile may have fewer.
        buffers: "read TENSOR" or "write TENSOR" -> memory, and the first word of each copy.
    """

    rows: int
    buffers: dict[str, tuple[Memory, list[int]]]


class OnChip:
    """Space in the activation memory, the residual memory and the output buffer.

    Parameters:
        geometry: The machine.
        policy: What may stay.
        result: Name of the network's result, which always goes to DRAM.

    Attributes:
        resident: Tensors that are in on-chip memory as a whole -> their first word.
    """

    def __init__(self, geometry: Geometry, policy: Policy, result: str) -> None:
        g = geometry
        self.geometry = g
        self.policy = policy
        self.result = result
        words_per_beat = max(1, g.bus_bits // g.activation_bits_per_word)
        self._memories = {
            Memory.ACTIVATION: FreeList(g.activation_words, words_per_beat),
            Memory.RESIDUAL: FreeList(g.residual_words),
            Memory.OUTPUT: FreeList(g.output_words, words_per_beat, rotate=True),
        }
        self.resident: dict[str, int] = {}

    def keep(self, layout: TensorLayout) -> bool:
        """Keep a whole tensor on chip if the policy and the memory allow."""
        memory = self._memories[home(layout)]
        if layout.words > self.policy.resident * memory.size:
            return False
        start = memory.allocate(layout.words)
        if start is None:
            return False
        self.resident[layout.name] = start
        return True

    def release(self, layout: TensorLayout) -> None:
        """Give back the space of a tensor that stayed."""
        self._memories[home(layout)].release(self.resident.pop(layout.name))

    def release_buffers(self, tiling: Tiling) -> None:
        """Give back a layer's buffers."""
        for memory, starts in tiling.buffers.values():
            for start in starts:
                self._memories[memory].release(start)

    def goes_to_dram(self, layout: TensorLayout, kept: dict[str, bool]) -> bool:
        """Whether a tensor that a layer makes is stored to DRAM."""
        is_result = layout.name == self.result
        return self.policy.keep_all or is_result or not kept[layout.name]

    def tile(
        self,
        layer: Layer,
        reads: list[TensorLayout],
        writes: list[TensorLayout],
        kept: dict[str, bool],
    ) -> Tiling:
        """Allot the buffers of the tallest tile that fits.

        Parameters:
            layer: The layer.
            reads: Layouts of its input and, if it has one, its residual.
            writes: Layouts of its outputs.
            kept: Output tensor -> whether it stays on chip as a whole.

        Raises:
            CapacityError: Not even one output row fits; names layer, memory, and what it needs.
        """
        height = layer.shape.height
        staying = {memory: space.used for memory, space in self._memories.items()}
        shortage: tuple[Memory, int] | None = None
        for rows, copies in _candidates(height):
            wanted = self._buffers(layer, reads, writes, kept, rows)
            buffers: dict[str, tuple[Memory, list[int]]] = {}
            shortage = None
            for name, (memory, words) in wanted.items():
                starts = [self._memories[memory].allocate(words) for _ in range(copies)]
                got = [start for start in starts if start is not None]
                buffers[name] = (memory, got)
                if len(got) < copies:
                    needed = sum(w for m, w in wanted.values() if m is memory) * copies
                    shortage = (memory, needed + staying[memory])
                    break
            if shortage is None and _extents_fit(layer, rows):
                return Tiling(rows, buffers)
            for memory, got in buffers.values():
                for start in got:
                    self._memories[memory].release(start)
        if shortage is None:
            raise CapacityError(
                f"{layer.name}: rows of {layer.shape.width} pixels exceed the "
                f"{isa.EXTENT_BITS}-bit extents of an instruction"
            )
        memory, needed = shortage
        raise CapacityError(
            f"{layer.name}: one output row at a time needs {needed} words of "
            f"{memory.name.lower()} memory; geometry {self.geometry.name} has "
            f"{self._memories[memory].size}"
        )

    def _buffers(
        self,
        layer: Layer,
        reads: list[TensorLayout],
        writes: list[TensorLayout],
        kept: dict[str, bool],
        rows: int,
    ) -> dict[str, tuple[Memory, int]]:
        """Words of each buffer that a tile of ``rows`` output rows needs, by role and tensor."""
        wanted: dict[str, tuple[Memory, int]] = {}
        for role, layout in zip(("input", "residual"), reads, strict=False):
            if layout.name not in self.resident:
                if role == "residual":
                    tall = rows
                else:
                    kernel, stride, _ = window(layer)
                    tall = min(layer.input_shape.height, (rows - 1) * stride + kernel)
                wanted[f"read {layout.name}"] = (home(layout), tall * layout.row_words)
        for layout in writes:
            words = rows * layout.row_words
            if layout.type.kind is Kind.CODES:
                if self.goes_to_dram(layout, kept):
                    wanted[f"write {layout.name}"] = (Memory.OUTPUT, words)
            elif not kept[layout.name]:
                wanted[f"write {layout.name}"] = (Memory.RESIDUAL, words)
        return wanted


def home(layout: TensorLayout) -> Memory:
    """The memory where a tensor stays if it stays on chip."""
    return Memory.ACTIVATION if layout.type.kind is Kind.CODES else Memory.RESIDUAL


def input_rows(layer: Layer, first: int, last: int) -> tuple[int, int, int]:
    """Row of the first tap, and the rows that exist, for output rows first to last - 1."""
    kernel, stride, padding = window(layer)
    top = first * stride - padding
    bottom = (last - 1) * stride - padding + kernel
    return top, max(0, top), min(layer.input_shape.height, bottom)


def _candidates(height: int) -> Iterator[tuple[int, int]]:
    """Rows of a tile and copies of its buffers, the best first.

    One tile needs no second buffer; nor can the last resort, single rows one after the other,
    afford one.
    """
    yield height, 1
    rows = height
    for count in range(2, height + 1):
        if -(-height // count) < rows:
            rows = -(-height // count)
            yield rows, 2
    if height > 1:
        yield 1, 1


def _extents_fit(layer: Layer, rows: int) -> bool:
    limit = (1 << isa.EXTENT_BITS) - 1
    _, first, last = input_rows(layer, 0, rows)
    widest = max(layer.shape.width, layer.input_shape.width)
    return max(rows, widest, last - first) <= limit


def window(layer: Layer) -> tuple[int, int, int]:
    """Height, vertical stride and vertical padding of a layer's window."""
    node = layer.operation
    kernel = node.weight.shape[2] if isinstance(node, Convolution) else node.kernel[0]
    return kernel, node.stride[0], node.padding[0]
