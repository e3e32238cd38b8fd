"""Packs a layer's weights and parameters into the words that the machine loads.

Weights: words in the order (output chunk, digit, kernel row, kernel column, input chunk), each
word the digits of tout x tin weights, output unit by output unit. Parameters: slots of 32 rows,
of which only the first ``rows`` are stored; see ``hw.isa``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import PackingError, UnsupportedLayerError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.sw.digits import join_digits, pack_digits, split_digits, unpack_digits
from palquant.sw.graph import Convolution
from palquant.sw.layer import CodeOutput, Layer
from palquant.sw.place import Placement
from palquant.sw.ranges import LayerRanges

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GroupInput:
    """What one group of a convolution reads of a stored tensor.

    Parameters:
        first_group: First of the tensor's placement groups that hold the group's channels.
        channel: The convolution's input channel (within its group) at each position that is
            read, -1 for dummies; shape (positions,).
    """

    first_group: int
    channel: Ints

    def last_lanes(self, lanes: int) -> int:
        """Lanes in use in the last word, at least 1."""
        used = np.flatnonzero(self.channel >= 0)
        rest = int(used[-1]) + 1 - (len(self.channel) - lanes) if used.size else 1
        return max(1, rest)

    def dense(self, lanes: int) -> bool:
        """Whether all dummies lie at the end of the last word."""
        last = len(self.channel) - lanes + self.last_lanes(lanes)
        return bool((self.channel[:last] >= 0).all())


def group_input(
    layer: Layer, node: Convolution, placement: Placement, group: int, lanes: int
) -> GroupInput:
    """Find the channels of one convolution group in a stored tensor.

    Words behind the last channel are not read.

    Parameters:
        layer: The layer, for messages.
        node: Its convolution.
        placement: Where the channels of the input tensor lie.
        group: Group of the convolution.
        lanes: Channels of one activation word.

    Raises:
        UnsupportedLayerError: They do not fill whole consecutive placement groups.
    """
    size = node.weight.shape[1]
    channels = np.arange(group * size, (group + 1) * size)
    first = int(placement.group[channels].min())
    groups = int(placement.group[channels].max()) - first + 1
    where = placement.slot[channels] - first * placement.span
    # Channels that are repeated are stored once.
    stored = len(np.unique(placement.slot)) // placement.groups
    if groups * stored != size or len(np.unique(where)) != size:
        raise UnsupportedLayerError(
            f"{layer.name}: the channels of its group {group} are spread over several groups of "
            f"{layer.input}; supported are permutations of whole groups"
        )
    order = np.full(-(-(int(where.max()) + 1) // lanes) * lanes, -1, np.int64)
    order[where] = np.arange(size)
    return GroupInput(first, order)


def pack_weights(
    node: Convolution, outputs: Ints, inputs: Ints, geometry: Geometry
) -> npt.NDArray[np.uint8]:
    """Weight words of some output chunks of one group.

    Parameters:
        node: The convolution.
        outputs: Output channel at each computed position, -1 for dummies; a multiple of tout.
        inputs: Input channel within the group at each position, -1 for dummies; whole words.
        geometry: The machine.

    Returns:
        Bytes of shape (words, bytes of one word).
    """
    g = geometry
    if len(outputs) % g.tout or len(inputs) % g.tin:
        raise PackingError(
            f"{node.name}: {len(outputs)} outputs and {len(inputs)} inputs do not fill chunks of "
            f"{g.tout} and {g.tin}"
        )
    rows, columns = node.weight.shape[2:]
    codes = node.weight[np.maximum(outputs, 0)][:, np.maximum(inputs, 0)]
    codes = np.where((outputs >= 0)[:, None, None, None], codes, 0)
    codes = np.where((inputs >= 0)[None, :, None, None], codes, 0)
    digits = split_digits(codes, isa.digits(node.weight_bits))
    shape = (len(digits), -1, g.tout, len(inputs) // g.tin, g.tin, rows, columns)
    # (digit, chunk, unit, input chunk, lane, row, column) -> (chunk, digit, row, column,
    #  input chunk, unit, lane)
    words = digits.reshape(shape).transpose(1, 0, 5, 6, 3, 2, 4)
    return pack_digits(words.reshape(-1, g.tout * g.tin))


def unpack_weights(
    data: Bytes, node: Convolution, outputs: Ints, inputs: Ints, geometry: Geometry
) -> npt.NDArray[np.int64]:
    """Weight codes (O, I / groups, KH, KW) of the channels in ``outputs``: inverse of the packing.

    Channels that do not occur are -1.
    """
    g = geometry
    rows, columns = node.weight.shape[2:]
    count = isa.digits(node.weight_bits)
    words = unpack_digits(data).reshape(
        -1, count, rows, columns, len(inputs) // g.tin, g.tout, g.tin
    )
    codes = join_digits(np.moveaxis(words, 1, 0))  # (chunk, row, column, input chunk, unit, lane)
    codes = codes.transpose(0, 4, 3, 5, 1, 2).reshape(len(outputs), len(inputs), rows, columns)
    result = np.full(node.weight.shape, -1, np.int64)
    kept_out, kept_in = np.flatnonzero(outputs >= 0), np.flatnonzero(inputs >= 0)
    target = np.ix_(outputs[kept_out], inputs[kept_in])
    result[target] = codes[np.ix_(kept_out, kept_in)]
    return result


def _code_rows(
    layer: Layer, code: CodeOutput, ranges: LayerRanges
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Thresholds (C, levels) and negate (C,) in the channel order of the operation's output."""
    assert code.thresholds is not None
    assert code.negate is not None
    channels = layer.shape.channels
    thresholds = np.broadcast_to(code.thresholds, (channels, code.thresholds.shape[1]))
    negate = np.broadcast_to(code.negate, (channels,))
    for permutation in (code.permutation, layer.permutation):
        if permutation is not None:  # tensor channel t is value channel permutation[t]
            thresholds, negate = (_inverse_take(x, permutation) for x in (thresholds, negate))
    if layer.affine is None:
        shift = np.where(negate, ranges.correction, -ranges.correction)
        thresholds = thresholds + shift[:, None]
    low = np.where(negate, -ranges.high, ranges.low)
    high = np.where(negate, -ranges.low, ranges.high)
    return np.clip(thresholds, low[:, None], high[:, None] + 1), negate


