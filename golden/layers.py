"""Layers of a parallel low-precision network, each the very arithmetic of the accelerator.

Between layers flow either :class:`~palquant.golden.quantize.Integers` (codes, accumulators, pool
sums) or real-valued tensors (what a quantiser or a residual addition reads). In training mode a
layer differentiates through its rounding; in eval mode it computes in float64, one elementwise
operation after the other, on exact integer accumulators, so that the exporter can bisect the same
functions (numerics, section 5).

A :class:`~palquant.golden.fixed_point.ResidualStream` is shared by all layers that write to one
stage. The network that builds them registers it once; the layers only borrow it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palquant.errors import ConfigurationError
from palquant.golden.batch_norm import synchronised_batch_norm
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.distributed import process_count
from palquant.golden.fixed_point import (
    PeakObserver,
    Requantization,
    ResidualStream,
    derive_requantization,
)
from palquant.golden.quantize import Integers, straight_through


def _scalar(value: float, like: Tensor) -> Tensor:
    """A real step as float64, shape (), on the device of ``like``."""
    return torch.tensor(value, dtype=torch.float64, device=like.device)


class BatchNormAffine(nn.Module):
    """Batch normalisation of an accumulator: one affine function per channel once trained.

    With a stream it rounds into the fixed-point residual stream, in eval mode with the exported
    integers M, B and Sh; without one its real-valued result goes to a quantiser.

    Parameters:
        channels: Number of channels.
        stream: Residual stream that it writes to (borrowed), or None.
        eps: Added to the variance.
        momentum: Weight of one batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        stream: ResidualStream | None = None,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self._stream = (stream,)  # in a tuple: not registered a second time
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    @property
    def stream(self) -> ResidualStream | None:
        """Residual stream that the layer writes to, if any."""
        return self._stream[0]

    def forward(self, x: Integers) -> Tensor:
        """Normalised real values of an accumulator, (N, C, H, W); float64 in eval mode."""
        if self.training:
            y = self._batch_norm(x.values * x.step)
            if self.stream is None:
                return y
            self.stream.observe(y)
            return self.stream.round(y)
        if self.stream is None:
            return self.normalise(x)
        if self.stream.observing:
            self.stream.observe(self.normalise(x))
        return self.requantization(x.step, x.correction)(x.values) * self.stream.step

    def _batch_norm(self, x: Tensor) -> Tensor:
        """Normalised by the statistics of the batch, over all processes that train together."""
        statistics, parameters = (self.running_mean, self.running_var), (self.weight, self.bias)
        if process_count() > 1:
            return synchronised_batch_norm(x, *statistics, *parameters, self.momentum, self.eps)
        return F.batch_norm(x, *statistics, *parameters, True, self.momentum, self.eps)

    def _gain(self) -> Tensor:
        return self.weight.double() / torch.sqrt(self.running_var.double() + self.eps)

    def normalise(self, x: Integers) -> Tensor:
        """Real-valued result in float64, elementwise: the function that export bisects."""
        mean, gain, bias = (
            v.reshape(-1, 1, 1) for v in (self.running_mean.double(), self._gain(), self.bias)
        )
        return (x.values.double() * x.step.double() - mean) * gain + bias.double()

    @torch.no_grad()
    def requantization(self, step: Tensor, correction: Tensor | float = 0.0) -> Requantization:
        """M, B and Sh for an accumulator of the given step.

        Parameters:
            step: Real value of one unit, shape () or (1, C, 1, 1).
            correction: The accumulator's correction (``Integers``).

        Raises:
            RangeError: A channel has no representable B.
        """
        assert self.stream is not None
        unit = self.stream.step
        step = step.double().reshape(-1).expand(len(self.weight))
        gain, mean = self._gain(), self.running_mean.double()
        # A step of 0 makes a constant: its value is that of a zero accumulator.
        center = torch.where(step > 0, mean / step, 0.0)
        value = self.bias.double() - torch.where(step > 0, 0.0, mean * gain)
        return derive_requantization(
            gain * step / unit, center, value / unit, self.stream.bits, correction
        )


class ResidualAdd(nn.Module):
    """Saturating addition in the residual stream.

    Parameters:
        stream: Residual stream of both operands and of the sum (borrowed).
    """

    def __init__(self, stream: ResidualStream) -> None:
        super().__init__()
        self._stream = (stream,)

    @property
    def stream(self) -> ResidualStream:
        """Residual stream of operands and sum."""
        return self._stream[0]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum of two residuals, (N, C, H, W) each."""
        total = a + b
        self.stream.observe(total)
        return self.stream.saturate(total)


class ChannelPermutation(nn.Module):
    """Output channel c is input channel ``permutation[c]``.

    Parameters:
        permutation: int64, shape (C,), each of 0..C-1 once.
    """

    permutation: Tensor

    def __init__(self, permutation: Tensor) -> None:
        super().__init__()
        self.register_buffer("permutation", permutation, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Channels of x (N, C, H, W) in the new order."""
        return x.index_select(1, self.permutation)


