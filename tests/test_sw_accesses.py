"""What an instruction says it touches is what it touches: tokens are derived from nothing else."""

import copy
import random

import numpy as np
import pytest
from compute_words import random_loops
from hypothesis import given
from hypothesis import strategies as st
from networks import drawer, random_network

from palquant.errors import ExecutionError
from palquant.hw import isa
from palquant.hw.config import PARAMETER_ROWS
from palquant.hw.isa import Memory, Opcode, Source
from palquant.hw.presets import PRESETS
from palquant.sw import emulator as emulator_module
from palquant.sw.accesses import Access, accesses
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.emulator_compute import ComputeUnit
from palquant.sw.memories import Memories

TINY = PRESETS["tiny"]
WRAP = 1 << isa.ADDRESS_BITS
ARRAYS = {
    Memory.ACTIVATION: "activation",
    Memory.OUTPUT: "output",
    Memory.WEIGHT: "weight",
    Memory.RESIDUAL: "residual",
    Memory.PARAMETER: "parameter",
}


def flat(memories, memory):
    """Memory content of the first image (weights and parameters: of all), one row an element."""
    array = getattr(memories, ARRAYS[memory])
    shared = memory in (Memory.WEIGHT, Memory.PARAMETER)
    return array.reshape(-1) if shared else array[0].reshape(-1)


