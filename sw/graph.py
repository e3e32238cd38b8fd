"""The integer graph: what a network means, without a word on how a machine runs it.

Every tensor is an array of integers of shape (N, C, H, W) with a :class:`TensorType`; every node
makes exactly one tensor and gives it its own name. The operations are small, so that passes can
fuse them and the integer reference can execute them one by one:

=============== ============================================== ==================================
operation       accepts                                        gives
=============== ============================================== ==================================
Input                                                          codes, residual
Convolution     codes                                          accumulator
Affine          accumulator, residual                          residual
Relu            residual                                       residual
Add             residual + residual, of equal bits             residual
Permute         codes, residual                                the same kind
Repeat          codes, residual                                the same kind
MaxPool         residual                                       residual
SumPool         residual                                       accumulator
Quantize        accumulator, residual                          codes of 1 to 4 bits
Clamp           residual                                       codes of 8 bits
Logits          accumulator                                    logits
=============== ============================================== ==================================

The table is not prose: :data:`RULES` below holds it, and :meth:`Graph.check` enforces it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import GraphError
from palquant.sw.attributes import attribute_problem
from palquant.sw.host import HostClassifier, HostEnds, HostStem
from palquant.sw.operations import (
    MAX_SHUFFLED_GROUPS,
    OPERATIONS,
    Add,
    Affine,
    Clamp,
    Convolution,
    Input,
    IntArray,
    Kind,
    Logits,
    MaxPool,
    Node,
    Normalization,
    Permute,
    Pool,
    Quantize,
    Relu,
    Repeat,
    Shape,
    SumPool,
    TensorType,
    UnaryNode,
)

__all__ = [
    "MAX_SHUFFLED_GROUPS",
    "OPERATIONS",
    "RULES",
    "Add",
    "Affine",
    "Clamp",
    "Convolution",
    "Graph",
    "HostClassifier",
    "HostEnds",
    "HostStem",
    "Input",
    "IntArray",
    "Kind",
    "Logits",
    "MaxPool",
    "Node",
    "Normalization",
    "Permute",
    "Pool",
    "Quantize",
    "Relu",
    "Repeat",
    "Shape",
    "SumPool",
    "TensorType",
    "UnaryNode",
    "legal_betas",
    "window_extent",
]

#: Operation -> kinds that it accepts at its inputs. The legality table of the docstring.
RULES: dict[type[Node], frozenset[Kind]] = {
    Input: frozenset(),
    Convolution: frozenset({Kind.CODES}),
    Affine: frozenset({Kind.ACCUMULATOR, Kind.RESIDUAL}),
    Relu: frozenset({Kind.RESIDUAL}),
    Add: frozenset({Kind.RESIDUAL}),
    Permute: frozenset({Kind.CODES, Kind.RESIDUAL}),
    Repeat: frozenset({Kind.CODES, Kind.RESIDUAL}),
    MaxPool: frozenset({Kind.RESIDUAL}),
    SumPool: frozenset({Kind.RESIDUAL}),
    Quantize: frozenset({Kind.ACCUMULATOR, Kind.RESIDUAL}),
    Clamp: frozenset({Kind.RESIDUAL}),
    Logits: frozenset({Kind.ACCUMULATOR}),
}

#: Width given to accumulators in the graph; the compiler proves the width of the real register.
ACCUMULATOR_BITS = 48
LOGIT_BITS = 32


def window_extent(size: int, kernel: int, stride: int, padding: int) -> int:
    """Number of window positions along one axis of ``size`` elements, padded on both sides."""
    return (size + 2 * padding - kernel) // stride + 1


@dataclass(eq=False)
class Graph:
    """Nodes in an order in which each follows its inputs, with derived shapes and types.

    Parameters:
        nodes: All nodes, in execution order; the first is the :class:`Input`, the last makes the
            network's result.
        metadata: JSON-serialisable description: name, quantiser parameters, training record.
        host: What the host computes before the input and after the result, or None.

    Raises:
        GraphError: From :meth:`check`, which the constructor calls.
    """

    nodes: list[Node]
    metadata: dict[str, Any] = field(default_factory=dict)
    host: HostEnds | None = None

    def __post_init__(self) -> None:
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, TensorType] = {}
        self._by_name: dict[str, Node] = {}
        self.check()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @property
    def input(self) -> Input:
        """The network's input node."""
        node = self.nodes[0]
        assert isinstance(node, Input)
        return node

    @property
    def output(self) -> Node:
        """The node that makes the network's result."""
        return self.nodes[-1]

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of the images that the whole network takes."""
        return self.input.shape if self.host is None else self.host.stem.image

    @property
    def classes(self) -> int:
        """Number of classes, or of the result's channels where the network ends otherwise."""
        if self.host is not None:
            return len(self.host.classifier.bias)
        return self.shapes[self.output.name].channels

    def consumers(self) -> Mapping[str, list[Node]]:
        """Tensor name -> nodes that read it, in execution order."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node)
        return found

    def check(self) -> None:
        """Derive every shape and type anew and enforce the legality rules.

        Raises:
            GraphError: Names the node, what was found, and what is supported.
        """
        self.shapes.clear()
        self.types.clear()
        self._by_name.clear()
        if not self.nodes or not isinstance(self.nodes[0], Input):
            raise GraphError("a graph starts with its Input node")
        for position, node in enumerate(self.nodes):
            if type(node) not in RULES:
                supported = ", ".join(OPERATIONS)
                raise GraphError(
                    f"{node.name}: unknown operation {type(node).__name__} (supported: {supported})"
                )
            problem = attribute_problem(node)
            if problem:
                raise GraphError(f"{node.name}: {problem}")
            if node.name in self._by_name:
                raise GraphError(f"{node.name}: two nodes have this name")
            if isinstance(node, Input) and position:
                raise GraphError(f"{node.name}: a graph has one Input, its first node")
            for name in node.inputs:
                if name not in self.types:
                    raise GraphError(f"{node.name}: reads {name!r}, which no earlier node makes")
                kind = self.types[name].kind
                if kind not in RULES[type(node)]:
                    wanted = " or ".join(sorted(k.value for k in RULES[type(node)]))
                    raise GraphError(
                        f"{node.name}: {type(node).__name__} needs {wanted} as its "
                        f"input, but {name!r} is {kind.value}"
                    )
            self.shapes[node.name], self.types[node.name] = _infer(self, node)
            self._by_name[node.name] = node
        if self.host is not None:
            self._check_host(self.host)

    def _check_host(self, host: HostEnds) -> None:
        """The host's parts must fit the tensors that they make and read."""
        shape = host.stem.shape
        if shape != self.input.shape:
            raise GraphError(f"host stem: makes {shape}, but {self.input.name} is "
                             f"{self.input.shape}")  # fmt: skip
        result = self.shapes[self.output.name]
        wanted = Shape(host.classifier.weight.shape[1], 1, 1)
        if not isinstance(self.output, Logits) or result != wanted:
            raise GraphError(f"host classifier: reads Logits of {wanted}, but the network ends "
                             f"with {type(self.output).__name__} of {result}")  # fmt: skip


