"""Max-pools, exchanged with the monotone functions before them, so that they work on residuals.

The residuals hold the sums, or the codes, without loss.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from palquant.errors import UnsupportedLayerError
from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import RESIDUAL_LIMIT, Builder
from palquant.sw.qonnx_staircase import Ints
from palquant.sw.qonnx_thresholds import (
    append_quantizer,
    count_changes,
    grid_of,
    name_of,
    of_sums,
    sums_of_codes,
)
from palquant.sw.qonnx_values import Base, Codes, Elementwise, Pooling, Real, Reorder


def move_residual(
    builder: Builder, step: Reorder | Pooling, source: str, base: Base, name: str
) -> tuple[str, Base]:
    """Append a permutation or a max-pool of a residual, once, under the given name."""
    if isinstance(step, Pooling):
        window = step.window
        if name not in builder.nodes:
            node = ir.MaxPool(name=name, input=source, kernel=window.kernel, stride=window.stride,
                              padding=window.padding)  # fmt: skip
            builder.add(node, *builder.real[source])
        return name, base
    columns = ("low", "high", "scale", "offset", "error")
    builder.permute(name, source, step.order)
    return name, replace(base, **{k: getattr(base, k)[step.order] for k in columns})


def pool(builder: Builder, real: Real) -> Real:
    """The same tensor with its max-pools done on residuals."""
    first = next(i for i, step in enumerate(real.steps) if isinstance(step, Pooling))
    base = real.base
    before = replace(real, steps=real.steps[:first])
    ends = before.floats(builder.kernels, np.stack([base.low, base.high]))
    sign = np.where(ends[0] > ends[1], -1, 1)
    source, kind = real.source, builder.kind(real.source)
    widest = max(int(np.abs(base.low).max()), int(np.abs(base.high).max()))
    if kind is ir.Kind.ACCUMULATOR and widest <= RESIDUAL_LIMIT:
        source = f"{real.source}.residual"
        scale, offset = builder.real[real.source]
        builder.multiply(source, real.source, sign, scale=scale * sign, offset=offset)
        low, high = (
            np.where(sign < 0, -base.high, base.low),
            np.where(sign < 0, -base.low, base.high),
        )
        base = replace(base, low=low, high=high, scale=base.scale * sign)
    elif kind is not ir.Kind.RESIDUAL or (sign < 0).any():
        return _pool_codes(builder, real, sign)
    for step in real.steps:
        if isinstance(step, Pooling):
            source, base = move_residual(builder, step, source, base, f"{source}.{step.name}")
    kept = tuple(step for step in real.steps if not isinstance(step, Pooling))
    return replace(real, source=source, base=base, steps=kept)


def _pool_codes(builder: Builder, real: Real, sign: Ints) -> Real:
    """Quantise first, then pool the codes: what stands behind the pool must not fall."""
    grid = grid_of(real)
    ends = real.floats(builder.kernels, np.stack([real.base.low, real.base.high]))
    if (((ends[0] > ends[1]) != (sign < 0)) & (ends[0] != ends[1])).any():
        raise UnsupportedLayerError(f"{real.name}: a max-pool of wide sums is followed by a "
                                    "falling function (expected the quantiser first)")  # fmt: skip
    count = count_changes(real)
    point = round(grid.zero - grid.low)
    point = point if 0 <= point < 1 << (8 if grid.bits > 4 else grid.bits) else 0
    if builder.kind(real.source) is ir.Kind.CODES and not count:
        tensor, point = real.source, builder.zero_point(real.source)
    else:
        name = name_of(real, real.steps[:count])
        if any(not isinstance(step, Elementwise) for step in real.steps[:count]):
            name = f"{name}.unpooled"
        if builder.kind(real.source) is ir.Kind.CODES:
            real = of_sums(builder, real)
        tensor = append_quantizer(builder, real, name, point)
    channels = len(real.base.low)
    shape = ir.Shape(channels, real.shape.height, real.shape.width)
    sums = sums_of_codes(builder, Codes(tensor, point, point, 1.0, grid.levels, shape))
    source = f"{tensor}.residual"
    scale, offset = (np.broadcast_to(v, channels) for v in builder.real[tensor])
    offset = offset + point * scale
    builder.multiply(source, sums.source, 1, scale=scale, offset=offset)
    base = replace(sums.base, scale=scale, offset=offset, dtype=np.float64)
    for step in real.steps:
        if isinstance(step, Pooling):
            source, base = move_residual(builder, step, source, base, f"{source}.{step.name}")
    kept = tuple(step for step in real.steps if isinstance(step, Reorder))
    return Real(real.name, source, base, real.shape, kept, grid, real.made)
