"""Quantisers of the graph: thresholds up to 4 bits, a fitted multiplication and a clamp above.

Thresholds are found by bisecting what the executor evaluates, or are those that the file states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from palquant.errors import RangeError, UnsupportedLayerError
from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import RESIDUAL_BITS, Builder
from palquant.sw.qonnx_quantizers import Grid
from palquant.sw.qonnx_staircase import Ints, Steps, bisect, doubtful_steps, from_steps
from palquant.sw.qonnx_values import Base, Codes, Elementwise, Floats, Pooling, Real, Reorder, Step
from palquant.sw.qonnx_windows import Window

#: Operators whose result is another code than their operand; others only scale a quantised tensor.
CODE_MAKERS = ("Quant", "IntQuant", "BipolarQuant", "MultiThreshold", "Relu", "Clip")


def grid_of(real: Real) -> Grid:
    """The values that a tensor may hold.

    Raises:
        UnsupportedLayerError: It is not quantised.
    """
    if real.grid is None:
        raise UnsupportedLayerError(f"{real.name}: is read as integers, but not quantised "
                                    "(expected a quantiser of activations before it)")  # fmt: skip
    return real.grid


def count_changes(real: Real) -> int:
    """Number of steps up to the last one that changes which code a value has."""
    makers = [
        i for i, step in enumerate(real.steps)
        if isinstance(step, Elementwise) and step.node.op_type in CODE_MAKERS
    ]  # fmt: skip
    return makers[-1] + 1 if makers else 0


def name_of(real: Real, steps: tuple[Step, ...]) -> str:
    """The file's tensor that has the codes of ``real`` behind ``steps``: scales do not matter."""
    count = count_changes(real)
    for index in range(len(steps) - 1, -1, -1):
        if index < count or isinstance(steps[index], Reorder | Pooling):
            return steps[index].name
    return f"{real.source}.codes"


def append_quantizer(builder: Builder, real: Real, name: str, point: int) -> str:
    """Append the quantiser of a tensor, once.

    Parameters:
        builder: Where nodes are appended.
        real: The tensor, without max-pools; its channels stay in the order of its source.
        name: Name of the codes; followed by the zero point if it is taken by others.
        point: Code that stands for the value 0.

    Returns:
        The name of the codes in the graph.

    Raises:
        RangeError: Codes of more than 4 bits that no multiplication of the machine makes.
    """
    if name in builder.nodes and builder.zero_point(name) != point:
        name = f"{name}.{point}"
    if name in builder.nodes:
        return name
    grid, base, meaning = grid_of(real), real.base, _meaning(real)
    verbatim = _verbatim(builder, real)
    if verbatim is None:
        steps = bisect(_side(builder, real, 0), base.low, base.high, grid.levels - 1)
        if grid.bits > 4:
            return _wide(builder, real, steps, name, point)
        _note_doubts(builder, real, name, steps)
        never = np.repeat(steps.high[:, None] + 1, (1 << grid.bits) - grid.levels, axis=1)
        verbatim = np.concatenate([steps.thresholds, never], axis=1), steps.negate
    thresholds, negate = verbatim
    node = ir.Quantize(name=name, input=real.source, thresholds=thresholds, negate=negate,
                       bits=grid.bits, zero_point=point)  # fmt: skip
    return builder.add(node, *meaning)


def _meaning(real: Real) -> tuple[Floats, Floats]:
    """Scale and offset of the codes, in the order of the source's channels."""
    grid = real.made or grid_of(real)
    scale = np.empty(len(real.base.low))
    scale[real.order] = grid.scale
    return scale, (grid.low - grid.zero) * scale


def _side(builder: Builder, real: Real, side: int) -> Callable[[Ints], Ints]:
    return lambda x: real.codes(builder.kernels, x, side)


def _note_doubts(builder: Builder, real: Real, name: str, steps: Steps) -> None:
    """Count the steps that the executor's rounding of sums could move."""
    if real.base.error.any() or real.base.table is not None:
        sides = (_side(builder, real, -1), _side(builder, real, 1))
        count = doubtful_steps(steps, *sides)
        if count:
            builder.findings.doubtful[name] = count


