"""Which memory each instruction touches, derived from its fields alone.

The compiler orders instructions of different engines by the conflicts between these intervals, so
what an instruction touches cannot drift from what the compiler believes that it touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from palquant.hw import isa
from palquant.hw.config import PARAMETER_ROWS, Geometry
from palquant.hw.isa import Base, Memory, Opcode, Source, memory_beats


@dataclass(frozen=True)
class Access:
    """One interval of one memory, or pieces of it at equal distances.

    Parameters:
        space: On-chip memory, or DRAM region.
        low: First byte.
        high: Byte behind the last.
        write: Whether it is written.
        period: Bytes from the start of one piece to that of the next, from ``low`` on; 0 for all
            bytes of the interval.
        width: Bytes of a piece, less than ``period``.
    """

    space: Memory | Base
    low: int
    high: int
    write: bool
    period: int = 0
    width: int = 0

    def whole(self) -> Access:
        """All bytes of the interval."""
        return replace(self, period=0, width=0)

    def conflicts(self, other: Access) -> bool:
        """Whether the order of both accesses matters."""
        return (
            (self.write or other.write)
            and type(self.space) is type(other.space)
            and self.space == other.space
            and self.low < other.high
            and other.low < self.high
            and not self._interleaves(other)
        )

    def _interleaves(self, other: Access) -> bool:
        """Whether the pieces of one lie between those of the other."""
        if not self.period or self.period != other.period:
            return False
        offset = (other.low - self.low) % self.period
        return self.width <= offset <= self.period - other.width


def accesses(opcode: Opcode, fields: Mapping[str, int], geometry: Geometry) -> list[Access]:
    """Intervals that an instruction reads and writes, in bytes.

    What is strided is a bounding interval; residuals and codes whose pixels lie at equal distances,
    as those of all rows of a tensor do, are pieces of it. They hold whatever an instruction touches
    that the emulator executes, for any values of its fields. Where the fields do not tell in a
    simple way what a COMPUTE reads, that is a whole memory.
    """
    if opcode in (Opcode.LOAD, Opcode.STORE):
        return _transfer(opcode, fields, geometry)
    if opcode is Opcode.COMPUTE:
        return _inputs(fields, geometry) + _outputs(fields, geometry)
    return []


def adds_in_place(opcode: Opcode, f: Mapping[str, int]) -> bool:
    """Whether a COMPUTE writes each sum where it reads the residual, and there only.

    The post-processor reads a beat's residuals before it writes its results.
    """
    return bool(
        opcode is Opcode.COMPUTE
        and f["source"] == Source.ARRAY
        and f["residual"]
        and f["residual_out"]
        and not f["raw"]
        and f["scatter_groups"] == 1
        and all(
            f[f"residual_out_{name}"] == f[f"residual_in_{name}"]
            for name in ("address", "row_stride", "pixel_stride")
        )
    )


def _transfer(opcode: Opcode, f: Mapping[str, int], geometry: Geometry) -> list[Access]:
    beat = geometry.bus_bytes
    length = f["row_beats"] * beat
    chip = f["address"] * beat
    chip_end = chip + (f["rows"] - 1) * f["stride"] * beat + length
    dram_end = f["dram_offset"] + (f["rows"] - 1) * f["dram_stride"] + length
    load = opcode is Opcode.LOAD
    return [
        Access(Memory(f["memory"]), chip, chip_end, load),
        Access(Base(f["base"]), f["dram_offset"], dram_end, not load),
    ]


def _inputs(f: Mapping[str, int], g: Geometry) -> list[Access]:
    """Input window, weights, parameters and residual of a COMPUTE."""
    slots = f["output_chunks"] * g.beats
    found = [_parameters(f["parameter_slot"], slots, g)]
    if f["source"] == Source.POOL:
        word = g.residual_bits_per_word // 8
        low, high = _window(f, slots, g.residual_words, g)
        found.append(Access(Memory.RESIDUAL, low * word, high * word, False))
    else:
        word = g.activation_bits_per_word // 8
        low, high = _window(f, f["input_chunks"] * f["input_digits"], g.activation_words, g)
        found.append(Access(Memory.ACTIVATION, low * word, high * word, False))
        size = g.weight_bits_per_word // 8
        end = f["weight_address"] + (f["output_chunks"] - 1) * f["weight_chunk"]
        end += (f["weight_digits"] - 1) * f["weight_plane"]
        end += f["kernel_rows"] * f["kernel_columns"] * f["input_chunks"]
        found.append(Access(Memory.WEIGHT, f["weight_address"] * size, end * size, False))
    if f["residual"]:
        word = g.residual_bits_per_word // 8
        start = f["residual_in_address"]
        found.append(_pixels(f, "residual_in", Memory.RESIDUAL, start, slots, word, False, g))
    return found


def _window(f: Mapping[str, int], words: int, depth: int, geometry: Geometry) -> tuple[int, int]:
    """First word that a COMPUTE's windows may read, and the word behind the last.

    A tap's address follows from its input row and column alone if the windows of neighbouring
    outputs are as far apart in memory as in coordinates, so that the rows and columns present bound
    it. Otherwise, and where the interval leaves the memory so that addresses in it may wrap, it is
    the whole memory.

    Parameters:
        f: Fields of the instruction.
        words: Words that a tap reads.
        depth: Words of the memory.
        geometry: The machine.
    """
    wrap = 1 << geometry.address_bits
    for outputs, stride, coordinates, step in (
        ("output_rows", "input_row_stride", "stride_rows", "input_row_step"),
        ("output_columns", "input_pixel_stride", "stride_columns", "input_pixel_step"),
    ):
        if f[outputs] > 1 and (f[stride] - f[coordinates] * f[step]) % wrap:
            return 0, depth
    row = _signed(f["input_row_step"], geometry)
    first = f["input_origin"] - f["first_row"] * row - f["first_column"] * f["input_pixel_step"]
    first %= wrap
    down = (f["input_rows"] - 1) * row
    low = first + min(0, down)
    high = first + max(0, down) + (f["input_columns"] - 1) * f["input_pixel_step"] + words
    return (low, high) if low >= 0 and high <= depth else (0, depth)


def _outputs(f: Mapping[str, int], g: Geometry) -> list[Access]:
    found = []
    spread = f["scatter_groups"] - 1
    if f["residual_out"]:
        words = f["output_chunks"] * g.beats * (g.raw_planes if f["raw"] else 1)
        words += spread * f["residual_out_group_stride"]
        word, start = g.residual_bits_per_word // 8, f["residual_out_address"]
        found.append(_pixels(f, "residual_out", Memory.RESIDUAL, start, words, word, True, g))
    word = g.activation_bits_per_word // 8
    lanes = f["first_lane"] + f["output_chunks"] * g.tout
    for n in (1, 2):
        words = -(-lanes // g.tin) * isa.digits(f[f"code{n}_bits"])
        words += spread * f[f"code{n}_group_stride"]
        for memory, name in ((Memory.ACTIVATION, "activation"), (Memory.OUTPUT, "output")):
            if f[f"code{n}_bits"] and f[f"code{n}_to_{name}"]:
                start = f[f"code{n}_{name}_address"]
                found.append(_pixels(f, f"code{n}", memory, start, words, word, True, g))
    return found


def _pixels(
    f: Mapping[str, int],
    prefix: str,
    memory: Memory,
    start: int,
    words: int,
    word: int,
    write: bool,
    g: Geometry,
) -> Access:
    """What a COMPUTE touches of each pixel of its tile; the whole memory where addresses may wrap.

    Parameters:
        f: Fields of the instruction.
        prefix: Of the fields that hold the strides.
        memory: Where.
        start: First word of the first pixel.
        words: Words from a pixel's first to its last.
        word: Bytes of a word.
        write: Whether it is written.
        g: The machine.
    """
    row, pixel = _signed(f[f"{prefix}_row_stride"], g), f[f"{prefix}_pixel_stride"]
    down = (f["output_rows"] - 1) * row
    low = start + min(0, down)
    high = start + max(0, down) + (f["output_columns"] - 1) * pixel + words
    size = memory_beats(g, memory) * g.bus_bytes
    if low < 0 or high * word > size:
        return Access(memory, 0, size, write)
    even = words < pixel and (f["output_rows"] == 1 or row % pixel == 0)
    period, width = (pixel * word, words * word) if even else (0, 0)
    return Access(memory, low * word, high * word, write, period, width)


def _signed(stride: int, geometry: Geometry) -> int:
    """A stride, modulo the address space, as the step that it is: rows may lie backwards."""
    wrap = 1 << geometry.address_bits
    return stride - wrap if stride >= wrap // 2 else stride


def _parameters(slot: int, slots: int, g: Geometry) -> Access:
    size = PARAMETER_ROWS * g.parameter_bits_per_row // 8
    return Access(Memory.PARAMETER, slot * size, (slot + slots) * size, False)
