"""Elementwise nodes: what they do to a quantised tensor's grid, and to a line of integers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import EXACT, Builder
from palquant.sw.qonnx_quantizers import Grid, activation_grid
from palquant.sw.qonnx_source import QUANTIZERS, Source, attributes, per_channel, refuse
from palquant.sw.qonnx_values import Base, Elementwise, Image, Real

Floats = npt.NDArray[np.float64]

#: Operators that map each value by itself.
ELEMENTWISE = (
    "Add", "BatchNormalization", "Cast", "Clip", "Div", "Dropout", "Identity", "Mul", "Relu", "Sub",
)  # fmt: skip
_NOTHING = ("Identity", "Dropout")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def append(builder: Builder, node: NodeProto, real: Real) -> Real:
    """The tensor that an elementwise node or a quantiser makes of another.

    Raises:
        UnsupportedLayerError: The node is no monotone function, or differs between pixels.
    """
    source, name = builder.source, node.output[0]
    if node.op_type in _NOTHING:
        _check_inference(source, node)
        return replace(real, name=name)
    operand = next(n for n in node.input if n not in source.constants)
    shape = source.shape(operand)
    if len(shape) not in (2, 4):
        refuse(node, f"reads a tensor of {len(shape)} axes (supported: 2 and 4)")
    step = Elementwise(node, operand, len(shape))
    bare = not real.steps and builder.kind(real.source) is not ir.Kind.CODES
    if node.op_type in QUANTIZERS:
        quantized = activation_grid(source, node)
        narrow = real.grid is not None and real.grid.bits <= 4 < quantized.bits
        return real.then(step, grid=quantized, made=quantized, inner=real if narrow else real.inner)
    if node.op_type == "Cast":
        return _cast(node, real, step, bare)
    if node.op_type == "Relu":
        if bare and builder.kind(real.source) is ir.Kind.RESIDUAL and not real.base.offset.any():
            return _relu_of_residual(builder, name, real)
        grid = _clipped(real.grid, 0.0, math.inf)
        return real.then(step, grid=grid, made=grid)
    if node.op_type == "Clip":
        low, high = clip_bounds(source, node)
        if bare and real.base.whole and high - low < 256 and {low % 1, high % 1} == {0.0}:
            grid = Grid(np.ones(1), 0.0, int(low), int(high))
            return real.then(step, grid=grid, made=grid)
        grid = _clipped(real.grid, low, high)
        return real.then(step, grid=grid, made=grid)
    if node.op_type == "BatchNormalization":
        _check_statistics(source, node)
        return real.then(step, grid=None)
    constant = constant_of(source, step)
    return real.then(step, grid=_scaled(node, real.grid, constant, node.input[0] == operand))


def constant_of(source: Source, step: Elementwise) -> Floats:
    """The constant of an arithmetic node, one value per channel.

    Returns:
        float64, shape (C,), or (1,) if there is one value for all.

    Raises:
        UnsupportedLayerError: It has none, or one of another shape or that is not finite.
    """
    node, shape = step.node, source.shape(step.operand)
    position = 1 if node.input[0] == step.operand else 0
    values = source.constant(node, position)
    if values is None:
        refuse(node, "has no constant operand (expected one)")
    if node.op_type == "Div" and position == 0:
        refuse(node, "divides a constant by activations (supported: activations by a constant)")
    found = per_channel(node, values, shape, "its constant")
    if not np.isfinite(found).all() or (node.op_type == "Div" and not found.all()):
        refuse(node, "has a constant that is no finite number, or divides by zero")
    return found


def _check_inference(source: Source, node: NodeProto) -> None:
    """Refuse a Dropout that drops: its third input must say that it does not, or be absent."""
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return
    training = source.constant(node, 2)
    if training is None or training.any():
        refuse(node, "is in training mode (expected training_mode to be the constant False)")


def _check_statistics(source: Source, node: NodeProto) -> None:
    found = attributes(node)
    if found.get("training_mode", 0) or len(node.output) > 1:
        refuse(node, "is in training mode (expected the statistics of inference)")
    values = [source.constant(node, i) for i in range(1, 5)]
    if any(v is None or not np.isfinite(v).all() for v in values):
        refuse(node, "has statistics that are no finite constants (expected constants)")


def _cast(node: NodeProto, real: Real, step: Elementwise, bare: bool) -> Real:
    kinds = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
    kind = attributes(node)["to"]
    base = real.base
    if kind not in kinds:
        grid = real.grid
        if kind != TensorProto.UINT8 or grid is None or (grid.scale != 1).any() or grid.zero % 1:
            refuse(node, f"casts to {TensorProto.DataType.Name(kind)} (supported: FLOAT, DOUBLE, "
                   "and integers of 0 to 255 to UINT8)")  # fmt: skip
        if grid.low < grid.zero or grid.high - grid.zero > 255:
            refuse(node, "casts integers outside of 0 to 255 to UINT8")
        return real.then(step)
    fits = max(int(np.abs(base.low).max()), int(np.abs(base.high).max())) < EXACT
    if bare and real.grid is None and base.whole and (fits or kind == TensorProto.DOUBLE):
        return replace(real, name=step.name, base=replace(base, dtype=kinds[kind]))
    return real.then(step)


def _relu_of_residual(builder: Builder, name: str, real: Real) -> Real:
    if not (real.base.low < 0).any():
        return replace(real, name=name)
    builder.add(ir.Relu(name=name, input=real.source), *builder.real[real.source])
    base = real.base
    low, high, table = np.maximum(base.low, 0), np.maximum(base.high, 0), base.table
    if table is not None:
        first = int(low[0] - base.low[0])
        table = np.maximum(table[0][first:], 0), np.maximum(table[1][first:], 0)
    base = replace(base, low=low, high=high, table=table)
    return Real(name, name, base, real.shape)


def _clipped(grid: Grid | None, low: float, high: float) -> Grid | None:
    """The part of a grid between two real values that lie on it."""
    if grid is None:
        return None
    if (grid.scale != grid.scale[0]).any() and (low or math.isfinite(high)):
        return None
    scale = float(grid.scale[0])
    ends = low / scale + grid.zero, high / scale + grid.zero
    least = grid.low if ends[0] <= grid.low else ends[0]
    most = grid.high if ends[1] >= grid.high else ends[1]
    if abs(least - round(least)) > 1e-4 or abs(most - round(most)) > 1e-4 or least >= most:
        return None
    return replace(grid, low=round(least), high=round(most))


def _scaled(node: NodeProto, grid: Grid | None, constant: Floats, first: bool) -> Grid | None:
    if grid is None or node.op_type not in _ARITHMETIC:
        return None
    if node.op_type in ("Mul", "Div"):
        factor = constant if node.op_type == "Mul" else 1 / constant
        return replace(grid, scale=grid.scale * factor) if (factor > 0).all() else None
    if not first and node.op_type == "Sub":
        return None
    moved = constant / grid.scale * (1 if node.op_type == "Add" else -1)
    if (moved != moved[0]).any():
        return None
    return replace(grid, zero=grid.zero - float(moved[0]))


def clip_bounds(source: Source, node: NodeProto) -> tuple[float, float]:
    """Smallest and largest value of a Clip node."""
    found = attributes(node)
    low = source.scalar(node, 1, float(found.get("min", -math.inf)))
    high = source.scalar(node, 2, float(found.get("max", math.inf)))
    if not low <= high:
        refuse(node, f"clips to {low:g}..{high:g} (expected a range)")
    return low, high


def line(builder: Builder, real: Real, count: int | None = None) -> tuple[Floats, Floats] | None:
    """Gain and offset of a tensor as a function of its integers, if it is a line.

    Parameters:
        builder: Gives the constants.
        real: The tensor.
        count: Number of its steps to be followed; all if None.

    Returns:
        Both float64, shape (C,), in real arithmetic; None if a step is no line.
    """
    gain = np.array(real.base.scale, np.float64)
    offset = np.array(np.broadcast_to(real.base.offset, gain.shape), np.float64)
    for step in real.steps[:count]:
        if not isinstance(step, Elementwise):
            return None
        node, source = step.node, builder.source
        if node.op_type == "Cast":
            continue
        if node.op_type == "BatchNormalization":
            weight, bias, mean, variance = (
                source.constants[n].astype(np.float64) for n in node.input[1:5]
            )
            factor = weight / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
            gain, offset = gain * factor, (offset - mean) * factor + bias
            continue
        if node.op_type not in _ARITHMETIC:
            return None
        constant = constant_of(source, step)
        match node.op_type:
            case "Add":
                offset = offset + constant
            case "Sub":
                sign = 1 if node.input[0] == step.operand else -1
                gain, offset = sign * gain, sign * (offset - constant)
            case "Mul":
                gain, offset = gain * constant, offset * constant
            case _:
                gain, offset = gain / constant, offset / constant
    return gain, offset


def append_to_image(source: Source, node: NodeProto, image: Image) -> Image:
    """What an elementwise node makes of the image before its quantiser: a line per channel."""
    operand = next(n for n in node.input if n not in source.constants)
    step = Elementwise(node, operand, len(source.shape(operand)))
    gain, offset = image.gain, image.offset
    if node.op_type in _NOTHING:
        _check_inference(source, node)
        return image
    if node.op_type == "Cast":
        return replace(image, steps=(*image.steps, step))
    if node.op_type not in _ARITHMETIC:
        refuse(node, "changes the image before it is quantised (supported: Add, Sub, Mul, Div)")
    constant = constant_of(source, step)
    if node.op_type == "Add":
        offset = offset + constant
    elif node.op_type == "Sub" and node.input[0] == operand:
        offset = offset - constant
    elif node.op_type == "Mul" and (constant > 0).all():
        gain, offset = gain * constant, offset * constant
    elif node.op_type == "Div" and (constant > 0).all():
        gain, offset = gain / constant, offset / constant
    else:
        refuse(node, "turns the image's values around (supported: positive factors)")
    return Image((*image.steps, step), gain, offset)


def round_integers(builder: Builder, node: NodeProto, last: NodeProto, real: Real) -> Real:
    """A tensor of whole numbers: a requantization (Floor and Clip), or rounded sums (Round)."""
    base, name = real.base, last.output[0]
    ones = np.ones(len(base.low))
    if node.op_type == "Round":
        found = line(builder, real)
        unit = None if found is None else found[0] / base.scale
        if found is None or unit is None or np.abs(found[0] - 1).max() > 1e-6 or found[1].any():
            refuse(node, "rounds what is no whole number (supported: sums of integers)")
        if (base.error * unit).max() >= 0.5:
            refuse(node, f"rounds sums of up to {int(base.high.max())}, which float32 does not "
                   "hold exactly (supported: below 2^22)")  # fmt: skip
        whole = replace(base, scale=ones, offset=0 * ones, error=0 * ones, table=None)
        return Real(name, real.source, whole, real.shape)
    scale, offset, shift = _requantization(builder, node, real)
    low, high = clip_bounds(builder.source, last)
    bits = int(high).bit_length() + 1 if math.isfinite(high) else 0
    if not 8 <= bits <= 16 or (low, high) != (-(1 << (bits - 1)), (1 << (bits - 1)) - 1):
        refuse(last, f"clips integers to {low:g}..{high:g} (expected the range of 8 to 16 bits)")
    affine = ir.Affine(name=name, input=real.source, scale=scale, offset=offset, shift=shift,
                       bits=bits)  # fmt: skip
    builder.add(affine, ones)
    whole = Base.even(len(ones), int(low), int(high), 1.0, dtype=np.float64)
    return Real(name, name, whole, real.shape)


def _requantization(
    builder: Builder, node: NodeProto, real: Real
) -> tuple[ir.IntArray, ir.IntArray, ir.IntArray]:
    """M, B and Sh of ``floor((x * M + B) / 2^Sh)``: Mul, Add and Div, each with whole constants."""
    channels = len(real.base.low)
    found = {"Mul": np.ones(channels), "Add": np.zeros(channels), "Div": np.ones(channels)}
    rest = list(found)
    for step in real.steps:
        kind = step.node.op_type if isinstance(step, Elementwise) else "a permutation"
        if kind == "Cast":
            continue
        while rest and rest[0] != kind:
            rest.pop(0)
        if not rest or not isinstance(step, Elementwise):
            refuse(node, f"rounds behind {kind} (expected Mul, Add and Div in this order)")
        rest.pop(0)
        constant = constant_of(builder.source, step)
        found[kind] = np.broadcast_to(constant, channels)
    mantissa, exponent = np.frexp(found["Div"])
    wide = any(np.abs(v).max() >= 2**53 or (v % 1).any() for v in found.values())
    if not real.base.whole or wide or (mantissa != 0.5).any() or exponent.min() < 1:
        refuse(node, "rounds down what is no requantization (expected integers, Mul and Add of "
               "integers, Div by powers of two)")  # fmt: skip
    scale, offset = (found[k].astype(np.int64) for k in ("Mul", "Add"))
    return scale, offset, exponent.astype(np.int64) - 1