def mask(memories, memory, declared):
    """Elements that lie in the declared intervals."""
    array = flat(memories, memory)
    digits = memory in (Memory.ACTIVATION, Memory.OUTPUT, Memory.WEIGHT)
    found = np.zeros(len(array), bool)
    for access in declared:
        if access.space is memory:
            low, high = access.low, access.high
            where = (
                (4 * low, 4 * high) if digits else (low // array.itemsize, high // array.itemsize)
            )
            found[slice(*where)] = True
    return found


@pytest.mark.parametrize("seed", range(12))
def test_computes_touch_what_they_declare(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    checked = []

    class Checked(ComputeUnit):
        def execute(self, f):
            declared = accesses(Opcode.COMPUTE, f, self.geometry)
            reads = [access for access in declared if not access.write]
            writes = [access for access in declared if access.write]
            before = copy.deepcopy(self.memories)
            # Everything that is not read is replaced by noise for a second run.
            other = copy.deepcopy(self.memories)
            for memory in ARRAYS:
                values = flat(other, memory)
                noise = rng.permutation(values)
                hidden = ~mask(other, memory, reads)
                values[hidden] = noise[hidden]
            noisy = copy.deepcopy(other)
            ComputeUnit(self.geometry, other, self.statistics).execute(f)
            super().execute(f)
            for memory in ARRAYS:
                allowed = mask(before, memory, writes)
                changed = flat(self.memories, memory) != flat(before, memory)
                assert not (changed & ~allowed).any(), f"undeclared write to {memory.name}"
                again = flat(other, memory) != flat(noisy, memory)
                assert not (again & ~allowed).any()
                same = flat(other, memory) == flat(self.memories, memory)
                assert same[changed & again].all(), f"undeclared read, seen in {memory.name}"
                checked.append(changed.sum())

    monkeypatch.setattr(emulator_module, "ComputeUnit", Checked)
    builder = random_network(drawer(seed))
    image = compile_graph(builder.graph(), TINY)
    Emulator(TINY, image.data).run(image.pack_input(builder.codes[:1]))
    assert sum(checked) > 0


class Watched(np.ndarray):
    """A memory that notes which words are read and written.

    Attributes:
        seen: "read" and "write" to sets of words, on the memory itself; None on what is cut of it.
        axis: Axis of the words.
    """

    seen = None
    axis = 0

    def __getitem__(self, key):
        if self.seen is not None:
            self._note("read", key)
        return self.view(np.ndarray)[key]

    def __setitem__(self, key, value):
        self._note("write", key)
        self.view(np.ndarray)[key] = value

    def _note(self, kind, key):
        words = np.arange(self.shape[self.axis])
        where = key[self.axis] if isinstance(key, tuple) else key
        if isinstance(where, Taps):  # padding reads word 0 as well, and takes no notice of it
            self.seen[kind].update(where[where.inside].tolist())
        else:
            self.seen[kind].update(words[where].reshape(-1).tolist())


class Taps(np.ndarray):
    """Addresses of taps, with a mask of those that are no padding."""

    inside = None


class Watching(ComputeUnit):
    """Notes the words that instructions read and write, in ``seen``."""

    def __init__(self, geometry, memories):
        super().__init__(geometry, memories, emulator_module.Statistics())
        self.seen = {memory: {"read": set(), "write": set()} for memory in ARRAYS}
        for memory, name in ARRAYS.items():
            watched = getattr(memories, name).view(Watched)
            watched.seen = self.seen[memory]
            watched.axis = 0 if memory in (Memory.WEIGHT, Memory.PARAMETER) else 1
            setattr(memories, name, watched)

    def _gather(self, address, inside, depth, label):
        taps = super()._gather(address, inside, depth, label).view(Taps)
        taps.inside = inside
        return taps


def random_compute(rng, consistent):
    """Fields with any strides: what windows read overlaps, has gaps, runs backwards or wraps."""
    small = {
        item.name: rng.choice([0, 1, 2, 3, 5, 8, 13, 40, 90])
        for item in isa.COMPUTE.fields
        if item.name.endswith(("_step", "_stride")) or item.name in ("weight_plane", "weight_chunk")
    }
    for name in small:
        if name.endswith(("row_step", "row_stride")) and rng.random() < 0.3:
            small[name] = -small[name] % WRAP
    f = random_loops(TINY, rng, **small)
    steps = f["input_row_step"], f["input_pixel_step"]
    if consistent:
        f["input_row_stride"] = f["stride_rows"] * steps[0] % WRAP
        f["input_pixel_stride"] = f["stride_columns"] * steps[1]
    corner = f["first_row"] * steps[0] + f["first_column"] * steps[1]
    f["input_origin"] = (rng.randrange(-20, 60) + corner) % WRAP
    f |= {
        "weight_address": rng.randrange(100), "parameter_slot": rng.randrange(8), "affine": 1,
        "saturation_bits": 16, "relu_after": 1,
        "scatter_groups": rng.choice([1, 1, 2, 8]),
        "residual": int(f["source"] == Source.ARRAY and rng.random() < 0.5),
        "residual_in_address": rng.randrange(40),
        "residual_out": rng.randrange(2), "residual_out_address": rng.randrange(40),
        "first_lane": rng.randrange(0, TINY.tin, TINY.lanes),
    }  # fmt: skip
    f["raw"] = int(f["residual_out"] and f["scatter_groups"] == 1 and rng.random() < 0.3)
    for n in (1, 2):
        f |= {f"code{n}_bits": rng.choice([0, 1, 2, 3, 4, 8])}
        for name in ("activation", "output"):
            f |= {f"code{n}_to_{name}": rng.randrange(2)}
            f |= {f"code{n}_{name}_address": rng.randrange(40)}
    f["steps"] = isa.beat_steps(f, TINY)
    return f


def declared_words(f, memory, write):
    """Words that an instruction says it touches."""
    bits = {
        Memory.ACTIVATION: TINY.activation_bits_per_word,
        Memory.OUTPUT: TINY.activation_bits_per_word,
        Memory.WEIGHT: TINY.weight_bits_per_word,
        Memory.RESIDUAL: TINY.residual_bits_per_word,
        Memory.PARAMETER: TINY.parameter_bits_per_row * PARAMETER_ROWS,
    }[memory]
    return {
        word
        for access in accesses(Opcode.COMPUTE, f, TINY)
        if access.space is memory and access.write is write
        for word in {8 * byte // bits for byte in touched_bytes(access)}
    }


def touched_bytes(access):
    """Every byte of an access, one by one."""
    if not access.period:
        return range(access.low, access.high)
    starts = range(access.low, access.high, access.period)
    pieces = (range(start, start + access.width) for start in starts)
    return [byte for piece in pieces for byte in piece]


@pytest.mark.parametrize("consistent", [True, False])
def test_any_compute_stays_within_what_it_declares(consistent):
    """Whatever its fields: the words that the emulator touches, one by one."""
    rng = random.Random(consistent)
    executed = dict.fromkeys(Source, 0)
    touched = {(memory, kind): 0 for memory in ARRAYS for kind in ("read", "write")}
    bounded = 0
    for _ in range(400):
        f = random_compute(rng, consistent)
        memories = Memories(TINY, 1)
        row = memories.parameter[:, isa.ROW_CONTROL]  # poison, but for lanes of the groups named
        shift = isa.PARAMETER_CONTROL.offsets["group"]
        row &= ~(7 << shift)
        row |= np.arange(TINY.lanes, dtype=np.int32) % f["scatter_groups"] << shift
        unit = Watching(TINY, memories)
        try:
            unit.execute(f)
        except ExecutionError:  # beyond a memory, or an overflow
            continue
        executed[f["source"]] += 1
        for memory, seen in unit.seen.items():
            for kind, words in seen.items():
                declared = declared_words(f, memory, kind == "write")
                assert words <= declared, f"undeclared {kind} of {memory.name} by {f}"
                touched[memory, kind] += len(words)
                whole = getattr(memories, ARRAYS[memory]).shape[1]
                if memory is Memory.ACTIVATION and kind == "read" and words:
                    bounded += len(declared) < whole
    assert min(executed.values()) > 20, executed
    expected = {(memory, "read") for memory in ARRAYS if memory is not Memory.OUTPUT}
    expected |= {
        (memory, "write") for memory in (Memory.ACTIVATION, Memory.OUTPUT, Memory.RESIDUAL)
    }
    assert {what for what, count in touched.items() if count} == expected
    assert bounded > 20 or not consistent, "most windows are bounded where strides agree"


def test_weights_are_read_tap_by_tap_from_each_plane():
    f = {item.name: 0 for item in isa.COMPUTE.fields} | {
        "kernel_rows": 2, "kernel_columns": 3, "input_chunks": 4, "weight_address": 5,
        "weight_plane": 1, "weight_digits": 2, "weight_chunk": 7, "output_chunks": 3,
    }  # fmt: skip
    assert declared_words(f, Memory.WEIGHT, False) == set(range(5, 5 + 2 * 7 + 1 + 24))


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({}, False),
        ({"input_row_stride": 21}, True),
        ({"input_row_stride": 21, "output_rows": 1}, False),
        ({"input_pixel_stride": 5}, True),
        ({"input_pixel_stride": 5, "output_columns": 1}, False),
        ({"input_origin": WRAP - 2}, True),
        ({"first_row": -1, "input_origin": 0}, False),
        ({"first_row": 1, "input_origin": 0}, True),
        ({"input_row_step": -10 % WRAP, "input_row_stride": -20 % WRAP, "input_origin": 13}, False),
        ({"input_row_step": -10 % WRAP, "input_row_stride": -20 % WRAP, "input_origin": 9}, True),
    ],
)
def test_a_window_is_bounded_where_strides_agree(source, changes, whole):
    """Two rows of five pixels, ten words apart; the other stride is that of every second one."""
    f = {item.name: 0 for item in isa.COMPUTE.fields} | {
        "source": source, "input_rows": 2, "input_columns": 5, "input_row_step": 10,
        "input_pixel_step": 2, "stride_rows": 2, "stride_columns": 2, "input_row_stride": 20,
        "input_pixel_stride": 4, "output_rows": 2, "output_columns": 2, "output_chunks": 1,
        "kernel_rows": 1, "kernel_columns": 1, "input_chunks": 1, "input_digits": 1,
        "weight_digits": 1, "input_origin": 3,
    } | changes  # fmt: skip
    memory = Memory.RESIDUAL if source is Source.POOL else Memory.ACTIVATION
    first = f["input_origin"] - 10 * f["first_row"] - 10 * (f["input_row_step"] != 10)
    depth = TINY.residual_words if source is Source.POOL else TINY.activation_words
    expected = range(depth) if whole else range(first, first + 10 + 4 * 2 + 1)
    assert declared_words(f, memory, False) == set(expected)


def test_transfers():
    f = {"memory": Memory.WEIGHT, "base": 0, "address": 10, "stride": 8, "rows": 3, "row_beats": 2,
         "dram_offset": 64, "dram_stride": 32}  # fmt: skip
    chip, dram = accesses(Opcode.LOAD, f, TINY)
    assert (chip.low, chip.high, chip.write) == (80, 80 + 2 * 64 + 16, True)
    assert (dram.low, dram.high, dram.write) == (64, 64 + 2 * 32 + 16, False)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((Memory.WEIGHT, 0, 8, True), (Memory.WEIGHT, 7, 9, False), True),
        ((Memory.WEIGHT, 0, 8, True), (Memory.WEIGHT, 8, 9, True), False),
        ((Memory.WEIGHT, 0, 8, False), (Memory.WEIGHT, 0, 8, False), False),
        ((Memory.WEIGHT, 0, 8, True), (Memory.ACTIVATION, 0, 8, True), False),
    ],
)
def test_conflicts(a, b, expected):
    assert Access(*a).conflicts(Access(*b)) is expected
    assert Access(*b).conflicts(Access(*a)) is expected


