"""Channels that groups share: stored once, read by each of them."""

import dataclasses

import numpy as np
import pytest

from palquant.errors import GraphError, UnsupportedLayerError
from palquant.golden.reference import run
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import (
    Add,
    Affine,
    Convolution,
    Graph,
    Input,
    Logits,
    Normalization,
    Permute,
    Quantize,
    Repeat,
    Shape,
    SumPool,
)  # fmt: skip
from palquant.sw.network import place_network

TINY = PRESETS["tiny"]


def network(groups=2, times=2, channels=8, order=None):
    """A stem of some channels, a grouped convolution of them repeated, and the addition of both."""
    rng = np.random.default_rng(0)
    wide = channels * times
    identity = {"scale": np.ones, "offset": np.zeros, "shift": np.zeros}

    def affine(name, source, count):
        fields = {key: make(count, np.int64) for key, make in identity.items()}
        return Affine(name=name, input=source, bits=16, **fields)

    def convolution(name, source, shape, **fields):
        weight = rng.integers(0, 4, shape).astype(np.uint8)
        return Convolution(name=name, input=source, weight=weight, weight_bits=2, alpha=2, beta=3,
                           **fields)  # fmt: skip

    thresholds = np.array([[-20, 0, 20]])
    return Graph(
        [
            Input(name="input", shape=Shape(channels, 4, 4), bits=2, zero_point=0,
                  normalization=Normalization((0.0,) * channels, (1.0,) * channels, 1 / 3)),
            convolution("stem", "input", (channels, channels, 1, 1)),
            affine("stem.affine", "stem", channels),
            Quantize(name="codes", input="stem.affine", bits=2, thresholds=thresholds,
                     negate=np.zeros(1, bool)),
            Repeat(name="codes.repeat", input="codes", times=times),
            convolution("body", "codes.repeat", (wide, wide // groups, 3, 3), groups=groups,
                        padding=(1, 1)),
            affine("body.affine", "body", wide),
            Repeat(name="stem.repeat", input="stem.affine", times=times),
            Add(name="sum", a="body.affine", b="stem.repeat"),
            SumPool(name="pool", input="sum", kernel=(4, 4), stride=(4, 4)),
            Logits(name="logits", input="pool", offset=np.zeros(wide, np.int64),
                   scale=np.ones(wide)),
        ]
    )  # fmt: skip


def test_the_reference_repeats_whole_tensors():
    graph = network()
    codes = np.random.default_rng(1).integers(0, 4, (2, 8, 4, 4))
    values = run(graph, codes)
    for name, source in (("codes.repeat", "codes"), ("stem.repeat", "stem.affine")):
        np.testing.assert_array_equal(values[name], np.concatenate([values[source]] * 2, axis=1))


def test_what_is_shared_is_stored_once():
    image = compile_graph(network(), TINY)
    assert "codes.repeat" not in image.tensors
    assert "stem.repeat" not in image.tensors
    layout, _ = image.tensors["stem.affine"]
    assert layout.shape.channels == 8
    placed = place_network(network(), TINY)
    assert placed.assignment.tensors["codes"].groups == 1
    assert placed.layers[1].residual == "stem.affine"


def test_never_is_refused():
    nodes = network().nodes
    nodes[7] = Repeat(name="stem.repeat", input="stem.affine", times=0)
    with pytest.raises(GraphError, match=r"stem\.repeat: repeats channels 0 times"):
        Graph(nodes)


def test_the_emulator_adds_what_groups_share():
    graph = network()
    codes = np.random.default_rng(1).integers(0, 4, (2, 8, 4, 4)).astype(np.uint8)
    for keep_all in (True, False):
        image = compile_graph(graph, TINY, keep_all=keep_all)
        outputs = Emulator(TINY, image.data).run(image.pack_input(codes))
        require_equal(compare_outputs(image, outputs, run(graph, codes)))


def test_a_group_of_more_channels_than_the_residual_is_refused():
    nodes = network(groups=1).nodes
    weight = np.zeros((16, 8, 3, 3), np.uint8)
    nodes[5] = dataclasses.replace(nodes[5], input="codes", weight=weight)
    with pytest.raises(UnsupportedLayerError, match=r"body: adds the 8 channels of stem\.affine"):
        place_network(Graph(nodes), TINY)


def test_a_permuted_residual_is_not_taken_for_the_one_before():
    nodes = network().nodes
    reverse = Permute(name="reverse", input="stem.affine", permutation=np.arange(8)[::-1].copy())
    nodes[7] = dataclasses.replace(nodes[7], input="reverse")
    for place in (5, 7):  # before the convolution, and behind it
        graph = Graph([*nodes[:place], reverse, *nodes[place:]])
        with pytest.raises(UnsupportedLayerError, match="sum: Add of body"):
            place_network(graph, TINY)


def test_groups_that_cut_through_shared_channels_are_refused():
    with pytest.raises(UnsupportedLayerError, match="body: its 1 groups read 8 channels 2 times"):
        place_network(network(groups=1), TINY)
