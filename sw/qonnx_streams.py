"""Fixed-point residual streams for floats that a file adds without a quantiser.

All tensors that additions, ReLUs, max-pools and permutations connect share one step: a power of
two, the smallest with which 16 bits hold what the executor computes for calibration images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto
from qonnx.core.onnx_exec import execute_onnx  # type: ignore[import-untyped]

from palquant.errors import InputError, RangeError, UnsupportedLayerError, first_line
from palquant.sw import graph as ir
from palquant.sw.qonnx_arrange import ARRANGEMENTS
from palquant.sw.qonnx_builder import RESIDUAL_BITS, RESIDUAL_LIMIT, Builder
from palquant.sw.qonnx_chains import line
from palquant.sw.qonnx_codes import exact_residual
from palquant.sw.qonnx_pools import move_residual
from palquant.sw.qonnx_source import QUANTIZERS, Source
from palquant.sw.qonnx_staircase import from_line
from palquant.sw.qonnx_values import Base, Elementwise, Real

#: Operators whose operand and result lie in one stream.
_CONNECTING = ("Relu", "MaxPool", "Identity", "Dropout", *ARRANGEMENTS)

#: Operators that average in it.
_POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean")


def in_stream(
    builder: Builder, real: Real, reader: str, calibration: npt.NDArray[Any] | None
) -> tuple[str, float]:
    """A tensor as a residual of the stream that its reader adds or averages in.

    Parameters:
        builder: Where nodes are appended.
        real: The tensor.
        reader: Tensor that the reader makes.
        calibration: Images, or None.

    Returns:
        The residual's name, and the real value of one unit.

    Raises:
        InputError: There are no calibration images, or they do not fit.
        UnsupportedLayerError: The tensor is no line of integers, ReLUs, pools and permutations.
    """
    source = builder.source
    if builder.streams is None:
        if calibration is None:
            raise InputError(f"{reader}: takes floats without a quantiser, here {real.name}; give "
                             "calibration images, or quantise them with one scale")  # fmt: skip
        builder.streams = _measure(source, calibration)
    step = builder.streams[reader]
    bare = not real.steps and builder.kind(real.source) is ir.Kind.RESIDUAL
    if bare and (real.base.scale == step).all() and builder.bits(real.source) == RESIDUAL_BITS:
        return real.source, step
    if real.grid is not None:
        name, base = exact_residual(builder, real)
        real = Real(real.name, name, base, real.shape)
    return _requantize(builder, real, step), step


def _requantize(builder: Builder, real: Real, step: float) -> str:
    """Append the affine function that a tensor is, and the ReLUs and moves behind it."""
    count = 0
    while count < len(real.steps):
        made = real.steps[count]
        if not isinstance(made, Elementwise) or made.node.op_type == "Relu":
            break
        count += 1
    found = line(builder, real, count)
    if found is None:
        raise UnsupportedLayerError(f"{real.name}: is added as a float, but is no affine function "
                                    "of sums (supported: BatchNormalization, Mul)")  # fmt: skip
    gain, offset = found[0] / step, found[1] / step
    # The middle of what comes out is where the rounding of M does no harm.
    center = np.where(gain != 0, -offset / np.where(gain == 0, 1, gain), 0)
    center = np.clip(center, real.base.low, real.base.high)
    try:
        fitted = from_line(
            gain, gain * center + offset, center, builder.correction(real.source, len(gain))
        )
    except RangeError as error:
        raise RangeError(f"{real.name}: {error}") from None
    name = f"{real.source}.fixed" if count == 0 else f"{real.steps[count - 1].name}"
    if name in builder.nodes:
        name = f"{name}.fixed"
    node = ir.Affine(name=name, input=real.source, scale=fitted.scale, offset=fitted.offset,
                     shift=fitted.shift, bits=RESIDUAL_BITS)  # fmt: skip
    builder.add(node, step)
    base = Base.even(len(gain), -RESIDUAL_LIMIT - 1, RESIDUAL_LIMIT, step)
    for made in real.steps[count:]:
        if not isinstance(made, Elementwise):
            name, base = move_residual(builder, made, name, base, made.name)
        elif made.node.op_type == "Relu":
            builder.add(ir.Relu(name=made.name, input=name), step)
            name = made.name
        elif made.node.op_type != "Cast":
            raise UnsupportedLayerError(f"{real.name}: is added as a float behind a "
                                        f"{made.node.op_type} that follows a ReLU or pool "
                                        "(expected a quantiser, or the addition)")  # fmt: skip
    return name


def check_calibration(source: Source, images: npt.NDArray[Any]) -> None:
    """Refuse images that the network does not read, whether they are needed or not.

    Raises:
        InputError: Wrong element type, shape or number, or a value that is no number.
    """
    batch, *shape = source.shape(source.input)
    if images.dtype not in (np.float32, np.uint8) or list(images.shape[1:]) != shape:
        raise InputError(f"calibration images are {images.dtype} of shape {images.shape}, expected "
                         f"float32 or uint8, (N, {', '.join(map(str, shape))})")  # fmt: skip
    if len(images) < batch or not np.isfinite(images).all():
        raise InputError(f"{len(images)} calibration images, or NaN among them (expected at least "
                         f"{batch})")  # fmt: skip


def _measure(source: Source, images: npt.NDArray[Any]) -> dict[str, float]:
    """Step of the stream of every tensor, from what the executor computes for images."""
    batch = source.shape(source.input)[0]
    if images.dtype == np.uint8:  # as everywhere: bytes are the pixels of 0 to 1 times 255
        images = images.astype(np.float32) / np.float32(255)
    peaks: dict[str, float] = {}
    for at in range(0, len(images) - batch + 1, batch):
        try:
            found = execute_onnx(source.wrapper, {source.input: images[at : at + batch]}, True)
        except Exception as error:
            raise InputError(f"{source.path}: cannot be executed: {first_line(error)}") from error
        for name, values in found.items():
            if values is not None and values.dtype.kind == "f" and values.size:
                peaks[name] = max(peaks.get(name, 0.0), float(np.abs(values).max()))
    parent = _components(source)
    largest: dict[str, float] = {}
    for name, root in parent.items():
        largest[root] = max(largest.get(root, 0.0), peaks.get(name, 0.0))
    return {name: _power(largest[root] / RESIDUAL_LIMIT) for name, root in parent.items()}


def _power(value: float) -> float:
    """The smallest power of two that is not below ``value``."""
    if not value > 0:
        return 1.0
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent if mantissa > 0.5 else exponent - 1)


def float_tensors(source: Source) -> frozenset[str]:
    """Tensors of all streams in which floats are added or averaged without a quantiser."""
    parent = _components(source)
    roots = set()
    for node in source.nodes:
        operands = _connected(source, node)
        floats = not all(_is_quantized(source, name) for name in operands)
        if floats and node.op_type in (*_POOLS, "Add"):
            roots.add(parent[node.output[0]])
    return frozenset(name for name, root in parent.items() if root in roots)


def _is_quantized(source: Source, tensor: str) -> bool:
    """Whether a tensor's values come from quantisers, or from rounding, alone."""
    maker = source.wrapper.find_producer(tensor)
    if maker is None:
        return False
    if maker.op_type in (*QUANTIZERS, "Floor", "Round"):
        return True
    operands = _connected(source, maker)
    if maker.op_type in ("Clip", "Cast"):
        operands = [maker.input[0]]
    if maker.op_type in _POOLS:
        return False
    return bool(operands) and all(_is_quantized(source, name) for name in operands)


def _components(source: Source) -> dict[str, str]:
    """Tensor -> one name for all tensors of its stream."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node in source.nodes:
        parent.setdefault(node.output[0], node.output[0])
        for name in _connected(source, node):
            parent[root(name)] = root(node.output[0])
    return {name: root(name) for name in parent}


def _connected(source: Source, node: NodeProto) -> list[str]:
    """Operands of a node that lie in the stream of its result."""
    operands = [name for name in node.input if name and name not in source.constants]
    joins = node.op_type == "Add" and len(operands) == 2
    return operands if joins or node.op_type in (*_CONNECTING, *_POOLS) else []
