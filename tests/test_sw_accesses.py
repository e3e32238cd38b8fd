"""What an instruction says it touches is what it touches: tokens are derived from nothing else."""

import copy
import random

import numpy as np
import pytest
from compute_words import random_loops
from networks import drawer, random_network

from palquant.errors import ExecutionError
from palquant.hw import isa
from palquant.hw.config import PARAMETER_ROWS, PRESETS
from palquant.hw.isa import Memory, Opcode, Source
from palquant.sw import emulator as emulator_module
from palquant.sw.accesses import Access, accesses
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.emulator_compute import ComputeUnit
from palquant.sw.memories import Memories

TINY = PRESETS["tiny"]
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
    f = random_loops(TINY, rng, **small)
    steps = f["input_row_step"], f["input_pixel_step"]
    if consistent:
        f["input_row_stride"] = f["stride_rows"] * steps[0]
        f["input_pixel_stride"] = f["stride_columns"] * steps[1]
    corner = f["first_row"] * steps[0] + f["first_column"] * steps[1]
    f["input_origin"] = (rng.randrange(-20, 60) + corner) % (1 << isa.ADDRESS_BITS)
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
        for word in range(8 * access.low // bits, 8 * access.high // bits)
    }


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
        ({"input_origin": (1 << isa.ADDRESS_BITS) - 2}, True),
        ({"first_row": -1, "input_origin": 0}, False),
        ({"first_row": 1, "input_origin": 0}, True),
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
    first = f["input_origin"] - 10 * f["first_row"]
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
