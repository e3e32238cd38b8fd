"""Memory images for tests: a header and a program of any instructions."""

import random

from palquant.hw import isa
from palquant.hw.isa import Opcode

#: Size of one image's input, and of its output, unless a test says otherwise.
REGION_BYTES = 0x4000


def image(geometry, program, /, *, body=None, size=None, program_offset=0x40, **header):
    """Bytes of an image whose program is a list of encoded instructions.

    Parameters:
        geometry: The machine it is for.
        program: Encoded instructions.
        body: Index of the first instruction of each further image.
        size: Bytes of the image, as the header says; up to the program's end if not given.
        program_offset: Byte offset of the program.
        header: Header fields that are to differ.
    """
    offsets = instruction_offsets(program, program_offset)
    fields = {
        "magic": isa.MAGIC,
        "version": isa.VERSION,
        "geometry": geometry.identity,
        "program_offset": program_offset,
        "body_offset": offsets[body or 0],
        "image_bytes": offsets[-1] if size is None else size,
        "input_bytes": REGION_BYTES,
        "output_bytes": REGION_BYTES,
        **header,
    }
    start = isa.IMAGE_HEADER.encode(fields)
    return start + bytes(program_offset - len(start)) + b"".join(program)


def instruction_offsets(program, program_offset=0x40):
    """Image offset of each instruction, and of the end."""
    offsets = [program_offset]
    for instruction in program:
        offsets.append(offsets[-1] + len(instruction))
    return offsets


def random_instruction(rng, opcode):
    """An instruction with random fields, legal for the fetch unit."""
    layout = isa.LAYOUTS[opcode]
    values = {f.name: rng.randint(f.min, f.max) for f in layout.fields}
    for engine in ("load", "compute", "store"):
        if opcode in (Opcode.BARRIER, Opcode.END) or engine == opcode.name.lower():
            values[f"wait_{engine}"] = values[f"signal_{engine}"] = 0
    return layout.encode({**values, "opcode": opcode})


def random_program(seed, count, *, barriers=True):
    """Random instructions, and END."""
    rng = random.Random(seed)
    opcodes = [Opcode.LOAD, Opcode.COMPUTE, Opcode.STORE] + [Opcode.BARRIER] * barriers
    program = [random_instruction(rng, rng.choice(opcodes)) for _ in range(count)]
    return [*program, random_instruction(rng, Opcode.END)]