def _verbatim(builder: Builder, real: Real) -> tuple[Ints, npt.NDArray[np.bool_]] | None:
    """Thresholds that the file compares integers with, and which channels it negates before."""
    grid = grid_of(real)
    steps = [
        step for step in real.steps[: count_changes(real)]
        if not (isinstance(step, Elementwise) and step.node.op_type == "Cast")
    ]  # fmt: skip
    if not real.base.whole or grid.bits > 4 or not 1 <= len(steps) <= 2:
        return None
    if not all(isinstance(step, Elementwise) for step in steps):
        return None
    *signs, last = (step for step in steps if isinstance(step, Elementwise))
    if last.node.op_type != "MultiThreshold":
        return None
    constants = builder.source.constants
    thresholds = np.sort(np.ceil(constants[last.node.input[1]].astype(np.float64)), axis=1)
    negative = np.zeros(len(thresholds), np.bool_)
    if thresholds.shape[1] != (1 << grid.bits) - 1:
        return None
    if signs:
        factors = next(constants[n] for n in signs[0].node.input if n != signs[0].operand)
        negative = factors.reshape(-1) < 0
        if signs[0].node.op_type != "Mul" or (np.abs(factors) != 1).any():
            return None
    if len(negative) != len(thresholds) or np.abs(thresholds).max() > 2**53:
        return None
    return thresholds.astype(np.int64), negative


def _wide(builder: Builder, real: Real, steps: Steps, name: str, point: int) -> str:
    """Append codes of 5 to 8 bits: a requantization that saturates where they end."""
    grid = grid_of(real)
    last, meaning = grid.levels - 1, _meaning(real)
    scale = meaning[0]
    clamped = np.clip(np.arange(1, 256), steps.low[:, None], steps.high[:, None] + 1)
    residual = builder.kind(real.source) is ir.Kind.RESIDUAL
    if residual and last == 255 and not steps.negate.any() and (steps.thresholds == clamped).all():
        return builder.add(ir.Clamp(name=name, input=real.source, zero_point=point), *meaning)
    try:
        fitted, wrong = from_steps(steps, builder.correction(real.source, len(steps.low)))
    except RangeError as error:
        raise RangeError(f"{name}: {error}") from None
    if wrong.any():
        builder.findings.fitted[name] = int(wrong.sum())
    else:
        _note_doubts(builder, real, name, steps)
    # Codes end at 255 by the clamp; fewer of them where residuals of 8 bits end, at 127.
    top = 0 if last == 255 else 127 - last
    tensor = builder.add(
        ir.Affine(name=f"{name}.affine", input=real.source, scale=fitted.scale, shift=fitted.shift,
                  offset=fitted.offset + (top << fitted.shift),
                  bits=8 if last < 255 else RESIDUAL_BITS),
        scale, meaning[1] - top * scale,
    )  # fmt: skip
    if top:
        tensor = builder.multiply(
            f"{name}.shifted", tensor, 1, -top, scale=scale, offset=meaning[1]
        )
    return builder.add(ir.Clamp(name=name, input=tensor, zero_point=point), *meaning)


def sums_of_codes(builder: Builder, codes: Codes) -> Real:
    """Accumulators that equal the codes less their zero point."""
    name = f"{codes.tensor}.sums"
    own = replace(codes, zero=float(codes.zero_point), scale=1.0)
    if name not in builder.nodes:
        made = builder.spread(own, Window((1, 1)), name)
        builder.real[name] = builder.real[codes.tensor]
        return made
    low = -codes.zero_point
    base = Base.even(codes.shape.channels, low, low + codes.levels - 1, 1.0)
    return Real(name, name, base, codes.shape)


def of_sums(builder: Builder, real: Real) -> Real:
    """The same function of accumulators instead of codes."""
    zero = builder.zero_point(real.source)
    base = real.base
    codes = Codes(real.source, zero, zero, 1.0, int(base.high[0]) + 1, real.shape)
    sums = sums_of_codes(builder, codes)
    return replace(
        real,
        source=sums.source,
        base=replace(base, low=sums.base.low, high=sums.base.high,
                     offset=base.offset + zero * base.scale),
    )  # fmt: skip
