"""Channels in another order or several times, however written, and flattening.

Slice, Concat, Gather, Reshape and Transpose are executed on the numbers of the elements instead
of the elements. If the result is a whole image whose channels were exchanged, they were a
permutation; if it is several whole images, one behind the other along the channels, a repetition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import Builder
from palquant.sw.qonnx_codes import make_codes
from palquant.sw.qonnx_pools import move_residual
from palquant.sw.qonnx_quantizers import Grid
from palquant.sw.qonnx_source import refuse
from palquant.sw.qonnx_staircase import Ints
from palquant.sw.qonnx_values import Arranged, Averaged, Base, Real, Reorder, Value

#: Operators that only move elements.
ARRANGEMENTS = (
    "Concat", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
)  # fmt: skip


def arrange(builder: Builder, node: NodeProto, values: Mapping[str, Value]) -> dict[str, Value]:
    """What a node that moves elements makes of a tensor.

    Raises:
        UnsupportedLayerError: It joins two tensors, or moves elements between images.
    """
    name = node.output[0]
    inputs: dict[str, Ints] = {}
    operands: dict[str, Real | Averaged] = {}
    for tensor in node.input:
        value = values.get(tensor)
        if isinstance(value, Arranged):
            inputs[tensor], operand = value.index, value.operand
        elif isinstance(value, Real | Averaged):
            shape = builder.source.shape(tensor)
            inputs[tensor] = np.arange(int(np.prod(shape))).reshape(shape)
            operand = value
        else:
            continue
        operands[operand.name] = operand
    if len(operands) != 1:
        refuse(node, f"joins {' and '.join(operands)} (supported: parts of one tensor)")
    (operand,) = operands.values()
    index = builder.kernels(node, dict(inputs))
    return {name: _recognise(builder, node, operand, index)}


def _recognise(builder: Builder, node: NodeProto, operand: Real | Averaged, index: Ints) -> Value:
    """The channel permutation that an arrangement is, or the arrangement itself."""
    name, shape = node.output[0], operand.shape
    size = shape.channels * shape.height * shape.width
    arranged = Arranged(name, operand, index)
    if times := _repetitions(index, shape):
        repeated = _repeat(builder, name, operand, times)
        return arranged if repeated is None else repeated
    if index.size % size or index.ndim not in (2, 4) or index.shape[1] != shape.channels:
        return arranged
    images = index.size // size
    if index.shape[0] != images or (index.ndim == 2) != (
        size == shape.channels and index.ndim == 2
    ):
        return arranged
    if index.ndim == 4 and index.shape[2:] != (shape.height, shape.width):
        return arranged
    pixels = shape.height * shape.width
    order = index.reshape(images, shape.channels, pixels)[0, :, 0] // pixels
    wanted = np.arange(index.size).reshape(images, shape.channels, pixels)
    if sorted(order) != list(range(shape.channels)):
        return arranged
    if not np.array_equal(wanted[:, order].ravel(), index.ravel()):
        return arranged
    if np.array_equal(order, np.arange(shape.channels)) and node.op_type != "Gather":
        return replace(operand, name=name) if isinstance(operand, Real) else operand
    if isinstance(operand, Averaged):
        return arranged
    step = Reorder(order.astype(np.int64), name)
    if not operand.steps and builder.kind(operand.source) is ir.Kind.RESIDUAL:
        source, base = move_residual(builder, step, operand.source, operand.base, name)
        return Real(name, source, base, shape, (), operand.grid)
    grid, made = (_permuted(grid, order) for grid in (operand.grid, operand.made))
    return operand.then(step, grid=grid, made=made)


def _repetitions(index: Ints, shape: ir.Shape) -> int:
    """How often an arrangement has all channels of an image, one copy behind the other; or 0."""
    times, rest = divmod(index.shape[1] if index.ndim == 4 else 0, shape.channels)
    if rest or times < 2 or index.shape[2:] != (shape.height, shape.width):
        return 0
    once = np.arange(index.size // times).reshape(-1, *index.shape[2:])
    copies = index.reshape(len(index), times, shape.channels, *index.shape[2:])
    wanted = once.reshape(len(index), 1, shape.channels, *index.shape[2:])
    return times if (copies == wanted).all() else 0


def _repeat(builder: Builder, name: str, operand: Real | Averaged, times: int) -> Real | None:
    """Residuals or codes of up to 4 bits, repeated; None for anything else."""
    if isinstance(operand, Averaged):
        return None
    shape = replace(operand.shape, channels=times * operand.shape.channels)
    if not operand.steps and builder.kind(operand.source) is ir.Kind.RESIDUAL:
        source = builder.repeat(name, operand.source, operand.shape.channels, times)
        tiled: dict[str, Any] = {
            key: np.tile(getattr(operand.base, key), times)
            for key in ("low", "high", "scale", "offset", "error")
        }
        base = replace(operand.base, **tiled)
        return Real(name, source, base, shape, (), _tiled(operand.grid, times))
    grid = operand.grid
    if grid is None or grid.bits > 4 or grid.scale.size > 1:
        return None
    codes = make_codes(builder, operand)
    source = builder.repeat(name, codes.tensor, codes.shape.channels, times)
    base = Base.even(shape.channels, 0, codes.levels - 1, codes.scale, -codes.zero * codes.scale)
    return Real(name, source, base, shape, (), grid)


def _tiled(grid: Grid | None, times: int) -> Grid | None:
    if grid is None or grid.scale.size == 1:
        return grid
    return replace(grid, scale=np.tile(grid.scale, times))


def _permuted(grid: Grid | None, order: Ints) -> Grid | None:
    if grid is None or grid.scale.size == 1:
        return grid
    return replace(grid, scale=grid.scale[order])
