"""Activation quantiser whose steps lie where training puts them, its levels staying uniform.

The hardware compares with thresholds, wherever they are: export finds these as it finds those of a
uniform quantiser, exactly. Source: Liu et al., "Nonuniform-to-Uniform Quantization" (N2UQ), CVPR
2022, whose generalised straight-through estimator is the gradient of the piecewise linear function
that is rounded here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palquant.golden.quantize import ActivationQuantizer, scale_gradient


class LearnedThresholdQuantizer(ActivationQuantizer):
    """Codes 0..2^b - 1 of a range that is cut into intervals of learned widths.

    Real values are mapped to 0..2^b - 1 by the piecewise linear, increasing function that has
    the value k at the end of the k-th interval, and then rounded, so that thresholds lie in the
    middle of intervals. Intervals are equal at first, which is the uniform quantiser.

    Parameters:
        bits: Width of a code, 1 to 4.

    Attributes:
        widths: Logarithms of the intervals' widths, shape (2^b - 1,); their shares of the range
            are the softmax.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.widths = nn.Parameter(torch.zeros(self.steps))

    def quantize(self, x: Tensor) -> Tensor:
        """Codes in the type of ``x``, by elementwise operations that are monotone each."""
        lower, upper = self.lower.to(x.dtype), self.upper.to(x.dtype)
        unit = ((x - lower) / (upper - lower)).clamp(0, 1)
        shares = self.widths.to(x.dtype).softmax(0)
        ends = shares.cumsum(0)
        position = torch.zeros_like(unit)
        for share, end in zip(shares, ends, strict=True):
            position = position + ((unit - (end - share)) / share).clamp(0, 1)
        codes: Tensor = _Round.apply(  # type: ignore[no-untyped-call]
            position, self.gradient_scaling / self.steps
        )
        return codes


class _Round(torch.autograd.Function):
    """Rounding with a straight-through gradient, scaled element by element if wanted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scaling = scaling
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if not ctx.scaling:
            return gradients[0], None
        (x,) = ctx.saved_tensors
        return scale_gradient(gradients[0], x, 1, ctx.scaling), None
