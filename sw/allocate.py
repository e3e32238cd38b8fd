"""Space in the on-chip memories: blocks for tensors that stay, rings for what passes through."""

from __future__ import annotations


class FreeList:
    """First-fit allocator of one memory.

    Parameters:
        size: Words of the memory.
        alignment: Every block starts at, and is rounded up to, a multiple of this.
    """

    def __init__(self, size: int, alignment: int = 1) -> None:
        self.size = size
        self.alignment = alignment
        self._free: list[tuple[int, int]] = [(0, size)]
        self._used: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Words that are allocated."""
        return sum(self._used.values())

    def allocate(self, words: int) -> int | None:
        """First word of a free block, or None if no block is large enough."""
        words = -(-words // self.alignment) * self.alignment
        for index, (start, length) in enumerate(self._free):
            if length >= words:
                self._free[index] = (start + words, length - words)
                self._free = [block for block in self._free if block[1]]
                self._used[start] = words
                return start
        return None

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
