"""The integer reference: what a graph means, executed node by node on plain int64 tensors.

Every node has one function of a few lines. Nothing here is shared with the compiler or with the
emulator but the graph's data types, and every result is checked against the type that the graph
gives it: nothing wraps silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from palquant.errors import GraphError, InputError, RangeError
from palquant.sw.graph import (
    Add,
    Affine,
    Clamp,
    Convolution,
    Graph,
    IntArray,
    Logits,
    MaxPool,
    Node,
    Permute,
    Pool,
    Quantize,
    Relu,
    Repeat,
    SumPool,
    TensorType,
)

#: Integers up to this magnitude, and sums of them, are exact in float64.
EXACT_FLOAT64 = 1 << 53


def run(graph: Graph, codes: npt.NDArray[Any]) -> dict[str, IntArray]:
    """Execute ``graph`` on a batch.

    Parameters:
        graph: The network.
        codes: Input codes, any integer type, shape (N, C, H, W).

    Returns:
        Node name -> int64 array of shape (N, C, H, W), for every node, the input included.

    Raises:
        InputError: ``codes`` does not fit the input node.
        RangeError: A value leaves the range of its tensor's type; names the node.
    """
    shape = graph.input.shape
    expected = (shape.channels, shape.height, shape.width)
    if codes.ndim != 4 or codes.shape[1:] != expected:
        raise InputError(f"{graph.input.name}: codes have shape {codes.shape}, expected "
                         f"(N, {', '.join(map(str, expected))})")  # fmt: skip
    kind = graph.types[graph.input.name]
    if not kind.allowed(codes):
        raise InputError(f"{graph.input.name}: codes must be integers in {kind.min}..{kind.max}, "
                         f"not {codes.dtype}" + _extremes(codes))  # fmt: skip
    tensors = {graph.input.name: codes.astype(np.int64)}
    for node in graph.nodes[1:]:
        tensors[node.name] = run_node(graph, node, tensors)
    return tensors


def run_node(graph: Graph, node: Node, tensors: Mapping[str, IntArray]) -> IntArray:
    """Execute one node.

    Parameters:
        graph: The network.
        node: One of its nodes, not the input.
        tensors: At least the tensors that the node reads, int64 of shape (N, C, H, W).

    Returns:
        The node's tensor, int64 of shape (N, C, H, W).

    Raises:
        RangeError: A value leaves the range of the tensor's type; names the node.
    """
    result = _execute(graph, node, [torch.from_numpy(tensors[name]) for name in node.inputs])
    kind = graph.types[node.name]
    if result.numel() and not kind.min <= int(result.min()) <= int(result.max()) <= kind.max:
        raise RangeError(f"{node.name}: values {int(result.min())}..{int(result.max())} leave "
                         f"the {kind.bits}-bit range {kind.min}..{kind.max}")  # fmt: skip
    values: IntArray = result.numpy()
    return values


def predict(graph: Graph, outputs: Mapping[str, IntArray]) -> IntArray:
    """Class with the largest real logit, the first of equals.

    Parameters:
        graph: A network that ends in :class:`~palquant.sw.graph.Logits` of one pixel.
        outputs: Tensors by name, as :func:`run` returns them; only the last one is read.

    Returns:
        int64 array of shape (N,).

    Raises:
        GraphError: The network's result is no logits, or has more than one pixel.
    """
    node = graph.output
    shape = graph.shapes[node.name]
    if not isinstance(node, Logits) or (shape.height, shape.width) != (1, 1):
        raise GraphError(f"{node.name}: {type(node).__name__} of {shape.height}x{shape.width} "
                         "pixels is no class prediction (expected Logits of 1x1)")  # fmt: skip
    real = node.real(outputs[node.name][:, :, 0, 0])
    if graph.host is not None:
        real = graph.host.classifier.logits(real)
    best: IntArray = real.argmax(axis=1)
    return best


def _extremes(codes: npt.NDArray[Any]) -> str:
    return f" in {codes.min()}..{codes.max()}" if codes.size else ""


def _execute(graph: Graph, node: Node, inputs: list[Tensor]) -> Tensor:
    """One node's result from its inputs, all int64 of shape (N, C, H, W)."""
    (x, *others) = inputs
    kind = graph.types[node.name]
    match node:
        case Convolution():
            return _convolution(node, x, graph.types[node.input])
        case Affine():
            scale, offset, shift = map(_column, (node.scale, node.offset, node.shift))
            return ((x * scale + offset) >> shift).clamp(kind.min, kind.max)
        case Relu():
            return x.clamp(min=0)
        case Add():
            return (x + others[0]).clamp(kind.min, kind.max)
        case Permute():
            return x[:, torch.from_numpy(node.permutation)]
        case Repeat():
            return x.tile(1, node.times, 1, 1)
        case MaxPool():
            return _windows(node, x, kind.min).amax((-2, -1))
        case SumPool():
            return _windows(node, x, 0).sum((-2, -1))
        case Quantize():
            return _count_thresholds(node, x)
        case Clamp():
            return x.clamp(kind.min, kind.max)
        case Logits():
            return x + _column(node.offset)
        case _:
            raise GraphError(f"{node.name}: the reference cannot execute {type(node).__name__}")


def _column(values: npt.NDArray[Any]) -> Tensor:
    """Per-channel values as a tensor that broadcasts over (N, C, H, W)."""
    return torch.from_numpy(np.asarray(values)).reshape(-1, 1, 1)


def _convolution(node: Convolution, codes: Tensor, kind: TensorType) -> Tensor:
    """``sum((a - z) * (alpha * c - beta))``, in float64, where every partial sum is exact."""
    values = codes - kind.zero_point  # so that a padding tap, which carries z, is a plain 0
    weight = node.alpha * torch.from_numpy(node.weight.astype(np.int64)) - node.beta
    largest = max(kind.max - kind.zero_point, kind.zero_point - kind.min)
    bound = largest * int(weight.abs().sum((1, 2, 3)).max())
    if bound > EXACT_FLOAT64:
        raise RangeError(f"{node.name}: sums of up to {bound} exceed the 53 bits of the reference")
    sums = F.conv2d(
        values.double(), weight.double(), None, node.stride, node.padding, 1, node.groups
    )
    return sums.long()


def _windows(node: Pool, x: Tensor, padding_value: int) -> Tensor:
    """All windows of a pooling node, shape (N, C, rows, columns, kernel height, kernel width)."""
    (top, left) = node.padding
    padded = F.pad(x, (left, left, top, top), value=padding_value)
    rows = padded.unfold(2, node.kernel[0], node.stride[0])
    return rows.unfold(3, node.kernel[1], node.stride[1])


def _count_thresholds(node: Quantize, x: Tensor) -> Tensor:
    """Number of thresholds that x, negated where the node says so, reaches."""
    value = torch.where(_column(node.negate), -x, x)
    codes = torch.zeros_like(value)
    for level in node.thresholds.T:
        codes += value >= _column(level)
    return codes
