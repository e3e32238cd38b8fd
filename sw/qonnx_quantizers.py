"""What the quantisers of a QONNX file mean in integers: grids of values, and weight levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from palquant.sw.graph import legal_betas
from palquant.sw.qonnx_kernels import Kernels
from palquant.sw.qonnx_source import (
    DOMAIN,
    QUANTIZERS,
    Source,
    attributes,
    per_channel,
    refuse,
)

Floats = npt.NDArray[np.float64]

#: Widths of weight codes that the machine stores.
WEIGHT_BITS = (2, 4, 8)


@dataclass(frozen=True, eq=False)
class Grid:
    """The values that a quantised tensor may hold: ``(q - zero) * scale`` for low <= q <= high.

    Parameters:
        scale: Real step, positive, float64 of shape (1,) or one per channel.
        zero: The q of the value 0; need not be an integer.
        low: Smallest q.
        high: Largest q.
    """

    scale: Floats
    zero: float
    low: int
    high: int

    @property
    def levels(self) -> int:
        """Number of values."""
        return self.high - self.low + 1

    @property
    def bits(self) -> int:
        """Width of a code that counts from 0."""
        return max(1, (self.levels - 1).bit_length())


def is_power_of_two(values: Floats) -> bool:
    """Whether products with all these factors are exact in floating point."""
    return bool((np.frexp(np.abs(values))[0] == 0.5).all())


def activation_grid(source: Source, node: NodeProto) -> Grid:
    """The grid of a quantiser of activations.

    Raises:
        UnsupportedLayerError: Names the node and what would be accepted.
    """
    shape = source.shape(node.input[0])
    if node.op_type == "MultiThreshold":
        return _multi_threshold(source, node)
    scale = _scale(source, node, shape)
    if node.op_type == "BipolarQuant":
        return Grid(2 * scale, 0.5, 0, 1)
    values = source.constant(node, 2)
    if values is None:
        refuse(node, "has a zero point that is no constant (expected a constant)")
    zeros = per_channel(node, values, shape, "the zero point")
    zero, low, high = _zero_and_range(source, node, zeros)
    if _is_bipolar(low, high):
        return Grid(2 * scale, (1 + zero) / 2, 0, 1)
    return Grid(scale, zero, low, high)


def _scale(source: Source, node: NodeProto, shape: tuple[int, ...]) -> Floats:
    values = source.constant(node, 1)
    if values is None:
        refuse(node, "has a scale that is no constant (expected a constant)")
    scale = per_channel(node, values, shape, "the scale")
    if not (np.isfinite(scale) & (scale > 0)).all():
        refuse(node, "has a scale that is not positive and finite")
    return scale


def _zero_and_range(
    source: Source, node: NodeProto, zeros: npt.NDArray[np.float64]
) -> tuple[float, int, int]:
    found = attributes(node)
    if (zeros != zeros[0]).any():
        refuse(node, "has zero points that differ between channels (supported: one per tensor)")
    mode = str(found.get("rounding_mode", "ROUND")).upper()
    if mode not in ("ROUND", "HALF_EVEN"):
        refuse(node, f"rounds by {mode} (supported: ROUND, half to even)")
    bits = source.scalar(node, 3, 0)
    if bits != int(bits) or not 1 <= bits <= 8:
        refuse(node, f"has a bit width of {bits:g} (supported: 1 to 8)")
    width, narrow = int(bits), bool(found.get("narrow", 0))
    if found.get("signed", 1):
        if narrow and width == 1:
            return float(zeros[0]), -1, 0
        return float(zeros[0]), -(1 << (width - 1)) + narrow, (1 << (width - 1)) - 1
    if narrow and width == 1:
        refuse(node, "is narrow and of one bit, which leaves one level (expected at least two)")
    return float(zeros[0]), 0, (1 << width) - 1 - narrow


def _is_bipolar(low: int, high: int) -> bool:
    """Whether a Quant node is one of one signed bit, which the executor takes as -1 and 1."""
    return (low, high) == (-1, 0)


def _multi_threshold(source: Source, node: NodeProto) -> Grid:
    found = attributes(node)
    layout = found.get("data_layout", "") or "NCHW"
    if layout not in ("NCHW", "NC"):
        refuse(node, f"has data layout {layout} (supported: NCHW, NC)")
    thresholds = source.constant(node, 1)
    if thresholds is None or thresholds.ndim != 2:
        refuse(node, "has no constant matrix of thresholds (expected channels by steps)")
    scale = float(found.get("out_scale", 1.0))
    bias = float(found.get("out_bias", 0.0))
    if not 0 < scale < np.inf or not np.isfinite(bias):
        refuse(node, f"has out_scale {scale:g} and out_bias {bias:g} (supported: finite, the scale "
               "positive)")  # fmt: skip
    return Grid(np.array([scale]), -bias / scale, 0, thresholds.shape[1])


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights as the machine stores them: ``(alpha * code - beta) * step``.

    Parameters:
        codes: uint8, in the shape of the file's tensor.
        bits: Width of a code: 2, 4 or 8.
        alpha: 1 or 2.
        beta: One of the offsets that the hardware forms.
        step: Real value of one unit, float64, shape (1,) or one per output.
    """

    codes: npt.NDArray[np.uint8]
    bits: int
    alpha: int
    beta: int
    step: Floats

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """Signed integer weights."""
        return self.alpha * self.codes.astype(np.int64) - self.beta


