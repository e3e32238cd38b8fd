"""Layers that read each other row by row are computed strip by strip, and stay on chip."""

import dataclasses
import itertools

import pytest
from networks import Builder, drawer, shuffled_network

from palquant.hw.isa import Memory, Opcode
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emit import Emitter
from palquant.sw.emulator import Emulator
from palquant.sw.network import place_network
from palquant.sw.tile import Policy

TINY = PRESETS["tiny"]
#: Too little memory for a tensor of 12 x 12 pixels, enough for strips of it.
LITTLE = dataclasses.replace(
    TINY, name="little", activation_words=512, output_words=256, residual_words=256
)


def emit(builder, geometry, keep_all=False, resident=1.0):
    placed = place_network(builder.graph(), geometry)
    emitter = Emitter(placed, Policy(resident, keep_all))
    steps = emitter.emit()
    names = [tuple(placed.layers[index].name for index in group) for group in emitter.groups]
    order = [step.computes[0].fields["layer"] for step in steps]
    return placed, emitter, names, order


def test_shuffles_and_downsampling_convolutions_join_their_neighbours():
    placed, emitter, names, order = emit(shuffled_network(), LITTLE, resident=0.0)
    assert ("conv", "shuffle.conv", "down.conv1") in names
    assert ("down.conv2", "down.downsample") in names
    first = [layer.name for layer in placed.layers].index("conv")
    turns = [index for index in order if index in (first, first + 1)]
    changes = sum(a != b for a, b in itertools.pairwise(turns))
    assert changes >= 3  # conv, shuffle, conv, shuffle: strip by strip
    assert "conv.relu" not in emitter.transfers.offsets  # residual stream between the two
    assert not [
        name
        for name in emitter.transfers.offsets
        if name.startswith("shuffle.") and "quant" in name
    ]


def test_nothing_joins_where_everything_fits():
    _, emitter, names, order = emit(shuffled_network(size=6), TINY)
    assert all(len(group) == 1 for group in names)
    assert order == sorted(order)
    assert len(emitter.transfers.offsets) == 1  # the result


def test_a_convolution_with_a_halo_does_not_join():
    b = Builder(drawer(5))
    x = b.affine("stem.affine", b.convolution("stem", b.start(1, 12, 12), 16, 8))
    for name in ("first", "second"):
        codes = b.quantize(f"{name}.quantize", x, 2)
        x = b.affine(f"{name}.affine", b.convolution(name, codes, 16, 2))
    _, emitter, names, _ = emit(b, LITTLE, resident=0.0)
    assert names == [("stem",), ("first",), ("second",)]
    assert {"first.quantize", "second.quantize"} <= set(emitter.transfers.offsets)


@pytest.mark.parametrize("resident", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_value_is_the_references(resident, keep_all, groups, monkeypatch):
    monkeypatch.setattr("palquant.sw.compile.RESIDENT_SHARES", (resident,))
    b = shuffled_network(groups=groups)
    image = compile_graph(b.graph(), LITTLE, keep_all=keep_all)
    outputs = Emulator(LITTLE, image.data).run(image.pack_input(b.codes))
    assert require_equal(compare_outputs(image, outputs, b.values)) > 0


def test_fusion_saves_the_bus_what_passes_between_the_layers():
    """Between the fused layers no byte passes through DRAM; weights that fit are loaded once."""
    b = shuffled_network()
    image = compile_graph(b.graph(), LITTLE, keep_all=False)
    emulator = Emulator(LITTLE, image.data)
    emulator.run(image.pack_input(b.codes))
    layouts = {name: layout for name, (layout, _) in image.tensors.items()}
    stored = sum(layout.bytes for layout in layouts.values()) // LITTLE.bus_bytes
    assert emulator.statistics.beats_written == stored * len(b.codes)
    assert "conv.relu" not in layouts
    assert "conv.relu" in compile_graph(b.graph(), LITTLE, keep_all=True).tensors


@pytest.mark.parametrize(("weight_words", "once"), [(96, True), (32, False)])
def test_weights_that_fit_stay_for_all_strips(weight_words, once):
    """In half of the weight memory there is room for those of both layers of a group, or not."""
    b = shuffled_network()
    geometry = dataclasses.replace(LITTLE, weight_words=weight_words)
    image = compile_graph(b.graph(), geometry, keep_all=False)
    emulator = Emulator(geometry, image.data)
    index = [layer.name for layer in image.layers].index("conv")
    mine = [(op, fields) for _, op, fields in emulator.program if fields.get("layer") == index]
    computes = [fields for op, fields in mine if op is Opcode.COMPUTE]
    loads = [
        fields["dram_offset"]
        for op, fields in mine
        if op is Opcode.LOAD and fields["memory"] == Memory.WEIGHT
    ]
    assert len(set(loads)) == 2  # a chunk of each group, once in the image
    assert len(computes) > 2
    assert len(loads) == (2 if once else len(computes))
    outputs = emulator.run(image.pack_input(b.codes))
    assert require_equal(compare_outputs(image, outputs, b.values)) > 0
