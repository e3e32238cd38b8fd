"""Base-4 digits and their packing into bytes: the one definition of the bit order in memory.

A word holds one digit of each lane, lane 0 in the lowest bits; a byte holds four digits.
Example: the digits 1, 2, 3, 0 of lanes 0 to 3 make the byte
``1 | 2 << 2 | 3 << 4 | 0 << 6 = 0x39``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import PackingError
from palquant.hw.config import DIGIT_BITS

DIGITS_PER_BYTE = 8 // DIGIT_BITS
_SHIFTS = np.arange(DIGITS_PER_BYTE, dtype=np.uint8) * DIGIT_BITS


def split_digits(codes: npt.NDArray[Any], count: int) -> npt.NDArray[np.uint8]:
    """Codes of shape (...) to base-4 digits of shape (count, ...), lowest digit first.

    Raises:
        PackingError: A code is negative or needs more than ``count`` digits.
    """
    if codes.size and (codes.min() < 0 or int(codes.max()) >> (DIGIT_BITS * count)):
        raise PackingError(f"codes {codes.min()}..{codes.max()} do not fit {count} base-4 digits")
    shifts = DIGIT_BITS * np.arange(count).reshape(-1, *([1] * codes.ndim))
    return ((codes[None].astype(np.int64) >> shifts) & 3).astype(np.uint8)


def join_digits(digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Digits of shape (count, ...) to codes of shape (...): the inverse of :func:`split_digits`."""
    weights = 4 ** np.arange(digits.shape[0], dtype=np.int64)
    return np.tensordot(weights, digits.astype(np.int64), axes=1)


def pack_digits(digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Digits of shape (..., lanes) to bytes of shape (..., lanes / 4).

    Raises:
        PackingError: A digit is above 3, or the lanes do not fill whole bytes.
    """
    lanes = digits.shape[-1]
    if lanes % DIGITS_PER_BYTE:
        raise PackingError(f"{lanes} lanes do not fill whole bytes")
    if digits.size and digits.max() > 3:
        raise PackingError(f"digit {digits.max()} is above 3")
    quads = digits.astype(np.uint8).reshape(
        *digits.shape[:-1], lanes // DIGITS_PER_BYTE, DIGITS_PER_BYTE
    )
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(quads << _SHIFTS, axis=-1)
    return packed


def unpack_digits(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Bytes of shape (..., n) to digits of shape (..., 4 n): the inverse of :func:`pack_digits`."""
    digits = (data[..., None] >> _SHIFTS) & np.uint8(3)
    return digits.reshape(*data.shape[:-1], DIGITS_PER_BYTE * data.shape[-1])
