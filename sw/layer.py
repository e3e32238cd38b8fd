"""Layers: what one pass through array (or pooling) and post-processor computes.

The graph's small operations are fused into layers (see ``lower``), layers are placed, tiled and
turned into instructions (see ``emit``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from palquant.sw.graph import Convolution, Pool, Shape

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AffineStep:
    """Requantization constants per channel, in the channel order of the layer's values."""

    scale: Ints
    offset: Ints
    shift: Ints
    bits: int


@dataclass(frozen=True, eq=False)
class CodeOutput:
    """One code tensor that a layer makes.

    Parameters:
        tensor: Its name.
        bits: Width: 1 to 4, or 8 for clamping.
        thresholds: Shape (C or 1, 2^bits - 1), in the channel order of the tensor; None for 8 bits.
        negate: Shape like the thresholds' first axis; None for 8 bits.
        permutation: Channel c of the tensor is the layer's channel ``permutation[c]``; None if
            they are the same.
    """

    tensor: str
    bits: int
    thresholds: Ints | None = None
    negate: npt.NDArray[np.bool_] | None = None
    permutation: Ints | None = None


@dataclass(eq=False)
class Layer:
    """One fused layer.

    Parameters:
        name: Name of the convolution, pool or requantization it is built around.
        operation: The convolution or the pool; a 1x1 MaxPool for a plain requantization.
        input: Tensor that it reads: codes for a convolution, residuals for a pool.
        input_shape: Shape of that tensor.
        shape: Shape of the results.
        affine: Requantization, or None.
        relu_before: ReLU before the addition.
        permutation: New channel c of the results is the operation's channel permutation[c].
        residual: Tensor that is added, or None; where it has fewer channels than the results, each
            group adds the same.
        relu_after: ReLU after the addition.
        saturation_bits: Width of the residual stream here, or 0.
        codes: Code tensors that it makes, at most two.
        residual_out: Residual tensor that it makes, or None.
        logits: Raw result tensor that it makes, or None.
    """

    name: str
    operation: Convolution | Pool
    input: str
    input_shape: Shape
    shape: Shape
    affine: AffineStep | None = None
    relu_before: bool = False
    permutation: Ints | None = None
    residual: str | None = None
    relu_after: bool = False
    saturation_bits: int = 0
    codes: list[CodeOutput] = field(default_factory=list)
    residual_out: str | None = None
    logits: str | None = None

    @property
    def quantized(self) -> bool:
        """Whether this is one of the network's low-precision layers."""
        return isinstance(self.operation, Convolution) and self.operation.quantized

    @property
    def window(self) -> tuple[int, int, int]:
        """Height, vertical stride and vertical padding of its window."""
        node = self.operation
        kernel = node.weight.shape[2] if isinstance(node, Convolution) else node.kernel[0]
        return kernel, node.stride[0], node.padding[0]

    def input_rows(self, first: int, last: int) -> tuple[int, int, int]:
        """Row of the first tap, and the rows that exist, for output rows first to last - 1."""
        kernel, stride, padding = self.window
        height = self.input_shape.height
        top = first * stride - padding
        bottom = (last - 1) * stride - padding + kernel
        # Where all taps are padding, a row is named all the same.
        low = min(max(0, top), height - 1)
        return top, low, max(low + 1, min(height, bottom))

    @property
    def outputs(self) -> list[str]:
        """Names of the tensors that it makes."""
        names = [code.tensor for code in self.codes]
        return names + [name for name in (self.residual_out, self.logits) if name is not None]
