"""Compares every tensor of a run with the reference and names the first value that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant.errors import MismatchError
from palquant.sw.image import MemoryImage

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mismatch:
    """The first value of a tensor that differs.

    Parameters:
        image: Number of the image within the batch.
        group: Group of the tensor's placement.
        channel: Channel in the network's own order.
        y: Row.
        x: Column.
        expected: The reference's value.
        actual: The value found.
    """

    image: int
    group: int
    channel: int
    y: int
    x: int
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"image {self.image}, group {self.group}, channel {self.channel}, y {self.y}, "
            f"x {self.x}: expected {self.expected}, actual {self.actual}"
        )


@dataclass(frozen=True)
class TensorComparison:
    """One tensor, compared element by element.

    Parameters:
        tensor: Its name.
        layer: The layer that makes it.
        layer_index: That layer's index.
        values: Elements compared, over all images.
        mismatches: Elements that differ.
        first: The first of them, in memory order of (image, channel, y, x), or None.
    """

    tensor: str
    layer: str
    layer_index: int
    values: int
    mismatches: int
    first: Mismatch | None

    def describe(self) -> str:
        """One line."""
        if self.first is None:
            return f"{self.layer}: {self.tensor}: {self.values} values equal"
        return (
            f"{self.layer}: {self.tensor}: {self.mismatches} of {self.values} values differ, "
            f"first {self.first}"
        )


def compare_outputs(
    image: MemoryImage, output: Bytes, expected: Mapping[str, Ints]
) -> list[TensorComparison]:
    """Compare every tensor of the manifest, in the order in which layers make them.

    Parameters:
        image: The compiled network.
        output: Output regions, uint8, shape (N, output_bytes).
        expected: The reference's tensors by name, each of shape (N, C, H, W).

    Raises:
        MismatchError: There is no tensor to compare: a comparison of nothing is no success.
    """
    found = []
    makers = {
        tensor: (index, layer.name)
        for index, layer in enumerate(image.layers)
        for tensor in layer.outputs
    }
    for name, (layout, _) in image.tensors.items():
        actual, wanted = image.unpack(output, name), expected[name]
        if actual.shape != wanted.shape:
            raise MismatchError(
                f"{name}: shape {actual.shape}, but the reference's is {wanted.shape}"
            )
        differ = actual != wanted
        first = None
        if differ.any():
            where = np.unravel_index(int(differ.argmax()), differ.shape)
            n, c, y, x = (int(i) for i in where)
            group = int(layout.placement.group[c])
            first = Mismatch(n, group, c, y, x, int(wanted[where]), int(actual[where]))
        index, layer = makers[name]
        found.append(TensorComparison(name, layer, index, actual.size, int(differ.sum()), first))
    if not sum(item.values for item in found):
        raise MismatchError("no tensor to compare")
    return sorted(found, key=lambda item: item.layer_index)


def require_equal(comparisons: Sequence[TensorComparison]) -> int:
    """The number of values compared, if all are equal.

    Raises:
        MismatchError: The first tensor, in layer order, that differs.
    """
    for item in comparisons:
        if item.mismatches:
            raise MismatchError(item.describe())
    return sum(item.values for item in comparisons)
