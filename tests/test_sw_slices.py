"""Pools computed by slices of their channels, where one row of all channels does not fit."""

import dataclasses
import itertools

import pytest
from networks import pooled_network, wide_pool_network

from palquant.errors import CapacityError
from palquant.hw.isa import Memory, Opcode, PoolOperation, Source
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import MaxPool, SumPool

SMALL = dataclasses.replace(
    PRESETS["tiny"], name="small", weight_words=256, activation_words=512, output_words=512,
    residual_words=96, parameter_slots=8,
)  # fmt: skip
NETWORKS = {
    # 40 positions of which 36 are channels: slices of 2, 2 and 1 words
    "max": lambda: wide_pool_network(),
    "sum": lambda: wide_pool_network(SumPool),
    "two groups": lambda: wide_pool_network(MaxPool, 44, groups=2),
    "one row": lambda: wide_pool_network(SumPool, height=3),
}


def with_words(words):
    return dataclasses.replace(SMALL, residual_words=words)


def compiled(b, machine, keep_all=True):
    image = compile_graph(b.graph(), machine, keep_all=keep_all)
    return image, Emulator(machine, image.data)


def pools(emulator):
    return [f for _, opcode, f in emulator.program
            if opcode is Opcode.COMPUTE and f["source"] == Source.POOL]  # fmt: skip


def strided(emulator, opcode):
    return [f for _, each, f in emulator.program
            if each is opcode and f["memory"] == Memory.RESIDUAL and f["rows"] > 1]  # fmt: skip


@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("words", [96, 128])
def test_every_value_is_the_references(name, words, keep_all):
    b = NETWORKS[name]()
    image, emulator = compiled(b, with_words(words), keep_all)
    outputs = emulator.run(image.pack_input(b.codes))
    assert require_equal(compare_outputs(image, outputs, b.values)) > 0
    assert strided(emulator, Opcode.LOAD)
    maximum = {f["pool_operation"] == PoolOperation.MAX for f in pools(emulator)}
    assert maximum == {name in ("max", "two groups")}


def test_a_transfer_moves_a_slice_of_each_pixel():
    """40 positions are 5 words of 2 beats: slices of 2, 2 and 1 words of 9 pixels a row."""
    b = wide_pool_network()
    _, emulator = compiled(b, SMALL)
    loads, stores = (strided(emulator, opcode) for opcode in (Opcode.LOAD, Opcode.STORE))
    for transfers, width in ((loads, 9), (stores, 5)):
        assert {f["dram_stride"] for f in transfers} == {5 * 16}
        assert {f["rows"] % width for f in transfers} == {0}
        assert len({f["stride"] for f in transfers}) == 1  # a pixel's place, whatever its slice
        whole = {f["dram_offset"] // 16 % 5: f["row_beats"] // 2 for f in transfers}
        assert sum(whole.values()) == 5
    # Each output row's codes and residuals of each slice, once.
    assert sum(f["rows"] * f["row_beats"] for f in stores) == 5 * 5 * 10


def test_a_pool_that_fits_is_not_sliced():
    """3 rows of 9 pixels of 4 words, one of 5 pixels."""
    b = pooled_network(9, (3, 2, 1))
    for words, sliced in ((3 * 36 + 20, False), (3 * 36 + 19, True)):
        assert bool(strided(compiled(b, with_words(words))[1], Opcode.LOAD)) is sliced


def test_transfers_run_beside_the_computation():
    """Inputs have two places that take turns, across slices and across rows."""
    _, emulator = compiled(wide_pool_network(), with_words(128))
    addresses = [f["address"] for f in strided(emulator, Opcode.LOAD)]
    assert len(set(addresses)) == 2
    assert all(a != b for a, b in itertools.pairwise(addresses))


def test_a_refusal_names_what_the_smallest_slice_needs():
    """A kernel of 9 rows of 9 pixels, and a result of one pixel, of one word each."""
    b = pooled_network(9, (9, 1))
    text = "pool0: one output row of 8 channels at a time needs 82 words of residual memory"
    with pytest.raises(CapacityError, match=text):
        compile_graph(b.graph(), with_words(81))
    image, emulator = compiled(b, with_words(82))
    require_equal(compare_outputs(image, emulator.run(image.pack_input(b.codes)), b.values))
