"""How a tensor lies in memory: strides, and packing with its inverse.

A row of a tensor is its pixels from left to right; a pixel is its words: for codes (group, chunk,
digit), for residuals (group, chunk, beat), for raw results (group, chunk, beat, plane). Rows start
at whole bus beats, in DRAM as on chip.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import PackingError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.sw.digits import join_digits, pack_digits, split_digits, unpack_digits
from palquant.sw.graph import Kind, Shape, TensorType
from palquant.sw.place import Placement

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class TensorLayout:
    """Layout of one stored tensor.

    Parameters:
        name: The tensor's name.
        type: Its integers: codes, residuals or logits.
        shape: Channels, height, width.
        placement: Where its channels lie.
        geometry: The machine.
    """

    name: str
    type: TensorType
    shape: Shape
    placement: Placement
    geometry: Geometry

    @property
    def digits(self) -> int:
        """Base-4 digits of a code."""
        return isa.digits(self.type.bits)

    @property
    def word_bytes(self) -> int:
        """Bytes of one word: of digits or of residuals."""
        if self.type.kind is Kind.CODES:
            return self.geometry.activation_bits_per_word // 8
        return self.geometry.residual_bits_per_word // 8

    @property
    def group_words(self) -> int:
        """Words from one group to the next within a pixel."""
        if self.type.kind is Kind.CODES:
            return self.placement.span // self.geometry.tin * self.digits
        beats = self.placement.span // self.geometry.lanes
        return beats * (self.geometry.raw_planes if self.type.kind is Kind.LOGITS else 1)

    @property
    def pixel_words(self) -> int:
        """Words of one pixel."""
        return self.placement.groups * self.group_words

    @cached_property
    def row_words(self) -> int:
        """Words from one row to the next, a whole number of bus beats."""
        words = self.shape.width * self.pixel_words
        per_beat = max(1, self.geometry.bus_bytes // self.word_bytes)
        return -(-words // per_beat) * per_beat

    @property
    def words(self) -> int:
        """Words of the whole tensor."""
        return self.shape.height * self.row_words

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.row_words * self.word_bytes

    @property
    def row_beats(self) -> int:
        """Bus beats of one row."""
        return self.row_bytes // self.geometry.bus_bytes

    @property
    def bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape.height * self.row_bytes

    def _count(self, lanes: int) -> int:
        """Words of ``lanes`` positions in a pixel, digits and planes not counted."""
        return self.placement.slots // lanes

    def pack(self, values: npt.NDArray[Any]) -> Bytes:
        """Values of shape (N, C, H, W) to bytes of shape (N, bytes); padding and dummies are 0.

        Raises:
            PackingError: Wrong shape, or a value that the type does not allow.
        """
        expected = (self.shape.channels, self.shape.height, self.shape.width)
        if values.ndim != 4 or values.shape[1:] != expected:
            raise PackingError(f"{self.name}: shape {values.shape}, expected (N, {expected})")
        if not self.type.allowed(values):
            raise PackingError(
                f"{self.name}: values {values.min()}..{values.max()} of type {values.dtype}, "
                f"expected integers {self.type.min}..{self.type.max}"
            )
        batch = len(values)
        slots = np.zeros((batch, *expected[1:], self.placement.slots), np.int64)
        slots[..., self.placement.slot] = values.transpose(0, 2, 3, 1)
        rows = np.zeros((batch, self.shape.height, self.row_bytes), np.uint8)
        if self.type.kind is Kind.CODES:
            words = slots.reshape(
                batch, *expected[1:], self._count(self.geometry.tin), self.geometry.tin
            )
            digits = np.moveaxis(split_digits(words, self.digits), 0, -2)
            pixels = pack_digits(digits)
        else:
            width = self.geometry.residual_bits
            words = slots.reshape(batch, *expected[1:], -1, 1, self.geometry.lanes)
            planes = self.geometry.raw_planes if self.type.kind is Kind.LOGITS else 1
            parts = words >> (width * np.arange(planes)[:, None])
            pixels = parts.astype(f"<i{width // 8}").reshape(batch, *expected[1:], -1)
            pixels = np.ascontiguousarray(pixels).view(np.uint8)
        data = pixels.reshape(batch, self.shape.height, -1)
        rows[..., : data.shape[-1]] = data
        return rows.reshape(batch, -1)

    def unpack(self, data: Bytes) -> npt.NDArray[np.int64]:
        """Bytes of shape (N, bytes) to values of shape (N, C, H, W): the inverse of pack.

        Raises:
            PackingError: Wrong number of bytes.
        """
        if data.ndim != 2 or data.shape[1] != self.bytes:
            raise PackingError(
                f"{self.name}: bytes of shape {data.shape}, expected (N, {self.bytes})"
            )
        batch, (height, width) = len(data), (self.shape.height, self.shape.width)
        used = width * self.pixel_words * self.word_bytes
        rows = data.reshape(batch, height, self.row_bytes)[..., :used]
        pixels = np.ascontiguousarray(rows).reshape(batch, height, width, used // width)
        if self.type.kind is Kind.CODES:
            digits = unpack_digits(pixels).reshape(
                batch, height, width, self._count(self.geometry.tin), self.digits, self.geometry.tin
            )
            slots = join_digits(np.moveaxis(digits, -2, 0))
        else:
            bits = self.geometry.residual_bits
            planes = self.geometry.raw_planes if self.type.kind is Kind.LOGITS else 1
            signed = pixels.view(f"<i{bits // 8}").astype(np.int64)
            lanes = self.geometry.lanes
            parts = signed.reshape(batch, height, width, self._count(lanes), planes, lanes)
            slots = parts[..., planes - 1, :] << (bits * (planes - 1))
            for plane in range(planes - 1):
                slots = slots + ((parts[..., plane, :] & ((1 << bits) - 1)) << (bits * plane))
        flat = slots.reshape(batch, height, width, self.placement.slots)
        return np.ascontiguousarray(flat[..., self.placement.slot].transpose(0, 3, 1, 2))
