"""When the search for a code reads which thresholds: one memory of a lane answers for all of them.

A code of b bits takes b comparisons, level after level of a tree, and the first comparison of all
slots has a memory of its own. So codes of up to two bits read the shared memory once, and beats
can follow each other in every cycle; wider codes, and a second tensor, take turns.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LEVEL_CYCLES", "TENSOR_CYCLES", "search_cycles"]

#: Cycles from the reading of one level to that of the next: block RAM answers slowly, hence a
#: register between it and the comparison. Even, so that tensors that are an odd number of cycles
#: apart never meet.
LEVEL_CYCLES = 2
#: Cycles by which the second code tensor's search is behind that of the first.
TENSOR_CYCLES = 1


def search_cycles(bits: Sequence[int]) -> int:
    """Cycles from a beat to the next, at least, so that no two searches read at the same time.

    Parameters:
        bits: Code width of each tensor; 0 where there is none, and more than 4 where codes are
            found by clamping.
    """
    last = 0
    for tensor, width in enumerate(bits):
        if width:
            # Level 1 is read in cycle 0 of a tensor's search.
            levels = width - 2 if 2 < width <= 4 else 0
            last = max(last, tensor * TENSOR_CYCLES + levels * LEVEL_CYCLES)
    return last + 1
