"""The hand-made programs against the emulator, which shares no code with them."""

import numpy as np
import pytest

from palquant.hw import isa
from palquant.hw.presets import PRESETS
from palquant.hw.registers import ErrorCode
from palquant.sim.programs import (
    Program,
    assemble,
    blocked,
    copy_program,
    data_offset,
    faults,
    with_header,
)
from palquant.sw.emulator import Emulator
from palquant.sw.image import check_image

#: Copies move rows at strides, which not every machine does.
STRIDED = {name: item for name, item in PRESETS.items() if item.strided}
geometries = pytest.mark.parametrize("geometry", STRIDED.values(), ids=STRIDED)


@geometries
@pytest.mark.parametrize("seed", range(8))
def test_copy_programs_do_what_they_promise(geometry, seed):
    program = copy_program(geometry, seed=seed, tiles=7, images=2)
    check_image(program.image, geometry, "copy")
    emulator = Emulator(geometry, program.image)
    outputs = emulator.run(program.inputs)
    np.testing.assert_array_equal(outputs[:, program.written], program.outputs[:, program.written])
    assert emulator.statistics.beats_read == program.read_beats
    assert emulator.statistics.beats_written == program.written_beats


@geometries
def test_only_bytes_that_are_read_matter(geometry):
    program = copy_program(geometry, seed=1)
    noise = np.random.default_rng(1).integers(0, 256, program.inputs.shape, dtype=np.uint8)
    inputs = np.where(program.read, program.inputs, noise)
    outputs = Emulator(geometry, program.image).run(inputs)
    np.testing.assert_array_equal(outputs[:, program.written], program.outputs[:, program.written])
    assert not program.read.all()


@geometries
def test_copy_programs_reach_the_corners(geometry):
    """Gaps that must stay untouched, strided rows, rows longer than a burst, 4 KiB borders."""
    programs = [copy_program(geometry, seed=seed) for seed in range(8)]
    assert any(not program.written.all() for program in programs)
    transfers = [fields for program in programs for fields in _transfers(program.image)]
    assert any(fields["row_beats"] > geometry.burst_beats for fields in transfers)
    assert any(fields["rows"] > 1 and fields["dram_stride"] for fields in transfers)
    assert any(
        fields["dram_offset"] // 4096
        != (fields["dram_offset"] + fields["row_beats"] * geometry.bus_bytes - 1) // 4096
        for fields in transfers
    )


def _transfers(image):
    offset = isa.IMAGE_HEADER.decode(image[: isa.HEADER_BYTES])["program_offset"]
    opcode = None
    while opcode is not isa.Opcode.END:
        opcode, fields, offset = isa.decode(image, offset)
        if opcode in (isa.Opcode.LOAD, isa.Opcode.STORE):
            yield fields


def test_programs_survive_a_file(tmp_path):
    program = copy_program(PRESETS["tiny"], seed=3)
    program.save(tmp_path / "program.npz")
    again = Program.load(tmp_path / "program.npz")
    assert again.image == program.image
    for name in ("inputs", "outputs", "written"):
        np.testing.assert_array_equal(getattr(again, name), getattr(program, name))


def test_assemble_places_body_and_data():
    units = [isa.encode(isa.Opcode.BARRIER)] * 3
    image = assemble(PRESETS["tiny"], units, body=2, data=b"data")
    header = isa.IMAGE_HEADER.decode(image[: isa.HEADER_BYTES])
    assert header["program_offset"] == isa.HEADER_BYTES
    assert header["body_offset"] == isa.HEADER_BYTES + 2 * isa.UNIT_BYTES
    assert header["image_bytes"] == len(image)
    assert image[data_offset(units) :] == b"data"
    changed = with_header(image, version=9)
    assert isa.IMAGE_HEADER.decode(changed[: isa.HEADER_BYTES]) == header | {"version": 9}
    assert changed[isa.HEADER_BYTES :] == image[isa.HEADER_BYTES :]


@geometries
def test_faults_cover_what_a_program_can_get_wrong(geometry):
    programs = faults(geometry)
    assert len({fault.name for fault in programs}) == len(programs)
    assert len({fault.image for fault in programs}) == len(programs)
    assert {fault.code for fault in programs} == {
        ErrorCode.MAGIC, ErrorCode.VERSION, ErrorCode.GEOMETRY, ErrorCode.OPCODE, ErrorCode.ADDRESS,
    }  # fmt: skip
    assert blocked(geometry) not in {fault.image for fault in programs}