class ChannelRepeat(nn.Module):
    """The same channels several times: output channel c is input channel c mod C.

    Parameters:
        times: How often.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """Channels of x (N, C, H, W), repeated as a whole: (N, times * C, H, W)."""
        return x.repeat(1, self.times, 1, 1)


def channel_shuffle(channels: int, groups: int) -> ChannelPermutation:
    """Reshape to (G, C / G), transpose, flatten: a new group has channels of every old one."""
    return ChannelPermutation(torch.arange(channels).reshape(groups, -1).T.flatten())


def group_rotation(channels: int, groups: int) -> ChannelPermutation:
    """Output group g takes input group (g + 1) mod G: the permutation of the cyclic shuffle."""
    return ChannelPermutation(torch.arange(channels).reshape(groups, -1).roll(-1, 0).flatten())


class CyclicShuffle(nn.Module):
    """``y = x + ReLU(BN(QConv1x1(rotate(x))))``: lets each group see its neighbour (PalQuant).

    Parameters:
        channels: Number of channels, over all groups.
        stream: Residual stream of x and y (borrowed).
        groups: Number of groups.
        weight_bits: Width of a weight.
        activation_bits: Width of an activation.
    """

    def __init__(
        self,
        channels: int,
        stream: ResidualStream,
        *,
        groups: int,
        weight_bits: int,
        activation_bits: int,
    ) -> None:
        super().__init__()
        self.rotate = group_rotation(channels, groups)
        self.conv = ParallelConvolution(
            channels, channels, 1,
            groups=groups, weight_bits=weight_bits, activation_bits=activation_bits,
        )  # fmt: skip
        self.affine = BatchNormAffine(channels, stream)
        self.relu = nn.ReLU()
        self.add = ResidualAdd(stream)

    def forward(self, x: Tensor) -> Tensor:
        """Residual of shape (N, C, H, W) to the same."""
        y: Tensor = self.add(x, self.relu(self.affine(self.conv(self.rotate(x)))))
        return y


class MaxPool(nn.Module):
    """Largest value of each window; padding never wins.

    Parameters:
        kernel: Height and width of the window.
        stride: Vertical and horizontal stride.
        padding: Padding on every side, at most half the kernel.
    """

    def __init__(self, kernel: int, stride: int, padding: int = 0) -> None:
        super().__init__()
        if not 0 <= padding <= kernel // 2:
            raise ConfigurationError(f"padding {padding} of a max-pool must be at most half its "
                                     f"kernel of {kernel}")  # fmt: skip
        self.kernel = kernel
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Residual (N, C, H, W) to residual (N, C, OH, OW)."""
        return F.max_pool2d(x, self.kernel, self.stride, self.padding)


class SumPool(nn.Module):
    """Average pooling as the hardware does it: an integer sum, its division left to the step.

    Parameters:
        kernel: Height and width of the window.
        stream: Residual stream of the input (borrowed).
        stride: Vertical and horizontal stride; the kernel if not given.
    """

    def __init__(self, kernel: int, stream: ResidualStream, stride: int | None = None) -> None:
        super().__init__()
        self._stream = (stream,)
        self.kernel = kernel
        self.stride = stride or kernel

    @property
    def stream(self) -> ResidualStream:
        """Residual stream of the input."""
        return self._stream[0]

    @property
    def step(self) -> float:
        """Real value of one unit of the sum, the average being meant."""
        return self.stream.step / self.kernel**2

    def forward(self, x: Tensor) -> Integers:
        """Window sums of a residual (N, C, H, W), in its units."""
        values = x / self.stream.step
        sums = F.avg_pool2d(values, self.kernel, self.stride, divisor_override=1)
        return Integers(sums, _scalar(self.step, x))


class CodeQuantizer(PeakObserver):
    """Non-negative sums to unsigned 8-bit codes, scaled by the peak seen in training.

    ``code = clamp((x * M + B) >> Sh, 0, 255)``.

    Parameters:
        channels: Number of channels.
        bits: Width of the result before the clamp, 9 to 16: all of 0..255 must fit.

    Raises:
        ConfigurationError: ``bits`` is out of range.
    """

    #: Largest code.
    largest = 255

    def __init__(self, channels: int, bits: int = 16) -> None:
        super().__init__()
        if not 9 <= bits <= 16:
            raise ConfigurationError(f"8-bit codes through {bits} bits (supported: 9 to 16)")
        self.channels = channels
        self.bits = bits

    @property
    def step(self) -> float:
        """Real value of one code."""
        return self.observed() / self.largest

    def forward(self, x: Integers) -> Integers:
        """Codes 0..255 of integer sums (N, C, H, W)."""
        self.observe(x.values * x.step)
        if self.training:
            codes = straight_through(x.values * (x.step / self.step), torch.round)
        else:
            codes = self.requantization(x.step)(x.values)
        return Integers(codes.clamp(0, self.largest), _scalar(self.step, codes))

    def requantization(self, step: Tensor) -> Requantization:
        """M, B and Sh for sums of the given step, shape () or (1, C, 1, 1)."""
        gain = (step.double().reshape(-1) / self.step).expand(self.channels)
        zero = torch.zeros_like(gain)
        return derive_requantization(gain, zero, zero, self.bits)


class Logits(nn.Module):
    """Bias of a classifier: real logits from its accumulators.

    Parameters:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))

    def offset(self, step: Tensor) -> Tensor:
        """The bias in units of the accumulator, float64, shape (classes,)."""
        return torch.round(self.bias.double() / step.double().reshape(-1))

    def forward(self, x: Integers) -> Tensor:
        """Logits (N, classes) of accumulators (N, classes, 1, 1)."""
        if self.training:
            return (x.values * x.step).flatten(1) + self.bias
        offset = self.offset(x.step).reshape(-1, 1, 1)
        return ((x.values.double() + offset) * x.step.double()).flatten(1)