def _inverse_take(values: npt.NDArray[Any], permutation: Ints) -> npt.NDArray[Any]:
    result = np.empty_like(values)
    result[permutation] = values
    return result


def parameter_row_count(layer: Layer) -> int:
    """Rows of each slot that the layer needs."""
    widths = [code.bits for code in layer.codes if code.bits != 8]
    return isa.parameter_rows(max(widths, default=0))


def pack_parameters(
    layer: Layer, ranges: LayerRanges, outputs: Ints, groups: Ints, geometry: Geometry
) -> Bytes:
    """Parameter rows of some output chunks.

    Parameters:
        layer: The layer.
        ranges: Its bounds.
        outputs: The operation's output channel at each position, -1 for dummies; whole chunks.
        groups: Memory group that each position is scattered to.
        geometry: The machine.

    Returns:
        Bytes of shape (slots, rows * lanes * 4).
    """
    count = parameter_row_count(layer)
    rows = np.zeros((count, len(outputs)), np.int64)
    real = outputs >= 0
    channel = np.maximum(outputs, 0)
    control = {"group": groups, "valid": real.astype(np.int64)}
    if layer.affine is not None:
        offset = layer.affine.offset + layer.affine.scale * ranges.correction
        rows[isa.ROW_OFFSET] = np.where(real, offset[channel], 0)
        control["scale"] = np.where(real, layer.affine.scale[channel], 0)
        control["shift"] = np.where(real, layer.affine.shift[channel], 0)
    for number, code in enumerate(layer.codes, start=1):
        if code.bits == 8:
            continue
        thresholds, negate = _code_rows(layer, code, ranges)
        control[f"negate{number}"] = np.where(real, negate[channel], 0)
        tree = isa.THRESHOLD_ROWS[number - 1]
        for position, index in enumerate(isa.tree_order(code.bits), start=1):
            rows[tree[position]] = np.where(real, thresholds[channel, index], 0)
    for item in isa.PARAMETER_CONTROL.fields:
        values = control.get(item.name, np.zeros_like(channel))
        if values.min() < item.min or values.max() > item.max:
            raise PackingError(
                f"{layer.name}: {item.name} {values.min()}..{values.max()} does not fit "
                f"{item.min}..{item.max}"
            )
        mask = (1 << item.bits) - 1
        offset_bits = isa.PARAMETER_CONTROL.offsets[item.name]
        rows[isa.ROW_CONTROL] |= (values & mask) << offset_bits
    slots = rows.reshape(count, -1, geometry.lanes).transpose(1, 0, 2)
    return np.ascontiguousarray(slots).astype("<i4").reshape(len(slots), -1).view(np.uint8)
