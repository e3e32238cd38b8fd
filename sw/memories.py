"""The on-chip memories as the emulator sees them: digits, residuals and parameters in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from palquant.hw.config import PARAMETER_ROWS, Geometry
from palquant.hw.isa import Memory
from palquant.sw.digits import pack_digits, unpack_digits

Bytes = npt.NDArray[np.uint8]


class Memories:
    """The on-chip memories of a batch of images, poisoned with random content.

    Parameters:
        geometry: Sizes.
        batch: Number of images.
        seed: Seed of the poison.

    Attributes:
        activation: Digits, uint8, shape (batch, words, tin).
        output: Digits, uint8, shape (batch, words, tin).
        residual: int16 or int8, shape (batch, words, lanes).
        weight: Digits, uint8, shape (words, tout, tin).
        parameter: int32, shape (slots, rows, lanes).
    """

    def __init__(self, geometry: Geometry, batch: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        g = geometry
        self.geometry = g

        def poison(*shape: int) -> npt.NDArray[np.uint8]:
            return rng.integers(0, 4, shape, dtype=np.uint8)

        self.activation = poison(batch, g.activation_words, g.tin)
        self.output = poison(batch, g.output_words, g.tin)
        self.weight = poison(g.weight_words, g.tout, g.tin)
        width = np.iinfo(f"i{g.residual_bits // 8}")
        self.residual = rng.integers(
            width.min, width.max, (batch, g.residual_words, g.lanes), dtype=width.dtype.name
        )
        self.parameter = rng.integers(
            -(2**31), 2**31 - 1, (g.parameter_slots, PARAMETER_ROWS, g.lanes), dtype=np.int32
        )

    def write_beats(self, memory: Memory, address: int, data: Bytes) -> None:
        """Write bytes of shape (batch, beats * bus_bytes), starting at beat ``address``.

        Weights and parameters are shared by the batch: the first image's bytes count.
        """
        start = address * self.geometry.bus_bytes
        end = start + data.shape[1]
        if memory is Memory.RESIDUAL:
            self._residual_bytes()[:, start:end] = data
        elif memory is Memory.PARAMETER:
            self.parameter.reshape(-1).view(np.uint8)[start:end] = data[0]
        elif memory is Memory.WEIGHT:
            self.weight.reshape(-1)[4 * start : 4 * end] = unpack_digits(data[0])
        else:
            flat = self.activation.reshape(len(self.activation), -1)
            flat[:, 4 * start : 4 * end] = unpack_digits(data)

    def read_beats(self, memory: Memory, address: int, count: int) -> Bytes:
        """Read ``count`` beats from beat ``address``: bytes of shape (batch, count * bus_bytes)."""
        start = address * self.geometry.bus_bytes
        end = start + count * self.geometry.bus_bytes
        if memory is Memory.RESIDUAL:
            return self._residual_bytes()[:, start:end]
        return pack_digits(self.output.reshape(len(self.output), -1)[:, 4 * start : 4 * end])

    def _residual_bytes(self) -> Bytes:
        return self.residual.reshape(len(self.residual), -1).view(np.uint8)
