"""Residual additions and averages of residuals: exact where integers are added, else calibrated.

Two quantised tensors whose scales have a simple ratio are added as integers of a common step, and
nothing is rounded. Floats without a quantiser have no integers: fixed-point numbers of 16 bits
take their place, whose step, a power of two, holds the largest value that calibration images
reach.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import EXACT, RESIDUAL_BITS, RESIDUAL_LIMIT, ROUNDING, Builder
from palquant.sw.qonnx_chains import clip_bounds
from palquant.sw.qonnx_codes import exact_residual
from palquant.sw.qonnx_quantizers import is_power_of_two
from palquant.sw.qonnx_source import refuse
from palquant.sw.qonnx_streams import in_stream
from palquant.sw.qonnx_values import Base, Real, Value
from palquant.sw.qonnx_windows import Window

#: Largest factor between the steps of two tensors and their common one.
LARGEST_FACTOR = 256
#: Pairs of values whose sums are looked at one by one.
MOST_PAIRS = 1 << 22


def add_tensors(
    builder: Builder, node: NodeProto, a: Real, b: Real, calibration: npt.NDArray[Any] | None
) -> dict[str, Value]:
    """Append the addition of two tensors.

    Returns:
        The tensors of the file that are known by now: that of the sum, or that of a node behind
        it which saturates it.

    Raises:
        InputError: Floats are added and no calibration images were given.
    """
    if a.shape != b.shape:
        refuse(node, f"adds tensors of shapes {a.shape} and {b.shape} (expected equal ones)")
    name = node.output[0]
    saturated = _saturating(builder, node, a, b)
    if saturated is not None:
        return saturated
    factors = _factors(builder, a, b)
    if factors is not None:
        (first, base_a), (second, base_b) = (
            _integers(builder, real, factor) for real, factor in zip((a, b), factors, strict=True)
        )
        base = _sum(base_a, base_b)
        builder.add(ir.Add(name=name, a=first, b=second), base.scale, base.offset)
        return {name: Real(name, name, base, a.shape)}
    tensors, step = zip(
        *(in_stream(builder, real, name, calibration) for real in (a, b)), strict=True
    )
    builder.add(ir.Add(name=name, a=tensors[0], b=tensors[1]), step[0])
    builder.findings.calibrated[name] = step[0]
    return {name: Real(name, name, fixed_point(a.shape.channels, step[0]), a.shape)}


def fixed_point(channels: int, step: float) -> Base:
    """Residuals of 16 bits that stand for floats."""
    return Base.even(channels, -RESIDUAL_LIMIT - 1, RESIDUAL_LIMIT, step)


def _bare(builder: Builder, real: Real) -> bool:
    return not real.steps and builder.kind(real.source) is ir.Kind.RESIDUAL


def _saturating(builder: Builder, node: NodeProto, a: Real, b: Real) -> dict[str, Value] | None:
    """An addition of integers whose result a Clip node saturates to their own width."""
    readers = builder.source.consumers.get(node.output[0], [])
    if len(readers) != 1 or readers[0].op_type != "Clip":
        return None
    if not all(_bare(builder, real) and real.base.whole for real in (a, b)):
        return None
    bits = builder.bits(a.source)
    low, high = clip_bounds(builder.source, readers[0])
    if builder.bits(b.source) != bits or (low, high) != (-(1 << (bits - 1)), (1 << (bits - 1)) - 1):
        return None
    name = readers[0].output[0]
    ones = np.ones(a.shape.channels)
    builder.add(ir.Add(name=name, a=a.source, b=b.source), ones)
    base = Base.even(len(ones), int(low), int(high), 1.0, dtype=a.base.dtype)
    return {name: Real(name, name, base, a.shape)}


def _step(builder: Builder, real: Real) -> float | None:
    """Real value of one integer, if the tensor is made of exact ones of 16 bits, else None."""
    if real.grid is not None:
        scale = real.grid.scale
    elif _bare(builder, real) and builder.bits(real.source) == RESIDUAL_BITS:
        if (
            real.source in builder.findings.calibrated
            or np.abs(real.base.low).max() > RESIDUAL_LIMIT
        ):
            return None
        scale = real.base.scale
    else:
        return None
    return float(scale[0]) if (scale == scale[0]).all() and scale[0] > 0 else None


def _factors(builder: Builder, a: Real, b: Real) -> tuple[int, int] | None:
    """What integers of both tensors are multiplied by to have one step, if they fit then."""
    steps = [_step(builder, real) for real in (a, b)]
    if steps[0] is None or steps[1] is None:
        return None
    ratio = steps[0] / steps[1]
    simple = Fraction(ratio).limit_denominator(LARGEST_FACTOR)
    if (
        not simple
        or simple.numerator > LARGEST_FACTOR
        or abs(simple / Fraction(ratio) - 1) > 2**-22
    ):
        return None
    factors = simple.numerator, simple.denominator
    reach = sum(_largest(real) * factor for real, factor in zip((a, b), factors, strict=True))
    return factors if reach <= RESIDUAL_LIMIT else None


def _largest(real: Real) -> int:
    """Bound of a tensor's integers."""
    if real.grid is not None:
        return real.grid.levels
    return int(max(np.abs(real.base.low).max(), np.abs(real.base.high).max()))


