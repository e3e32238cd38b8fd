"""The instruction set: one table of fields that gateware, compiler, emulator and docs read.

A program is a sequence of instructions in 32-byte units, little-endian, fields packed from bit 0
upwards in table order. LOAD, STORE, BARRIER and END take one unit, COMPUTE takes three. The fetch
unit hands LOAD, COMPUTE and STORE to three engines that run concurrently; tokens order them.

What an instruction *does* is defined by the emulator (``palquant.sw.emulator``); this file says
what its fields are called, how wide they are, and what they mean.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from palquant.errors import InstructionError
from palquant.hw.config import PARAMETER_ROWS, Geometry
from palquant.hw.threshold_search import search_cycles

#: Version of instruction set, image layout and register map. Images of another are refused.
#: Version 1 is not frozen before the first release: until then it may change, and what was built
#: from other sources may not fit although its number does.
VERSION = 1
#: First word of every memory image: "PALQ", little-endian.
MAGIC = int.from_bytes(b"PALQ", "little")
#: Bytes of one instruction unit.
UNIT_BYTES = 32
UNIT_BITS = 8 * UNIT_BYTES
#: Bytes of an image's header; the program stands behind it.
HEADER_BYTES = 2 * UNIT_BYTES


class Opcode(enum.IntEnum):
    """What an instruction does; 0 is illegal, so that cleared memory is no program."""

    ILLEGAL = 0
    LOAD = 1  #: copy rows from DRAM into an on-chip memory
    STORE = 2  #: copy rows from an on-chip memory to DRAM
    COMPUTE = 3  #: run a tile through array or pooling, and the post-processor
    BARRIER = 4  #: fetch nothing more until all engines are idle
    END = 5  #: BARRIER, then the next image from the body's first instruction, or done


class Memory(enum.IntEnum):
    """On-chip memories that LOAD and STORE address, in units of bus beats."""

    WEIGHT = 0
    ACTIVATION = 1
    PARAMETER = 2
    RESIDUAL = 3
    OUTPUT = 4


def memory_beats(geometry: Geometry, memory: Memory) -> int:
    """Depth of an on-chip memory in bus beats."""
    bits = {
        Memory.WEIGHT: geometry.weight_words * geometry.weight_bits_per_word,
        Memory.ACTIVATION: geometry.activation_words * geometry.activation_bits_per_word,
        Memory.PARAMETER: geometry.parameter_slots
        * PARAMETER_ROWS
        * geometry.parameter_bits_per_row,
        Memory.RESIDUAL: geometry.residual_words * geometry.residual_bits_per_word,
        Memory.OUTPUT: geometry.output_words * geometry.activation_bits_per_word,
    }[memory]
    return bits // geometry.bus_bits


class Base(enum.IntEnum):
    """What a DRAM offset is relative to. Each region has an end, which the header names."""

    IMAGE = 0  #: the memory image
    INPUT = 1  #: the current image's input
    OUTPUT = 2  #: the current image's output


class Cause(enum.IntEnum):
    """What a COMPUTE waits for when it waits for a load: the counter that the cycle goes to."""

    WEIGHTS = 0
    ACTIVATIONS = 1
    PARAMETERS = 2


class Source(enum.IntEnum):
    """Where a COMPUTE's values come from."""

    ARRAY = 0  #: dot products of activation and weight words
    POOL = 1  #: a window of the residual memory, reduced


class PoolOperation(enum.IntEnum):
    """How a POOL window is reduced."""

    MAX = 0
    SUM = 1


