"""The ends of a network that stay on the host: a stem in floating point, and a classifier.

Networks are published with a first and a last layer of full precision. Where these are to stay
what they are, the host computes them: the accelerator then starts with the residual stream behind
the stem and ends with the exact sums of its last pooling. Everything here is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import GraphError
from palquant.sw.attributes import attribute_problem
from palquant.sw.operations import Shape

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class HostStem:
    """Normalisation, convolution, batch normalisation, ReLU and max-pool, in that order.

    ``y = max-pool(max(0, gain * conv((x - mean) / std) + offset))``

    Parameters:
        image: Channels, height and width of an image.
        mean: Mean of a pixel per channel, for pixels of 0 to 1.
        std: Standard deviation of a pixel per channel, positive.
        weight: Shape (O, C, KH, KW).
        stride: Stride of the convolution.
        padding: Zeros on every side of the convolution's input.
        gain: Shape (O,).
        offset: Shape (O,).
        pool: Kernel, stride and padding of the max-pool; (1, 1, 0) for none.

    Raises:
        GraphError: The parts do not fit each other; names the attribute.
    """

    image: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weight: npt.NDArray[np.float32]
    stride: int
    padding: int
    gain: Floats
    offset: Floats
    pool: tuple[int, int, int]

    def __post_init__(self) -> None:
        _require(self, attribute_problem(self))
        channels = self.image.channels
        kernel, stride, padding = self.pool
        shape = self.weight.shape
        if len(shape) != 4 or not self.weight.size or shape[1] != channels:
            _require(self, f"weight has shape {shape}, expected (O, {channels}, KH, KW)")
        if not self.gain.shape == self.offset.shape == shape[:1]:
            _require(self, f"gain and offset have shapes {self.gain.shape} and "
                           f"{self.offset.shape}, expected ({shape[0]},)")  # fmt: skip
        if not len(self.mean) == len(self.std) == channels or min(self.std) <= 0:
            _require(self, f"mean {self.mean} and std {self.std} do not fit {channels} channels")
        if min(self.stride, kernel, stride) < 1 or not 0 <= 2 * padding <= kernel:
            _require(self, f"stride {self.stride} and pool {self.pool} are no windows")
        if self.padding < 0 or min(self.shape.height, self.shape.width) < 1:
            _require(self, f"a window does not fit into an image of {self.image}")

    @property
    def shape(self) -> Shape:
        """Channels, height and width of the result."""
        outputs, _, *kernels = self.weight.shape
        sizes = (
            _extent(_extent(size, kernel, self.stride, self.padding), *self.pool)
            for size, kernel in zip((self.image.height, self.image.width), kernels, strict=True)
        )
        return Shape(outputs, *sizes)

    def features(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the accelerator's input stands for.

        Parameters:
            pixels: Shape (N, C, H, W), 0 to 1.

        Returns:
            Real values, shape (N, O, OH, OW), rounded to float32 at the very end.
        """
        found = np.empty((len(pixels), *_sizes(self.shape)), np.float32)
        with np.errstate(over="ignore"):  # what exceeds float32 is infinite, and refused as such
            for index, image in enumerate(pixels):  # at once, windows would take KH * KW the room
                found[index] = self._image(image.astype(np.float64))
        return found

    def _image(self, pixels: Floats) -> Floats:
        mean, std, gain, offset = (
            np.asarray(values, np.float64).reshape(-1, 1, 1)
            for values in (self.mean, self.std, self.gain, self.offset)
        )
        windows = _windows((pixels - mean) / std, self.weight.shape[2:], self.stride, self.padding)
        sums = np.tensordot(self.weight.astype(np.float64), windows, axes=([1, 2, 3], [0, 3, 4]))
        values = np.maximum(sums * gain + offset, 0)
        kernel, stride, padding = self.pool
        # ReLU has left nothing below 0, so that padding with 0 never wins.
        pooled: Floats = _windows(values, (kernel, kernel), stride, padding).max((-2, -1))
        return pooled


@dataclass(frozen=True, eq=False, kw_only=True)
class HostClassifier:
    """Fully connected layer of the pooled features.

    Parameters:
        weight: Shape (classes, C).
        bias: Shape (classes,).

    Raises:
        GraphError: The parts do not fit each other; names the attribute.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        _require(self, attribute_problem(self))
        if self.weight.ndim != 2 or not self.weight.size:
            _require(self, f"weight has shape {self.weight.shape}, expected (classes, C)")
        if self.bias.shape != self.weight.shape[:1]:
            _require(self, f"bias has shape {self.bias.shape}, expected ({len(self.weight)},)")

    def logits(self, features: Floats) -> Floats:
        """Logits (N, classes) of real features (N, C)."""
        found: Floats = features @ self.weight.T.astype(np.float64) + self.bias
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class HostEnds:
    """Both ends.

    Parameters:
        stem: What makes the network's input.
        classifier: What reads its result.
    """

    stem: HostStem
    classifier: HostClassifier


def _require(part: Any, problem: str | None) -> None:
    """Raise the problem, if there is one, with the part's name."""
    if problem:
        raise GraphError(f"host {type(part).__name__.removeprefix('Host').lower()}: {problem}")


def _sizes(shape: Shape) -> tuple[int, int, int]:
    return shape.channels, shape.height, shape.width


def _extent(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def _windows(x: Floats, kernel: tuple[int, ...], stride: int, padding: int) -> Floats:
    """Windows of x (C, H, W), padded with 0, as (C, OH, OW, KH, KW)."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    return views[:, ::stride, ::stride]
