"""Small instructions of each engine, for tests of what orders them."""

from palquant.hw.config import PRESETS
from palquant.hw.isa import Base, Memory, Opcode
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
