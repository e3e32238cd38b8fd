"""Quantisers: the published ones for weights and activations, and those of stem and classifier.

A quantiser's ``forward`` gives the *integers* that enter the dot product, as floats with a
straight-through gradient; the real step of one integer is a number beside it. ``to_int`` gives
the stored codes from the same arithmetic, so that export cannot disagree with training.

Source: Hu et al., "PalQuant", ECCV 2022, and its released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palquant.errors import ConfigurationError
from palquant.golden.distributed import process_count, smallest, standard_deviation, total


class Integers(NamedTuple):
    """An integer-valued tensor and what one unit of it is worth.

    Parameters:
        values: Integer values in a float tensor, shape (N, C, H, W).
        step: Real value of one unit, shape () or (1, C, 1, 1).
        correction: What makes ``values`` of the machine's own integers, which it forms from
            unsigned codes: minus the zero point for codes, and for their sums that times the sum
            of the weights; shape () or (C,).
    """

    values: Tensor
    step: Tensor
    correction: Tensor | float = 0.0


class _StraightThrough(torch.autograd.Function):
    """A rounding function in the forward pass, the identity in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        return rounding(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """``rounding(x)``, whose gradient passes unchanged."""
    result: Tensor = _StraightThrough.apply(x, rounding)  # type: ignore[no-untyped-call]
    return result


class _QuantizeRange(torch.autograd.Function):
    """``round(clamp((x - lower) / (upper - lower), 0, 1) * steps)``, straight through the rounding.

    The same as autograd's own result with a straight-through rounding, in a third of the passes
    over memory. The range is of shape () or (O, 1, 1, 1). With a ``scaling`` other than 0, the
    gradient through the rounding is scaled element by element (see :func:`scale_gradient`); where
    x is ``replicated``, the same on all processes, that is the gradient of all of them, since the
    scaling of a sum is not the sum of scalings.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, steps: int, scaling: float,
        replicated: bool,
    ) -> Tensor:  # fmt: skip
        width = upper - lower
        unit = (x - lower).div_(width)
        inside = (unit >= 0) & (unit <= 1)
        unit.clamp_(0, 1)
        ctx.save_for_backward(unit, inside, width)
        ctx.steps = steps
        ctx.scaling = scaling
        ctx.replicated = replicated
        return (unit * steps).round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        unit, inside, width = ctx.saved_tensors
        incoming = gradients[0]
        if ctx.scaling:
            if ctx.replicated:
                incoming = total(incoming) / process_count()
            incoming = scale_gradient(incoming, unit, ctx.steps, ctx.scaling)
        gradient = (incoming * inside).mul_(ctx.steps / width)
        if width.dim():
            upward = (gradient * unit).sum(_WITHIN_CHANNEL, keepdim=True)
            lower = upward - gradient.sum(_WITHIN_CHANNEL, keepdim=True)
            return gradient, lower, -upward, None, None, None
        upward = torch.dot(gradient.flatten(), unit.flatten())
        return gradient, upward - gradient.sum(), -upward, None, None, None


#: Axes of a weight (O, I / groups, KH, KW) other than its output channels.
_WITHIN_CHANNEL = (1, 2, 3)


def scale_gradient(gradient: Tensor, unit: Tensor, steps: int, scaling: float) -> Tensor:
    """Element-wise gradient scaling: ``g * (1 + scaling * sign(g) * (u - u'))``.

    u' is the level that u was rounded to, ``round(u * steps) / steps``.
    Source: Lee et al., "Network Quantization with Element-wise Gradient Scaling", CVPR 2021.

    Parameters:
        gradient: Gradient of the rounded value, any shape.
        unit: What was rounded, in 0..1, of the same shape.
        steps: Number of steps between 0 and 1.
        scaling: Factor, at least 0.
    """
    error = unit - (unit * steps).round_().div_(steps)
    return gradient * error.mul_(gradient.sign()).mul_(scaling).add_(1)


class RangeQuantizer(nn.Module):
    """Uniform quantiser over a learned range, common to both published quantisers.

    Parameters:
        bits: Width of a code.
        limit: Largest width that the arithmetic behind it supports.
        channels: Number of ranges, for tensors (O, ...) with one for each; None for one shared.

    Raises:
        ConfigurationError: ``bits`` is not in 1..``limit``.
    """

    #: Factor of element-wise gradient scaling; 0 is the plain straight-through estimator.
    gradient_scaling = 0.0
    #: Whether all processes that train together quantise the same values, as they do weights.
    replicated = False

    def __init__(self, bits: int, limit: int, channels: int | None = None) -> None:
        super().__init__()
        if not 1 <= bits <= limit:
            raise ConfigurationError(f"{type(self).__name__} of {bits} bits (supported: 1 to "
                                     f"{limit})")  # fmt: skip
        self.bits = bits
        shape = () if channels is None else (channels, 1, 1, 1)
        self.lower = nn.Parameter(torch.zeros(shape))
        self.upper = nn.Parameter(torch.ones(shape))

    @property
    def steps(self) -> int:
        """Number of steps between the smallest and the largest code: ``2^bits - 1``."""
        return (1 << self.bits) - 1

    def quantize(self, x: Tensor) -> Tensor:
        """``round(clamp((x - lower) / (upper - lower), 0, 1) * steps)``, in the type of x."""
        lower, upper = self.lower.to(x.dtype), self.upper.to(x.dtype)
        codes: Tensor
        codes = _QuantizeRange.apply(  # type: ignore[no-untyped-call]
            x, lower, upper, self.steps, self.gradient_scaling, self.replicated
        )
        return codes

    def extra_repr(self) -> str:
        """Width, for ``print(model)``."""
        return f"bits={self.bits}"


class ActivationQuantizer(RangeQuantizer):
    """Published activation quantiser: codes 0..2^b - 1, of real value ``code / (2^b - 1)``.

    The lower end of the range is not added back: code 0 stands for the value 0. The upper end
    may lie below the lower one; the staircase then decreases.

    Parameters:
        bits: Width of a code, 1 to 4, as wide as the threshold quantiser of the graph.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits, 4)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Published initialisation from one batch: min(x) and 3 std(x) / sqrt(1 - 2 / pi)."""
        self.lower.copy_(smallest(x.min()))
        self.upper.copy_(3 * standard_deviation(x) / math.sqrt(1 - 2 / math.pi))

    def forward(self, x: Tensor) -> Tensor:
        """Codes of the real values ``x``, in the type of ``x``, any shape."""
        return self.quantize(x)

    def to_int(self, x: Tensor) -> Tensor:
        """Codes of the real values ``x`` as int64, evaluated in float64."""
        return self.quantize(x.detach().double()).long()


class WeightQuantizer(RangeQuantizer):
    """Published weight quantiser: odd levels ``2 * code - (2^b - 1)``, without a zero.

    Parameters:
        bits: Width of a code, 1 to 8.
        channels: Number of output channels, if each has its own range.
    """

    def __init__(self, bits: int, channels: int | None = None) -> None:
        super().__init__(bits, 8, channels)

    replicated = True
    #: Factor of the code in the level.
    alpha = 2

    @property
    def beta(self) -> int:
        """What is subtracted: level = alpha * code - beta."""
        return self.steps

    @torch.no_grad()
    def initialise(self, weight: Tensor) -> None:
        """Published initialisation: plus and minus three standard deviations."""
        if self.upper.dim():
            deviation = weight.std(_WITHIN_CHANNEL, keepdim=True)
            # A channel of one weight, or of equal ones, has no deviation of its own.
            self.upper.copy_(3 * torch.where(deviation > 0, deviation, weight.abs().mean()))
        else:
            self.upper.copy_(3 * weight.std())
        self.lower.copy_(-self.upper)

    def forward(self, weight: Tensor) -> Tensor:
        """Levels, integer-valued, of the same shape and type as ``weight``."""
        return self.alpha * self.quantize(weight) - self.beta

    def to_int(self, weight: Tensor) -> Tensor:
        """Codes 0..2^b - 1 as uint8."""
        return self.quantize(weight.detach()).to(torch.uint8)


#: Width -> step between levels for which normally distributed weights have the least squared error,
#: in units of their root mean square (Max, "Quantizing for minimum distortion", 1960, for an odd
#: number of levels).
BEST_STEP = {2: 1.2240, 4: 0.3534}


class TwosComplementQuantizer(nn.Module):
    """Symmetric weight quantiser with one scale per output channel, for stem and classifier.

    With 8 bits the largest magnitude of a channel maps to 127. With so few levels as 2 or 4 bits
    give, that would make most weights 0: the step is :data:`BEST_STEP` times the channel's root
    mean square then, if that is smaller, and larger weights saturate.

    Parameters:
        bits: Width of a weight: 2, 4 or 8.

    Raises:
        ConfigurationError: ``bits`` is another number.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        if bits not in (2, 4, 8):
            raise ConfigurationError(
                f"two's-complement weights of {bits} bits (supported: 2, 4, 8)"
            )
        self.bits = bits

    #: Factor of the stored code in the level.
    alpha = 1

    @property
    def beta(self) -> int:
        """What is subtracted from the stored code to give the level: ``2^(b-1)``."""
        return 1 << (self.bits - 1)

    def step(self, weight: Tensor) -> Tensor:
        """Real value of one unit per output channel, shape (O, 1, 1, 1); 1 for a zero channel."""
        weight = weight.detach()
        peak = weight.abs().amax(_WITHIN_CHANNEL, keepdim=True)
        step = peak / (self.beta - 1)
        if self.bits in BEST_STEP:
            # In float64, so that the order of addition, which devices choose, does not matter.
            mean = weight.double().square().mean(_WITHIN_CHANNEL, keepdim=True)
            step = torch.minimum(step, (BEST_STEP[self.bits] * mean.sqrt()).to(step.dtype))
        return torch.where(peak > 0, step, 1.0)

    def forward(self, weight: Tensor) -> Tensor:
        """Levels -(2^(b-1) - 1)..2^(b-1) - 1, integer-valued, shape (O, I / groups, KH, KW)."""
        levels = straight_through(weight / self.step(weight), torch.round)
        return levels.clamp(1 - self.beta, self.beta - 1)

    def to_int(self, weight: Tensor) -> Tensor:
        """Stored codes: level + 2^(b-1), as uint8."""
        return (self.forward(weight.detach()) + self.beta).to(torch.uint8)

    def extra_repr(self) -> str:
        """Width, for ``print(model)``."""
        return f"bits={self.bits}"


class InputQuantizer(nn.Module):
    """Images to the signed 8-bit tensor that the first convolution reads.

    Evaluates :class:`~palquant.sw.graph.Normalization` in float64, step by step; the stored code
    is the value plus 128.

    Parameters:
        shape: Channels, height and width of one image.
        mean: Mean per channel, in units of a float image.
        std: Standard deviation per channel, in units of a float image, positive.
        scale: Real value of one unit after normalisation, positive.

    Raises:
        ConfigurationError: Lengths differ from the number of channels, or a divisor is not
            positive.
    """

    bits = 8
    zero_point = 128

    def __init__(
        self,
        shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        scale: float,
    ) -> None:
        super().__init__()
        if not len(mean) == len(std) == shape[0]:
            raise ConfigurationError(f"{len(mean)} means and {len(std)} standard deviations for "
                                     f"images of {shape[0]} channels")  # fmt: skip
        if not (min(std) > 0 and scale > 0):
            raise ConfigurationError("normalisation needs positive standard deviations and scale")
        self.shape = shape
        self.mean = mean
        self.std = std
        self.scale = scale

    def forward(self, images: Tensor) -> Integers:
        """Signed values -128..127 of images (N, C, H, W), float32 or uint8."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        mean, std = (
            torch.tensor(values, dtype=torch.float64, device=images.device).reshape(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        values = torch.round((images.double() - mean) / std / self.scale)
        values = values.clamp(-self.zero_point, (1 << self.bits) - 1 - self.zero_point)
        step = torch.tensor(self.scale, dtype=torch.float64)
        return Integers(values.float(), step, -float(self.zero_point))
