"""From images to the network's input codes, in NumPy alone.

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
from palquant.sw.graph import Input


def to_codes(images: npt.NDArray[Any], node: Input) -> npt.NDArray[np.uint8]:
    """Normalise and quantise a batch of images.

    Parameters:
        images: float32 or uint8, shape (N, C, H, W).
        node: The network's input; says C, H, W, normalisation, width and zero point.

    Returns:
        Codes of ``node.bits`` bits, shape (N, C, H, W).

    Raises:
        InputError: Shape or element type is another one, or a value is NaN or infinite.
    """
    expected = (node.shape.channels, node.shape.height, node.shape.width)
    if images.ndim != 4 or images.shape[1:] != expected:
        raise InputError(f"{node.name}: images have shape {images.shape}, expected "
                         f"(N, {', '.join(map(str, expected))})")  # fmt: skip
    if images.dtype == np.uint8:
        pixels = images.astype(np.float32) / np.float32(255)
    elif images.dtype == np.float32:
        pixels = images
    else:
        raise InputError(f"{node.name}: images are {images.dtype}, expected float32 or uint8")
    finite = np.isfinite(pixels)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(f"{node.name}: image {where[0]} holds NaN or infinity at channel "
                         f"{where[1]}, row {where[2]}, column {where[3]}")  # fmt: skip
    norm = node.normalization
    mean, std = (
        np.asarray(values, np.float64).reshape(-1, 1, 1) for values in (norm.mean, norm.std)
    )
    steps = np.rint((pixels.astype(np.float64) - mean) / std / norm.scale) + node.zero_point
    codes: npt.NDArray[np.uint8] = np.clip(steps, 0, (1 << node.bits) - 1).astype(np.uint8)
    return codes