def _infer(graph: Graph, node: Node) -> tuple[Shape, TensorType]:
    """Shape and type of the tensor that ``node`` makes; raises GraphError for bad attributes."""

    def refuse(text: str) -> GraphError:
        return GraphError(f"{node.name}: {text}")

    def per_channel(values: npt.NDArray[Any], label: str, channels: int) -> None:
        if values.shape != (channels,):
            raise refuse(f"{label} has shape {values.shape}, expected ({channels},)")

    def codes(bits: int, zero_point: int) -> TensorType:
        if not 0 <= zero_point < 1 << bits:
            raise refuse(f"zero point {zero_point} is not a code of {bits} bits")
        return TensorType(Kind.CODES, bits, zero_point)

    if isinstance(node, Input):
        shape = node.shape
        if min(shape.channels, shape.height, shape.width) < 1:
            raise refuse(f"shape {shape} has an empty dimension")
        if node.residual and not 8 <= node.bits <= 16:
            raise refuse(f"residual of {node.bits} bits (supported: 8 to 16)")
        if not node.residual and node.bits not in (1, 2, 3, 4, 8):
            raise refuse(f"input codes of {node.bits} bits (supported: 1, 2, 3, 4, 8)")
        norm = node.normalization
        if not len(norm.mean) == len(norm.std) == shape.channels:
            raise refuse(
                f"normalisation has {len(norm.mean)} means and {len(norm.std)} standard "
                f"deviations for {shape.channels} channels"
            )
        if not (min(norm.std) > 0 and norm.scale > 0):
            raise refuse("normalisation needs positive standard deviations and scale")
        if node.residual and node.zero_point:
            raise refuse(f"zero point {node.zero_point} of a residual (only codes have one)")
        return shape, node.type if node.residual else codes(node.bits, node.zero_point)

    source = graph.shapes[node.inputs[0]]
    kind = graph.types[node.inputs[0]]
    if isinstance(node, Convolution):
        return _infer_convolution(graph, node), TensorType(Kind.ACCUMULATOR, ACCUMULATOR_BITS)
    if isinstance(node, Affine):
        for label in ("scale", "offset", "shift"):
            per_channel(getattr(node, label), label, source.channels)
        if node.shift.min() < 0 or node.shift.max() > 31:
            raise refuse(f"shift {node.shift.min()}..{node.shift.max()} is outside 0..31")
        if not 8 <= node.bits <= 16:
            raise refuse(f"residual of {node.bits} bits (supported: 8 to 16)")
        return source, TensorType(Kind.RESIDUAL, node.bits)
    if isinstance(node, Relu):
        return source, kind
    if isinstance(node, Add):
        other = graph.shapes[node.b]
        if other != source:
            raise refuse(f"adds tensors of shapes {source} and {other}")
        if graph.types[node.b] != kind:
            raise refuse(f"adds residuals of {kind.bits} and {graph.types[node.b].bits} bits")
        return source, kind
    if isinstance(node, Permute):
        order = np.sort(node.permutation, axis=None)
        if node.permutation.ndim != 1 or not np.array_equal(order, np.arange(source.channels)):
            raise refuse(f"is no permutation of {source.channels} channels")
        return source, kind
    if isinstance(node, Repeat):
        if node.times < 1:
            raise refuse(f"repeats channels {node.times} times (supported: at least once)")
        return Shape(source.channels * node.times, source.height, source.width), kind
    if isinstance(node, Pool):
        if min(*node.kernel, *node.stride) < 1:
            raise refuse(f"kernel {node.kernel} and stride {node.stride} must be positive")
        if any(not 0 <= p < k for p, k in zip(node.padding, node.kernel, strict=True)):
            raise refuse(f"padding {node.padding} must be smaller than kernel {node.kernel}")
        shape = _window_shape(node, source, source.channels, node.kernel)
        if isinstance(node, MaxPool):
            return shape, kind
        return shape, TensorType(Kind.ACCUMULATOR, ACCUMULATOR_BITS)
    if isinstance(node, Quantize):
        if not 1 <= node.bits <= 4:
            raise refuse(f"threshold quantiser of {node.bits} bits (supported: 1 to 4)")
        levels = (1 << node.bits) - 1
        rows = node.thresholds.shape[0] if node.thresholds.ndim == 2 else 0
        if node.thresholds.shape != (rows, levels) or rows not in (1, source.channels):
            raise refuse(
                f"thresholds have shape {node.thresholds.shape}, expected "
                f"({source.channels}, {levels}) or (1, {levels})"
            )
        if node.negate.shape != (rows,):
            raise refuse(f"negate has shape {node.negate.shape}, expected ({rows},)")
        if (np.diff(node.thresholds, axis=1) < 0).any():
            raise refuse("thresholds decrease")
        return source, codes(node.bits, node.zero_point)
    if isinstance(node, Clamp):
        return source, codes(8, node.zero_point)
    assert isinstance(node, Logits)
    per_channel(node.offset, "offset", source.channels)
    per_channel(node.scale, "scale", source.channels)
    if not (np.isfinite(node.scale) & (node.scale > 0)).all():
        raise refuse("logit scales must be positive and finite")
    if node.rest is not None:
        per_channel(node.rest, "rest", source.channels)
        if not np.isfinite(node.rest).all():
            raise refuse("the rest of the logits' bias must be finite")
    return source, TensorType(Kind.LOGITS, LOGIT_BITS)


