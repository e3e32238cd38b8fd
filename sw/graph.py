"""The integer graph: what a network means, without a word on how a machine runs it.

Every tensor is an array of integers of shape (N, C, H, W) with a :class:`TensorType`; every node
makes exactly one tensor and gives it its own name. The operations are small, so that passes can
fuse them and the integer reference can execute them one by one:

=============== ============================================== ==================================
operation       accepts                                        gives
=============== ============================================== ==================================
Input                                                          codes
Convolution     codes                                          accumulator
Affine          accumulator, residual                          residual
Relu            residual                                       residual
Add             residual + residual, of equal bits             residual
Permute         codes, residual                                the same kind
MaxPool         residual                                       residual
SumPool         residual                                       accumulator
Quantize        accumulator, residual                          codes of 1 to 4 bits
Clamp           residual                                       codes of 8 bits
Logits          accumulator                                    logits
=============== ============================================== ==================================

The table is not prose: :data:`RULES` below holds it, and :meth:`Graph.check` enforces it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import GraphError

IntArray = npt.NDArray[np.int64]


class Kind(enum.Enum):
    """What the integers of a tensor stand for."""

    CODES = "codes"  #: unsigned quantiser codes, the operands of the array
    ACCUMULATOR = "accumulator"  #: exact sums, as wide as they need to be
    RESIDUAL = "residual"  #: signed fixed point, saturating
    LOGITS = "logits"  #: the classifier's accumulators with their offset, 32 bits


@dataclass(frozen=True)
class TensorType:
    """The integers a tensor may hold.

    Parameters:
        kind: What the integers stand for.
        bits: Width in bits, at least 1.
        zero_point: Code that stands for the real value 0 (codes only; numerics, section 2).
    """

    kind: Kind
    bits: int
    zero_point: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 64:
            raise GraphError(f"tensor width must be 1 to 64 bits, not {self.bits}")
        if self.kind is not Kind.CODES and self.zero_point:
            raise GraphError(f"only codes have a zero point, not {self.kind.value}")
        if self.kind is Kind.CODES and not 0 <= self.zero_point <= self.max:
            raise GraphError(f"zero point {self.zero_point} is not a code of {self.bits} bits")

    @property
    def signed(self) -> bool:
        """Whether negative values are allowed: all kinds but codes."""
        return self.kind is not Kind.CODES

    @property
    def min(self) -> int:
        """Smallest allowed value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest allowed value."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def allowed(self, values: npt.NDArray[Any]) -> bool:
        """Whether every element of ``values`` is an integer within ``min`` and ``max``."""
        if values.dtype.kind not in "iub":
            return False
        return not values.size or bool(values.min() >= self.min and values.max() <= self.max)


@dataclass(frozen=True)
class Shape:
    """Shape of one image's tensor: channels, height, width."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Normalization:
    """How an image becomes the network's input codes.

    ``code = clamp(round((x - mean) / std / scale) + zero_point, 0, 2^bits - 1)``, rounding half
    to even, where ``x`` is the float32 image as it is, or a uint8 image divided by 255.

    Parameters:
        mean: Mean per channel, in units of ``x``.
        std: Standard deviation per channel, in units of ``x``, positive.
        scale: Real step of one code, after normalisation, positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One operation. ``name`` is also the name of the tensor that it makes."""

    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that this node reads, in order."""
        return ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Node):
    """The image as unsigned codes (an int8 image is stored as code + 128).

    Parameters:
        shape: Channels, height and width of one image.
        bits: Width of a code.
        zero_point: Code of the value 0.
        normalization: How an image becomes codes.
    """

    shape: Shape
    bits: int
    zero_point: int
    normalization: Normalization


@dataclass(frozen=True, eq=False, kw_only=True)
class UnaryNode(Node):
    """A node with one input tensor."""

    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The single input."""
        return (self.input,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(UnaryNode):
    """Grouped convolution on codes: ``acc = sum((a - z) * (alpha * c - beta))``.

    A padding tap carries the code z, so that it adds nothing (numerics, section 2).

    Parameters:
        weight: Weight codes c, uint8, shape (O, I / groups, KH, KW).
        weight_bits: Width of a weight code: 2, 4 or 8 (odd quantisers use the next even width).
        alpha: 1 or 2.
        beta: ``2^b - 1`` or ``2^(b-1)`` for a b of 1 to 8, or 0.
        groups: Number of groups; divides both channel counts.
        stride: Vertical and horizontal stride.
        padding: Zero padding at top and bottom, and at left and right.
        quantized: Whether this is one of the network's low-precision layers, which speed-ups
            and utilisations are quoted for (stem and classifier are not).
    """

    weight: npt.NDArray[np.uint8]
    weight_bits: int
    alpha: int
    beta: int
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    quantized: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(UnaryNode):
    """Requantization: ``saturate((x * scale + offset) >> shift)``, the shift rounding down.

    Parameters:
        scale: M per channel, int64 array of shape (C,).
        offset: B per channel, int64 array of shape (C,); holds the rounding constant.
        shift: Sh per channel, int64 array of shape (C,), 0 to 31.
        bits: Width of the residual that results.
    """

    scale: IntArray
    offset: IntArray
    shift: IntArray
    bits: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Relu(UnaryNode):
    """``max(x, 0)``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """Residual addition: ``saturate(a + b)`` to the common width of both operands.

    Parameters:
        a: First operand's tensor.
        b: Second operand's tensor.
    """

    a: str
    b: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both operands."""
        return (self.a, self.b)


@dataclass(frozen=True, eq=False, kw_only=True)
class Permute(UnaryNode):
    """Channel permutation: output channel c is input channel ``permutation[c]``.

    Parameters:
        permutation: int64 array of shape (C,), each of 0..C-1 once.
    """

    permutation: IntArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(UnaryNode):
    """Window reduction.

    Parameters:
        kernel: Height and width of the window.
        stride: Vertical and horizontal stride.
        padding: Padding rows and columns on each side; less than the kernel.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Pool):
    """Largest value of the window; padding never wins."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SumPool(Pool):
    """Sum of the window, padding counting 0: average pooling whose division a later scale does."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantize(UnaryNode):
    """Multi-threshold quantiser: the code is the number of thresholds t with ``v >= t``.

    v is the input, or its negation in channels whose ``negate`` is set (numerics, section 4.6).

    Parameters:
        thresholds: int64, shape (C, 2^bits - 1) or (1, 2^bits - 1), non-decreasing along axis 1.
        negate: bool, shape (C,) or (1,), like ``thresholds``.
        bits: Width of the code, 1 to 4.
        zero_point: Code that stands for the value 0.
    """

    thresholds: IntArray
    negate: npt.NDArray[np.bool_]
    bits: int
    zero_point: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Clamp(UnaryNode):
    """Codes of 8 bits from a value that is already scaled: ``min(max(v, 0), 255)``.

    Parameters:
        zero_point: Code that stands for the value 0.
    """

    zero_point: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Logits(UnaryNode):
    """The network's result: ``acc + offset``; multiplied by ``scale`` they are the real logits.

    Parameters:
        offset: int64 array of shape (C,), 32-bit values.
        scale: float64 array of shape (C,), positive.
    """

    offset: IntArray
    scale: npt.NDArray[np.float64]


