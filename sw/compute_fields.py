"""The fields of one COMPUTE: a segment of a layer's output chunks for a tile of output rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from palquant.errors import UnsupportedLayerError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import PoolOperation, Source
from palquant.sw.buffers import Place
from palquant.sw.graph import Convolution, MaxPool
from palquant.sw.layer import Layer
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork
from palquant.sw.pack import GroupInput
from palquant.sw.segments import Part, Segment


@dataclass
class TileAddresses:
    """Where one tile of a layer finds its inputs and puts its results, in words.

    Parameters:
        first_row: First output row.
        rows: Output rows.
        input_start: Where the first input row that the tile reads lies.
        input_tap: Row of tap (0, 0) at the first output row, relative to that input row.
        input_rows: Input rows that exist for the tile.
        residual_in: Where the first residual row lies, or None.
        gaps: Whether a pool leaves the residual memory's read port a cycle for each result.
        resident: Tensor -> place of the tile's first row in activation or residual memory, or None.
        buffer: Tensor of codes -> place of the tile's first row in the output buffer, or None.
    """

    first_row: int
    rows: int
    input_start: Place
    input_tap: int
    input_rows: int
    residual_in: Place | None = None
    gaps: bool = False
    resident: dict[str, Place | None] = field(default_factory=dict)
    buffer: dict[str, Place | None] = field(default_factory=dict)


def compute_fields(
    network: PlacedNetwork,
    index: int,
    layer: Layer,
    tile: TileAddresses,
    segment: Segment,
    group: GroupInput | None,
    slot: int,
    weight_address: int,
    part: Part | None = None,
) -> dict[str, int]:
    """Fields of the COMPUTE of ``segment`` in ``tile``.

    Parameters:
        network: The placed network.
        index: The layer's index.
        layer: The layer.
        tile: Addresses.
        segment: Output chunks.
        group: What the segment's convolution group reads; None for pools.
        slot: First parameter slot.
        weight_address: First weight word.
        part: What the COMPUTE adds to one result of the tile's only row; None if it makes all
            results of the tile.

    Raises:
        UnsupportedLayerError: A result takes more memory steps than the field ``steps`` holds.
    """
    g = network.geometry
    f: dict[str, int] = {"layer": index, "parameter_slot": slot}
    f |= _input_fields(network, layer, tile, segment, group)
    if part is not None:
        f |= _part_fields(layer, part, f, group, g)
    if isinstance(layer.operation, Convolution):
        f |= _weight_fields(layer.operation, f, weight_address, g)
        if part is not None:
            f["digit_sum_first"] = f["digit_sum_last"] = part.digit_sum
    column = 0 if part is None else part.column
    f |= {
        "output_rows": tile.rows,
        "output_columns": layer.shape.width if part is None else 1,
        "output_chunks": len(segment.outputs) // g.tout,
        "affine": int(layer.affine is not None),
        "relu_before": int(layer.relu_before),
        "residual": int(layer.residual is not None),
        "relu_after": int(layer.relu_after),
        "saturation_bits": layer.saturation_bits or g.residual_bits,
        "raw": int(layer.logits is not None),
        "scatter_groups": segment.scatter,
        "first_lane": segment.base % g.tin,
    }
    if part is not None and not part.ends:
        return f | {"steps": _steps(layer, f | _NO_CODES, g)}
    if layer.residual is not None:
        assert tile.residual_in is not None
        layout = network.layouts[layer.residual]
        # The residual lies where the layer computes, before its lanes are scattered. Groups that
        # share it find it at the same words.
        start = segment.start % layout.placement.slots
        f["residual_in_address"] = tile.residual_in.word + start // g.lanes
        f["residual_in_row_stride"] = tile.residual_in.row_step % (1 << g.address_bits)
        f["residual_in_pixel_stride"] = tile.residual_in.pixel_step
        f["residual_in_address"] += column * tile.residual_in.pixel_step
    stored = layer.residual_out or layer.logits
    if stored is not None:
        layout = network.layouts[stored]
        f |= _residual_fields(layout, tile, segment)
        f["residual_out_address"] += column * f["residual_out_pixel_stride"]
    for number in (1, 2):
        prefix = f"code{number}_"
        f |= {prefix + "bits": 0, prefix + "to_activation": 0, prefix + "to_output": 0}
        if number <= len(layer.codes):
            code = layer.codes[number - 1]
            layout = network.layouts[code.tensor]
            f |= _code_fields(prefix, layout, tile, segment)
            f[prefix + "bits"] = code.bits
            for memory in ("activation", "output"):
                f[f"{prefix}{memory}_address"] += column * f[prefix + "pixel_stride"]
    f["steps"] = _steps(layer, f, g)
    if tile.gaps and not isinstance(layer.operation, Convolution):
        f["steps"] = max(f["steps"], min(_STEPS_MAX, f["kernel_rows"] * f["kernel_columns"] + 1))
    return f


#: Largest value of the field.
_STEPS_MAX = next(item.max for item in isa.COMPUTE.fields if item.name == "steps")

#: Fields of a COMPUTE that makes no codes.
_NO_CODES = {
    f"code{n}_{name}": 0 for n in (1, 2) for name in ("bits", "to_activation", "to_output")
}


def _part_fields(
    layer: Layer, part: Part, f: dict[str, int], group: GroupInput | None, g: Geometry
) -> dict[str, int]:
    """What differs for one part of one result, from the fields of a row of results."""
    assert group is not None
    stride = layer.operation.stride[1]
    chunks = len(group.channel) // g.tin
    start = f["input_origin"] + part.column * f["input_pixel_stride"]
    start += part.first_chunk * f["input_digits"]
    return {
        "input_origin": start % (1 << g.address_bits),
        "first_column": f["first_column"] + part.column * stride,
        "input_chunks": part.last_chunk - part.first_chunk,
        "last_lanes": f["last_lanes"] if part.last_chunk == chunks else g.tin,
        "accumulate": int(not part.begins),
        "shift_first": int(part.shifts),
        "hold": int(not part.ends),
    }


def _steps(layer: Layer, f: dict[str, int], geometry: Geometry) -> int:
    """Memory steps of one beat.

    Raises:
        UnsupportedLayerError: More than the field holds: two code tensors of 8 bits, which both go
            to the same memory, scattered over 8 groups.
    """
    steps = isa.beat_steps(f, geometry)
    if steps > _STEPS_MAX:
        bits = " and ".join(str(code.bits) for code in layer.codes)
        raise UnsupportedLayerError(
            f"{layer.name}: writes codes of {bits} bits, scattered over {f['scatter_groups']} "
            f"groups, which takes {steps} memory steps for each beat (supported: at most "
            f"{_STEPS_MAX})"
        )
    return steps


def _input_fields(
    network: PlacedNetwork,
    layer: Layer,
    tile: TileAddresses,
    segment: Segment,
    group: GroupInput | None,
) -> dict[str, int]:
    g = network.geometry
    wrap = 1 << g.address_bits
    node = layer.operation
    layout = network.layouts[network.stored(layer.input)]
    row_step, pixel_step = tile.input_start.row_step, tile.input_start.pixel_step
    kernel = node.weight.shape[2:] if isinstance(node, Convolution) else node.kernel
    first_column = -node.padding[1]
    start = tile.input_start.word + tile.input_tap * row_step + first_column * pixel_step
    f = {
        "input_row_step": row_step % wrap,
        "input_pixel_step": pixel_step,
        "input_row_stride": row_step * node.stride[0] % wrap,
        "input_pixel_stride": pixel_step * node.stride[1],
        "input_rows": tile.input_rows,
        "input_columns": layer.input_shape.width,
        "first_row": tile.input_tap,
        "first_column": first_column,
        "stride_rows": node.stride[0],
        "stride_columns": node.stride[1],
        "kernel_rows": kernel[0],
        "kernel_columns": kernel[1],
    }
    if isinstance(node, Convolution):
        assert group is not None
        start += group.first_group * layout.group_words
        f["source"] = Source.ARRAY
        f["input_chunks"] = len(group.channel) // g.tin
        f["input_digits"] = layout.digits
        f["last_lanes"] = group.last_lanes(g.tin)
        f["pad_code"] = layout.type.zero_point
    else:
        maximum = isinstance(node, MaxPool)
        start += segment.start // g.lanes
        f["source"] = Source.POOL
        f["pool_operation"] = PoolOperation.MAX if maximum else PoolOperation.SUM
    f["input_origin"] = start % (1 << g.address_bits)
    return f


def _weight_fields(
    node: Convolution, f: dict[str, int], address: int, g: Geometry
) -> dict[str, int]:
    plane = f["kernel_rows"] * f["kernel_columns"] * f["input_chunks"]
    count = isa.digits(node.weight_bits)
    power = node.beta & (node.beta - 1) == 0 and node.beta > 0
    # beta is 2^shift, or 2^shift - 1; 0 is 2^0 - 1
    shift = node.beta.bit_length() - 1 if power else node.beta.bit_length()
    return {
        "weight_address": address,
        "weight_plane": plane if g.weight_digits > 1 else 0,
        "weight_chunk": plane * count,
        "weight_digits": count,
        "digit_sum_first": f["input_digits"] + count - 2,
        "digit_sum_last": 0,
        "alpha_shift": node.alpha - 1,
        "beta_shift": shift,
        "beta_minus": int(not power),
    }


def _residual_fields(layout: TensorLayout, tile: TileAddresses, segment: Segment) -> dict[str, int]:
    g = layout.geometry
    start = tile.resident[layout.name]
    assert start is not None
    words = layout.group_words * segment.base // layout.placement.span
    scattered = segment.scatter > 1
    assert layout.group_words % (layout.placement.span // g.lanes) == 0
    return {
        "residual_out": 1,
        "residual_out_address": start.word + words,
        "residual_out_row_stride": start.row_step % (1 << layout.geometry.address_bits),
        "residual_out_pixel_stride": start.pixel_step,
        "residual_out_group_stride": layout.group_words if scattered else 0,
    }


def _code_fields(
    prefix: str, layout: TensorLayout, tile: TileAddresses, segment: Segment
) -> dict[str, int]:
    offset = segment.base // layout.geometry.tin * layout.digits
    resident, buffer = tile.resident[layout.name], tile.buffer[layout.name]
    steps = {(at.row_step, at.pixel_step) for at in (resident, buffer) if at is not None}
    ((row_step, pixel_step),) = steps  # both memories have their rows in the same order
    return {
        prefix + "to_activation": int(resident is not None),
        prefix + "to_output": int(buffer is not None),
        prefix + "activation_address": 0 if resident is None else resident.word + offset,
        prefix + "output_address": 0 if buffer is None else buffer.word + offset,
        prefix + "row_stride": row_step % (1 << layout.geometry.address_bits),
        prefix + "pixel_stride": pixel_step,
        prefix + "group_stride": layout.group_words if segment.scatter > 1 else 0,
    }