def read_weights(source: Source, kernels: Kernels, node: NodeProto, axis: int) -> Weights:
    """The quantised weights of a convolution or matrix product.

    Parameters:
        source: The network.
        kernels: Evaluates the weights' quantiser.
        node: The operator; its second input is the weight.
        axis: Axis of the weight tensor that counts outputs.

    Raises:
        UnsupportedLayerError: Names the node and what would be accepted.
    """
    name = node.input[1]
    maker = source.wrapper.find_producer(name)
    if maker is not None and maker.op_type == "Cast":
        maker = source.wrapper.find_producer(maker.input[0])
    if maker is None:
        values = source.constant(node, 1)
        if values is None or not np.array_equal(values, np.rint(values)):
            refuse(node, "has weights without a quantiser (expected Quant, BipolarQuant, or "
                   "integers)")  # fmt: skip
        return _stored(node, values.astype(np.int64), np.ones(1))
    if maker.op_type not in QUANTIZERS[:3] or maker.domain != DOMAIN:
        refuse(node, f"has weights from {maker.op_type} (expected Quant or BipolarQuant)")
    if source.constant(maker, 0) is None:
        refuse(maker, "quantises weights that are no constant (expected a constant)")
    values = kernels(maker, {}).astype(np.float64)
    step = _weight_column(source, maker, 1, values.shape, axis, "the scale")
    if not (np.isfinite(step) & (step > 0)).all():
        refuse(maker, "has a scale that is not positive and finite")
    column = [1] * values.ndim
    column[axis] = -1
    if maker.op_type == "BipolarQuant":
        signs = np.rint(values / step.reshape(column)).astype(np.int64)
        return Weights(((signs + 1) // 2).astype(np.uint8), 2, 2, 1, step)
    zeros = _weight_column(source, maker, 2, values.shape, axis, "the zero point")
    zero, low, high = _zero_and_range(source, maker, zeros)
    q = np.rint(values / step.reshape(column) + zero).astype(np.int64)
    if _is_bipolar(low, high):
        if zero:
            refuse(maker, f"is bipolar with a zero point of {zero:g} (supported: 0)")
        return Weights(((q + 1) // 2).astype(np.uint8), 2, 2, 1, step)
    width = (high - low).bit_length()
    if (step == 2).all() and not low and 2 * zero in legal_betas():  # already integers
        return Weights(q.astype(np.uint8), _width(width), 2, int(2 * zero), np.ones(1))
    if zero == int(zero):
        return _rebased(maker, q, int(zero), low, width, step)
    if 2 * zero == int(2 * zero):  # levels of odd numbers
        beta = int(2 * (zero - low))
        if beta in legal_betas():
            return Weights((q - low).astype(np.uint8), _width(width), 2, beta, step / 2)
    refuse(maker, f"has zero point {zero:g} (supported for weights: integers, and the middle of "
           "the range)")  # fmt: skip


def _rebased(
    maker: NodeProto, q: npt.NDArray[np.int64], zero: int, low: int, width: int, step: Floats
) -> Weights:
    """Weights of an integer zero point: codes count from ``low`` if that gives a legal beta."""
    for base in (low, 0, -(1 << (width - 1))):  # narrow ranges start one higher
        codes, beta = q - base, zero - base
        bits = max(width, int(codes.max()).bit_length())
        if beta in legal_betas() and codes.min() >= 0 and bits <= 8:
            return Weights(codes.astype(np.uint8), _width(bits), 1, beta, step)
    return _stored(maker, q - zero, step)


def _stored(node: NodeProto, levels: npt.NDArray[np.int64], step: Floats) -> Weights:
    """Any integer weights in the narrowest two's complement that holds them."""
    for bits in WEIGHT_BITS:
        half = 1 << (bits - 1)
        if -half <= levels.min() and levels.max() < half:
            return Weights((levels + half).astype(np.uint8), bits, 1, half, step)
    if levels.min() >= 0 and levels.max() < 256:
        return Weights(levels.astype(np.uint8), 8, 1, 0, step)
    refuse(node, f"has weights {levels.min()} to {levels.max()} in steps (supported: 8 bits)")


def _width(bits: int) -> int:
    return next(width for width in WEIGHT_BITS if bits <= width)


def _weight_column(
    source: Source, maker: NodeProto, position: int, shape: tuple[int, ...], axis: int, what: str
) -> Floats:
    values = source.constant(maker, position)
    if values is None:
        refuse(maker, f"has {what[4:]} that is no constant (expected a constant)")
    if values.size == 1:
        return np.asarray(values, np.float64).reshape(1)
    wanted = [1] * len(shape)
    wanted[axis] = shape[axis]
    padded = (1,) * (len(shape) - values.ndim) + values.shape
    if padded != tuple(wanted):
        if what == "the zero point":
            refuse(maker, "has zero points that differ within a channel (supported: one)")
        refuse(maker, f"has {what[4:]} of shape {values.shape} (supported for weights: one value, "
               f"or one for each of {shape[axis]} outputs)")  # fmt: skip
    return np.asarray(values, np.float64).reshape(-1)
