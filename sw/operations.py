"""The integer graph's vocabulary: tensor types, and the operations between tensors.

What the operations accept and give, and how they make a graph, stands in ``graph``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
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
    LOGITS = "logits"  #: accumulators with their offset, 32 bits: logits, or what the host makes so


#: Groups that a channel shuffle may connect: placement tries all permutations of them.
MAX_SHUFFLED_GROUPS = 8


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

    ``code = clamp(round((x - mean) / std / scale) + zero_point, smallest, largest)``, rounding half
    to even, where ``x`` is the float32 image as it is, or a uint8 image divided by 255, and the
    limits are those of the input's type, such as 0 and 2^bits - 1.

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
    """What the host writes: unsigned codes (an int8 image is stored as code + 128), or residuals.

    Parameters:
        shape: Channels, height and width of one image.
        bits: Width of a code, or of a residual.
        zero_point: Code of the value 0; 0 for residuals.
        normalization: How an image becomes integers.
        residual: Whether it is a residual stream, signed fixed point: a network whose first layers
            the host computes, or images of more than 8 bits.
    """

    shape: Shape
    bits: int
    zero_point: int
    normalization: Normalization
    residual: bool = False

    @property
    def type(self) -> TensorType:
        """The integers that it gives.

        Raises:
            GraphError: The zero point is none of a tensor of this kind and width.
        """
        kind = Kind.RESIDUAL if self.residual else Kind.CODES
        return TensorType(kind, self.bits, self.zero_point)


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
class Repeat(UnaryNode):
    """The same channels several times: output channel c is input channel c mod C.

    What groups share, such as one stem, is computed and stored once, and read by each of them.

    Parameters:
        times: How often, at least 1.
    """

    times: int


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
    """The network's result: ``acc + offset``, of which :meth:`real` makes the real logits.

    Where the host computes the classifier, they are the real features that it reads.

    Parameters:
        offset: int64 array of shape (C,), 32-bit values.
        scale: float64 array of shape (C,), positive.
        rest: float64 array of shape (C,): what a real bias has beyond whole units of the
            accumulator. The host adds it; None where there is nothing to add.
    """

    offset: IntArray
    scale: npt.NDArray[np.float64]
    rest: npt.NDArray[np.float64] | None = None

    def real(self, integers: IntArray) -> npt.NDArray[np.float64]:
        """Real logits ``integers * scale + rest``: the only place where they are made.

        Parameters:
            integers: What this node gives, shape (N, C, ...).

        Returns:
            Of the same shape, each multiplication and addition rounded to float64.
        """
        column = (-1, *(1,) * (integers.ndim - 2))
        found: npt.NDArray[np.float64] = integers * self.scale.reshape(column)
        return found if self.rest is None else found + self.rest.reshape(column)


OPERATIONS: dict[str, type[Node]] = {
    cls.__name__: cls
    for cls in (
        Input,
        Convolution,
        Affine,
        Relu,
        Add,
        Permute,
        Repeat,
        MaxPool,
        SumPool,
        Quantize,
        Clamp,
        Logits,
    )
}
