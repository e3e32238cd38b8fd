"""Small instructions of each engine, for tests of what orders them."""

from palquant.hw.isa import Base, Memory, Opcode
from palquant.hw.presets import PRESETS
from palquant.sw.schedule import Instruction

TINY = PRESETS["tiny"]


def load(memory, address, beats=4, base=Base.IMAGE, offset=0):
    fields = {
        "memory": memory,
        "base": base,
        "address": address,
        "rows": 1,
        "row_beats": beats,
        "dram_offset": offset,
    }
    return Instruction(Opcode.LOAD, fields, TINY)


def store(address, beats=4, offset=0, memory=Memory.OUTPUT):
    fields = {
        "memory": memory,
        "base": Base.OUTPUT,
        "address": address,
        "rows": 1,
        "row_beats": beats,
        "dram_offset": offset,
    }
    return Instruction(Opcode.STORE, fields, TINY)


def compute(weight, output=0, activation=100):
    fields = {
        "weight_address": weight,
        "weight_digits": 1,
        "weight_plane": 1,
        "weight_chunk": 1,
        "input_origin": activation,
        "input_rows": 1,
        "input_columns": 1,
        "kernel_rows": 1,
        "kernel_columns": 1,
        "input_chunks": 1,
        "input_digits": 1,
        "output_rows": 1,
        "output_columns": 1,
        "output_chunks": 1,
        "scatter_groups": 1,
        "code1_bits": 2,
        "code1_to_output": 1,
        "code1_output_address": output,
    }
    return Instruction(Opcode.COMPUTE, fields, TINY)


def random_instruction(rng):
    """One that may conflict with others, but reads nothing that it writes."""
    kind = rng.randrange(5)
    if kind == 0:
        return load(Memory.WEIGHT, rng.randrange(8), beats=rng.randint(1, 4))
    if kind == 1:
        return load(
            Memory.ACTIVATION, rng.randrange(8), rng.randint(1, 4), Base.OUTPUT, rng.randrange(64)
        )
    if kind == 2:
        return store(rng.randrange(8), beats=rng.randint(1, 4), offset=rng.randrange(64))
    item = compute(rng.randrange(4), rng.randrange(24), rng.randrange(24))
    target = rng.randrange(24)
    if kind == 4 and target != item.fields["input_origin"]:
        item.fields |= {"code1_to_activation": 1, "code1_activation_address": target}
    return item
