"""The end of a file: which tensor of the graph is its result, and what its integers stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant.errors import RangeError, UnsupportedLayerError
from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import Builder
from palquant.sw.qonnx_chains import constant_of, line
from palquant.sw.qonnx_codes import make_codes
from palquant.sw.qonnx_source import refuse
from palquant.sw.qonnx_values import Arranged, Averaged, Elementwise, Real, Value

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Result:
    """What the graph's last tensor is in the file.

    Parameters:
        name: The tensor's name in the graph; the file may call it otherwise.
        scale: Real value of one unit per channel, float64, shape (C,).
        offset: Real value of the integer 0 per channel, likewise: ``integer * scale + offset`` is
            the file's result.
    """

    name: str
    scale: Floats
    offset: Floats


def is_reshape(builder: Builder, value: Arranged) -> bool:
    """Whether an arrangement has every element of its operand once, and in the same order."""
    shape = value.operand.shape
    batch = builder.source.shape(builder.source.input)[0]
    size = batch * shape.channels * shape.height * shape.width
    return np.array_equal(value.index.ravel(), np.arange(size))


def finish(builder: Builder, value: Value) -> Result:
    """Append the network's result, if its last tensor is no integer tensor already.

    Parameters:
        builder: Where nodes are appended.
        value: The file's result.

    Raises:
        UnsupportedLayerError: The result is no line with a positive gain of integer sums, nor
            codes, nor residuals, or its elements are not those of such a tensor in their order.
        RangeError: A bias that leaves the 32 bits of logits.
    """
    if isinstance(value, Arranged):
        if not is_reshape(builder, value):
            maker = builder.source.wrapper.find_producer(value.name)
            refuse(maker, f"ends the network with elements of {value.operand.name} left out, "
                   "repeated or in another order (supported: a reshape)")  # fmt: skip
        value = value.operand
    if isinstance(value, Averaged):
        value = builder.average(make_codes(builder, value.operand), value.window, value.name)
    if not isinstance(value, Real):
        raise UnsupportedLayerError(f"{builder.source.path}: gives the image back (expected a "
                                    "network)")  # fmt: skip
    kind = builder.kind(value.source)
    ones = np.ones(value.shape.channels)
    if kind is ir.Kind.RESIDUAL and not value.steps:
        return Result(value.source, value.base.scale * ones, value.base.offset * ones)
    if value.grid is not None:
        codes = make_codes(builder, value)
        return Result(codes.tensor, codes.scale * ones, -codes.zero * codes.scale * ones)
    found = line(builder, value)
    if kind is not ir.Kind.ACCUMULATOR or found is None or not (found[0] > 0).all():
        raise UnsupportedLayerError(f"{value.name}: the network ends in what is neither sums nor "
                                    "codes (expected a Gemm or Quant)")  # fmt: skip
    node = _logits(builder, value, *found)
    rest = 0 * ones if node.rest is None else node.rest
    builder.add(node, node.scale, rest)
    return Result(node.name, node.scale, rest)


def check_result(builder: Builder, graph: ir.Graph, result: Result) -> None:
    """Check that a graph ends with the file's result, all of it and nothing more.

    Raises:
        UnsupportedLayerError: It does not.
    """
    source, shape = builder.source, graph.shapes[graph.output.name]
    made = source.shape(source.input)[0] * shape.channels * shape.height * shape.width
    wanted = int(np.prod(source.shape(source.output)))
    if graph.output.name != result.name or made != wanted:
        raise UnsupportedLayerError(
            f"{source.output}: the result has {wanted} elements, but the graph ends with {made} "
            f"of {graph.output.name} (expected the same ones)"
        )


def _logits(builder: Builder, real: Real, gain: Floats, offset: Floats) -> ir.Logits:
    """Whole units of the bias for the machine, and what they lack for the host."""
    stated = _stated(builder, real)
    units = np.rint(offset / gain) if stated is None else stated[0]
    if np.abs(units).max() >= 1 << 31:
        raise RangeError(f"{real.name}: a bias of {np.abs(units).max():.0f} units leaves the 32 "
                         "bits of logits")  # fmt: skip
    rest: Floats | None = offset - units * gain
    if stated is not None:
        _, gain, rest = stated
    elif not (offset - units * gain).any():
        rest = None
    made = [step.name for step in real.steps if isinstance(step, Elementwise)]
    name = made[-1] if made else f"{real.source}.logits"
    return ir.Logits(
        name=name, input=real.source, offset=units.astype(np.int64), scale=gain, rest=rest
    )


def _stated(builder: Builder, real: Real) -> tuple[Floats, Floats, Floats] | None:
    """Offset, scale and rest of a file that has them one by one: Add of integers, Mul, Add."""
    steps = [step for step in real.steps if isinstance(step, Elementwise)]
    steps = [step for step in steps if step.node.op_type != "Cast"]
    kinds = [step.node.op_type for step in steps]
    if not real.base.whole or kinds != ["Add", "Mul", "Add"]:
        return None
    offset, scale, rest = (
        np.array(np.broadcast_to(constant_of(builder.source, step), real.base.low.shape))
        for step in steps
    )
    return None if (offset % 1).any() else (offset, scale, rest)