def _integers(builder: Builder, real: Real, factor: int) -> tuple[str, Base]:
    if real.grid is not None and not _bare(builder, real):
        return exact_residual(builder, real, factor)
    if factor == 1:
        return real.source, real.base
    name, base = f"{real.source}.{factor}", real.base
    scale = base.scale / factor
    builder.multiply(name, real.source, factor, scale=scale, offset=base.offset)
    table = base.table
    if table is not None:  # integers between the multiples do not occur
        table = tuple(np.repeat(side, factor)[: (len(side) - 1) * factor + 1] for side in table)  # type: ignore[assignment]
    return name, replace(base, low=base.low * factor, high=base.high * factor, scale=scale,
                         table=table)  # fmt: skip


def _sum(a: Base, b: Base) -> Base:
    """The executor's floats for sums: looked at pair by pair, where there are few."""
    scale, offset = a.scale, a.offset + b.offset
    low, high = a.low + b.low, a.high + b.high
    reach = (np.maximum(np.abs(v.low), np.abs(v.high)) * v.scale + np.abs(v.offset) for v in (a, b))
    error = 3 * ROUNDING * sum(reach) + a.error + b.error
    simple = is_power_of_two(scale) and not offset.any() and not (a.error + b.error).any()
    if simple and max(np.abs(low).max(), np.abs(high).max()) < EXACT and a.table is b.table is None:
        return Base(low, high, scale, offset, 0 * scale)
    plain = Base(low, high, scale, offset, error)
    uniform = all((v == v[0]).all() for v in (offset, scale, error, a.low, b.low, a.high, b.high))
    spans = [np.arange(v.low[0], v.high[0] + 1) for v in (a, b)]
    if not uniform or (a.error + b.error).any() or len(spans[0]) * len(spans[1]) > MOST_PAIRS:
        return plain
    least = np.full(int(high[0] - low[0]) + 1, np.inf)
    most = -least
    where = (spans[0][:, None] + spans[1] - low[0]).ravel()
    for side, table, pick in ((-1, least, np.minimum), (1, most, np.maximum)):
        values = [
            v.floats(span[:, None], side)[:, 0] for v, span in zip((a, b), spans, strict=True)
        ]
        sums = (values[0].astype(np.float32)[:, None] + values[1].astype(np.float32)).ravel()
        pick.at(table, where, sums.astype(np.float64))
    return replace(plain, error=0 * scale, table=(least, most))


def average_reals(
    builder: Builder,
    node: NodeProto,
    real: Real,
    window: Window,
    calibration: npt.NDArray[Any] | None,
    summed: bool,
) -> Real:
    """Append the sum of windows of a residual, or of floats that are calibrated to one.

    Parameters:
        builder: Where nodes are appended.
        node: The pool.
        real: What it reads.
        window: Its window.
        calibration: Images, or None.
        summed: Whether the file's tensor is the sum, not the average.
    """
    name, area, base = node.output[0], window.area, real.base
    source = real.source
    if not _bare(builder, real):
        if real.grid is not None:
            source, base = exact_residual(builder, real)
        else:
            source, step = in_stream(builder, real, name, calibration)
            base = fixed_point(real.shape.channels, step)
            builder.findings.calibrated[source] = step
    if any(window.padding) and base.offset.any():
        refuse(node, "averages padding with values that have no zero (expected no padding)")
    divisor = 1 if summed else area
    scale, offset = base.scale / divisor, base.offset * (area / divisor)
    low, high = base.low * area, base.high * area
    if any(window.padding):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    largest = np.maximum(np.abs(low), np.abs(high))
    error = (area + 4) * ROUNDING * (largest * scale + np.abs(offset)) + base.error * area / divisor
    limit = 1 << 53 if base.dtype == np.float64 else EXACT
    exact = is_power_of_two(base.scale) and not (offset.any() or base.error.any())
    if exact and base.table is None and largest.max() < limit and (summed or area.bit_count() == 1):
        error = 0 * error
    node_ = ir.SumPool(name=name, input=source, kernel=window.kernel, stride=window.stride,
                       padding=window.padding)  # fmt: skip
    builder.add(node_, scale, offset)
    shape = window.shape(real.shape)
    return Real(name, name, Base(low, high, scale, offset, error, base.dtype), shape)