def pieces(low, period, width, count):
    return Access(Memory.RESIDUAL, low, low + (count - 1) * period + width, True, period, width)


@given(
    st.integers(1, 9), st.integers(0, 40), st.integers(0, 40), st.integers(1, 9), st.integers(1, 9),
    st.integers(1, 6), st.integers(1, 6),
)  # fmt: skip
def test_pieces_conflict_where_they_share_a_byte(period, low, other, width, size, count, number):
    """Between those of equal period the answer is exact, but for pieces beyond either's ends."""
    a = pieces(low, period, min(width, period - 1) or 1, count)
    b = pieces(other, period, min(size, period - 1) or 1, number)
    apart = not set(touched_bytes(a)) & set(touched_bytes(b))
    assert a.conflicts(b) is b.conflicts(a)
    assert apart or a.conflicts(b)
    in_line = any((x - y) % period == 0 for x in range(a.low, a.low + a.width)
                  for y in range(b.low, b.low + b.width))  # fmt: skip
    overlap = a.low < b.high and b.low < a.high
    assert a.conflicts(b) is (in_line and overlap)


def test_pieces_meet_an_interval_and_other_periods_anywhere():
    a = pieces(0, 8, 2, 4)
    assert a.conflicts(Access(Memory.RESIDUAL, 3, 5, False))
    assert a.conflicts(pieces(3, 4, 1, 4))
    assert not a.conflicts(pieces(3, 8, 1, 4))


