"""The emulator refuses every instruction that the machine does not allow, and says why."""

import numpy as np
import pytest

from palquant.errors import ExecutionError, InputError
from palquant.hw import isa
from palquant.hw.isa import Base, Memory, Opcode, Source
from palquant.hw.presets import PRESETS
from palquant.sim.programs import assemble, data_offset
from palquant.sw.emulator import Emulator

TINY = PRESETS["tiny"]

TRANSFER = {"memory": Memory.ACTIVATION, "base": Base.INPUT, "rows": 1, "row_beats": 1}
COMPUTE = {
    "input_rows": 1, "input_columns": 1, "kernel_rows": 1, "kernel_columns": 1, "input_chunks": 1,
    "input_digits": 1, "last_lanes": 8, "stride_rows": 1, "stride_columns": 1, "output_rows": 1,
    "output_columns": 1, "output_chunks": 1, "weight_digits": 1, "weight_plane": 1,
    "weight_chunk": 1, "steps": 1, "scatter_groups": 1, "saturation_bits": 16,
}  # fmt: skip


def image(*instructions, body=0):
    """An image for inputs and outputs of 64 bytes; ``body``: index of its first instruction."""
    units = [isa.encode(opcode, **fields) for opcode, fields in instructions]
    return assemble(TINY, [*units, isa.encode(Opcode.END)], body=body)


def run(*instructions, images=1, body=0):
    inputs = np.arange(images * 64, dtype=np.uint8).reshape(images, 64)
    return Emulator(TINY, image(*instructions, body=body)).run(inputs)


def test_an_empty_program_writes_nothing():
    assert np.array_equal(run(), run())


def test_load_and_store_copy_rows():
    place = {"memory": Memory.RESIDUAL, "rows": 2, "row_beats": 2, "stride": 4, "address": 6}
    load = place | {"base": Base.INPUT, "dram_stride": 16}
    store = place | {"base": Base.OUTPUT, "dram_stride": 32, "dram_offset": 8}
    output = run((Opcode.LOAD, load), (Opcode.STORE, store))[0]
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
        (Opcode.COMPUTE, {"steps": 0}, "steps is 0, expected at least 1"),
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
    assert f"{opcode.name} at offset 0x40 (layer 0)" in str(caught.value)


def test_tokens_left_over_are_refused():
    with pytest.raises(ExecutionError, match="tokens left over from load to compute"):
        run((Opcode.LOAD, TRANSFER | {"signal_compute": 1}))


def test_an_unknown_opcode_is_refused():
    with pytest.raises(ExecutionError, match="unknown opcode 9 at offset 0x40"):
        Emulator(TINY, assemble(TINY, [bytes([9]) + bytes(31)]))


def test_a_program_without_end_is_refused():
    with pytest.raises(ExecutionError, match="program ends inside an instruction"):
        Emulator(TINY, assemble(TINY, [isa.encode(Opcode.BARRIER)]))


LOAD = {"memory": Memory.RESIDUAL, "base": Base.INPUT, "rows": 1, "row_beats": 1}
STORE = {"memory": Memory.RESIDUAL, "base": Base.OUTPUT, "rows": 1, "row_beats": 1}


def test_further_images_run_the_body():
    """What only the first image loads stays for all of them, be it a constant or not."""
    first = run((Opcode.LOAD, LOAD), (Opcode.STORE, STORE), images=3, body=1)[:, :8]
    assert first.tolist() == [list(range(8))] * 3
    own = run((Opcode.LOAD, LOAD), (Opcode.STORE, STORE), images=3)[:, :8]
    assert own.tolist() == [list(range(at, at + 8)) for at in (0, 64, 128)]


@pytest.mark.parametrize("barrier", [(), ((Opcode.BARRIER, {}),)])
def test_constants_are_loaded_once(barrier):
    constant = LOAD | {"base": Base.IMAGE, "dram_offset": isa.HEADER_BYTES}
    program = [(Opcode.LOAD, constant), *barrier, (Opcode.STORE, STORE)]
    data = image(*program, body=1 + len(barrier))
    emulator = Emulator(TINY, data)
    outputs = emulator.run(np.zeros((3, 64), np.uint8))
    start = data[isa.HEADER_BYTES : isa.HEADER_BYTES + 8]
    assert [row[:8].tobytes() for row in outputs] == [start] * 3
    counts = emulator.statistics
    assert (counts.beats_read, counts.beats_written) == (1, 3)
    assert counts.instructions["LOAD"] == 1
    assert counts.instructions["STORE"] == counts.instructions["END"] == 3


