"""From a quantised tensor of a file to codes and residuals of the integer graph, exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from palquant.errors import RangeError, UnsupportedLayerError
from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import RESIDUAL_LIMIT, Builder
from palquant.sw.qonnx_pools import pool
from palquant.sw.qonnx_thresholds import (
    append_quantizer,
    count_changes,
    grid_of,
    name_of,
    of_sums,
    sums_of_codes,
)
from palquant.sw.qonnx_values import Base, Codes, Pooling, Real, Reorder


def make_codes(builder: Builder, real: Real, zero: float | None = None) -> Codes:
    """The codes of a quantised tensor.

    Parameters:
        builder: Where nodes are appended.
        real: The tensor.
        zero: The q of its grid that the reader subtracts, if it is not the grid's own zero.

    Raises:
        UnsupportedLayerError: The tensor is not quantised, or not with one scale.
    """
    real = _narrowed(builder, real)
    grid = grid_of(real)
    if (grid.scale != grid.scale[0]).any():
        raise UnsupportedLayerError(f"{real.name}: a convolution reads activations whose scales "
                                    "differ between channels (supported: one scale)")  # fmt: skip
    wanted = (grid.zero if zero is None else zero) - grid.low
    point = round(wanted)
    if abs(wanted - point) < 1e-4 and 0 <= point < 1 << (8 if grid.bits > 4 else grid.bits):
        wanted = float(point)
    else:
        point = 0  # no code stands for the value 0: what is missing is a constant of the sums
    tensor = _code_tensor(builder, real, point)
    return Codes(tensor, point, wanted, float(grid.scale[0]), grid.levels, real.shape)


def exact_residual(builder: Builder, real: Real, factor: int = 1) -> tuple[str, Base]:
    """A quantised tensor as residuals, ``factor`` for each step of its grid.

    Parameters:
        builder: Where nodes are appended.
        real: The tensor.
        factor: Multiplies the integers.

    Returns:
        The residual's name, and what the executor holds for its integers.
    """
    codes = make_codes(builder, real)
    name = f"{codes.tensor}.residual" + (f".{factor}" if factor > 1 else "")
    sums = sums_of_codes(builder, codes)
    low, high = sums.base.low * factor, sums.base.high * factor
    if max(np.abs(low).max(), np.abs(high).max()) > RESIDUAL_LIMIT:
        raise RangeError(f"{real.name}: residuals reach {max(-low.min(), high.max())} steps "
                         f"(supported: {RESIDUAL_LIMIT})")  # fmt: skip
    scale = sums.base.scale * codes.scale / factor
    offset = (codes.zero_point - codes.zero) * codes.scale * np.ones(len(low))
    builder.multiply(name, sums.source, factor, scale=scale, offset=offset)
    return name, Base(low, high, scale, offset, np.zeros(len(low)))


def _narrowed(builder: Builder, real: Real) -> Real:
    """A tensor of more than 4 bits without the codes that it cannot reach, such as behind a ReLU.

    A machine's clamp ends at code 0, and thresholds will do if no more than 16 codes are left.
    """
    grid = grid_of(real)
    if grid.bits <= 4:
        return real
    ends = real.codes(builder.kernels, np.stack([real.base.low, real.base.high])) + grid.low
    zero = min(max(math.floor(grid.zero), grid.low), grid.high)
    low, high = min(int(ends.min()), zero), max(int(ends.max()), zero)
    if high - low >= 16:
        high = grid.high
    made = replace(real.made or grid, low=low, high=high)
    return replace(real, grid=replace(grid, low=low, high=high), made=made)


def _code_tensor(builder: Builder, real: Real, point: int) -> str:
    """The graph's tensor of codes, with the permutations of ``real``."""
    if real.inner is not None and grid_of(real).bits > 4:
        real = _of_inner(builder, real, real.inner)
    if any(isinstance(step, Pooling) for step in real.steps):
        name = name_of(real, real.steps)
        if name in builder.nodes and builder.zero_point(name) == point:
            return name
        pooled = pool(builder, real)
        if (np.diff(pooled.order) == 1).all():
            return append_quantizer(builder, pooled, name, point)
        tensor = append_quantizer(builder, pooled, f"{name}.codes", point)
        return builder.permute(name, tensor, pooled.order)
    count = count_changes(real)
    if builder.kind(real.source) is ir.Kind.CODES and not count:
        name, behind = real.source, real.steps
    else:
        if builder.kind(real.source) is ir.Kind.CODES:
            real = of_sums(builder, real)
        behind = real.steps[count:]
        name = name_of(real, real.steps[:count])
        if any(isinstance(step, Reorder) for step in real.steps[:count]):
            # The codes are made before they are permuted.
            total = replace(real, steps=real.steps[:count]).order
            behind = (Reorder(total, name), *behind)
            name = f"{name}.codes"
        name = append_quantizer(builder, real, name, point)
    for step in behind:
        if isinstance(step, Reorder):
            name = builder.permute(step.name, name, step.order)
    return name


def _of_inner(builder: Builder, real: Real, inner: Real) -> Real:
    """The same function of the few codes of an earlier quantiser, which thresholds give exactly."""
    codes = make_codes(builder, inner)
    sums = sums_of_codes(builder, codes)
    base = sums.base
    offset = (codes.zero_point - codes.zero) * codes.scale
    base = replace(base, scale=codes.scale * np.ones(len(base.low)),
                   offset=offset * np.ones(len(base.low)))  # fmt: skip
    steps = real.steps[len(inner.steps) :]
    return replace(real, source=sums.source, base=base, steps=steps, inner=None)
