"""Proof that no register of the machine can overflow, from the actual weights of each layer.

Every bound is per output channel; a layer that could overflow is refused with layer, channel,
bound and register (numerics, section 6). The bounds of the value path also tell which thresholds
can never, or always, be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant.errors import RangeError
from palquant.hw.config import Geometry
from palquant.hw.isa import digits
from palquant.sw.graph import Convolution, Kind, MaxPool, Pool, TensorType
from palquant.sw.layer import Layer

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerRanges:
    """Bounds of a layer, per channel of its operation's output.

    Attributes:
        correction: Constant that the array's ``alpha * P - beta * S`` lacks to be the accumulator:
            ``-z * (alpha * sum(c) - beta * N)`` (numerics, section 2); 0 for pools.
        low: Smallest value that can reach the quantisers.
        high: Largest such value.
    """

    correction: Ints
    low: Ints
    high: Ints


def prove_ranges(layer: Layer, source: TensorType, geometry: Geometry) -> LayerRanges:
    """Bound every register of one layer.

    Parameters:
        layer: The layer.
        source: Type of the tensor that it reads.
        geometry: The machine.

    Raises:
        RangeError: Names layer, channel, bound and register.
    """
    if isinstance(layer.operation, Convolution):
        correction, low, high = _convolution(layer, layer.operation, source, geometry)
    else:
        correction, low, high = _pool(layer, layer.operation, source, geometry)
    _require(layer, "value path", low, high, geometry.value_bits)
    if len(layer.codes) > geometry.code_tensors:
        raise RangeError(
            f"{layer.name}: makes {len(layer.codes)} tensors of codes, but geometry "
            f"{geometry.name} writes {geometry.code_tensors}"
        )
    if layer.residual is not None and not geometry.additions:
        raise RangeError(
            f"{layer.name}: adds a residual, which geometry {geometry.name} does not do"
        )
    for code in layer.codes:
        if geometry.threshold_levels < code.bits != 8:
            raise RangeError(
                f"{layer.name}: codes of {code.bits} bits, but geometry {geometry.name} has "
                f"thresholds for {geometry.threshold_levels}"
            )
    if layer.affine is not None:
        offset = layer.affine.offset + layer.affine.scale * correction
        _require(layer, "scale M", layer.affine.scale, layer.affine.scale, geometry.scale_bits)
        _require(layer, "offset B", offset, offset, geometry.offset_bits)
        ends = np.stack([v * layer.affine.scale + offset for v in (low, high)])
        ends = np.sort(ends >> layer.affine.shift, axis=0)
        if layer.logits is not None:
            _require(layer, "raw result", ends[0], ends[1], geometry.result_bits)
            return LayerRanges(correction, ends[0], ends[1])
    if layer.affine is not None or layer.residual is not None:
        bits = layer.saturation_bits
        if bits > geometry.residual_bits:
            raise RangeError(
                f"{layer.name}: residuals of {bits} bits, but geometry {geometry.name} stores "
                f"{geometry.residual_bits}"
            )
        low = np.full_like(low, -(1 << (bits - 1)))
        high = np.full_like(high, (1 << (bits - 1)) - 1)
    if any(code.bits != 8 for code in layer.codes):
        # One above the largest value must be representable: the threshold "never", also negated.
        bound = np.maximum(np.abs(low), np.abs(high)) + 1
        _require(layer, "threshold", -bound, bound, geometry.threshold_bits)
    if layer.residual_out is not None and layer.affine is None and layer.residual is None:
        _require(layer, "residual", low, high, geometry.residual_bits)
    return LayerRanges(correction, low, high)


def _require(layer: Layer, register: str, low: Ints, high: Ints, bits: int) -> None:
    """Refuse a channel whose bounds do not fit a signed register."""
    _within(layer, register, low, high, (-(1 << (bits - 1)), (1 << (bits - 1)) - 1), bits)


def _require_unsigned(layer: Layer, register: str, high: Ints, bits: int) -> None:
    """Refuse a channel whose bound does not fit an unsigned register."""
    _within(layer, register, np.zeros_like(high), high, (0, (1 << bits) - 1), bits)


def _within(
    layer: Layer, register: str, low: Ints, high: Ints, limits: tuple[int, int], bits: int
) -> None:
    least, most = limits
    bad = np.flatnonzero((low < least) | (high > most))
    if bad.size:
        channel = int(bad[0])
        bound = int(high[channel] if high[channel] > most else low[channel])
        raise RangeError(
            f"{layer.name}: channel {channel} can reach {bound}, outside {least}..{most} of the "
            f"{register} register ({bits} bits)"
        )


def _convolution(
    layer: Layer, node: Convolution, source: TensorType, geometry: Geometry
) -> tuple[Ints, Ints, Ints]:
    if digits(node.weight_bits) > geometry.weight_digits:
        raise RangeError(
            f"{layer.name}: weights of {node.weight_bits} bits, but geometry {geometry.name} "
            f"multiplies by {geometry.weight_digits} of their base-4 digits"
        )
    codes = node.weight.reshape(len(node.weight), -1).astype(np.int64)
    taps = codes.shape[1]
    products = codes.sum(axis=1) * source.max
    _require_unsigned(layer, "accumulator P", products, geometry.accumulator_bits)
    sums = np.full(len(codes), taps * source.max)
    _require_unsigned(layer, "activation sum S", sums, geometry.activation_sum_bits)
    weights = node.alpha * codes - node.beta
    low = np.minimum(weights, 0).sum(axis=1) * source.max
    high = np.maximum(weights, 0).sum(axis=1) * source.max
    correction = -source.zero_point * (node.alpha * codes.sum(axis=1) - node.beta * taps)
    return correction, low, high


def _pool(
    layer: Layer, node: Pool, source: TensorType, geometry: Geometry
) -> tuple[Ints, Ints, Ints]:
    assert source.kind is Kind.RESIDUAL
    taps = 1 if isinstance(node, MaxPool) else node.kernel[0] * node.kernel[1]
    low = np.full(layer.shape.channels, source.min * taps)
    high = np.full(layer.shape.channels, source.max * taps)
    if not isinstance(node, MaxPool):
        _require(layer, "pool sum", low, high, geometry.pool_bits)
    return np.zeros(layer.shape.channels, np.int64), low, high