@dataclass(frozen=True)
class Field:
    """One field of a layout.

    Parameters:
        name: Name, unique in its layout.
        bits: Width.
        doc: Meaning and unit.
        signed: Two's complement if true.
        limit: Name of the size of a geometry that bounds the width that its machine holds; empty
            where every machine holds all of it.
    """

    name: str
    bits: int
    doc: str
    signed: bool = False
    limit: str = ""

    def held_bits(self, geometry: Geometry) -> int:
        """Width that a machine holds: the rest are copies of the sign, or 0."""
        return min(self.bits, getattr(geometry, self.limit)) if self.limit else self.bits

    def held(self, geometry: Geometry) -> Field:
        """The field as wide as a machine holds it."""
        return replace(self, bits=self.held_bits(geometry))

    @property
    def min(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest value."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


class Layout:
    """Fields packed from bit 0 upwards.

    Parameters:
        name: What the layout describes, for messages.
        fields: The fields in order.
        size: Total bits; the rest above the last field is reserved and 0.

    Raises:
        InstructionError: The fields do not fit, or two share a name.
    """

    def __init__(self, name: str, fields: tuple[Field, ...], size: int) -> None:
        self.name = name
        self.fields = fields
        self.size = size
        self.offsets: dict[str, int] = {}
        offset = 0
        for item in fields:
            if item.name in self.offsets:
                raise InstructionError(f"{name}: two fields are called {item.name!r}")
            self.offsets[item.name] = offset
            offset += item.bits
        self.used = offset
        if offset > size:
            raise InstructionError(f"{name}: fields take {offset} bits of {size}")

    def encode(self, values: Mapping[str, int]) -> bytes:
        """Pack ``values`` into ``size / 8`` bytes; fields that are not named are 0.

        Raises:
            InstructionError: An unknown field, or a value outside its field's range.
        """
        unknown = set(values) - set(self.offsets)
        if unknown:
            raise InstructionError(f"{self.name} has no field {min(unknown)!r}")
        word = 0
        for item in self.fields:
            value = int(values.get(item.name, 0))
            if not item.min <= value <= item.max:
                raise InstructionError(f"{self.name}.{item.name} is {value}, outside "
                                       f"{item.min}..{item.max}")  # fmt: skip
            word |= (value & ((1 << item.bits) - 1)) << self.offsets[item.name]
        return word.to_bytes(self.size // 8, "little")

    def decode(self, data: bytes) -> dict[str, int]:
        """Unpack ``size / 8`` bytes into field values; the inverse of :meth:`encode`.

        Raises:
            InstructionError: Wrong length, or reserved bits that are not 0.
        """
        if len(data) != self.size // 8:
            raise InstructionError(f"{self.name} takes {self.size // 8} bytes, not {len(data)}")
        word = int.from_bytes(data, "little")
        if word >> self.used:
            raise InstructionError(f"{self.name} has reserved bits set")
        values = {}
        for item in self.fields:
            value = (word >> self.offsets[item.name]) & ((1 << item.bits) - 1)
            values[item.name] = value - (1 << item.bits) if value > item.max else value
        return values

    def require_held(self, values: Mapping[str, int], geometry: Geometry) -> None:
        """Refuse values that a machine does not hold, although the layout has room for them.

        Raises:
            InstructionError: Names the field, its value and what the machine holds.
        """
        for item in self.fields:
            held, value = item.held(geometry), values.get(item.name, 0)
            if not held.min <= value <= held.max:
                raise InstructionError(
                    f"{self.name}.{item.name} is {value}; geometry {geometry.name} holds "
                    f"{held.min}..{held.max}"
                )


# Widths that several fields share.
ADDRESS_BITS = 20  # on-chip word or beat addresses; address arithmetic wraps at this width
EXTENT_BITS = 12  # rows, columns, chunks
COORDINATE_BITS = 13  # signed row and column coordinates
DRAM_BITS = 32


def _address(name: str, doc: str, bits: int = ADDRESS_BITS) -> Field:
    """An on-chip address, or a distance between two."""
    return Field(name, bits, doc, limit="address_bits")


def _extent(name: str, doc: str, bits: int = EXTENT_BITS) -> Field:
    """A number of rows, columns or chunks."""
    return Field(name, bits, doc, limit="extent_bits")


def _coordinate(name: str, doc: str) -> Field:
    """A row or column, which may be negative."""
    return Field(name, COORDINATE_BITS, doc, signed=True, limit="coordinate_bits")


def _dram(name: str, doc: str) -> Field:
    """An offset or a size in DRAM."""
    return Field(name, DRAM_BITS, doc, limit="dram_bits")


HEADER = (
    Field("opcode", 4, "Opcode."),
    Field("wait_load", 1, "Take a token from the load engine before starting."),
    Field("wait_compute", 1, "Take a token from the compute engine before starting."),
    Field("wait_store", 1, "Take a token from the store engine before starting."),
    Field("signal_load", 1, "Give the load engine a token when complete."),
    Field("signal_compute", 1, "Give the compute engine a token when complete."),
    Field("signal_store", 1, "Give the store engine a token when complete."),
    Field("cause", 2, "COMPUTE: what the load token stands for (Cause)."),
    Field("drain", 1, "COMPUTE: start only when the previous COMPUTE has written its last result."),
    Field("layer", 12, "Layer index, for profiles and error messages; no effect on results."),
)

CONTROL = Layout("CONTROL", HEADER, UNIT_BITS)

TRANSFER = Layout(
    "TRANSFER",
    (
        *HEADER,
        Field("memory", 3, "Memory."),
        Field("base", 2, "Base."),
        _address("address", "First on-chip address, in bus beats."),
        Field("stride", ADDRESS_BITS, "On-chip beats from one row's start to the next's.",
              limit="row_stride_bits"),
        Field("rows", 16, "Number of rows, at least 1.", limit="row_bits"),
        _address("row_beats", "Bus beats of one row, at least 1.", 16),
        _dram("dram_offset", "Byte offset from the base, a multiple of the bus width."),
        Field("dram_stride", DRAM_BITS, "Bytes from one row's start to the next's, likewise.",
              limit="row_dram_bits"),
    ),
    UNIT_BITS,
)  # fmt: skip


def _code_fields(number: int) -> tuple[Field, ...]:
    fields: tuple[Field, ...] = (
        Field("bits", 4, "Width: 0 none, 1 to 4 by thresholds, 8 by clamping to 0..255."),
        Field("to_activation", 1, "Write it to the activation memory."),
        Field("to_output", 1, "Write it to the output buffer."),
        _address("activation_address", "Activation word of the first result."),
        _address("output_address", "Output-buffer word of the first result."),
        _address("row_stride", "Words between output rows, in both memories."),
        _address("pixel_stride", "Words between output pixels, in both memories.", 16),
    )
    stride = Field("group_stride", 12, "Words between groups, for scattered lanes.",
                   limit="group_stride_bits")  # fmt: skip
    if number == 2:
        fields = tuple(replace(item, limit="second_code_bits") for item in fields)
        stride = replace(stride, limit="second_group_stride_bits")
    return tuple(replace(item, name=f"code{number}_{item.name}") for item in (*fields, stride))


COMPUTE = Layout(
    "COMPUTE",
    (
        *HEADER,
        Field("source", 1, "Source."),
        Field("pool_operation", 1, "PoolOperation, where the source is POOL."),
        # Input window
        _address("input_origin",
              "Word of tap (0, 0), chunk 0, digit 0 at output (0, 0); wraps where that is padding. "
              "Activation words for ARRAY, residual words for POOL."),
        _address("input_row_step", "Words from one input row to the next."),
        _address("input_pixel_step", "Words from one input pixel to the next.", 16),
        _address("input_row_stride",
              "Words from one output row's window to the next's."),
        _address("input_pixel_stride", "Words from one output pixel's window to the next's.", 16),
        _extent("input_rows", "Rows present in memory; others are padding."),
        _extent("input_columns", "Columns present in memory; others are padding."),
        _coordinate("first_row", "Row of tap (0, 0) at output (0, 0)."),
        _coordinate("first_column", "Column of tap (0, 0) at output (0, 0)."),
        Field("stride_rows", 4, "Input rows from one output row to the next.",
              limit="stride_bits"),
        Field("stride_columns", 4, "Input columns from one output column to the next.",
              limit="stride_bits"),
        _extent("kernel_rows", "Window height.", 8),
        _extent("kernel_columns", "Window width.", 8),
        _extent("input_chunks", "ARRAY: activation words (of one digit) per tap."),
        Field("input_digits", 3, "ARRAY: base-4 digits of an activation code: 1, 2 or 4."),
        Field("last_lanes", 8, "ARRAY: lanes in use in a tap's last chunk; 1 to tin."),
        Field("pad_code", 8, "ARRAY: code that padding taps carry in the lanes in use."),
        # Output extent
        _extent("output_rows", "Rows of results."),
        _extent("output_columns", "Columns of results."),
        _extent("output_chunks", "Chunks of tout output channels: the outermost loop."),
        # Weights and digit passes
        _address("weight_address", "First weight word."),
        Field("weight_plane", ADDRESS_BITS, "Words of one digit of one output chunk.",
              limit="weight_plane_bits"),
        _address("weight_chunk", "Words from one output chunk to the next."),
        Field("weight_digits", 3, "Base-4 digits of a weight code: 1, 2 or 4.",
              limit="weight_digit_bits"),
        Field("digit_sum_first", 3, "First (highest) sum of digit positions i + j."),
        Field("digit_sum_last", 3, "Last (lowest) sum of digit positions."),
        Field("accumulate", 1, "Go on from the accumulators that the previous COMPUTE left."),
        Field("shift_first", 1, "With accumulate: multiply them by 4 before the first addition."),
        Field("hold", 1, "Leave the accumulators for the next COMPUTE; emit nothing."),
        # From code products to values
        Field("alpha_shift", 1, "alpha is 1 << alpha_shift."),
        Field("beta_shift", 4, "beta is (1 << beta_shift) - beta_minus."),
        Field("beta_minus", 1, "See beta_shift."),
        # Post-processing
        _extent("parameter_slot", "Parameter slot of the first chunk's first beat."),
        Field("affine", 1, "(v * M + B) >> Sh, saturated to saturation_bits."),
        Field("relu_before", 1, "max(v, 0) before the residual addition."),
        Field("residual", 1, "Add the residual, saturated to saturation_bits.",
              limit="addition_bits"),
        Field("relu_after", 1, "max(v, 0) after the residual addition."),
        Field("saturation_bits", 5, "Width that affine and addition saturate to: 8 to 16."),
        Field("raw", 1, "The affine's 32-bit result, unsaturated, is what residual_out writes."),
        # Where results go
        Field("steps", 6, "Memory steps of one beat, at least isa.beat_steps."),
        Field("scatter_groups", 4, "Groups that lanes are spread over: 1, or 2 to 8.",
              limit="scatter_bits"),
        Field("first_lane", 8, "Lane of its word that the first result's lane 0 goes to."),
        *_code_fields(1),
        *_code_fields(2),
        Field("residual_out", 1, "Write v to the residual memory."),
        _address("residual_out_address", "Residual word of the first result."),
        _address("residual_out_row_stride", "Words between output rows."),
        _address("residual_out_pixel_stride", "Words between output pixels.", 16),
        Field("residual_out_group_stride", 12, "Words between groups, for scattered lanes.",
              limit="group_stride_bits"),
        Field("residual_in_address", ADDRESS_BITS, "Residual word added to the first result.",
              limit="addition_bits"),
        Field("residual_in_row_stride", ADDRESS_BITS, "Words between output rows.",
              limit="addition_bits"),
        Field("residual_in_pixel_stride", 16, "Words between output pixels.",
              limit="addition_bits"),
    ),
    3 * UNIT_BITS,
)  # fmt: skip

LAYOUTS: dict[Opcode, Layout] = {
    Opcode.LOAD: TRANSFER,
    Opcode.STORE: TRANSFER,
    Opcode.COMPUTE: COMPUTE,
    Opcode.BARRIER: CONTROL,
    Opcode.END: CONTROL,
}

#: The beginning of a memory image.
IMAGE_HEADER = Layout(
    "IMAGE_HEADER",
    (
        Field("magic", 32, "MAGIC."),
        Field("version", 16, "VERSION."),
        Field("reserved", 16, "0."),
        Field("geometry", 32, "Geometry.identity of the machine that the image is built for."),
        _dram("program_offset", "Byte offset of the first instruction."),
        _dram("body_offset", "Byte offset of the first instruction of each further image."),
        _dram("image_bytes", "Bytes of the image; DRAM offsets from Base.IMAGE stay below."),
        Field("crc", 32, "CRC-32 of the image with this field 0; checked by software."),
        _dram("input_bytes", "Bytes of one input; DRAM offsets from Base.INPUT stay below."),
        _dram("output_bytes", "Bytes of one output; DRAM offsets from Base.OUTPUT stay below."),
    ),
    8 * HEADER_BYTES,
)


def encode(opcode: Opcode, **values: int) -> bytes:
    """One instruction as bytes; fields that are not named are 0."""
    return LAYOUTS[opcode].encode({"opcode": opcode, **values})


def decode(data: bytes, offset: int = 0) -> tuple[Opcode, dict[str, int], int]:
    """The instruction at ``offset``: opcode, fields, and the offset behind it.

    Raises:
        InstructionError: Unknown opcode, truncated instruction, or reserved bits set.
    """
    if offset + UNIT_BYTES > len(data):
        raise InstructionError(f"program ends inside an instruction at offset {offset:#x}")
    number = data[offset] & ((1 << HEADER[0].bits) - 1)
    try:
        opcode = Opcode(number)
        layout = LAYOUTS[opcode]
    except (ValueError, KeyError):
        raise InstructionError(f"unknown opcode {number} at offset {offset:#x}") from None
    end = offset + layout.size // 8
    return opcode, layout.decode(bytes(data[offset:end])), end


def digits(bits: int) -> int:
    """Base-4 digits of a code of ``bits`` bits; odd widths take the next even width."""
    return (bits + 1) // 2


def result_words(fields: Mapping[str, int]) -> int:
    """Words that the sequencer issues for a result, or for a pooled beat."""
    taps = fields["kernel_rows"] * fields["kernel_columns"]
    if fields["source"] == Source.POOL:
        return taps
    pairs = sum(
        0 <= total - j < fields["input_digits"]
        for total in range(fields["digit_sum_last"], fields["digit_sum_first"] + 1)
        for j in range(fields["weight_digits"])
    )
    return taps * fields["input_chunks"] * pairs


def beat_steps(fields: Mapping[str, int], geometry: Geometry) -> int:
    """Memory steps that the post-processor spends on one beat of a COMPUTE.

    In each step the activation memory, the output buffer and the residual memory can take one
    word each; scattered lanes repeat the writes for every group. The search for codes, and some
    machines, want more time.
    """
    ports = []
    for memory in ("activation", "output"):
        ports.append(
            sum(
                digits(fields[f"code{n}_bits"]) * fields[f"code{n}_to_{memory}"] for n in (1, 2)
            )
        )  # fmt: skip
    ports.append(geometry.raw_planes if fields["raw"] else 1)
    searches = search_cycles([fields[f"code{n}_bits"] for n in (1, 2)])
    return max(max(ports) * fields["scatter_groups"], searches, geometry.beat_cycles)


# Parameters: a slot holds one beat's parameters in 32 rows; a row holds one 32-bit value per lane.
# The rows that 2-bit codes need come first, so that they are loaded in one short run.

ROW_OFFSET = 0  #: B, signed
ROW_CONTROL = 1  #: PARAMETER_CONTROL
#: Threshold rows of code tensor 1 and 2, by position 1..15 in the search tree: position 1 is
#: compared first, and position p is followed by 2p (below) or 2p + 1 (at or above).
THRESHOLD_ROWS: tuple[dict[int, int], dict[int, int]] = (
    {p: 1 + p if p < 4 else 4 + p for p in range(1, 16)},
    {p: 4 + p if p < 4 else 16 + p for p in range(1, 16)},
)

PARAMETER_CONTROL = Layout(
    "PARAMETER_CONTROL",
    (
        Field("scale", 16, "M.", True),
        Field("shift", 5, "Sh."),
        Field("negate1", 1, "Compare -v with the thresholds of code tensor 1."),
        Field("negate2", 1, "Compare -v with the thresholds of code tensor 2."),
        Field("group", 3, "Group that this lane is scattered to."),
        Field("valid", 1, "The lane holds a channel; otherwise its code and residual are 0."),
    ),
    32,
)


def parameter_rows(bits: int) -> int:
    """Rows of a slot that a COMPUTE reads whose widest threshold code has ``bits`` bits."""
    if bits == 0:
        return 2
    return 8 if bits <= 2 else 32


def tree_order(bits: int) -> list[int]:
    """Sorted-threshold index (0-based) of each search-tree position 1 .. 2^bits - 1.

    Example for 2 bits: position 1 is the middle threshold (index 1), position 2 index 0,
    position 3 index 2.
    """
    order = []
    for position in range(1, 1 << bits):
        level = position.bit_length() - 1
        span = 1 << (bits - level)
        order.append((position - (1 << level)) * span + span // 2 - 1)
    return order
