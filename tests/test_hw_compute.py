"""The compute engine as a whole against the emulator: every memory, counter and latency."""

from itertools import product

import numpy as np
import pytest
from compute_bench import Bench, Expected, check, chunks, memory_bits, plain_fields, seeded
from compute_words import words
from post_bench import small_geometry
from test_hw_post import Allocator, random_instruction, random_parameters

from palquant.hw import isa
from palquant.hw.isa import Memory, PoolOperation, Source
from palquant.hw.presets import geometry
from palquant.hw.registers import Activity

#: Words of activation and residual memory below which nothing is written: inputs.
INPUT_WORDS = 1024
SIZES = {
    "weight_words": 256,
    "activation_words": 4096,
    "output_words": 4096,
    "residual_words": 4096,
    "accumulator_bits": 32,
    "threshold_bits": 32,
}
GEOMETRIES = [
    small_geometry("square", tin=8, tout=8, lanes=4, parameter_slots=4, **SIZES),
    small_geometry(
        "narrow words", tin=4, tout=16, lanes=4, residual_bits=8, parameter_slots=8, **SIZES
    ),
    small_geometry("wide words", tin=16, tout=4, lanes=2, parameter_slots=4, **SIZES),
    small_geometry("one beat", tin=16, tout=4, lanes=4, bus_bits=64, parameter_slots=2, **SIZES),
]
#: Cycles of one instruction at most, to keep simulations short.
LONGEST = 500


def new_allocator(rng):
    allocator = Allocator(rng)
    allocator.free |= {"activation": INPUT_WORDS, "residual": INPUT_WORDS}
    return allocator


def random_input(rng, g, f, words_per_tap, limit):
    """Where the input lies in its memory, so that every tap that is not padding is inside."""
    rows, columns = rng.randint(1, 6), rng.randint(1, 6)
    pixel = words_per_tap + rng.choice([0, 0, 1, 3])
    row = pixel * columns + rng.choice([0, 0, 2])
    space = limit - row * rows
    first_row, first_column = rng.randint(-3, 1), rng.randint(-3, 1)
    stride_rows, stride_columns = rng.choice([1, 1, 2, 3]), rng.choice([1, 1, 2, 3])
    base = rng.randrange(max(1, space))
    wrap = 1 << isa.ADDRESS_BITS
    return {
        "input_rows": rows,
        "input_columns": columns,
        "first_row": first_row,
        "first_column": first_column,
        "stride_rows": stride_rows,
        "stride_columns": stride_columns,
        "input_pixel_step": pixel,
        "input_row_step": row,
        "input_pixel_stride": pixel * stride_columns,
        "input_row_stride": row * stride_rows,
        "input_origin": (base + first_row * row + first_column * pixel) % wrap,
    }


