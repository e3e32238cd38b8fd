"""Convolutions and matrix products of codes, and averages that are folded into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from palquant.sw.qonnx_builder import Builder
from palquant.sw.qonnx_codes import make_codes
from palquant.sw.qonnx_quantizers import Weights, read_weights
from palquant.sw.qonnx_source import attributes, refuse
from palquant.sw.qonnx_staircase import Ints
from palquant.sw.qonnx_values import Arranged, Averaged, Codes, Image, Real, Value
from palquant.sw.qonnx_windows import Window, read_window, whole

Floats = npt.NDArray[np.float64]


def convolution(builder: Builder, node: NodeProto, operand: Real | Averaged) -> Real:
    """Append what a Conv or ConvInteger node is.

    Raises:
        UnsupportedLayerError: Weights, groups or window that the machine cannot follow.
    """
    if len(builder.source.shape(node.input[0])) != 4 or node.input[0] in builder.source.constants:
        refuse(node, "does not convolve images (supported: two dimensions)")
    integer = node.op_type == "ConvInteger"
    weights = read_weights(builder.source, builder.kernels, node, 0)
    if weights.codes.ndim != 4:
        refuse(node, f"has weights of {weights.codes.ndim} axes (supported: 4)")
    groups = int(attributes(node).get("group", 1))
    outputs, inputs = weights.codes.shape[:2]
    channels = operand.shape.channels
    if groups < 1 or channels % groups or outputs % groups or inputs * groups != channels:
        refuse(node, f"has {groups} groups of {inputs} channels (expected groups that divide "
               f"{channels} input and {outputs} output channels)")  # fmt: skip
    window = read_window(node, operand.shape, weights.codes.shape[2:])
    bias = None if integer else _bias(builder, node, outputs)
    if isinstance(operand, Averaged):
        index = np.arange(channels)[None]
        if groups != 1 or window != Window((1, 1)) or not _is_whole(operand):
            refuse(node, "reads averages without a quantiser (supported: averages of whole images "
                   "read by a 1x1 convolution, or a Quant between)")  # fmt: skip
        flat = replace(weights, codes=weights.codes.reshape(outputs, -1))
        return _dense(builder, node, operand, flat, index, bias)
    zero = None
    if integer:
        if operand.grid is None or (operand.grid.scale != 1).any():
            refuse(node, "reads what are no integers (expected a Cast of codes)")
        zero = operand.grid.zero + builder.source.scalar(node, 2, 0.0)
        if builder.source.scalar(node, 3, 0.0):
            refuse(node, "has a zero point of weights (supported: 0)")
    codes = make_codes(builder, operand, zero)
    kind = np.int32 if integer else np.float32
    return builder.convolve(node.output[0], codes, weights, window, groups, bias, kind)


def product(builder: Builder, node: NodeProto, value: Value) -> Real:
    """Append what a Gemm or MatMul node is: a convolution whose kernel is the whole image.

    Raises:
        UnsupportedLayerError: It is no product of activations and constant weights.
    """
    assert not isinstance(value, Image)
    found = attributes(node)
    if len(node.input) < 2 or node.input[0] in builder.source.constants:
        refuse(node, "multiplies from the left (expected activations as the first operand)")
    if found.get("transA", 0) or found.get("alpha", 1.0) != 1 or found.get("beta", 1.0) != 1:
        refuse(node, "has transA, alpha or beta (supported: 0, 1 and 1)")
    if len(builder.source.shape(node.input[0])) != 2:
        refuse(node, f"multiplies a tensor of shape {builder.source.shape(node.input[0])} "
               "(expected it flattened to two axes)")  # fmt: skip
    axis = 0 if found.get("transB", 0) else 1
    weights = read_weights(builder.source, builder.kernels, node, axis)
    if weights.codes.ndim != 2:
        refuse(node, f"has weights of {weights.codes.ndim} axes (supported: 2)")
    if axis:
        weights = replace(weights, codes=weights.codes.T)
    if isinstance(value, Arranged):
        operand, index = value.operand, value.index
    else:
        operand, index = value, np.arange(value.shape.channels)[None]
        if value.shape.height * value.shape.width != 1:
            refuse(node, "multiplies an image (expected it flattened to two axes)")
    size = operand.shape.channels * operand.shape.height * operand.shape.width
    if index.ndim != 2 or sorted(index[0]) != list(range(size)) or weights.codes.shape[1] != size:
        refuse(node, f"does not read all {size} elements of {operand.name}, once each")
    bias = _bias(builder, node, len(weights.codes))
    return _dense(builder, node, operand, weights, index, bias)


def _dense(
    builder: Builder,
    node: NodeProto,
    operand: Real | Averaged,
    weights: Weights,
    index: Ints,
    bias: Floats | None,
) -> Real:
    """A product of all elements of an image; ``index`` says which element a weight is for."""
    outputs = len(weights.codes)
    shape = operand.shape
    ordered = np.empty_like(weights.codes)
    ordered[:, index[0]] = weights.codes
    name = node.output[0]
    if isinstance(operand, Real):
        kernel = ordered.reshape(outputs, shape.channels, shape.height, shape.width)
        codes = make_codes(builder, operand)
        window = whole(shape)
        return builder.convolve(name, codes, replace(weights, codes=kernel), window, 1, bias)
    if not _is_whole(operand):
        refuse(node, f"reads the averages {operand.name} without a quantiser (supported: averages "
               "of whole images, or a Quant between)")  # fmt: skip
    codes = make_codes(builder, operand.operand)
    codes = Codes(codes.tensor, codes.zero_point, codes.zero, codes.scale / operand.window.area,
                  codes.levels, codes.shape)  # fmt: skip
    kernel = np.broadcast_to(
        ordered[:, :, None, None], (outputs, shape.channels, *operand.window.kernel)
    )
    made = builder.convolve(
        name, codes, replace(weights, codes=np.ascontiguousarray(kernel)), operand.window, 1, bias
    )
    return made


def _is_whole(value: Averaged) -> bool:
    """Whether each average is one of a whole channel."""
    window, image = value.window, value.operand.shape
    return window.kernel == (image.height, image.width) and not any(window.padding)


def _bias(builder: Builder, node: NodeProto, outputs: int) -> Floats | None:
    """What a product adds to each output, real."""
    if len(node.input) < 3 or not node.input[2]:
        return None
    values = builder.source.constant(node, 2)
    if values is None:
        maker = builder.source.wrapper.find_producer(node.input[2])
        if maker is None or any(n and n not in builder.source.constants for n in maker.input):
            refuse(node, "has a bias that is no constant (expected a constant)")
        values = builder.kernels(maker, {})
    if values.size not in (1, outputs) or not np.isfinite(values).all():
        refuse(node, f"has a bias of shape {values.shape} (expected {outputs} finite values)")
    found: Floats = np.broadcast_to(values.reshape(-1).astype(np.float64), outputs)
    return found
