"""Convolutions of integer codes: parallel low-precision groups, and the wide ones of both ends.

Their result is the exact integer accumulator with the real value of one unit; scale and batch
normalisation come after it (numerics, section 5).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palquant.errors import ConfigurationError
from palquant.golden.distributed import mean
from palquant.golden.quantize import (
    ActivationQuantizer,
    Integers,
    TwosComplementQuantizer,
    WeightQuantizer,
)

#: Integer sums up to this magnitude are exact in float32, in any order.
EXACT_FLOAT32 = 1 << 24


def convolve(
    values: Tensor, levels: Tensor, stride: int, padding: int, groups: int, *, exact: bool
) -> Tensor:
    """Grouped convolution of integer-valued float32 tensors.

    Parameters:
        values: Shape (N, C, H, W).
        levels: Shape (O, C / groups, KH, KW).
        stride: Vertical and horizontal stride.
        padding: Zeros on every side.
        groups: Number of groups.
        exact: Whether every sum must be the integer one; float64 is used where float32 could
            round. Otherwise gradients flow and large sums may round.

    Returns:
        Sums, shape (N, O, OH, OW).
    """
    if exact and values.numel():
        taps = levels.detach().abs().double().sum((1, 2, 3))
        largest = float(values.detach().abs().max() * taps.max())
        if largest >= EXACT_FLOAT32:
            values, levels = values.double(), levels.double()
    # NNPACK and cuDNN may take a Winograd or Fourier transform, whose fractions are not exact.
    with torch.backends.nnpack.flags(enabled=False), _without_cudnn(exact and values.is_cuda):
        return F.conv2d(values, levels, None, stride, padding, 1, groups)


def _without_cudnn(wanted: bool) -> AbstractContextManager[object]:
    """A block in which convolutions are matrix products of the very operands, if ``wanted``."""
    return torch.backends.cudnn.flags(enabled=False) if wanted else nullcontext()


class Window(TypedDict, total=False):
    """How a convolution's kernel moves, and over which channels.

    Attributes:
        stride: Vertical and horizontal stride; 1 unless given.
        padding: Pixels added on every side; 0 unless given.
        groups: Number of groups, which divides both channel counts; 1 unless given.
    """

    stride: int
    padding: int
    groups: int


class _Convolution(nn.Module):
    """Weights and geometry common to all convolutions.

    Parameters:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Height and width of the kernel.
        stride: Vertical and horizontal stride.
        padding: Zeros on every side.
        groups: Number of groups; divides both channel counts.

    Raises:
        ConfigurationError: ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if groups < 1 or inputs % groups or outputs % groups:
            raise ConfigurationError(f"{groups} groups do not divide {inputs} input and {outputs} "
                                     "output channels")  # fmt: skip
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def _convolve(self, values: Tensor, levels: Tensor) -> Tensor:
        device = values.device.type
        with torch.autocast(device, enabled=self._mixed(device)):
            return convolve(
                values, levels, self.stride, self.padding, self.groups, exact=not self.training
            )

    def _mixed(self, device: str) -> bool:
        """Whether training may use the 16-bit type of a surrounding ``torch.autocast``.

        Codes and levels are exact in it, sums and gradients are rounded to it. Not those of 8-bit
        codes, which are stem and classifier: PalQuant keeps these in full precision.
        """
        return False

    def extra_repr(self) -> str:
        """Geometry, for ``print(model)``."""
        outputs, inputs, kernel, _ = self.weight.shape
        return (f"{inputs * self.groups}, {outputs}, kernel={kernel}, stride={self.stride}, "
                f"padding={self.padding}, groups={self.groups}")  # fmt: skip


