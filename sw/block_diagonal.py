"""Convolutions that are block diagonal become grouped: what multiplies by zero is left out.

A sum of codes, such as a residual addition of a QONNX file, is a convolution with the identity.
Computed densely it would take as many multiplications as any 1x1 convolution of its size.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from palquant.sw.graph import Convolution
from palquant.sw.lower import LoweredNetwork


def split_blocks(network: LoweredNetwork, granularity: int) -> bool:
    """Give convolutions whose weights are block diagonal as many groups as they have blocks.

    A block takes whole words and chunks, so that it lies in memory as before. Codes stand for
    zero only where the weights' zero point beta is 0.

    Parameters:
        network: Changed in place.
        granularity: Channels that a block has a multiple of: those of a word and of a chunk.

    Returns:
        Whether a layer changed.
    """
    changed = False
    for layer in network.layers:
        node = layer.operation
        if isinstance(node, Convolution) and node.beta == 0:
            blocks = _blocks(node, granularity)
            if blocks > 1:
                groups = node.groups * blocks
                layer.operation = dataclasses.replace(
                    node, groups=groups, weight=_diagonal(node.weight, node.groups, blocks)
                )
                changed = True
    return changed


def _blocks(node: Convolution, granularity: int) -> int:
    """Largest number of equal blocks in each group; 1 if the weights are not block diagonal."""
    outputs, inputs = node.weight.shape[0] // node.groups, node.weight.shape[1]
    most = math.gcd(outputs, inputs) // granularity
    used = (node.weight != 0).any(axis=(2, 3))
    for blocks in range(most, 1, -1):
        if outputs % (blocks * granularity) or inputs % (blocks * granularity):
            continue
        outside = used.copy()
        for group in range(node.groups):
            for block in range(blocks):
                first = group * outputs + block * (outputs // blocks)
                rows = slice(first, first + outputs // blocks)
                outside[rows, block * (inputs // blocks) : (block + 1) * (inputs // blocks)] = False
        if not outside.any():
            return blocks
    return 1


def _diagonal(weight: npt.NDArray[np.uint8], groups: int, blocks: int) -> npt.NDArray[np.uint8]:
    """The blocks on the diagonal, below each other."""
    outputs, inputs = weight.shape[0] // (groups * blocks), weight.shape[1] // blocks
    parts = []
    for index in range(groups * blocks):
        block = index % blocks
        parts.append(
            weight[index * outputs : (index + 1) * outputs, block * inputs : (block + 1) * inputs]
        )
    return np.concatenate(parts)
