"""From a quantised tensor of a file to codes and residuals of the integer graph, exactly.

Codes of up to 4 bits come from thresholds, found by bisecting what the executor evaluates; codes
of 5 to 8 bits from the multiplication that takes the same steps. A max-pool is exchanged with the
monotone functions before it, so that it works on residuals that hold the sums, or the codes,
without loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from palquant.errors import RangeError, UnsupportedLayerError
from palquant.sw import graph as ir
from palquant.sw.qonnx_builder import RESIDUAL_BITS, RESIDUAL_LIMIT, Builder
from palquant.sw.qonnx_quantizers import Grid
from palquant.sw.qonnx_staircase import Ints, Steps, bisect, doubtful_steps, from_steps
from palquant.sw.qonnx_values import Base, Codes, Elementwise, Floats, Pooling, Real, Reorder, Step
from palquant.sw.qonnx_windows import Window

#: Operators whose result is another code than their operand; others only scale a quantised tensor.
CODE_MAKERS = ("Quant", "IntQuant", "BipolarQuant", "MultiThreshold", "Relu", "Clip")


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
    grid = _grid(real)
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
    sums = _sums(builder, codes)
    low, high = sums.base.low * factor, sums.base.high * factor
    if max(np.abs(low).max(), np.abs(high).max()) > RESIDUAL_LIMIT:
        raise RangeError(f"{real.name}: residuals reach {max(-low.min(), high.max())} steps "
                         f"(supported: {RESIDUAL_LIMIT})")  # fmt: skip
    scale = sums.base.scale * codes.scale / factor
    offset = (codes.zero_point - codes.zero) * codes.scale * np.ones(len(low))
    builder.multiply(name, sums.source, factor, scale=scale, offset=offset)
    return name, Base(low, high, scale, offset, np.zeros(len(low)))


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


def _grid(real: Real) -> Grid:
    if real.grid is None:
        raise UnsupportedLayerError(f"{real.name}: is read as integers, but not quantised "
                                    "(expected a quantiser of activations before it)")  # fmt: skip
    return real.grid


def _narrowed(builder: Builder, real: Real) -> Real:
    """A tensor of more than 4 bits without the codes that it cannot reach, such as behind a ReLU.

    A machine's clamp ends at code 0, and thresholds will do if no more than 16 codes are left.
    """
    grid = _grid(real)
    if grid.bits <= 4:
        return real
    ends = real.codes(builder.kernels, np.stack([real.base.low, real.base.high])) + grid.low
    zero = min(max(math.floor(grid.zero), grid.low), grid.high)
    low, high = min(int(ends.min()), zero), max(int(ends.max()), zero)
    if high - low >= 16:
        high = grid.high
    made = replace(real.made or grid, low=low, high=high)
    return replace(real, grid=replace(grid, low=low, high=high), made=made)


def _changes(real: Real) -> int:
    """Number of steps up to the last one that changes which code a value has."""
    makers = [
        i for i, step in enumerate(real.steps)
        if isinstance(step, Elementwise) and step.node.op_type in CODE_MAKERS
    ]  # fmt: skip
    return makers[-1] + 1 if makers else 0


def _name(real: Real, steps: tuple[Step, ...]) -> str:
    """The file's tensor that has the codes of ``real`` behind ``steps``: scales do not matter."""
    count = _changes(real)
    for index in range(len(steps) - 1, -1, -1):
        if index < count or isinstance(steps[index], Reorder | Pooling):
            return steps[index].name
    return f"{real.source}.codes"


