"""Small programs that need no compiler, to test the machine's buses, queues and errors with.

They copy: from the image and the input to the output, through the residual memory, in strided
rows, double buffered, ordered by tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Base, Memory, Opcode
from palquant.hw.registers import ErrorCode
from palquant.sw.header import seal

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Program:
    """A program with everything that running it takes, and what should come of it.

    Parameters:
        image: The memory image.
        inputs: Input region of each image, shape (images, input_bytes).
        outputs: Expected output region of each image, shape (images, output_bytes).
        written: Which bytes of an output region the program writes, shape (output_bytes,); the
            others must keep what they hold.
        read: Which bytes of an input region the program reads, shape (input_bytes,), where known.
        read_beats: Bus beats that all LOADs together read, where known.
        written_beats: Bus beats that all STOREs together write, where known.
    """

    image: bytes
    inputs: Bytes
    outputs: Bytes
    written: npt.NDArray[np.bool_]
    read: npt.NDArray[np.bool_] | None = None
    read_beats: int | None = None
    written_beats: int | None = None

    def save(self, path: Path) -> None:
        """Write it to a file, for a test bench in another process."""
        np.savez(
            path,
            image=np.frombuffer(self.image, np.uint8),
            inputs=self.inputs,
            outputs=self.outputs,
            written=self.written,
        )

    @classmethod
    def load(cls, path: Path) -> Program:
        """Read a file of :meth:`save`."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("inputs", "outputs", "written")}
            return cls(image=file["image"].tobytes(), **arrays)


#: Size of one image's input, and of its output, unless a program says otherwise.
REGION_BYTES = 64


def assemble(
    geometry: Geometry,
    units: Sequence[bytes],
    *,
    body: int = 0,
    data: bytes = b"",
    input_bytes: int = REGION_BYTES,
    output_bytes: int = REGION_BYTES,
) -> bytes:
    """A memory image of a program and the data that it loads.

    Parameters:
        geometry: The machine.
        units: Instructions, as :func:`palquant.hw.isa.encode` makes them.
        body: Index of the instruction that each further image begins with.
        data: What lies behind the program, at :func:`data_offset`.
        input_bytes: Size of one image's input.
        output_bytes: Size of one image's output.
    """
    header = {
        "geometry": geometry.identity,
        "program_offset": isa.HEADER_BYTES,
        "body_offset": data_offset(units[:body]),
        "input_bytes": input_bytes,
        "output_bytes": output_bytes,
    }
    return seal(header, b"".join(units) + data)


def data_offset(units: Sequence[bytes]) -> int:
    """Byte offset in the image of the data behind a program."""
    return isa.HEADER_BYTES + sum(len(unit) for unit in units)


def with_header(image: bytes, **fields: int) -> bytes:
    """An image with some of its header's fields replaced; the checksum is left as it is."""
    header = isa.IMAGE_HEADER.decode(image[: isa.HEADER_BYTES])
    return isa.IMAGE_HEADER.encode(header | fields) + image[isa.HEADER_BYTES :]


@dataclass(frozen=True)
class _Tile:
    """Rows that one LOAD and one STORE move."""

    rows: int
    row_beats: int
    source: int  # byte offset in the input
    source_stride: int
    target: int  # byte offset in the output
    target_stride: int

    def bytes_at(self, offset: int, stride: int, bus_bytes: int) -> npt.NDArray[np.int64]:
        """Byte indices of the rows that begin at ``offset``, shape (rows, bytes of a row)."""
        starts = offset + stride * np.arange(self.rows)[:, None]
        return starts + np.arange(self.row_beats * bus_bytes)