def random_weights(rng, g, f):
    """Where the weights lie; chunks may share words where memory is short."""
    taps = f["kernel_rows"] * f["kernel_columns"] * f["input_chunks"]
    size = taps * f["weight_digits"]
    space = g.weight_words - size
    return {
        "weight_plane": taps,
        "weight_chunk": rng.randint(0, space // max(1, f["output_chunks"] - 1) // 2),
        "weight_address": rng.randint(0, space // 2),
    }


def random_compute(rng, g, allocator, **fixed):
    """A legal instruction of random kind, extent, precision and placement."""
    written = dict(allocator.free)
    f = plain_fields(**random_instruction(rng, g, allocator, **fixed).fields)
    drain = rng.randrange(2)
    f |= {"drain": drain, "layer": rng.randrange(1 << 12)}
    while True:
        f["kernel_rows"] = fixed.get("kernel_rows", rng.choice([1, 1, 2, 3, 5, 7]))
        f["kernel_columns"] = fixed.get("kernel_columns", rng.choice([1, 1, 2, 3, 7]))
        if f["source"] == Source.ARRAY:
            f["input_chunks"] = rng.choice([1, 1, 2, 3])
            f["input_digits"] = fixed.get("input_digits", rng.choice([1, 1, 2, 4]))
            f["weight_digits"] = fixed.get("weight_digits", rng.choice([1, 1, 2, 4]))
            f["digit_sum_first"] = f["input_digits"] + f["weight_digits"] - 2
            f["digit_sum_last"] = 0
            if rng.random() < 0.2:
                f["digit_sum_first"] = rng.randint(0, f["digit_sum_first"])
                f["digit_sum_last"] = rng.randint(0, f["digit_sum_first"])
            f["last_lanes"] = rng.randint(1, g.tin)
            f["pad_code"] = rng.randrange(4 ** f["input_digits"])
            taps = f["kernel_rows"] * f["kernel_columns"] * f["input_chunks"]
            if taps * f["weight_digits"] > g.weight_words:
                continue
            f |= random_weights(rng, g, f)
            per_tap = f["input_chunks"] * f["input_digits"]
            # What earlier instructions wrote can be input once they are complete.
            limit = written["activation"] if drain else INPUT_WORDS
        else:
            f["pool_operation"] = rng.choice(list(PoolOperation))
            per_tap = f["output_chunks"] * g.beats
            limit = written["residual"] if drain else INPUT_WORDS
        f |= random_input(rng, g, f, per_tap, limit)
        if len(words(g, f)) <= LONGEST:
            return f


def random_program(rng, g, count, expected, allocator=None, **fixed):
    """Instructions that the emulator accepts; it has executed them then."""
    allocator = allocator or new_allocator(rng)
    program = []
    for _ in range(20 * count):
        free = dict(allocator.free)
        fields = random_compute(rng, g, allocator, **fixed)
        if expected.accepts(fields):
            program.append(fields)
        else:
            allocator.free = free
        if len(program) == count:
            return program
    raise AssertionError(f"only {len(program)} of {count} instructions are legal")


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: g.name)
@pytest.mark.parametrize("seed", range(2))
def test_random_programs(g, seed):
    rng = seeded(g.name, seed)
    slots = random_parameters(rng, g)
    expected = Expected(g, slots, seed)
    program = random_program(rng, g, 8, expected)
    gaps = [rng.choice([0, 0, 0, 10, 100]) for _ in program]
    check(Bench(g, slots, program, seed, gaps).run(), expected)


def test_precisions():
    """All nine pairs of 2, 4 and 8 bits."""
    g = GEOMETRIES[0]
    rng = seeded("precisions")
    slots = random_parameters(rng, g)
    expected = Expected(g, slots, 1)
    program, allocator = [], new_allocator(rng)
    for digits in product((1, 2, 4), repeat=2):
        fixed = dict(zip(("input_digits", "weight_digits"), digits, strict=True))
        program += random_program(
            rng, g, 1, expected, allocator, source=Source.ARRAY, kernel_rows=3, kernel_columns=1,
            residual_out=1, scatter_groups=1, **fixed,
        )  # fmt: skip
    check(Bench(g, slots, program, 1).run(), expected)


@pytest.mark.parametrize("source", list(Source))
def test_kernels(source):
    g = GEOMETRIES[3]
    rng = seeded("kernels", source)
    slots = random_parameters(rng, g)
    expected = Expected(g, slots, 2)
    program, allocator = [], new_allocator(rng)
    for kernel in range(1, 8):
        program += random_program(
            rng, g, 1, expected, allocator, source=source, kernel_rows=kernel,
            kernel_columns=kernel, input_digits=1, weight_digits=1, scatter_groups=1,
        )  # fmt: skip
    check(Bench(g, slots, program, 2).run(), expected)


def held(rng, g, allocator):
    """One array result in three instructions: the highest digits first, then the lower ones."""
    while True:
        last = random_compute(rng, g, allocator, source=Source.ARRAY, input_digits=2,
                              weight_digits=2, kernel_rows=2, kernel_columns=2)  # fmt: skip
        last |= dict.fromkeys(("output_rows", "output_columns", "output_chunks"), 1)
        if last["input_chunks"] < 3:
            break
    first = last | {"digit_sum_first": 2, "digit_sum_last": 2, "hold": 1}
    middle = last | {"digit_sum_first": 1, "digit_sum_last": 1, "hold": 1, "accumulate": 1}
    last |= {"digit_sum_first": 0, "digit_sum_last": 0, "accumulate": 1, "shift_first": 1}
    return [first, middle | {"shift_first": 1}, last]


def test_accumulators_held_between_instructions():
    """Digit sums split over instructions, mixed with others that are not."""
    g = GEOMETRIES[0]
    rng = seeded("held")
    slots = random_parameters(rng, g)
    expected = Expected(g, slots, 3)
    allocator = new_allocator(rng)
    program = []
    for _ in range(3):
        triple = held(rng, g, allocator)
        assert all(expected.accepts(fields) for fields in triple)
        program += triple
        program += random_program(rng, g, 1, expected, allocator)
    # Without the shift, the second instruction's taps simply join the first one's.
    tail = held(rng, g, allocator)
    tail = [f | {"shift_first": 0, "drain": 1} for f in tail]
    assert all(expected.accepts(fields) for fields in tail)
    check(Bench(g, slots, program + tail, 3).run(), expected)


def dense(g, **fields):
    """A 1x1 convolution that emits a result every ``beats`` cycles."""
    return plain_fields(
        **{
            "input_rows": 4,
            "input_columns": 8,
            "output_rows": 4,
            "output_columns": 8,
            "input_pixel_step": 1,
            "input_pixel_stride": 1,
            "input_row_step": 8,
            "input_row_stride": 8,
            "stride_rows": 1,
            "stride_columns": 1,
            "input_chunks": g.beats,
            "last_lanes": g.tin,
            "weight_plane": g.beats,
            "code1_bits": 2,
            "code1_to_activation": 1,
            "code1_activation_address": INPUT_WORDS,
            "code1_pixel_stride": 1,
            "code1_row_stride": 8,
            "steps": 1,
            **fields,
        }
    )


def test_no_cycle_is_lost_within_an_instruction_and_two_between_two():
    g = GEOMETRIES[0]
    slots = random_parameters(seeded("dense"), g)
    expected = Expected(g, slots, 4)
    program = [dense(g, code1_activation_address=INPUT_WORDS + 64 * k) for k in range(4)]
    assert all(expected.accepts(fields) for fields in program)
    bench = Bench(g, slots, program, 4).run()
    check(bench, expected)
    ends = bench.last_words
    size = 32 * g.beats
    assert [end - ends[0] for end in ends] == [k * (size + 2) for k in range(4)]
    assert set(bench.activities[: ends[-1]]) == {Activity.ARRAY, Activity.DEPENDENCY}


def test_activities_add_up():
    """Every cycle has one activity; pacing and draining show as what they are."""
    g = GEOMETRIES[0]
    slots = random_parameters(seeded("activities"), g)
    expected = Expected(g, slots, 4)
    both = {"code1_bits": 4, "code1_to_output": 1, "code2_bits": 4, "code2_to_output": 1,
            "code1_to_activation": 0, "code2_output_address": 1024, "steps": 6}  # fmt: skip
    for number in (1, 2):
        both |= {f"code{number}_pixel_stride": 4, f"code{number}_row_stride": 32}
    scattered = both | {"scatter_groups": 3, "steps": 12}
    program = [dense(g, **both), dense(g, **scattered), dense(g, drain=1)]
    assert all(expected.accepts(fields) for fields in program)
    bench = Bench(g, slots, program, 4).run()
    check(bench, expected)
    counts = {activity: bench.activities.count(activity) for activity in Activity}
    assert counts[Activity.OUTPUT] == 31 * 5 * g.beats
    # The first result of the second instruction still waits for the last of the first.
    assert counts[Activity.MERGE] == 31 * 11 * g.beats + 5 * g.beats - 2
    assert counts[Activity.DRAIN] == bench.completions[1] - bench.last_words[1] - 1
    assert sum(counts.values()) == len(bench.activities)


def test_loads_and_stores_meanwhile():
    """Beats move while results are written, and every one arrives."""
    g = GEOMETRIES[0]
    rng = seeded("traffic")
    slots = random_parameters(rng, g)
    expected = Expected(g, slots, 5)
    program = [
        dense(g, residual_out=1, residual_out_address=INPUT_WORDS, residual_out_pixel_stride=2,
              residual_out_row_stride=16, drain=k % 2, residual=1, residual_in_pixel_stride=2,
              residual_in_row_stride=16, residual_in_address=256, saturation_bits=16)
        for k in range(3)
    ]  # fmt: skip
    assert all(expected.accepts(fields) for fields in program)
    loads, stores = [], []
    untouched = {Memory.WEIGHT: g.weight_bits_per_word * 200, Memory.ACTIVATION: 16 * 3000,
                 Memory.RESIDUAL: 64 * 3000}  # fmt: skip
    for k in range(40):
        for memory, start in untouched.items():
            loads.append((memory, start // g.bus_bits + k, rng.getrandbits(g.bus_bits)))
        stores.append((Memory.RESIDUAL, k))
        stores.append((Memory.OUTPUT, 3 * k))
    beats = {memory: chunks(memory_bits(expected.memories, memory), g.bus_bits)
             for memory in (Memory.RESIDUAL, Memory.OUTPUT)}  # fmt: skip
    stored = [beats[memory][address] for memory, address in stores]
    for memory, address, data in loads:
        payload = np.frombuffer(data.to_bytes(g.bus_bytes, "little"), np.uint8)
        expected.memories.write_beats(memory, address, payload[None])
    bench = Bench(g, slots, program, 5, loads=loads, stores=stores)
    bench.run()
    check(bench, expected)
    assert bench.stored == stored
    assert bench.waits["load"] > 0
    assert bench.waits["store"] > 0


def test_residual_added_to_pooled_values_is_reported():
    """Both need the residual memory's one read port; the emulator refuses it, so does hardware."""
    g = GEOMETRIES[0]
    slots = random_parameters(seeded("clash"), g)
    fields = dense(g, source=Source.POOL, residual=1, kernel_columns=2, saturation_bits=16)
    assert not Expected(g, slots, 0).accepts(fields)
    bench = Bench(g, slots, [fields]).run()
    assert bench.overruns > 0


def test_too_few_steps_are_reported():
    g = GEOMETRIES[0]
    slots = random_parameters(seeded("steps"), g)
    fields = dense(g, code1_bits=4, steps=1)
    assert not Expected(g, slots, 0).accepts(fields)
    assert Bench(g, slots, [fields]).run().overruns > 0


def test_preset():
    g = geometry("tiny")
    rng = seeded("tiny")
    slots = random_parameters(rng, g)
    expected = Expected(g, slots, 6)
    program = random_program(rng, g, 3, expected, affine=1)
    check(Bench(g, slots, program, 6).run(), expected)
