"""The network's input: from the quantiser of the image to an Input node with its normalisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from palquant.sw import graph as ir
from palquant.sw.normalize import to_codes
from palquant.sw.qonnx_builder import Builder
from palquant.sw.qonnx_chains import clip_bounds
from palquant.sw.qonnx_quantizers import Grid, activation_grid
from palquant.sw.qonnx_source import refuse
from palquant.sw.qonnx_values import Base, Elementwise, Image, Real

#: Widths of input codes.
BITS = (1, 2, 3, 4, 8)


def read_input(builder: Builder, node: NodeProto, image: Image, rounded: bool = False) -> Real:
    """Append the Input node.

    Parameters:
        builder: Where it is appended.
        node: A Quant node; or a Clip node behind a Round node, of values in units of codes.
        image: What it reads, or what the Round node reads.
        rounded: Whether it is a Clip node.

    Raises:
        UnsupportedLayerError: The codes are no full range of 1 to 4 or 8 bits.
    """
    if any(isinstance(made, ir.Input) for made in builder.nodes.values()):
        refuse(node, "quantises the image a second time (supported: one quantiser of the input)")
    if rounded:
        low, high = clip_bounds(builder.source, node)
        if not (np.isfinite([low, high]).all() and low % 1 == high % 1 == 0):
            refuse(node, f"clips the image to {low:g}..{high:g} (expected integers)")
        grid = Grid(np.ones(1), 0.0, int(low), int(high))
    elif node.op_type not in ("Quant", "IntQuant"):
        refuse(node, "quantises the image (supported for the input: Quant)")
    else:
        grid = activation_grid(builder.source, node)
    if rounded and _is_residual(builder, grid):
        return _residual_input(builder, node, image, grid)
    point = grid.zero - grid.low
    if grid.levels != 1 << grid.bits or grid.bits not in BITS:
        refuse(node, f"quantises the image to {grid.levels} levels (supported: 2, 4, 8, 16 or "
               "256, not narrow)")  # fmt: skip
    if point % 1 or not 0 <= point < grid.levels:
        refuse(node, f"quantises the image with a zero point of {grid.zero:g} (expected a code)")
    _, channels, height, width = builder.source.shape(builder.source.input)
    made = ir.Input(
        name=node.output[0], shape=ir.Shape(channels, height, width), bits=grid.bits,
        zero_point=int(point), normalization=_normalization(builder, image, grid, rounded),
    )  # fmt: skip
    scale = np.broadcast_to(grid.scale, channels).astype(np.float64)
    builder.add(made, scale, -point * scale)
    wrong = _differences(builder, node, image, made, grid, rounded)
    if wrong:
        builder.findings.doubtful[made.name] = wrong
    zeros = np.zeros(channels)
    base = Base(zeros.astype(np.int64), (grid.levels - 1 + zeros).astype(np.int64), scale,
                -point * scale, zeros, np.float64 if rounded else np.float32)  # fmt: skip
    return Real(made.name, made.name, base, made.shape, (), grid)


def _is_residual(builder: Builder, grid: Grid) -> bool:
    """Whether integers are signed ones of 9 to 16 bits, or of 8 that are no codes."""
    bits = grid.bits
    signed = (grid.low, grid.high) == (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return signed and (8 < bits <= 16 or (bits == 8 and builder.residual_input))


def _residual_input(builder: Builder, node: NodeProto, image: Image, grid: Grid) -> Real:
    """Append an Input of residuals."""
    _, channels, height, width = builder.source.shape(builder.source.input)
    made = ir.Input(
        name=node.output[0], shape=ir.Shape(channels, height, width), bits=grid.bits,
        zero_point=0, normalization=_normalization(builder, image, grid, True), residual=True,
    )  # fmt: skip
    builder.add(made, np.ones(channels))
    wrong = _differences(builder, node, image, made, replace(grid, low=0), True)
    if wrong:
        builder.findings.doubtful[made.name] = wrong
    base = Base.even(channels, grid.low, grid.high, 1.0, dtype=np.float64)
    return Real(made.name, made.name, base, made.shape)


def _normalization(builder: Builder, image: Image, grid: Grid, rounded: bool) -> ir.Normalization:
    """Mean, deviation and scale: as the file subtracts and divides, if in this order."""
    channels = len(image.gain)
    scale = grid.scale
    steps = [step for step in image.steps if step.node.op_type != "Cast"]
    kinds = [step.node.op_type for step in steps]
    values = [_constant_of(builder, step) for step in steps]
    mean, deviation = np.zeros(channels), np.ones(channels)
    if rounded and kinds and kinds[-1] == "Div" and values[-1].size == 1 and len(kinds) > 1:
        scale = values.pop()
        kinds.pop()
    if kinds == ["Sub", "Div"]:
        mean, deviation = values
    elif kinds == ["Sub"]:
        (mean,) = values
    elif kinds == ["Div"]:
        (deviation,) = values
    elif kinds:
        scale = grid.scale
        mean, deviation = -image.offset / image.gain, 1 / image.gain
    if scale.size > 1:
        deviation, scale = deviation * scale, np.ones(1)
    mean, deviation = (np.broadcast_to(v, channels) for v in (mean, deviation))
    return ir.Normalization(tuple(map(float, mean)), tuple(map(float, deviation)), float(scale[0]))


def _constant_of(builder: Builder, step: Elementwise) -> npt.NDArray[np.float64]:
    constants = builder.source.constants
    found = next(constants[n] for n in step.node.input if n != step.operand)
    return found.astype(np.float64).reshape(-1)


def _differences(
    builder: Builder, node: NodeProto, image: Image, made: ir.Input, grid: Grid, rounded: bool
) -> int:
    """Pixel values of 0 to 255 that the executor gives another code than the Input node."""
    channels = made.shape.channels
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(channels, axis=1)
    small = replace(made, shape=ir.Shape(channels, 16, 16))
    values = pixels.astype(np.float32) / np.float32(255)
    for step in image.steps:
        values = builder.kernels(step.node, {step.operand: values})
    if rounded:
        maker = builder.source.wrapper.find_producer(node.input[0])
        values = builder.kernels(maker, {maker.input[0]: values})
    values = builder.kernels(node, {node.input[0]: values}).astype(np.float64)
    scale = np.broadcast_to(grid.scale, channels).reshape(-1, 1, 1)
    codes = np.rint(values / scale + grid.zero) - grid.low
    return int((codes != to_codes(pixels, small)).sum())