def copy_program(
    geometry: Geometry, *, seed: int = 0, tiles: int = 6, images: int = 3, beats: int = 600
) -> Program:
    """Copies a table from the image and tiles from the input to the output.

    The table is loaded once, ahead of the body that each image runs. Sizes, strides and places are
    random. Rows are longer than a burst here and there, and lie across 4 KiB borders.

    Parameters:
        geometry: The machine.
        seed: Of sizes and contents.
        tiles: Tiles of the input.
        images: Images in a run.
        beats: Bus beats of the largest tile, at least 5.
    """
    rng = random.Random(seed)
    contents = np.random.default_rng(seed)
    bus = geometry.bus_bytes
    memory_beats = geometry.residual_words * geometry.residual_bits_per_word // geometry.bus_bits
    table_beats = rng.randint(1, 40)
    buffer_beats = min(beats, (memory_beats - table_beats) // 2)

    plan: list[_Tile] = []
    source, target = 0, table_beats * bus
    for _ in range(tiles):
        rows = rng.randint(1, 5)
        row_beats = rng.randint(1, buffer_beats // rows)
        gaps = rng.randint(0, 3), rng.randint(0, 3)
        strides = [(row_beats + gap) * bus for gap in gaps]
        source += rng.randint(0, 2) * bus
        target += rng.randint(0, 2) * bus
        plan.append(_Tile(rows, row_beats, source, strides[0], target, strides[1]))
        source += rows * strides[0]
        target += rows * strides[1]

    prologue = 2
    # The table stands behind the program, whose length does not depend on where that is.
    table_offset = data_offset(_copy_units(plan, table_beats, buffer_beats, table_offset=0))
    table_offset += -table_offset % bus
    units = _copy_units(plan, table_beats, buffer_beats, table_offset)
    table = contents.integers(0, 256, table_beats * bus, dtype=np.uint8)
    data = bytes(table_offset - data_offset(units)) + table.tobytes()

    inputs = contents.integers(0, 256, (images, source), dtype=np.uint8)
    outputs = np.zeros((images, target), np.uint8)
    written = np.zeros(target, np.bool_)
    read = np.zeros(source, np.bool_)
    outputs[:, : table.size] = table
    written[: table.size] = True
    for tile in plan:
        there = tile.bytes_at(tile.target, tile.target_stride, bus)
        here = tile.bytes_at(tile.source, tile.source_stride, bus)
        outputs[:, there] = inputs[:, here]
        written[there] = True
        read[here] = True
    moved = sum(tile.rows * tile.row_beats for tile in plan) * images
    return Program(
        image=assemble(
            geometry, units, body=prologue, data=data, input_bytes=source, output_bytes=target
        ),
        inputs=inputs,
        outputs=outputs,
        written=written,
        read=read,
        read_beats=table_beats + moved,
        written_beats=table_beats * images + moved,
    )


def _copy_units(
    plan: Sequence[_Tile], table_beats: int, buffer_beats: int, table_offset: int
) -> list[bytes]:
    """The instructions: a prologue of two, then the body."""
    residual = {"memory": Memory.RESIDUAL, "rows": 1}
    units = [
        isa.encode(Opcode.LOAD, **residual, base=Base.IMAGE, row_beats=table_beats,
                   dram_offset=table_offset),
        isa.encode(Opcode.BARRIER),
        isa.encode(Opcode.STORE, **residual, base=Base.OUTPUT, row_beats=table_beats),
    ]  # fmt: skip
    buffers = 2
    for index, tile in enumerate(plan):
        place = {
            "memory": Memory.RESIDUAL,
            "address": table_beats + index % buffers * buffer_beats,
            "stride": tile.row_beats,
            "rows": tile.rows,
            "row_beats": tile.row_beats,
            "layer": index + 1,
        }
        load = {"base": Base.INPUT, "dram_offset": tile.source, "dram_stride": tile.source_stride}
        store = {"base": Base.OUTPUT, "dram_offset": tile.target, "dram_stride": tile.target_stride}
        units.append(
            isa.encode(
                Opcode.LOAD, **place, **load, wait_store=int(index >= buffers), signal_store=1
            )
        )
        units.append(
            isa.encode(
                Opcode.STORE,
                **place,
                **store,
                wait_load=1,
                signal_load=int(index + buffers < len(plan)),
            )
        )
    units.append(isa.encode(Opcode.END))
    return units


@dataclass(frozen=True)
class Fault:
    """A program that must end with an error.

    Parameters:
        name: What is wrong with it.
        image: The memory image.
        code: The error that STATUS must report.
        address: Byte offset in the image that ERROR_ADDRESS must report.
    """

    name: str
    image: bytes
    code: ErrorCode
    address: int


def faults(geometry: Geometry) -> list[Fault]:
    """Programs that are wrong in one way each, errors of the header first."""
    good = assemble(geometry, [isa.encode(Opcode.END)])
    bus = geometry.bus_bytes
    load = {"memory": Memory.RESIDUAL, "base": Base.IMAGE, "rows": 1, "row_beats": 1}
    store = load | {"base": Base.OUTPUT}
    beats = geometry.residual_words * geometry.residual_bits_per_word // geometry.bus_bits
    first, second = isa.HEADER_BYTES, isa.HEADER_BYTES + isa.UNIT_BYTES

    def program(*units: bytes) -> bytes:
        return assemble(geometry, [*units, isa.encode(Opcode.END)])

    def illegal(opcode: int) -> bytes:
        return opcode.to_bytes(isa.UNIT_BYTES, "little")

    legal = isa.encode(Opcode.LOAD, **load)
    size = len(program(legal))
    return [
        Fault("bad magic", with_header(good, magic=isa.MAGIC ^ 1), ErrorCode.MAGIC, 0),
        Fault("bad version", with_header(good, version=isa.VERSION + 1), ErrorCode.VERSION, 0),
        Fault("another geometry", with_header(good, geometry=geometry.identity ^ 1),
              ErrorCode.GEOMETRY, 0),
        Fault("opcode 0", program(illegal(0)), ErrorCode.OPCODE, first),
        Fault("opcode 15", program(legal, illegal(15)), ErrorCode.OPCODE, second),
        Fault("reserved bits", program((1 << 255 | Opcode.BARRIER).to_bytes(32, "little")),
              ErrorCode.OPCODE, first),
        Fault("token from itself", program(isa.encode(Opcode.LOAD, **load, wait_load=1)),
              ErrorCode.OPCODE, first),
        Fault("token from END", assemble(geometry, [isa.encode(Opcode.END, signal_load=1)]),
              ErrorCode.OPCODE, first),
        Fault("no rows", program(isa.encode(Opcode.LOAD, **load | {"rows": 0})),
              ErrorCode.OPCODE, first),
        Fault("no END", assemble(geometry, [isa.encode(Opcode.BARRIER)]), ErrorCode.ADDRESS,
              second),
        Fault("load beyond the image",
              program(isa.encode(Opcode.LOAD, **load, dram_offset=size - size % bus)),
              ErrorCode.ADDRESS, first),
        Fault("second row beyond the image",
              program(isa.encode(Opcode.LOAD, **load | {"rows": 2}, dram_stride=size - size % bus)),
              ErrorCode.ADDRESS, first),
        Fault("load beyond the input",
              program(isa.encode(Opcode.LOAD, **load | {"base": Base.INPUT},
                                 dram_offset=REGION_BYTES)),
              ErrorCode.ADDRESS, first),
        Fault("second row beyond the output",
              program(isa.encode(Opcode.STORE, **store | {"rows": 2}, dram_stride=REGION_BYTES)),
              ErrorCode.ADDRESS, first),
        Fault("misaligned", program(isa.encode(Opcode.LOAD, **load, dram_offset=1)),
              ErrorCode.ADDRESS, first),
        Fault("beyond the memory", program(isa.encode(Opcode.LOAD, **load, address=beats)),
              ErrorCode.ADDRESS, first),
        Fault("load into the output buffer",
              program(isa.encode(Opcode.LOAD, **load | {"memory": Memory.OUTPUT})),
              ErrorCode.ADDRESS, first),
        Fault("store from the weights",
              program(isa.encode(Opcode.STORE, **store | {"memory": Memory.WEIGHT})),
              ErrorCode.ADDRESS, first),
        Fault("store into the image",
              program(isa.encode(Opcode.STORE, **store | {"base": Base.IMAGE})),
              ErrorCode.ADDRESS, first),
    ]  # fmt: skip


def blocked(geometry: Geometry) -> bytes:
    """An image whose STORE waits for a token that nobody gives: a case for the watchdog."""
    wait = isa.encode(Opcode.STORE, memory=Memory.RESIDUAL, base=Base.OUTPUT, rows=1, row_beats=1,
                      wait_load=1)  # fmt: skip
    return assemble(geometry, [wait, isa.encode(Opcode.END)])
