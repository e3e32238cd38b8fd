"""From images to the network's input integers, in NumPy alone.

The arithmetic is that of :class:`~palquant.sw.graph.Normalization`: a uint8 image is divided by
255 in float32, so that it equals the float32 image that it was made from; from there on every
step is float64, one operation after the other, so that any other implementation of the same
sequence gives the same codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import InputError
from palquant.sw.graph import Graph, Input, Shape


def input_values(images: npt.NDArray[Any], graph: Graph) -> npt.NDArray[Any]:
    """What the host writes for a batch of images, its own part of the network included.

    Parameters:
        images: float32 or uint8, shape (N, C, H, W) as ``graph.image_shape`` says.
        graph: The network.

    Returns:
        Integers of the graph's input, uint8 codes or int16 residuals.

    Raises:
        InputError: Shape or element type is another one, or a value is NaN or infinite.
    """
    if graph.host is None:
        return to_codes(images, graph.input)
    pixels = _pixels(images, graph.image_shape, graph.input.name)
    return to_codes(graph.host.stem.features(pixels), graph.input)


def to_codes(images: npt.NDArray[Any], node: Input) -> npt.NDArray[Any]:
    """Normalise and quantise a batch of images.

    Parameters:
        images: float32 or uint8, shape (N, C, H, W).
        node: The network's input; says C, H, W, normalisation, width and zero point.

    Returns:
        Integers of ``node.type``, shape (N, C, H, W): uint8 for codes, int16 for residuals.

    Raises:
        InputError: Shape or element type is another one, or a value is NaN or infinite.
    """
    pixels = _pixels(images, node.shape, node.name)
    norm = node.normalization
    mean, std = (
        np.asarray(values, np.float64).reshape(-1, 1, 1) for values in (norm.mean, norm.std)
    )
    steps = np.rint((pixels.astype(np.float64) - mean) / std / norm.scale) + node.zero_point
    kind = node.type
    values: npt.NDArray[Any]
    values = np.clip(steps, kind.min, kind.max).astype(np.int16 if kind.signed else np.uint8)
    return values


def _pixels(images: npt.NDArray[Any], shape: Shape, name: str) -> npt.NDArray[np.float32]:
    """Images of the given shape as float32; raises InputError for others."""
    expected = (shape.channels, shape.height, shape.width)
    if images.ndim != 4 or images.shape[1:] != expected:
        raise InputError(f"{name}: images have shape {images.shape}, expected "
                         f"(N, {', '.join(map(str, expected))})")  # fmt: skip
    if images.dtype == np.uint8:
        pixels = images.astype(np.float32) / np.float32(255)
    elif images.dtype == np.float32:
        pixels = images
    else:
        raise InputError(f"{name}: images are {images.dtype}, expected float32 or uint8")
    finite = np.isfinite(pixels)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(f"{name}: image {where[0]} holds NaN or infinity at channel "
                         f"{where[1]}, row {where[2]}, column {where[3]}")  # fmt: skip
    return pixels
