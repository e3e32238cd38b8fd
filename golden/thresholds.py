"""Thresholds of a staircase, found by bisecting the very function that the golden model evaluates.

A chain of scale, batch normalisation, ReLU and quantiser maps an integer to a code. Each of its
floating-point operations is monotone, rounding included, so that the chain is a monotone
staircase, rising or falling, and each of its steps is found exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def bisect_thresholds(
    function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, levels: int
) -> tuple[Tensor, Tensor]:
    """Thresholds t such that ``function(x)`` is the number of t with ``v >= t``.

    v is x, or -x in channels where the staircase falls. A step that is always taken gets the
    smallest possible v as its threshold, one that is never taken the largest possible v plus 1;
    so every threshold fits one bit more than v.

    Parameters:
        function: Codes of integers, elementwise for channels along axis 1: float64 of shape
            (K, C, 1, 1) to integer-valued 0..``levels`` of the same shape.
        low: Smallest x that can occur, int64, shape (C,).
        high: Largest x that can occur, int64, shape (C,), not below ``low``.
        levels: Number of thresholds per channel, 2^bits - 1.

    Returns:
        Thresholds, int64 of shape (C, levels), non-decreasing along axis 1; and whether x is
        negated, bool of shape (C,).
    """

    def codes(x: Tensor) -> Tensor:  # (K, C) to (K, C)
        return function(x.double()[:, :, None, None])[:, :, 0, 0]

    first, last = codes(torch.stack([low, high]))
    negate = first > last
    sign = torch.where(negate, -1, 1)
    smallest, largest = torch.where(negate, -high, low), torch.where(negate, -low, high)
    wanted = torch.arange(1, levels + 1).reshape(-1, 1)
    left = smallest.repeat(levels, 1)  # the threshold lies in left..right, (levels, C)
    right = largest.repeat(levels, 1) + 1
    while (left < right).any():
        middle = torch.div(left + right, 2, rounding_mode="floor")
        # Where the search has ended, middle may be the "never" that lies outside the range.
        reached = codes(sign * middle.clamp(max=largest)) >= wanted
        open_ = left < right
        right = torch.where(open_ & reached, middle, right)
        left = torch.where(open_ & ~reached, middle + 1, left)
    return left.T.contiguous(), negate
