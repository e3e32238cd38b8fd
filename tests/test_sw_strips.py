"""Layers that read others by windows join them: rows of each tile, and where they lie."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import Builder, drawer, pool, pooled_network, strided_network

from palquant.hw.isa import ADDRESS_BITS, Opcode
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emit import Emitter
from palquant.sw.emulator import Emulator
from palquant.sw.fuse import Group, Member
from palquant.sw.graph import SumPool
from palquant.sw.network import place_network
from palquant.sw.strips import Run, back_and_forth, in_order, reversed_where, tile_spans
from palquant.sw.tile import Policy

TINY = PRESETS["tiny"]
#: Little memory: of 20 x 9 pixels of 32 channels, a few rows fit.
LITTLE = dataclasses.replace(
    TINY, name="little", activation_words=1024, output_words=512, residual_words=256
)


def emit(builder, geometry=LITTLE, keep_all=False):
    placed = place_network(builder.graph(), geometry)
    emitter = Emitter(placed, Policy(0.0, keep_all))
    emitter.emit()
    return emitter, [
        tuple(placed.layers[index].name for index in group) for group in emitter.groups
    ]


def group_of(builder, names):
    """A group of layers of which nothing stays."""
    network = place_network(builder.graph(), TINY)
    group = Group()
    for index, layer in enumerate(network.layers):
        if layer.name in names:
            member = Member.of(network, index)
            assert not group.members or group.joins(member)
            kept = dict.fromkeys((layout.name for layout in member.writes), False)
            group = group.with_member(member, kept, network)
    return group


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("pools", [[(3, 2, 1)], [(2, 2)], [(3, 2)], [(3, 2, 1), (2, 2)],
                                   [(3, 2, 1), (3, 2, 1)], [(2, 1), (3, 3, 1)]])  # fmt: skip
def test_spans_follow_each_other_and_hold_what_is_read(height, pools):
    if height < 8 and not all(len(p) == 3 for p in pools):
        height += 8
    names = ("stem", *(f"pool{number}" for number in range(len(pools))))
    group = group_of(pooled_network(height, *pools), names)
    assert group.levels == tuple(range(len(pools) + 1))
    for rows in range(1, group.members[-1].layer.shape.height + 1):
        tiles = tile_spans(group, rows)
        for level, member in enumerate(group.members):
            spans = [tile[level] for tile in tiles]
            ends = [0, *itertools.chain.from_iterable(spans), member.layer.shape.height]
            assert ends[::2] == ends[1::2]  # one behind the other, and all rows
            assert all(first < last for first, last in spans)
            if not level:
                continue
            kernel, stride, _ = member.layer.window
            for number, span in enumerate(spans):
                _, low, high = member.layer.input_rows(*span)
                first, end = tiles[number][level - 1]
                assert high <= end
                assert low >= (first - (kernel - stride) if number else 0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.booleans())
def test_rows_that_two_tiles_read_stay_where_they_are(heights, equal):
    if equal:  # all tiles but the last
        heights = [max(heights)] * len(heights) + heights[-1:]
    ends = list(itertools.accumulate(heights))
    spans = list(zip([0, *ends], ends, strict=False))
    slots, runs = back_and_forth(spans)
    where = {}
    for (first, end), run in zip(spans, runs, strict=True):
        rows = range(max(0, first - 1), end)
        found = {row: run.find(row) for row in rows}
        assert sorted(found.values()) == list(range(min(found.values()), max(found.values()) + 1))
        assert 0 <= min(found.values()) <= max(found.values()) < slots
        if first:
            assert found[first - 1] == where[first - 1]
        where = found
    assert slots <= max(heights) + 1 or not equal


def test_buffers_of_a_tile_s_rows_alone():
    spans = [(0, 3), (3, 5), (5, 6)]
    assert in_order(spans) == (3, [Run(0, 0), Run(3, 0), Run(5, 0)])
    _, runs = back_and_forth(spans)
    assert [run.step for run in runs] == [1, -1, 1]
    turned = reversed_where(runs, spans)
    assert [[run.find(row) for row in range(*span)] for run, span in
            zip(turned, spans, strict=True)] == [[0, 1, 2], [1, 0], [0]]  # fmt: skip


NETWORKS = {
    "3x3/2": (pooled_network(20, (3, 2, 1)), True),
    "3x3/2, odd": (pooled_network(21, (3, 2, 1)), True),
    "3x3/2, no padding": (pooled_network(22, (3, 2)), True),
    "2x2/2": (pooled_network(20, (2, 2)), False),
    "2x2/2, a row that nobody reads": (pooled_network(21, (2, 2)), False),
    "2x2/2, padding": (pooled_network(21, (2, 2, 1)), False),
    "3x3/3, padding": (pooled_network(20, (3, 3, 1)), False),
    "2x2/1": (pooled_network(20, (2, 1)), True),
    "two pools": (pooled_network(28, (3, 2, 1), (2, 2), width=5), True),
    "two pools that share rows": (pooled_network(29, (3, 2, 1), (3, 2, 1), width=5), True),
    "convolution": (strided_network(20), True),
    "convolution, odd": (strided_network(21), True),
    "convolution 2x2/2": (strided_network(21, 2, 2, 0), False),
}


@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_value_is_the_references(name, keep_all, monkeypatch):
    b, shares = NETWORKS[name]
    windows = ("stem", "pool0"), ("stem", "pool0", "pool1"), ("stem", "first", "second")
    assert any(names in windows for names in emit(b, keep_all=keep_all)[1])
    monkeypatch.setattr("palquant.sw.compile.RESIDENT_SHARES", (0.0,))
    image = compile_graph(b.graph(), LITTLE, keep_all=keep_all)
    emulator = Emulator(LITTLE, image.data)
    outputs = emulator.run(image.pack_input(b.codes))
    assert require_equal(compare_outputs(image, outputs, b.values)) > 0
    computes = [f for _, opcode, f in emulator.program if opcode is Opcode.COMPUTE]
    backwards = [f for f in computes if f["input_row_step"] >> (ADDRESS_BITS - 1)]
    assert bool(backwards) is shares


@pytest.mark.parametrize("kernel_stride_padding", [(3, 1, 1), (1, 2, 0), (4, 2, 1), (2, 1, 1)])
def test_windows_that_share_more_rows_or_skip_some_do_not_join(kernel_stride_padding):
    _, names = emit(pooled_network(20, kernel_stride_padding))
    assert ("stem",) in names


def test_a_sum_pool_joins():
    b = Builder(drawer(2))
    x = b.affine("x", b.convolution("stem", b.start(1, 20, 9), 32, 8))
    b.affine("y", pool(b, "pool", x, 2, 2, kind=SumPool))
    _, names = emit(b)
    assert ("stem", "pool") in names


def test_what_passes_by_windows_does_not_go_to_dram():
    b = pooled_network(20, (3, 2, 1))
    image = compile_graph(b.graph(), LITTLE, keep_all=False)
    assert "relu" not in image.tensors
    assert "relu" in compile_graph(b.graph(), LITTLE, keep_all=True).tensors


def test_rows_leave_while_the_one_that_two_tiles_read_is_computed():
    """Of the stem's first tile: all rows but one, their stores, and that row; then the pool's."""
    image = compile_graph(pooled_network(21, (3, 2, 1)).graph(), LITTLE, keep_all=True)
    program = [(opcode, f["layer"]) for _, opcode, f in Emulator(LITTLE, image.data).program
               if opcode in (Opcode.COMPUTE, Opcode.STORE)]  # fmt: skip
    first_tile = program[: program.index((Opcode.COMPUTE, 1))]
    store = first_tile.index((Opcode.STORE, 0))
    assert (Opcode.COMPUTE, 0) in first_tile[:store]
    assert (Opcode.COMPUTE, 0) in first_tile[store:]
