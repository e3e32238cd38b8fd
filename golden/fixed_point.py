"""The fixed-point residual stream, and the one function that turns a real gain into M, B and Sh.

A residual is a signed integer of 8 to 16 bits times a power of two, one per stage. A power of
two, because the real values are then exact in floating point: the network passes real-valued
tensors around, every addition and comparison of them is the integer one, and per-channel gains
lose nothing since M and Sh take them up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palquant.errors import ConfigurationError, ModelError, RangeError
from palquant.golden.distributed import largest
from palquant.golden.quantize import straight_through

#: Widths of the requantization's operands (numerics, section 4.1).
SCALE_BITS = 16
OFFSET_BITS = 32
MAXIMUM_SHIFT = 31


@dataclass(frozen=True)
class Requantization:
    """``saturate((x * scale + offset) >> shift)``, per channel.

    Parameters:
        scale: M, int64, shape (C,), 16-bit values.
        offset: B, int64, shape (C,), 32-bit values; holds the rounding constant.
        shift: Sh, int64, shape (C,), 0 to 31.
        bits: Width of the result.
    """

    scale: Tensor
    offset: Tensor
    shift: Tensor
    bits: int

    def __call__(self, values: Tensor) -> Tensor:
        """Requantize integer values (N, C, H, W), exactly, as float64.

        Product and sum stay below 2^53 while the values stay below 2^37; the division is one by
        a power of two.
        """
        scale, offset = (v.double().reshape(-1, 1, 1) for v in (self.scale, self.offset))
        divisor = _power_of_two(self.shift).reshape(-1, 1, 1)
        limit = 1 << (self.bits - 1)
        return ((values.double() * scale + offset) / divisor).floor().clamp(-limit, limit - 1)


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2^exponent`` as float64, exact: torch's own power functions promise no such thing."""
    return (torch.ones_like(exponent) << exponent).double()


def derive_requantization(
    gain: Tensor,
    center: Tensor,
    value: Tensor,
    bits: int,
    correction: Tensor | float = 0.0,
) -> Requantization:
    """M, B and Sh of the line ``gain * (x - center) + value``, rounded to nearest.

    Sh is the largest shift at which M and B fit their registers. The line is given by a point,
    the mean of the accumulator and its image, so that the rounding of M, and its saturation in a
    channel whose variance is next to nothing, tilt the line about the values that occur.

    Parameters:
        gain: Slope, in units of the result per unit of x, float64, shape (C,).
        center: An x near those that occur, float64, shape (C,).
        value: Result at ``center``, in units of the result, float64, shape (C,).
        bits: Width of the result.
        correction: What the machine's sum over unsigned codes lacks to be x; it multiplies it by
            M as well and keeps the product within B, so that must fit too.

    Raises:
        RangeError: A channel has no representable B, or a parameter is no number.
    """
    shifts = torch.arange(MAXIMUM_SHIFT, -1, -1, device=gain.device).reshape(-1, 1)
    power = _power_of_two(shifts)  # (32, 1): 2^31 first
    scale_limit, offset_limit = 1 << (SCALE_BITS - 1), 1 << (OFFSET_BITS - 1)
    exact = torch.round(gain * power)
    scale = exact.clamp(-scale_limit, scale_limit - 1)
    offset = torch.round(value * power - scale * center) + torch.floor(power / 2)
    stored = offset + scale * correction
    fits = torch.maximum(offset, stored) < offset_limit
    fits &= torch.minimum(offset, stored) >= -offset_limit
    # At a shift of 0 a saturated M is steeper than any 16-bit result can follow.
    fits &= (scale == exact) | (shifts == 0)
    if not fits.any(0).all():
        channel = int((~fits.any(0)).nonzero()[0, 0])
        raise RangeError(f"channel {channel}: {gain[channel]:.6g} * (x - {center[channel]:.6g}) + "
                         f"{value[channel]:.6g} has no 32-bit requantization offset")  # fmt: skip
    row = fits.int().argmax(0, keepdim=True)  # the first row that fits: the largest shift
    scale, offset = (v.gather(0, row)[0].long() for v in (scale, offset))
    return Requantization(scale, offset, MAXIMUM_SHIFT - row[0], bits)


class PeakObserver(nn.Module):
    """Keeps the largest magnitude seen, slowly forgetting.

    Observes while training, or while :attr:`observing` is set (calibration of a trained network).
    A GPU is waited for once for each new peak, not for each use of it.
    """

    #: What is left of an old peak after one more batch.
    decay = 0.99

    peak: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("peak", torch.tensor(0.0))
        self.observing = False
        # The buffer that was read, its version then, and what it held.
        self._read: tuple[Tensor, int, float] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: not what was read, for versions of a copy count anew."""
        return {**self.__dict__, "_read": None}

    def _value(self) -> float:
        """The peak, read again if the buffer is another one or was written to since."""
        read, peak = self._read, self.peak
        if read is None or read[0] is not peak or read[1] != peak._version:
            read = self._read = (peak, peak._version, float(peak))
        return read[2]

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take the real values ``x`` into account, if this is the time to.

        Raises:
            ModelError: A value is NaN or infinite, here or in another process.
        """
        if self.training or self.observing:
            # Infinity for NaN, whose maximum over processes would depend on their order: so all
            # of them find it in the same place, and none is left waiting in its next exchange.
            largest_now = largest(x.detach().abs().max().nan_to_num(math.inf, math.inf))
            peak = torch.maximum(self.peak * self.decay, largest_now).to(self.peak.dtype)
            value = float(peak)
            if not math.isfinite(value):
                raise ModelError(f"an activation that {type(self).__name__} reads is NaN or "
                                 "infinite")  # fmt: skip
            self.peak.copy_(peak)
            self._read = (self.peak, self.peak._version, value)

    def observed(self) -> float:
        """The peak.

        Raises:
            ModelError: Nothing was observed yet.
        """
        peak = self._value()
        if not peak > 0:
            raise ModelError(f"{type(self).__name__} has no range (peak {peak}): train or "
                             "calibrate the network first")  # fmt: skip
        return peak


class ResidualStream(PeakObserver):
    """Format of one stage's residual stream: signed fixed point.

    Parameters:
        bits: Width, 8 to 16.

    Raises:
        ConfigurationError: ``bits`` is out of range.
    """

    def __init__(self, bits: int = 16) -> None:
        super().__init__()
        if not 8 <= bits <= 16:
            raise ConfigurationError(f"residual stream of {bits} bits (supported: 8 to 16)")
        self.bits = bits

    @property
    def limit(self) -> int:
        """Largest value; the smallest is ``-limit - 1``."""
        return (1 << (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """Real value of one unit: the smallest power of two that puts the peak in range."""
        mantissa, exponent = math.frexp(self.observed() / self.limit)
        return math.ldexp(1.0, exponent if mantissa > 0.5 else exponent - 1)

    def saturate(self, x: Tensor) -> Tensor:
        """Clamp real values to the range of the stream, with a straight-through gradient."""
        low, high = (-self.limit - 1) * self.step, self.limit * self.step
        return straight_through(x, lambda x: x.clamp(low, high))

    def round(self, x: Tensor) -> Tensor:
        """Round real values half up to the stream's grid, with a straight-through gradient."""
        step, low, high = self.step, -self.limit - 1, self.limit
        return straight_through(x, lambda x: (x / step).add_(0.5).floor_().clamp_(low, high) * step)

    def extra_repr(self) -> str:
        """Width, for ``print(model)``."""
        return f"bits={self.bits}"