def _code_tensor(builder: Builder, real: Real, point: int) -> str:
    """The graph's tensor of codes, with the permutations of ``real``."""
    if real.inner is not None and _grid(real).bits > 4:
        real = _of_inner(builder, real, real.inner)
    if any(isinstance(step, Pooling) for step in real.steps):
        name = _name(real, real.steps)
        if name in builder.nodes and builder.zero_point(name) == point:
            return name
        pooled = _pool(builder, real)
        if (np.diff(pooled.order) == 1).all():
            return _staircase(builder, pooled, name, point)
        tensor = _staircase(builder, pooled, f"{name}.codes", point)
        return builder.permute(name, tensor, pooled.order)
    count = _changes(real)
    if builder.kind(real.source) is ir.Kind.CODES and not count:
        name, behind = real.source, real.steps
    else:
        if builder.kind(real.source) is ir.Kind.CODES:
            real = _of_sums(builder, real)
        behind = real.steps[count:]
        name = _name(real, real.steps[:count])
        if any(isinstance(step, Reorder) for step in real.steps[:count]):
            # The codes are made before they are permuted.
            total = replace(real, steps=real.steps[:count]).order
            behind = (Reorder(total, name), *behind)
            name = f"{name}.codes"
        name = _staircase(builder, real, name, point)
    for step in behind:
        if isinstance(step, Reorder):
            name = builder.permute(step.name, name, step.order)
    return name


def _staircase(builder: Builder, real: Real, name: str, point: int) -> str:
    """Append the quantiser of ``real``, channels in the order of its source, once."""
    if name in builder.nodes and builder.zero_point(name) != point:
        name = f"{name}.{point}"
    if name in builder.nodes:
        return name
    grid, base, meaning = _grid(real), real.base, _meaning(real)
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
    grid = real.made or _grid(real)
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
    grid = _grid(real)
    steps = [
        step for step in real.steps[: _changes(real)]
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
    grid = _grid(real)
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


def _sums(builder: Builder, codes: Codes) -> Real:
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


def _of_sums(builder: Builder, real: Real) -> Real:
    """The same function of accumulators instead of codes."""
    zero = builder.zero_point(real.source)
    base = real.base
    codes = Codes(real.source, zero, zero, 1.0, int(base.high[0]) + 1, real.shape)
    sums = _sums(builder, codes)
    return replace(
        real,
        source=sums.source,
        base=replace(base, low=sums.base.low, high=sums.base.high,
                     offset=base.offset + zero * base.scale),
    )  # fmt: skip


def _of_inner(builder: Builder, real: Real, inner: Real) -> Real:
    """The same function of the few codes of an earlier quantiser, which thresholds give exactly."""
    codes = make_codes(builder, inner)
    sums = _sums(builder, codes)
    base = sums.base
    offset = (codes.zero_point - codes.zero) * codes.scale
    base = replace(base, scale=codes.scale * np.ones(len(base.low)),
                   offset=offset * np.ones(len(base.low)))  # fmt: skip
    steps = real.steps[len(inner.steps) :]
    return replace(real, source=sums.source, base=base, steps=steps, inner=None)


def _pool(builder: Builder, real: Real) -> Real:
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
    grid = _grid(real)
    ends = real.floats(builder.kernels, np.stack([real.base.low, real.base.high]))
    if (((ends[0] > ends[1]) != (sign < 0)) & (ends[0] != ends[1])).any():
        raise UnsupportedLayerError(f"{real.name}: a max-pool of wide sums is followed by a "
                                    "falling function (expected the quantiser first)")  # fmt: skip
    count = _changes(real)
    point = round(grid.zero - grid.low)
    point = point if 0 <= point < 1 << (8 if grid.bits > 4 else grid.bits) else 0
    if builder.kind(real.source) is ir.Kind.CODES and not count:
        tensor, point = real.source, builder.zero_point(real.source)
    else:
        name = _name(real, real.steps[:count])
        if any(not isinstance(step, Elementwise) for step in real.steps[:count]):
            name = f"{name}.unpooled"
        if builder.kind(real.source) is ir.Kind.CODES:
            real = _of_sums(builder, real)
        tensor = _staircase(builder, real, name, point)
    channels = len(real.base.low)
    shape = ir.Shape(channels, real.shape.height, real.shape.width)
    sums = _sums(builder, Codes(tensor, point, point, 1.0, grid.levels, shape))
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