def test_weights_may_come_with_each_image():
    """Weights out of the input differ from image to image: no batch has one copy of them."""
    weights = LOAD | {"memory": Memory.WEIGHT, "row_beats": 2, "signal_compute": 1}
    ones = np.zeros((2, 64), np.uint8)
    ones[1] = 0x55
    compute = COMPUTE | {
        "weight_address": 0, "residual_out": 1, "wait_load": 1, "signal_store": 1, "affine": 1,
    }  # fmt: skip
    store = STORE | {"row_beats": 2, "wait_compute": 1}
    program = image((Opcode.LOAD, weights), (Opcode.COMPUTE, compute), (Opcode.STORE, store))
    together = Emulator(TINY, program).run(ones)
    alone = [Emulator(TINY, program).run(ones[:1])[0], Emulator(TINY, program).run(ones[1:])[0]]
    assert np.array_equal(together[:, :16], np.array(alone)[:, :16])
    assert not np.array_equal(together[0, :16], together[1, :16])


CONSTANT = LOAD | {"base": Base.IMAGE, "dram_offset": isa.HEADER_BYTES}


@pytest.mark.parametrize(
    ("constant", "load", "same"),
    [
        (CONSTANT, LOAD, True),
        (CONSTANT | {"row_beats": 3}, LOAD | {"address": 2}, True),
        (CONSTANT | {"rows": 2, "stride": 4}, LOAD | {"address": 4}, True),
        (CONSTANT, LOAD | {"address": 1}, False),
        (CONSTANT, LOAD | {"memory": Memory.ACTIVATION}, False),
    ],
)
def test_a_body_may_change_what_the_prologue_brought(constant, load, same):
    """Each image but the first then finds what the image before it left there."""
    store = STORE | {"address": load.get("address", 0) if same else 0}
    program = [
        (Opcode.LOAD, constant),
        (Opcode.BARRIER, {}),
        (Opcode.STORE, store | {"signal_load": 1}),
        (Opcode.LOAD, load | {"wait_store": 1}),
    ]
    outputs = run(*program, images=4, body=2)[:, :8].tolist()
    inputs = [list(range(at, at + 8)) for at in (0, 64, 128)]
    assert outputs[1:] == (inputs if same else [outputs[0]] * 3)
    assert outputs[0] == run(*program, body=2)[0, :8].tolist()


def test_a_body_may_compute_over_what_the_prologue_brought():
    """Each image adds five to the residual that the one before it left."""
    offsets = np.full(TINY.lanes, 5, "<i4")
    control = isa.PARAMETER_CONTROL.encode({"scale": 1, "valid": 1}) * TINY.lanes
    data = bytes(64) + offsets.tobytes() + control
    zeros = LOAD | {"base": Base.IMAGE, "row_beats": 2}
    parameters = {"memory": Memory.PARAMETER, "row_beats": len(data[64:]) // TINY.bus_bytes}
    assert TINY.beats == 1  # one slot holds a chunk's parameters
    add = {"affine": 1, "residual": 1, "residual_out": 1, "signal_store": 1}

    def program(offset):
        return [
            *((Opcode.LOAD, zeros | {"dram_offset": offset, "memory": memory})
              for memory in (Memory.RESIDUAL, Memory.WEIGHT, Memory.ACTIVATION)),
            (Opcode.LOAD, zeros | parameters | {"dram_offset": offset + 64}),
            (Opcode.BARRIER, {}),
            (Opcode.COMPUTE, COMPUTE | add),
            (Opcode.STORE, STORE | {"row_beats": 2, "wait_compute": 1}),
            (Opcode.END, {}),
        ]  # fmt: skip

    offset = data_offset([isa.encode(opcode, **fields) for opcode, fields in program(0)])
    units = [isa.encode(opcode, **fields) for opcode, fields in program(offset)]
    emulator = Emulator(TINY, assemble(TINY, units, body=5, data=data))
    outputs = emulator.run(np.zeros((3, 64), np.uint8))[:, : 2 * TINY.lanes].view("<i2")
    assert outputs.tolist() == [[5 * (image + 1)] * TINY.lanes for image in range(3)]


def test_a_token_from_before_the_body_is_missed_by_further_images():
    program = [(Opcode.LOAD, LOAD | {"signal_store": 1}), (Opcode.STORE, STORE | {"wait_load": 1})]
    run(*program, images=1, body=1)
    with pytest.raises(ExecutionError, match="waits for a token that load has not given"):
        run(*program, images=2, body=1)


@pytest.mark.parametrize(
    "inputs", [np.zeros((1, 63), np.uint8), np.zeros(64, np.uint8), np.zeros((1, 64), np.int8)]
)
def test_inputs_of_another_size_are_refused(inputs):
    text = r"inputs must be uint8 of shape \(images, 64\), not u?int8 of shape"
    with pytest.raises(InputError, match=text):
        Emulator(TINY, image()).run(inputs)