class ParallelConvolution(_Convolution):
    """G low-precision convolutions side by side, with the published quantisers and output scale.

    ``y = |s| / ((La - 1) (Lw - 1)) * sum(a * w)`` with integer codes a and odd levels w; ranges
    and s are shared by the groups (PalQuant, released code). On its first training batch the
    layer initialises ranges and s.

    Parameters:
        inputs: Input channels, over all groups.
        outputs: Output channels, over all groups.
        kernel: Height and width of the kernel.
        weight_bits: Width of a weight, 1 to 8.
        activation_bits: Width of an activation, 1 to 4.
        window: Stride, padding and groups; padding is codes of 0.

    Attributes:
        quantize: Activation quantiser.
        quantize_weight: Weight quantiser.
        output_scale: s, shape (), or (O,) if each output channel has its own.
    """

    initialised: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        weight_bits: int = 2,
        activation_bits: int = 2,
        **window: Unpack[Window],
    ) -> None:
        super().__init__(inputs, outputs, kernel, **window)
        self.quantize = ActivationQuantizer(activation_bits)
        self.quantize_weight = WeightQuantizer(weight_bits)
        self.output_scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("initialised", torch.tensor(False))

    @property
    def step(self) -> Tensor:
        """Real value of one unit of the accumulator, shape () or (1, O, 1, 1)."""
        step = self.output_scale.abs() / (self.quantize.steps * self.quantize_weight.steps)
        return step.reshape(1, -1, 1, 1) if step.dim() else step

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Published initialisation of ranges and output scale from one batch (N, C, H, W)."""
        self.quantize.initialise(x)
        self.quantize_weight.initialise(self.weight)
        self.output_scale.fill_(1)
        with torch.autocast(x.device.type, enabled=False):
            wanted = self._magnitude(self._convolve(x, self.weight))
            found = self._magnitude(self._convolve(*self._operands(x)) * self.step)
        self.output_scale.copy_(torch.where(found > 0, wanted / found, 1.0))
        self.initialised.fill_(True)

    def _magnitude(self, sums: Tensor) -> Tensor:
        """Mean magnitude over the whole batch, of the shape of the output scale."""
        return mean(sums.abs(), (0, 2, 3) if self.output_scale.dim() else None)

    def _mixed(self, device: str) -> bool:
        if not (self.training and torch.is_autocast_enabled(device)):
            return False
        largest = self.weight[0].numel() * self.quantize.steps * self.quantize_weight.steps
        precision = torch.get_autocast_dtype(device)
        return largest <= torch.finfo(precision).max

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.quantize(x).to(self.weight.dtype), self.quantize_weight(self.weight)

    def forward(self, x: Tensor) -> Integers:
        """Accumulators of real-valued activations (N, C, H, W)."""
        if self.training and not self.initialised:
            self.initialise(x)
        sums = self._convolve(*self._operands(x))
        if self.training:
            sums = sums.to(self.weight.dtype)  # after 16 bits, if these were used
        return Integers(sums, self.step)


class WideConvolution(_Convolution):
    """Convolution of 8-bit codes with two's-complement weights: stem and classifier.

    Parameters:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Height and width of the kernel.
        weight_bits: Width of a weight: 2, 4 or 8.
        window: Stride, padding and groups; padding is zeros.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        weight_bits: int = 8,
        **window: Unpack[Window],
    ) -> None:
        super().__init__(inputs, outputs, kernel, **window)
        self.quantize_weight = TwosComplementQuantizer(weight_bits)

    def step(self, unit: Tensor) -> Tensor:
        """Real value of one unit of the accumulator per channel, shape (1, O, 1, 1).

        Parameters:
            unit: Real value of one unit of the input, shape ().
        """
        return unit * self.quantize_weight.step(self.weight).reshape(1, -1, 1, 1)

    def forward(self, x: Integers) -> Integers:
        """Accumulators of 8-bit values (N, C, H, W), their zero point subtracted."""
        values = x.values.to(self.weight.dtype)
        levels = self.quantize_weight(self.weight)
        sums = self._convolve(values, levels)
        return Integers(sums, self.step(x.step), self.correction(x.correction))

    def correction(self, unit: Tensor | float) -> Tensor:
        """Correction of the accumulators, shape (O,), from that of the input (``Integers``)."""
        levels: Tensor = self.quantize_weight(self.weight).detach()
        return unit * levels.double().sum((1, 2, 3))