OPERATIONS: dict[str, type[Node]] = {
    cls.__name__: cls
    for cls in (
        Input,
        Convolution,
        Affine,
        Relu,
        Add,
        Permute,
        MaxPool,
        SumPool,
        Quantize,
        Clamp,
        Logits,
    )
}

#: Operation -> kinds that it accepts at its inputs. The legality table of the docstring.
RULES: dict[type[Node], frozenset[Kind]] = {
    Input: frozenset(),
    Convolution: frozenset({Kind.CODES}),
    Affine: frozenset({Kind.ACCUMULATOR, Kind.RESIDUAL}),
    Relu: frozenset({Kind.RESIDUAL}),
    Add: frozenset({Kind.RESIDUAL}),
    Permute: frozenset({Kind.CODES, Kind.RESIDUAL}),
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

    Raises:
        GraphError: From :meth:`check`, which the constructor calls.
    """

    nodes: list[Node]
    metadata: dict[str, Any] = field(default_factory=dict)

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


def _infer(graph: Graph, node: Node) -> tuple[Shape, TensorType]:
    """Shape and type of the tensor that ``node`` makes; raises GraphError for bad attributes."""

    def refuse(text: str) -> GraphError:
        return GraphError(f"{node.name}: {text}")

    def per_channel(values: npt.NDArray[Any], label: str, channels: int) -> None:
        if values.shape != (channels,):
            raise refuse(f"{label} has shape {values.shape}, expected ({channels},)")

    if isinstance(node, Input):
        shape = node.shape
        if min(shape.channels, shape.height, shape.width) < 1:
            raise refuse(f"shape {shape} has an empty dimension")
        if node.bits not in (1, 2, 3, 4, 8):
            raise refuse(f"input codes of {node.bits} bits (supported: 1, 2, 3, 4, 8)")
        norm = node.normalization
        if not len(norm.mean) == len(norm.std) == shape.channels:
            raise refuse(
                f"normalisation has {len(norm.mean)} means and {len(norm.std)} standard "
                f"deviations for {shape.channels} channels"
            )
        if not (min(norm.std) > 0 and norm.scale > 0):
            raise refuse("normalisation needs positive standard deviations and scale")
        return shape, TensorType(Kind.CODES, node.bits, node.zero_point)

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
        if not np.array_equal(np.sort(node.permutation), np.arange(source.channels)):
            raise refuse(f"is no permutation of {source.channels} channels")
        return source, kind
    if isinstance(node, Pool):
        if any(k < 1 or s < 1 for k, s in zip(node.kernel, node.stride, strict=True)):
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
        return source, TensorType(Kind.CODES, node.bits, node.zero_point)
    if isinstance(node, Clamp):
        return source, TensorType(Kind.CODES, 8, node.zero_point)
    assert isinstance(node, Logits)
    per_channel(node.offset, "offset", source.channels)
    per_channel(node.scale, "scale", source.channels)
    if not (node.scale > 0).all():
        raise refuse("logit scales must be positive")
    return source, TensorType(Kind.LOGITS, LOGIT_BITS)


def _infer_convolution(graph: Graph, node: Convolution) -> Shape:
    """Shape of a convolution's output; raises GraphError for attributes that do not fit."""
    source = graph.shapes[node.input]

    def refuse(text: str) -> GraphError:
        return GraphError(f"{node.name}: {text}")

    if node.weight.ndim != 4 or node.weight.dtype != np.uint8:
        raise refuse(
            f"weights are {node.weight.dtype} of shape {node.weight.shape}, expected "
            "uint8 of shape (O, I / groups, KH, KW)"
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
    if node.weight.size and int(node.weight.max()) >> node.weight_bits:
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
