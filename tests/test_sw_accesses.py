"""What an instruction says it touches is what it touches: tokens are derived from nothing else."""

import copy

import numpy as np
import pytest
from networks import drawer, random_network

from palquant.hw.config import PRESETS
from palquant.hw.isa import Memory, Opcode
from palquant.sw import emulator as emulator_module
from palquant.sw.accesses import Access, accesses
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.emulator_compute import ComputeUnit

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
