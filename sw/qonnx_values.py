"""What a tensor of a QONNX file is while it is imported: a function of an integer tensor.

The executor holds floats. For every tensor this says which integer tensor of our graph they come
from, and by which nodes: a :class:`Real` evaluates, for any integer, the floats that the executor
can hold, with its own kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from palquant.sw.graph import Shape
from palquant.sw.qonnx_kernels import Kernels
from palquant.sw.qonnx_quantizers import Grid
from palquant.sw.qonnx_staircase import Ints
from palquant.sw.qonnx_windows import Window

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Base:
    """The floats that the executor holds where the integers of a tensor are first known.

    Parameters:
        low: Smallest integer per channel, int64, shape (C,).
        high: Largest integer per channel.
        scale: Real value of one unit, float64, shape (C,).
        offset: Real value of the integer 0, shape (C,).
        error: Bound of the executor's rounding, shape (C,); 0 where it does not round.
        dtype: Element type of the executor's tensor.
        table: If the floats are known one by one: the smallest and the largest for each integer
            from ``low[0]`` on, the same for all channels.
    """

    low: Ints
    high: Ints
    scale: Floats
    offset: Floats
    error: Floats
    dtype: npt.DTypeLike = np.float32
    table: tuple[Floats, Floats] | None = None

    @classmethod
    def even(
        cls,
        channels: int,
        low: int,
        high: int,
        scale: float,
        offset: float = 0.0,
        dtype: npt.DTypeLike = np.float32,
    ) -> Base:
        """The same for all channels, and not rounded."""
        step, zero, error = (np.full(channels, v, np.float64) for v in (scale, offset, 0.0))
        return cls(np.full(channels, low), np.full(channels, high), step, zero, error, dtype)

    @property
    def whole(self) -> bool:
        """Whether the executor holds the integers themselves."""
        return bool((self.scale == 1).all() and not self.offset.any() and not self.error.any())

    def floats(self, x: Ints, side: int) -> npt.NDArray[Any]:
        """Floats of integers (K, C): the exact product, or (side -1, 1) the extreme ones."""
        if self.table is not None:
            index = np.clip(x - self.low[0], 0, len(self.table[0]) - 1)
            known: npt.NDArray[Any] = self.table[max(side, 0)][index].astype(self.dtype)
            return known
        values: npt.NDArray[Any]
        values = (x * self.scale + self.offset + side * self.error).astype(self.dtype)
        return values


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A node that maps each value by itself.

    Parameters:
        node: The node.
        operand: Name of its input that is no constant.
        rank: Number of axes of the tensor, 2 or 4.
    """

    node: NodeProto
    operand: str
    rank: int

    @property
    def name(self) -> str:
        """Tensor that it makes."""
        return str(self.node.output[0])


@dataclass(frozen=True, eq=False)
class Reorder:
    """A channel permutation: output channel c is input channel ``order[c]``."""

    order: Ints
    name: str


@dataclass(frozen=True, eq=False)
class Pooling:
    """A max-pool, which any monotone function may be exchanged with."""

    window: Window
    name: str


Step = Elementwise | Reorder | Pooling


@dataclass(frozen=True, eq=False)
class Image:
    """The network's input, before its quantiser: constants that were subtracted and divided by.

    Parameters:
        steps: Nodes between the input and here.
        gain: The real value is ``x * gain + offset``; float64, shape (C,).
        offset: See ``gain``.
    """

    steps: tuple[Elementwise, ...]
    gain: Floats
    offset: Floats


@dataclass(frozen=True, eq=False)
class Real:
    """A real-valued tensor, as a function of an integer tensor of the graph.

    Parameters:
        name: The tensor's name in the file.
        source: The integer tensor's name in the graph.
        base: The executor's floats for its integers.
        shape: Shape of this tensor, one image.
        steps: What happens to these floats until they are this tensor.
        grid: The values that it may hold, if it is quantised.
        made: The same of the tensor that has these codes first, before it was scaled or cast.
        inner: An earlier tensor on the way, of codes of at most 4 bits, if this one has more.
    """

    name: str
    source: str
    base: Base
    shape: Shape
    steps: tuple[Step, ...] = ()
    grid: Grid | None = None
    made: Grid | None = None
    inner: Real | None = None

    def then(self, step: Step, **changes: Any) -> Real:
        """The tensor that ``step`` makes of this one."""
        return replace(self, name=step.name, steps=(*self.steps, step), **changes)

    @property
    def order(self) -> Ints:
        """Source channel of each channel."""
        order = np.arange(len(self.base.low))
        for step in self.steps:
            if isinstance(step, Reorder):
                order = order[step.order]
        return order

    @property
    def pooled(self) -> bool:
        """Whether a max-pool is among the steps."""
        return any(isinstance(step, Pooling) for step in self.steps)

    def floats(self, kernels: Kernels, x: Ints, side: int = 0) -> npt.NDArray[Any]:
        """What the executor makes of integers.

        Parameters:
            kernels: The executor's kernels.
            x: Integers of the source tensor, shape (K, C).
            side: -1 for the smallest floats that the executor may hold for these integers, 1 for
                the largest, 0 for the exact products, rounded once.

        Returns:
            Shape (K, C), channels in the order of the source.
        """
        values = self.base.floats(x, side)
        order = np.arange(values.shape[1])
        for step in self.steps:
            if isinstance(step, Reorder):
                values, order = values[:, step.order], order[step.order]
            elif isinstance(step, Elementwise):
                shaped = values.reshape(values.shape + (1,) * (step.rank - 2))
                shaped = kernels(step.node, {step.operand: np.ascontiguousarray(shaped)})
                values = shaped.reshape(values.shape)
        result = np.empty_like(values)
        result[:, order] = values
        return result

    def codes(self, kernels: Kernels, x: Ints, side: int = 0) -> Ints:
        """Codes from 0 of the grid, for integers (K, C), in the order of the source's channels."""
        assert self.grid is not None
        floats = self.floats(kernels, x, side).astype(np.float64)
        scale = np.broadcast_to(self.grid.scale, floats.shape[1:])
        in_source_order = np.empty_like(scale)
        in_source_order[self.order] = scale
        found = np.rint(floats / in_source_order + self.grid.zero).astype(np.int64)
        return found - self.grid.low


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of the graph, as a convolution reads them: real value ``(code - zero) * scale``.

    Parameters:
        tensor: Name in the graph.
        zero_point: What the graph subtracts.
        zero: What must be subtracted; another number only if no code stands for the value 0.
        scale: Real step.
        levels: Number of codes in use.
        shape: Shape of one image.
    """

    tensor: str
    zero_point: int
    zero: float
    scale: float
    levels: int
    shape: Shape

    @property
    def low(self) -> int:
        """Smallest value that the graph multiplies."""
        return -self.zero_point

    @property
    def high(self) -> int:
        """Largest value that the graph multiplies."""
        return self.levels - 1 - self.zero_point


@dataclass(frozen=True, eq=False)
class Averaged:
    """The averages of windows of a quantised tensor, not yet summed: a convolution may do it."""

    name: str
    operand: Real
    window: Window
    shape: Shape


@dataclass(frozen=True, eq=False)
class Arranged:
    """The elements of one tensor in another arrangement, on the way of a permutation.

    Parameters:
        name: The tensor's name in the file.
        operand: The tensor whose elements they are.
        index: Element of ``operand`` at each place, int64 in the tensor's shape, batch included.
    """

    name: str
    operand: Real | Averaged
    index: Ints


Value = Image | Real | Averaged | Arranged
