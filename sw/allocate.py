"""Space in the on-chip memories: blocks for tensors that stay, rings for what passes through."""

from __future__ import annotations


class FreeList:
    """First-fit allocator of one memory.

    Parameters:
        size: Words of the memory.
        alignment: Every block starts at, and is rounded up to, a multiple of this.
        rotate: Prefer space behind the block that was allocated last, so that what is still on
            its way out of the memory is not overwritten sooner than necessary.
    """

    def __init__(self, size: int, alignment: int = 1, rotate: bool = False) -> None:
        self.size = size
        self.alignment = alignment
        self.rotate = rotate
        self._behind = 0
        self._free: list[tuple[int, int]] = [(0, size)]
        self._used: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Words that are allocated."""
        return sum(self._used.values())

    def allocate(self, words: int, rotate: bool = True) -> int | None:
        """First word of a free block, or None if no block is large enough.

        Parameters:
            words: Size of the block.
            rotate: Whether to rotate, if the memory does at all.
        """
        words = -(-words // self.alignment) * self.alignment
        starts = [low for low, size in self._free if size >= words]
        if self.rotate and rotate:
            behind = [max(low, self._behind) for low, _ in self._free]
            ends = [low + size for low, size in self._free]
            fitting = [low for low, end in zip(behind, ends, strict=True) if end - low >= words]
            starts = fitting or starts
        if not starts:
            return None
        first = starts[0]
        self._behind = first + words
        self._used[first] = words
        low, size = next(block for block in self._free if block[0] <= first < sum(block))
        self._free.remove((low, size))
        rest = [(low, first - low), (first + words, low + size - first - words)]
        self._free = sorted(self._free + [block for block in rest if block[1]])
        return first

    def release(self, start: int) -> None:
        """Give back the block that starts at ``start``."""
        self._free.append((start, self._used.pop(start)))
        merged: list[tuple[int, int]] = []
        for block_start, length in sorted(self._free):
            if merged and sum(merged[-1]) == block_start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((block_start, length))
        self._free = merged


class Ring:
    """Blocks handed out one behind the other, starting over at the end of the memory.

    Parameters:
        size: Words of the memory.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._next = 0

    def allocate(self, words: int) -> int:
        """First word of the next block, which must not exceed the memory."""
        if self._next + words > self.size:
            self._next = 0
        start = self._next
        self._next += words
        return start
