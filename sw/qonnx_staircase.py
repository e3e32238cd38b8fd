"""Thresholds of a staircase over integers, and the requantization that takes the same steps.

A staircase is a monotone function of an integer, such as batch normalisation, ReLU and a
quantiser behind an accumulator. Its steps are found by bisection, so that they are exact. Where
the machine has a multiplication instead of thresholds, for codes of 8 bits, the multiplication
that takes the same steps is looked for, and how far the nearest one is off is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant.errors import RangeError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
#: Codes of integers, channels along axis 1: (K, C) to (K, C).
Staircase = Callable[[Ints], Ints]

#: Widths of the requantization's operands (numerics, section 4.1).
SCALE_LIMIT = 1 << 15
OFFSET_LIMIT = 1 << 31
LARGEST_SHIFT = 31


@dataclass(frozen=True, eq=False)
class Steps:
    """A staircase: code k and above from threshold k on.

    Parameters:
        thresholds: int64, shape (C, levels), non-decreasing along axis 1; a step that is always
            taken has the smallest v, one that is never taken the largest v plus 1.
        negate: bool, shape (C,): v is -x, since the staircase falls.
        low: Smallest v, int64, shape (C,).
        high: Largest v.
    """

    thresholds: Ints
    negate: npt.NDArray[np.bool_]
    low: Ints
    high: Ints


def bisect(staircase: Staircase, low: Ints, high: Ints, levels: int) -> Steps:
    """Find every step of a staircase.

    Parameters:
        staircase: Codes 0 to ``levels`` of integers, monotone in each channel.
        low: Smallest x that can occur, int64, shape (C,).
        high: Largest x that can occur, not below ``low``.
        levels: Number of steps.
    """
    first, last = staircase(np.stack([low, high]))
    negate = first > last
    sign = np.where(negate, -1, 1)
    smallest, largest = np.where(negate, -high, low), np.where(negate, -low, high)
    wanted = np.arange(1, levels + 1)[:, None]
    left = np.repeat(smallest[None], levels, axis=0)  # the threshold lies in left..right
    right = np.repeat(largest[None], levels, axis=0) + 1
    while (left < right).any():
        middle = (left + right) // 2
        reached = staircase(sign * np.minimum(middle, largest)) >= wanted
        open_ = left < right
        right = np.where(open_ & reached, middle, right)
        left = np.where(open_ & ~reached, middle + 1, left)
    return Steps(np.ascontiguousarray(left.T), negate, smallest, largest)


def doubtful_steps(steps: Steps, lower: Staircase, upper: Staircase) -> int:
    """Steps that the executor may take one integer earlier or later.

    Parameters:
        steps: Found with the exact products.
        lower: The staircase of the smallest float that the executor may hold for an integer.
        upper: The same of the largest.
    """
    levels = steps.thresholds.shape[1]
    sign = np.where(steps.negate, -1, 1)
    wanted = np.arange(1, levels + 1)[:, None]
    at = steps.thresholds.T
    reach = np.clip(at, steps.low, steps.high)
    below = np.clip(at - 1, steps.low, steps.high)
    taken = [f(sign * reach) >= wanted for f in (lower, upper)]
    early = [f(sign * below) >= wanted for f in (lower, upper)]
    late = (at <= steps.high) & ~(taken[0] & taken[1])
    soon = (at > steps.low) & (early[0] | early[1])
    return int((late | soon).sum())


@dataclass(frozen=True, eq=False)
class Requantization:
    """``(x * scale + offset) >> shift`` per channel, each int64 of shape (C,)."""

    scale: Ints
    offset: Ints
    shift: Ints

    def __call__(self, x: Ints) -> Ints:
        """Results of integers (K, C)."""
        result: Ints = (x * self.scale + self.offset) >> self.shift
        return result


def from_line(gain: Floats, value: Floats, center: Floats, correction: Ints) -> Requantization:
    """The requantization nearest to ``gain * (x - center) + value``, rounding to nearest.

    Parameters:
        gain: Results per unit of x, shape (C,).
        value: Result at ``center``.
        center: An x in the middle of those that occur: there the rounding of M does no harm.
        correction: What the machine's sum of unsigned codes lacks to be x; times M it joins the
            offset, which must hold it as well.

    Raises:
        RangeError: A channel's offset fits no shift.
    """
    shift = np.arange(LARGEST_SHIFT, -1, -1)[:, None]
    power = 2.0**shift
    exact = np.rint(gain * power)
    scale = np.clip(exact, -SCALE_LIMIT, SCALE_LIMIT - 1)
    offset = np.rint(value * power - scale * center) + np.floor(power / 2)
    stored = offset + scale * correction
    fits = (np.abs(offset) < OFFSET_LIMIT) & (np.abs(stored) < OFFSET_LIMIT)
    fits &= (scale == exact) | (shift == 0)
    if not fits.any(axis=0).all():
        channel = int(np.flatnonzero(~fits.any(axis=0))[0])
        raise RangeError(f"channel {channel}: {gain[channel]:.6g} * (x - {center[channel]:.6g}) + "
                         f"{value[channel]:.6g} has no 32-bit requantization offset")  # fmt: skip
    row = fits.argmax(axis=0)
    columns = np.arange(len(gain))
    return Requantization(
        scale[row, columns].astype(np.int64),
        offset[row, columns].astype(np.int64),
        LARGEST_SHIFT - row.astype(np.int64),
    )


def from_steps(steps: Steps, correction: Ints) -> tuple[Requantization, Ints]:
    """The requantization that takes the same steps, or else the nearest.

    The k-th threshold t asks for ``M t + B >= k 2^Sh > M (t - 1) + B``, so that M / 2^Sh lies
    between the slopes of lines through the corners of the staircase, and B between two bounds.

    Parameters:
        steps: A staircase from 0.
        correction: As for :func:`from_line`.

    Returns:
        The requantization, and per channel the number of integers x at which its result, clamped
        to 0 and ``levels``, is another than the staircase's.
    """
    count = len(steps.thresholds)
    scale, offset, shift = (np.zeros(count, np.int64) for _ in range(3))
    wrong = np.zeros(count, np.int64)
    for channel in range(count):
        found = _fit(steps, channel, int(correction[channel]))
        scale[channel], offset[channel], shift[channel], wrong[channel] = found
    return Requantization(scale, offset, shift), wrong


def _fit(steps: Steps, channel: int, correction: int) -> tuple[int, int, int, int]:
    """M, B, Sh and the number of differing integers of one channel."""
    t = steps.thresholds[channel]
    low, high = int(steps.low[channel]), int(steps.high[channel])
    k = np.arange(1, len(t) + 1)
    sign = -1 if steps.negate[channel] else 1
    inside = (t > low) & (t <= high)
    always = int((t <= low).sum())
    if not inside.any():
        return 0, always, 0, 0
    # Points that must lie on or above their step (x, k), and points that must lie below it.
    over = np.array([(x, y) for x, y in zip(t, k, strict=True) if low < x <= high]
                    + ([(low, always)] if always else []))  # fmt: skip
    under = np.array([(x - 1, y) for x, y in zip(t, k, strict=True) if low < x <= high]
                     + ([(high, int((t <= high).sum()) + 1)] if t[-1] > high else []))  # fmt: skip
    run = over[:, None, 0] - under[None, :, 0]
    rise = over[:, None, 1] - under[None, :, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = rise / run
    least = float(slope[run > 0].max(initial=0.0))
    most = float(slope[run < 0].min(initial=np.inf))
    if not np.isfinite(most):
        most = max(2 * least, float(k[inside][-1] - k[inside][0] + 1))
    if least > most:  # no line takes these steps: one through the middle of them
        corners = np.concatenate([over, under]).astype(np.float64)
        centered = corners - corners.mean(axis=0)
        least = most = max(0.0, float((centered[:, 0] * centered[:, 1]).sum()
                                      / (centered[:, 0] ** 2).sum()))  # fmt: skip
    best: tuple[int, int, int, int] | None = None
    for power in range(LARGEST_SHIFT, -1, -1):
        unit = 1 << power
        middle = (least + most) / 2 * unit
        if abs(middle) >= SCALE_LIMIT - 1:
            continue
        spread = max(0.0, (most - least) / 2 * unit)
        around = np.unique(np.rint(np.linspace(middle - spread, middle + spread, 9)))
        for m in (int(v) for v in np.concatenate([around, [np.floor(middle), np.ceil(middle)]])):
            floor_ = int((over[:, 1] * unit - m * over[:, 0]).max())
            ceiling = int((under[:, 1] * unit - m * under[:, 0]).min()) - 1
            b = (floor_ + ceiling) // 2
            if abs(b) >= OFFSET_LIMIT or abs(b + sign * m * correction) >= OFFSET_LIMIT:
                continue
            off = 0 if floor_ <= ceiling else _differences(steps, channel, m, b, power)
            if best is None or off < best[3]:
                best = (sign * m, b, power, off)
            if not off:
                return best
        if best is not None:
            return best  # coarser shifts only have fewer slopes
    raise RangeError(f"channel {channel}: no 32-bit requantization offset takes its steps")


def _differences(steps: Steps, channel: int, m: int, b: int, power: int) -> int:
    """Integers at which ``(m v + b) >> power`` clamped differs from the staircase."""
    t = steps.thresholds[channel]
    low, high = int(steps.low[channel]), int(steps.high[channel])
    if m <= 0:
        return high - low + 1
    k = np.arange(1, len(t) + 1)
    other = np.clip(-((b - (k << power)) // m), low, high + 1)  # first v with m v + b >= k 2^Sh
    return int(np.abs(other - t).sum())
