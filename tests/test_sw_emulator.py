"""The emulator refuses every instruction that the machine does not allow, and says why."""

import numpy as np
import pytest

from palquant.errors import ExecutionError
from palquant.hw import isa
from palquant.hw.config import PRESETS
from palquant.hw.isa import Base, Memory, Opcode, Source
from palquant.sw.emulator import Emulator
from palquant.sw.header import seal

TINY = PRESETS["tiny"]

TRANSFER = {"memory": Memory.ACTIVATION, "base": Base.INPUT, "rows": 1, "row_beats": 1}
COMPUTE = {
    "input_rows": 1, "input_columns": 1, "kernel_rows": 1, "kernel_columns": 1, "input_chunks": 1,
    "input_digits": 1, "last_lanes": 8, "stride_rows": 1, "stride_columns": 1, "output_rows": 1,
    "output_columns": 1, "output_chunks": 1, "weight_digits": 1, "weight_plane": 1,
    "weight_chunk": 1, "steps": 1, "scatter_groups": 1, "saturation_bits": 16,
}  # fmt: skip


def run(*instructions, output_bytes=64):
    code = b"".join(isa.encode(opcode, **fields) for opcode, fields in instructions)
    code += isa.encode(Opcode.END)
    header = {"geometry": TINY.identity, "program_offset": 32, "body_offset": 32}
    emulator = Emulator(TINY, seal(header, code))
    return emulator.run(np.zeros((1, 64), np.uint8), output_bytes)


def test_an_empty_program_writes_nothing():
    assert np.array_equal(run(), run())


def test_load_and_store_copy_rows():
    code = isa.encode(Opcode.LOAD, memory=Memory.RESIDUAL, base=Base.INPUT, rows=2, row_beats=2,
                      stride=4, dram_stride=16, address=6)  # fmt: skip
    code += isa.encode(Opcode.STORE, memory=Memory.RESIDUAL, base=Base.OUTPUT, rows=2,
                       row_beats=2, stride=4, dram_stride=32, address=6, dram_offset=8)  # fmt: skip
    code += isa.encode(Opcode.END)
    header = {"geometry": TINY.identity, "program_offset": 32, "body_offset": 32}
    data = np.arange(64, dtype=np.uint8)[None]
    output = Emulator(TINY, seal(header, code)).run(data, 64)[0]
    assert output[8:24].tolist() == list(range(16))
    assert output[40:56].tolist() == list(range(16, 32))


@pytest.mark.parametrize(
    ("opcode", "changes", "text"),
    [
        (Opcode.LOAD, {"memory": Memory.OUTPUT}, "LOAD cannot use the output memory"),
        (Opcode.STORE, {"memory": Memory.WEIGHT}, "STORE cannot use the weight memory"),
        (Opcode.LOAD, {"memory": 7}, "7 is not a valid Memory"),
        (Opcode.LOAD, {"rows": 0}, "transfers no rows or no beats"),
        (Opcode.LOAD, {"dram_offset": 4}, "DRAM addresses are not multiples of 8 bytes"),
        (Opcode.LOAD, {"dram_offset": 64}, "byte 0x47 lies outside the input region of 0x40"),
        (Opcode.LOAD, {"address": 2048}, "beat 2048 lies outside the activation memory of 2048"),
        (Opcode.LOAD, {"wait_store": 1}, "waits for a token that store has not given"),
        (Opcode.LOAD, {"wait_load": 1}, "waits for a token from load, which is illegal"),
        (Opcode.LOAD, {"signal_load": 1}, "signals load, which is illegal"),
        (Opcode.STORE, {"memory": Memory.OUTPUT}, "stores relative to INPUT, not OUTPUT"),
        (Opcode.COMPUTE, {"steps": 2}, "steps is 2, expected 1"),
        (Opcode.COMPUTE, {"output_rows": 0}, "empty output"),
        (Opcode.COMPUTE, {"scatter_groups": 9, "steps": 9}, "scatter_groups is 9"),
        (Opcode.COMPUTE, {"affine": 1, "saturation_bits": 7}, "saturation_bits is 7"),
        (Opcode.COMPUTE, {"hold": 1, "output_columns": 2}, "accumulate and hold take one ARRAY"),
        (Opcode.COMPUTE, {"accumulate": 1}, "no COMPUTE has left accumulators"),
        (
            Opcode.COMPUTE,
            {"source": Source.POOL, "residual": 1},
            "a pooled value takes no residual",
        ),
        (Opcode.COMPUTE, {"raw": 1, "steps": 2}, "raw needs affine and residual_out"),
        (Opcode.COMPUTE, {"first_lane": 8}, "first_lane is 8"),
        (Opcode.COMPUTE, {"input_digits": 3}, "input_digits is 3"),
        (Opcode.COMPUTE, {"last_lanes": 9}, "last_lanes is 9"),
        (Opcode.COMPUTE, {"digit_sum_last": 1}, "digit_sum_last exceeds digit_sum_first"),
        (Opcode.COMPUTE, {"digit_sum_first": 1}, "no digits sum to 1"),
        (Opcode.COMPUTE, {"input_origin": 8192}, "reads activation word 8192 of 8192"),
        (Opcode.COMPUTE, {"weight_address": 1024}, "reads weight word 1024 of 1024"),
        (Opcode.COMPUTE, {"parameter_slot": 32}, "reads parameter slot 32 of 32"),
        (Opcode.COMPUTE, {"code1_bits": 5, "steps": 1}, "code1_bits is 5"),
        (
            Opcode.COMPUTE,
            {"code1_bits": 2, "code1_to_output": 1, "code1_output_address": 2048},
            "writes output word 2048 of 2048",
        ),
        (
            Opcode.COMPUTE,
            {"residual_out": 1, "residual_out_address": 2048},
            "residual_out reaches residual word 2048 of 2048",
        ),
    ],
)
def test_illegal_instructions_are_refused(opcode, changes, text):
    fields = (COMPUTE if opcode is Opcode.COMPUTE else TRANSFER) | changes
    with pytest.raises(ExecutionError, match=text) as caught:
        run((opcode, fields))
    assert f"{opcode.name} at offset 0x20 (layer 0)" in str(caught.value)


def test_tokens_left_over_are_refused():
    with pytest.raises(ExecutionError, match="tokens left over from load to compute"):
        run((Opcode.LOAD, TRANSFER | {"signal_compute": 1}))


def test_an_unknown_opcode_is_refused():
    header = {"geometry": TINY.identity, "program_offset": 32, "body_offset": 32}
    with pytest.raises(ExecutionError, match="unknown opcode 9 at offset 0x20"):
        Emulator(TINY, seal(header, bytes([9]) + bytes(31)))


def test_a_program_without_end_is_refused():
    header = {"geometry": TINY.identity, "program_offset": 32, "body_offset": 32}
    with pytest.raises(ExecutionError, match="program ends inside an instruction"):
        Emulator(TINY, seal(header, isa.encode(Opcode.BARRIER)))
