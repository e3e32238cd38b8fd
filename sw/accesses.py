"""Which memory each instruction touches, derived from its fields alone.

The compiler orders instructions of different engines by the conflicts between these intervals, so
what an instruction touches cannot drift from what the compiler believes that it touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from palquant.hw import isa
from palquant.hw.config import PARAMETER_ROWS, Geometry
from palquant.hw.isa import Base, Memory, Opcode, Source


@dataclass(frozen=True)
class Access:
    """One interval of one memory.

    Parameters:
        space: On-chip memory, or DRAM region.
        low: First byte.
        high: Byte behind the last.
        write: Whether it is written.
    """

    space: Memory | Base
    low: int
    high: int
    write: bool

    def conflicts(self, other: Access) -> bool:
        """Whether the order of both accesses matters."""
        return (
            (self.write or other.write)
            and type(self.space) is type(other.space)
            and self.space == other.space
            and self.low < other.high
            and other.low < self.high
        )


def accesses(opcode: Opcode, fields: Mapping[str, int], geometry: Geometry) -> list[Access]:
    """Intervals that an instruction reads and writes, in bytes; bounding intervals if strided.

    They hold whatever an instruction touches that the emulator executes, for any values of its
    fields. Where the fields do not tell in a simple way what a COMPUTE reads, that is a whole
    memory.
    """
    if opcode in (Opcode.LOAD, Opcode.STORE):
        return _transfer(opcode, fields, geometry)
    if opcode is Opcode.COMPUTE:
        return _inputs(fields, geometry) + _outputs(fields, geometry)
    return []


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
        found.append(_residuals(*_window(f, slots, g.residual_words, g), False, g))
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
        start = f["residual_in_address"]
        end = start + _extent(f, "residual_in") + slots
        found.append(_residuals(start, end, False, g))
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
    first = f["input_origin"]
    first -= f["first_row"] * f["input_row_step"] + f["first_column"] * f["input_pixel_step"]
    first %= wrap
    end = first + (f["input_rows"] - 1) * f["input_row_step"]
    end += (f["input_columns"] - 1) * f["input_pixel_step"] + words
    return (first, end) if end <= depth else (0, depth)


def _outputs(f: Mapping[str, int], g: Geometry) -> list[Access]:
    found = []
    spread = f["scatter_groups"] - 1
    slots = f["output_chunks"] * g.beats
    if f["residual_out"]:
        start = f["residual_out_address"]
        end = start + _extent(f, "residual_out") + slots * (g.raw_planes if f["raw"] else 1)
        end += spread * f["residual_out_group_stride"]
        found.append(_residuals(start, end, True, g))
    word = g.activation_bits_per_word // 8
    words = -(-(f["first_lane"] + f["output_chunks"] * g.tout) // g.tin)
    for n in (1, 2):
        size = _extent(f, f"code{n}") + words * isa.digits(f[f"code{n}_bits"])
        size += spread * f[f"code{n}_group_stride"]
        for memory, name in ((Memory.ACTIVATION, "activation"), (Memory.OUTPUT, "output")):
            if f[f"code{n}_bits"] and f[f"code{n}_to_{name}"]:
                start = f[f"code{n}_{name}_address"]
                found.append(Access(memory, start * word, (start + size) * word, True))
    return found


def _extent(f: Mapping[str, int], prefix: str) -> int:
    """Words from the first to the last pixel of a COMPUTE's tile."""
    rows = (f["output_rows"] - 1) * f[f"{prefix}_row_stride"]
    return rows + (f["output_columns"] - 1) * f[f"{prefix}_pixel_stride"]


def _residuals(low: int, high: int, write: bool, g: Geometry) -> Access:
    word = g.residual_bits_per_word // 8
    return Access(Memory.RESIDUAL, low * word, high * word, write)


def _parameters(slot: int, slots: int, g: Geometry) -> Access:
    size = PARAMETER_ROWS * g.parameter_bits_per_row // 8
    return Access(Memory.PARAMETER, slot * size, (slot + slots) * size, False)
