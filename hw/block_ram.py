"""The memory cells of the ECP5 that synthesis makes of a memory: block or distributed RAM.

Yosys weighs every way to map a memory by a cost and takes the cheapest (its pass
``memory_libmap``; the cells and their costs are in its ``lattice/brams_16kd.txt`` and
``lattice/lutrams_trellis.txt``). The same weighing here gives the same cells without synthesis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Mapping", "MemoryShape", "map_memory"]

#: Widths of a DP16KD, to which PDPW16KD adds 36; as many words as 16384 places hold. The ninth bit
#: of a byte is lost to widths below 9.
_BLOCK_WIDTHS = {1: 16384, 2: 8192, 4: 4096, 9: 2048, 18: 1024, 36: 512}
#: Bits that share a write enable, in blocks at least as wide.
_BLOCK_BYTE = 9
_BLOCK_COST = 128
#: A DPR16X4: 16 words of 4 bits, read at once.
_DISTRIBUTED_WIDTH, _DISTRIBUTED_WORDS, _DISTRIBUTED_COST = 4, 16, 4
#: Costs of logic around a mapping: a multiplexer's bit, a write enable's gate, and, once for each
#: memory, what a block needs so that a word that is read while it is written is the old one.
_MUX_COST, _DEMUX_COST, _BLOCK_EXTRA, _DISTRIBUTED_EXTRA = 0.5, 0.5, 14, 2


@dataclass(frozen=True)
class MemoryShape:
    """A memory with one write port and one read port.

    Parameters:
        name: What it is for.
        depth: Words.
        width: Bits of a word.
        enables: Parts of a word that are written apart, all as wide.
        registered: Whether its read port has a register, without which it is no block RAM.
        count: How many such memories there are.
    """

    name: str
    depth: int
    width: int
    enables: int = 1
    registered: bool = True
    count: int = 1


@dataclass(frozen=True)
class Mapping:
    """What one memory becomes.

    Parameters:
        blocks: Block RAMs.
        distributed: Cells of distributed RAM.
        banks: Cells that a read chooses from, for each bit of a word.
    """

    blocks: int
    distributed: int
    banks: int


def map_memory(shape: MemoryShape) -> Mapping:
    """The cells of one memory of this shape; neither kind where flip-flops are cheaper."""
    best, cheapest = Mapping(0, 0, 0), shape.depth * shape.width
    candidates = [_distributed(shape)]
    if shape.registered:
        candidates.insert(0, _block(shape))
    for cost, mapping in candidates:
        if cost < cheapest:
            best, cheapest = mapping, int(cost)
    return best


def _cost(shape: MemoryShape, cells: float, banks: int) -> float:
    """Costs of the cells and of choosing among banks."""
    if banks == 1:
        return cells
    return cells + _MUX_COST * (banks - 1) * shape.width + _DEMUX_COST * banks * shape.enables


def _distributed(shape: MemoryShape) -> tuple[float, Mapping]:
    part = shape.width // shape.enables
    columns = shape.enables * math.ceil(part / _DISTRIBUTED_WIDTH)
    banks = math.ceil(shape.depth / _DISTRIBUTED_WORDS)
    cells = banks * columns
    return (
        _cost(shape, _DISTRIBUTED_COST * cells, banks) + _DISTRIBUTED_EXTRA,
        Mapping(0, cells, banks),
    )


def _block(shape: MemoryShape) -> tuple[float, Mapping]:
    """The cheapest width of block; of those that cost the same, the narrowest."""
    part = shape.width // shape.enables
    found: tuple[float, Mapping] | None = None
    for width, words in _BLOCK_WIDTHS.items():
        byte = min(width, _BLOCK_BYTE)
        bits = shape.enables * math.ceil(part / byte) * byte
        banks = math.ceil(shape.depth / words)
        cells = math.ceil(banks * bits / width)
        cost = _cost(shape, _BLOCK_COST * cells, banks) + _BLOCK_EXTRA
        if found is None or cost < int(found[0]):
            found = cost, Mapping(cells, 0, banks)
    assert found is not None
    return found