@pytest.mark.parametrize(
    ("row_stride", "rows", "period"),
    [(16, 3, 4), (18, 3, 0), (18, 1, 4), (4, 1, 4), (-16, 3, 4), (-18, 3, 0)],
)
def test_pixels_are_pieces_where_rows_are_whole_pixels_apart(row_stride, rows, period):
    """Two words of each of three pixels, which are four words apart."""
    f = {item.name: 0 for item in isa.COMPUTE.fields} | {
        "output_rows": rows, "output_columns": 3, "output_chunks": 2, "scatter_groups": 1,
        "residual": 1, "residual_in_address": 45, "residual_in_row_stride": row_stride % WRAP,
        "residual_in_pixel_stride": 4,
    }  # fmt: skip
    (found,) = (a for a in accesses(Opcode.COMPUTE, f, TINY) if a.space is Memory.RESIDUAL)
    word = TINY.residual_bits_per_word // 8
    first, last = sorted((45, 45 + (rows - 1) * row_stride))
    width = 2 if period else 0
    assert found == Access(Memory.RESIDUAL, first * word, (last + 2 * 4 + 2) * word, False,
                           period * word, width * word)  # fmt: skip


@pytest.mark.parametrize("start", [31, TINY.residual_words - 9])
def test_pixels_beyond_either_end_may_be_anywhere(start):
    f = {item.name: 0 for item in isa.COMPUTE.fields} | {
        "output_rows": 3, "output_columns": 3, "output_chunks": 2, "scatter_groups": 1,
        "residual": 1, "residual_in_address": start, "residual_in_row_stride": -16 % WRAP,
        "residual_in_pixel_stride": 4,
    }  # fmt: skip
    assert declared_words(f, Memory.RESIDUAL, False) == set(range(TINY.residual_words))
