"""The geometry: every size of the machine, in one object that gateware and software read.

A geometry is checked when it is made, so whoever holds one can rely on the relations below.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from dataclasses import dataclass

from palquant.errors import GeometryError

#: Width of one base-4 digit, the only operand width that the array's multipliers know.
DIGIT_BITS = 2
#: Rows of the parameter memory that one slot (one post-processor beat) owns; see ``isa``.
PARAMETER_ROWS = 32
#: Width of one parameter per lane, as stored in memory.
PARAMETER_BITS = 32
#: COMPUTEs in the compute engine's pipeline at most: one that issues words, and one before it whose
#: last results are being written. Whoever takes a third breaks what two rest on: the gateware,
#: whose post-processor keeps two banks of settings (``hw.sequencer`` takes no third), and the
#: compiler, which lets a COMPUTE drain for the one before it only (``sw.schedule``, ``sw.races``).
COMPUTES_UNDER_WAY = 2


#: Parameters whose default is what instructions can say at most.
_LIMITS = frozenset(
    {
        "token_bits",
        "code_tensors",
        "additions",
        "weight_digits",
        "scatter",
        "threshold_levels",
        "result_bits",
        "beat_cycles",
        "strided",
        "address_bits",
        "dram_bits",
        "extent_bits",
        "stride_bits",
    }
)


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class Geometry:
    """Sizes of one accelerator.

    Parameters:
        name: Preset name, or any name for a geometry of your own.
        tin: Input lanes: channels of one activation word. Power of two.
        tout: Dot-product units: output channels computed at once. Power of two.
        lanes: Post-processor lanes; divides ``tin`` and ``tout``. Power of two.
        bus_bits: Data width of the AXI4 master: 32, 64, 128 or 256.
        accumulator_bits: Register P, the unsigned sum of code products. At most 32.
        activation_sum_bits: Register S, the unsigned sum of activation codes.
        scale_bits: Multiplier M, signed. At most 16.
        offset_bits: Offset B, signed. At most 32.
        threshold_bits: Thresholds, signed. At most 32.
        pool_bits: Sums of average pooling, signed.
        residual_bits: Residual stream as stored, signed: 8 or 16.
        weight_words: Depth of the weight memory, in words of tin * tout digits.
        activation_words: Depth of the activation memory, in words of tin digits.
        output_words: Depth of the output buffer, in words of tin digits.
        residual_words: Depth of the residual memory, in words of ``lanes`` residuals.
        parameter_slots: Beats (``lanes`` output channels) whose parameters fit on chip.
        queue_depth: Instructions that each engine's queue holds.
        burst_beats: Longest AXI4 burst; a power of two, at most 256 and 4096 bytes.
        outstanding_bursts: Read bursts in flight at most.
        prefetch_units: Instruction units that are read ahead at most; a power of two. 32 give a
            unit every 2 cycles where the memory answers after 50.
        counters: Whether performance counters exist.
        array_registers: Registers between the array's operands and its accumulators: each costs a
            cycle where a COMPUTE waits for the one before it, and area, and lets the clock run
            faster.
        narrow_rows: Whether a row of the activation memory is one word where a bus beat is wider:
            LOAD then writes a beat word by word, a cycle each. Block RAM that has one enable for
            each digit of a row holds twice as much where a row has half as many.
        code_tensors: Tensors of codes that a COMPUTE can write: 1 or 2.
        additions: Whether residuals can be added.
        weight_digits: Base-4 digits of a weight, at most: 4, or 1.
        scatter: Whether the lanes of a beat can be spread over groups.
        threshold_levels: Bits of the widest code that is found by thresholds, at most 4.
        result_bits: Raw results, signed, before they are stored with their sign in 32 bits. 17 to
            32; the value path keeps all its bits in any case.
        multiplier_bits: Operands of the FPGA's multipliers, signed: wider ones are cut to them.
        beat_cycles: Cycles from one beat of the post-processor to the next, at least: 1, where
            beats follow each other through its stages; or as many as a beat takes, or more. Then
            most stages need no registers, since what a beat needs stays until the next one.
        overlap: Whether an engine begins an instruction before the one before it is complete. Where
            not, an instruction stays in its queue, which holds one, until it is complete, and no
            other register holds its fields.
        diagnosis: Whether an error names the instruction at fault, and STALL says what each unit
            waits for; where not, ERROR_ADDRESS and STALL read as 0.
        checks: Whether values that the machine does not hold are errors; where not, they are cut,
            and a region of DRAM that reaches beyond the last address goes on at address 0.
        token_bits: Tokens of a counter. At most 8.
        count_bits: Images of one doorbell, as registers count them. At most 32. With 1 there is one
            image a doorbell, and no strides; settings must then not change during a run.
        watchdog_bits: Cycles without progress, likewise. At most 32.
        strided: Whether a LOAD or STORE can move several rows.
        address_bits: Addresses on chip, in words and in beats, and the steps between them, as the
            machine holds them; address arithmetic wraps at this width. At most 20.
        dram_bits: Byte addresses and offsets on the bus, likewise. At most 32.
        extent_bits: Rows, columns and chunks, likewise: 4 to 12.
        stride_bits: Rows and columns between windows, likewise. At most 4.

    Raises:
        GeometryError: A parameter is out of range or contradicts another.
    """

    name: str
    tin: int
    tout: int
    lanes: int
    bus_bits: int
    accumulator_bits: int
    activation_sum_bits: int
    threshold_bits: int
    residual_bits: int
    weight_words: int
    activation_words: int
    output_words: int
    residual_words: int
    parameter_slots: int
    scale_bits: int = 16
    offset_bits: int = 32
    pool_bits: int = 28
    queue_depth: int = 4
    burst_beats: int = 32
    outstanding_bursts: int = 8
    prefetch_units: int = 32
    counters: bool = True
    array_registers: int = 3
    narrow_rows: bool = False
    code_tensors: int = 2
    additions: bool = True
    weight_digits: int = 4
    scatter: bool = True
    threshold_levels: int = 4
    result_bits: int = 32
    multiplier_bits: int = 18
    beat_cycles: int = 1
    overlap: bool = True
    diagnosis: bool = True
    checks: bool = True
    token_bits: int = 8
    count_bits: int = 32
    watchdog_bits: int = 32
    strided: bool = True
    address_bits: int = 20
    dram_bits: int = 32
    extent_bits: int = 12
    stride_bits: int = 4

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and (not isinstance(value, int) or value < 1):
                raise GeometryError(f"{self.name}: {item.name} must be a positive integer, "
                                    f"not {value!r}")  # fmt: skip
        for label in ("tin", "tout", "lanes", "burst_beats", "queue_depth", "prefetch_units"):
            if not _is_power_of_two(getattr(self, label)):
                raise GeometryError(f"{self.name}: {label} must be a power of two, "
                                    f"not {getattr(self, label)}")  # fmt: skip
        self._require(self.tin <= 128 and self.tout <= 128, "tin and tout are at most 128")
        self._require(
            self.tin % self.lanes == 0 and self.tout % self.lanes == 0,
            f"lanes ({self.lanes}) must divide tin ({self.tin}) and tout ({self.tout})",
        )
        self._require(self.bus_bits in (32, 64, 128, 256), "bus_bits must be 32, 64, 128 or 256")
        self._require(self.residual_bits in (8, 16), "residual_bits must be 8 or 16")
        for label, bits in (
            ("weight", self.weight_bits_per_word),
            ("parameter", self.parameter_bits_per_row),
        ):
            self._require(
                bits % self.bus_bits == 0,
                f"a {label} word of {bits} bits is no multiple of the {self.bus_bits}-bit bus",
            )
        for label, bits in (
            ("activation", self.activation_bits_per_word),
            ("residual", self.residual_bits_per_word),
        ):
            self._require(
                max(bits, self.bus_bits) % min(bits, self.bus_bits) == 0,
                f"{label} words of {bits} bits and a bus of {self.bus_bits} bits must divide one "
                "another",
            )
        for label, limit in (
            ("accumulator_bits", 32),
            ("activation_sum_bits", 32),
            ("threshold_bits", 32),
            ("scale_bits", 16),
            ("offset_bits", 32),
            ("address_bits", 20),
            ("dram_bits", 32),
            ("extent_bits", 12),
            ("stride_bits", 4),
            ("code_tensors", 2),
            ("threshold_levels", 4),
            ("result_bits", 32),
            ("token_bits", 8),
            ("count_bits", 32),
            ("beat_cycles", 63),
            ("watchdog_bits", 32),
        ):
            self._require(getattr(self, label) <= limit, f"{label} is at most {limit}")
        self._require(
            self.beat_cycles == 1 or not self.overlap,
            "beats that come one at a time need instructions that do not overlap",
        )
        self._require(self.weight_digits in (1, 4), "weight_digits must be 1 or 4")
        self._require(self.result_bits > 16, "result_bits are at least 17")
        self._require(self.multiplier_bits > 8, "multiplier_bits are at least 9")
        self._require(
            self.overlap or self.queue_depth == 1, "queues hold one instruction without overlap"
        )
        self._require(self.extent_bits >= 4, "extent_bits is at least 4")
        for label in ("weight", "activation", "output", "residual"):
            self._require(
                getattr(self, f"{label}_words") <= 1 << self.address_bits,
                f"{label}_words exceed addresses of {self.address_bits} bits",
            )
        self._require(self.pool_bits <= self.value_bits, "pool_bits exceed the value path's width")
        self._require(
            self.burst_beats <= 256 and self.burst_beats * self.bus_bytes <= 4096,
            "bursts are at most 256 beats and 4096 bytes",
        )
        for label, words in (
            ("activation_words", self.activation_words_per_row),
            ("output_words", self.activation_words_per_row),
            ("residual_words", self.residual_words_per_row),
        ):
            self._require(
                getattr(self, label) % words == 0,
                f"{label} must be a multiple of {words}, the words of one memory row",
            )

    def _require(self, condition: bool, text: str) -> None:
        if not condition:
            raise GeometryError(f"{self.name}: {text}")

    # Derived sizes. Everything that is computed from a geometry is computed here.

    @property
    def beats(self) -> int:
        """Post-processor beats of one output chunk."""
        return self.tout // self.lanes

    @property
    def bus_bytes(self) -> int:
        """Bytes of one bus beat."""
        return self.bus_bits // 8

    @property
    def activation_bits_per_word(self) -> int:
        """Bits of one activation word: one digit of ``tin`` channels."""
        return self.tin * DIGIT_BITS

    @property
    def activation_bits_per_row(self) -> int:
        """Bits that activation memory and output buffer hold a whole number of times.

        A physical row, except of an activation memory with ``narrow_rows``.
        """
        return max(self.activation_bits_per_word, self.bus_bits)

    @property
    def activation_words_per_row(self) -> int:
        """Activation words in one physical memory row."""
        return self.activation_bits_per_row // self.activation_bits_per_word

    @property
    def activation_load_cycles(self) -> int:
        """Cycles in which LOAD writes a beat to the activation memory."""
        return self.activation_words_per_row if self.narrow_rows else 1

    @property
    def weight_bits_per_word(self) -> int:
        """Bits of one weight word: one digit of ``tin`` x ``tout`` weights."""
        return self.tin * self.tout * DIGIT_BITS

    @property
    def residual_bits_per_word(self) -> int:
        """Bits of one residual word."""
        return self.lanes * self.residual_bits

    @property
    def residual_words_per_row(self) -> int:
        """Residual words in one physical memory row."""
        return max(1, self.bus_bits // self.residual_bits_per_word)

    @property
    def repeats(self) -> bool:
        """Whether a doorbell can run several images."""
        return self.count_bits > 1

    @property
    def addition_bits(self) -> int:
        """Bits that are held of what concerns the addition of residuals, at most."""
        return self.address_bits if self.additions else 0

    @property
    def weight_digit_bits(self) -> int:
        """Bits that are held of a number of weight digits."""
        return self.weight_digits.bit_length()

    @property
    def weight_plane_bits(self) -> int:
        """Bits that are held of the distance between the digits of a weight."""
        return self.address_bits if self.weight_digits > 1 else 0

    @property
    def scatter_bits(self) -> int:
        """Bits that are held of the number of groups that lanes are spread over."""
        return 4 if self.scatter else 1

    @property
    def group_stride_bits(self) -> int:
        """Bits that are held of the distance between groups of lanes."""
        return self.address_bits if self.scatter else 0

    @property
    def second_group_stride_bits(self) -> int:
        """The same, for a second code tensor."""
        return min(self.group_stride_bits, self.second_code_bits)

    @property
    def row_bits(self) -> int:
        """Bits that are held of the number of a transfer's rows."""
        return self.address_bits if self.strided else 1

    @property
    def row_stride_bits(self) -> int:
        """Bits that are held of the distance between a transfer's rows on chip."""
        return self.address_bits if self.strided else 0

    @property
    def row_dram_bits(self) -> int:
        """Bits that are held of the distance between a transfer's rows in DRAM."""
        return self.dram_bits if self.strided else 0

    @property
    def second_code_bits(self) -> int:
        """Bits that are held of any field of a second code tensor, at most."""
        return self.address_bits if self.code_tensors > 1 else 0

    @property
    def parameter_bits_per_row(self) -> int:
        """Bits of one parameter row: one 32-bit parameter for each lane."""
        return self.lanes * PARAMETER_BITS

    @property
    def dot_bits(self) -> int:
        """Bits of one cycle's dot product: up to tin * 3 * 3."""
        return (self.tin * 9).bit_length()

    @property
    def coordinate_bits(self) -> int:
        """Bits of a row or column that may be negative, as the machine holds it."""
        return self.extent_bits + 1

    @property
    def value_bits(self) -> int:
        """Bits of the signed value path behind the array: ``alpha * P - beta * S`` with alpha 2."""
        return self.accumulator_bits + 2

    @property
    def settles(self) -> bool:
        """Whether a beat has left the post-processor before the next one enters."""
        return self.beat_cycles > 1

    @property
    def read_cycles(self) -> int:
        """Cycles from a read of an on-chip memory to its data.

        Memories lie all over the device, and so addresses, enables and what is written have
        registers on their way. Where beats come one at a time there is less to reach.
        """
        return 1 if self.settles else 2

    @property
    def raw_planes(self) -> int:
        """Residual words that hold one beat of raw 32-bit results."""
        return 32 // self.residual_bits

    @property
    def peak_macs(self) -> int:
        """Two-bit multiply-accumulates per cycle."""
        return self.tin * self.tout

    @property
    def identity(self) -> int:
        """32-bit number that differs between geometries whose images are not interchangeable.

        CRC-32 of the canonical JSON of all sizes that instructions or layouts depend on; the
        name, the counters, how the bus is driven, how the array is pipelined, what overlaps and
        what memories are made of are left out, and so are limits that the instruction set has
        anyway.
        """
        skipped = {"name", "counters", "burst_beats", "outstanding_bursts", "array_registers"}
        skipped |= {
            "prefetch_units",
            "checks",
            "multiplier_bits",
            "overlap",
            "diagnosis",
            "count_bits",
            "watchdog_bits",
            "narrow_rows",
        }
        skipped |= {
            item.name
            for item in dataclasses.fields(self)
            if item.name in _LIMITS and getattr(self, item.name) == item.default
        }
        sizes = {k: v for k, v in dataclasses.asdict(self).items() if k not in skipped}
        return zlib.crc32(json.dumps(sizes, sort_keys=True).encode())
