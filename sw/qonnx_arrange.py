"""Channel permutations, however they are written, and flattening: where each element ends.

Slice, Concat, Gather, Reshape and Transpose are executed on the numbers of the elements instead
of the elements. If the result is a whole image whose channels were exchanged, they were a
permutation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import Builder
from palquant.sw.qonnx_codes import move_residual
from palquant.sw.qonnx_quantizers import Grid
from palquant.sw.qonnx_source import refuse
from palquant.sw.qonnx_staircase import Ints
from palquant.sw.qonnx_values import Arranged, Averaged, Real, Reorder, Value

#: Operators that only move elements.
ARRANGEMENTS = (
    "Concat", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
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


def _permuted(grid: Grid | None, order: Ints) -> Grid | None:
    if grid is None or grid.scale.size == 1:
        return grid
    return replace(grid, scale=grid.scale[order])