def _infer_convolution(graph: Graph, node: Convolution) -> Shape:
    """Shape of a convolution's output; raises GraphError for attributes that do not fit."""
    source = graph.shapes[node.input]

    def refuse(text: str) -> GraphError:
        return GraphError(f"{node.name}: {text}")

    if node.weight.ndim != 4 or not node.weight.size:
        raise refuse(
            f"weights have shape {node.weight.shape}, expected (O, I / groups, KH, KW), none of "
            "them 0"
        )
    outputs, inputs, height, width = node.weight.shape
    if node.groups < 1 or source.channels % node.groups or outputs % node.groups:
        raise refuse(
            f"{node.groups} groups do not divide {source.channels} input channels and "
            f"{outputs} output channels"
        )
    if inputs * node.groups != source.channels:
        raise refuse(
            f"weights take {inputs} channels in each of {node.groups} groups, but the "
            f"input has {source.channels}"
        )
    if node.weight_bits not in (2, 4, 8):
        raise refuse(f"weights of {node.weight_bits} bits (supported: 2, 4, 8)")
    if int(node.weight.max()) >> node.weight_bits:
        raise refuse(f"weight code {node.weight.max()} does not fit {node.weight_bits} bits")
    if node.alpha not in (1, 2) or node.beta not in legal_betas():
        raise refuse(
            f"weight levels {node.alpha}*c - {node.beta} (supported: alpha 1, 2; beta 0, "
            "2^b - 1 or 2^(b-1))"
        )
    if any(s < 1 for s in node.stride) or any(p < 0 for p in node.padding):
        raise refuse(f"stride {node.stride} and padding {node.padding} must be positive")
    return _window_shape(node, source, outputs, (height, width))


def legal_betas() -> frozenset[int]:
    """Weight offsets beta that the hardware forms from S with one shift and one subtraction."""
    return frozenset(
        {0} | {(1 << b) - 1 for b in range(1, 9)} | {1 << (b - 1) for b in range(1, 9)}
    )


def _window_shape(
    node: Convolution | Pool, source: Shape, channels: int, kernel: tuple[int, int]
) -> Shape:
    height, width = (
        window_extent(size, k, s, p)
        for size, k, s, p in zip(
            (source.height, source.width), kernel, node.stride, node.padding, strict=True
        )
    )
    if height < 1 or width < 1:
        raise GraphError(
            f"{node.name}: a {kernel[0]}x{kernel[1]} window does not fit into "
            f"{source.height}x{source.width} with padding {node.padding}"
        )
    return Shape(channels, height, width)
