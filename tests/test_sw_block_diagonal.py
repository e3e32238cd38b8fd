"""Block-diagonal convolutions are computed as grouped ones, with the same values."""

import dataclasses

import numpy as np
import pytest
from networks import Builder, drawer

from palquant.golden.reference import run
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.block_diagonal import split_blocks
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import Add, Graph
from palquant.sw.lower import lower
from palquant.sw.network import place_network

TINY = PRESETS["tiny"]


def diagonal(blocks, outputs, inputs, kernel=1):
    """Weight codes 1 to 3 in blocks on the diagonal, 0 elsewhere."""
    rng = np.random.default_rng(blocks)
    weight = np.zeros((blocks * outputs, blocks * inputs, kernel, kernel), np.uint8)
    for block in range(blocks):
        rows = slice(block * outputs, (block + 1) * outputs)
        part = rng.integers(1, 4, (outputs, inputs, kernel, kernel))
        weight[rows, block * inputs : (block + 1) * inputs] = part
    return weight


def network(weight, *, groups=1, beta=0, channels=32):
    """Codes of a stem, and a convolution with the given weight codes behind them."""
    b = Builder(drawer(1))
    codes = b.quantize("q", b.affine("r", b.convolution("stem", b.start(1, 6, 6), channels, 8)), 4)
    kernel = weight.shape[2:]
    b.convolution("conv", codes, len(weight), 2, groups=groups, kernel=kernel,
                  padding=(kernel[0] // 2, kernel[1] // 2))  # fmt: skip
    b.affine("result", "conv")
    nodes = [
        dataclasses.replace(node, weight=weight, alpha=1, beta=beta)
        if node.name == "conv"
        else node
        for node in b.nodes
    ]
    return Graph(nodes), b.codes


def groups_of(graph, granularity=8):
    lowered = lower(graph)
    changed = split_blocks(lowered, granularity)
    found = next(layer for layer in lowered.layers if layer.name == "conv").operation
    assert changed == (found.groups != graph["conv"].groups)
    assert found.weight.shape[0] == graph["conv"].weight.shape[0]
    assert found.weight.shape[1] * found.groups == 32
    return found.groups


@pytest.mark.parametrize(
    ("weight", "groups", "expected"),
    [
        (diagonal(32, 1, 1), 1, 4),  # the identity: as many blocks as are whole words
        (diagonal(4, 8, 8, 3), 1, 4),
        (diagonal(2, 16, 16), 1, 2),
        (diagonal(4, 16, 8), 1, 4),  # more outputs than inputs
        (diagonal(8, 3, 4), 1, 1),  # 24 outputs: no four blocks of whole chunks, and two would mix
        (diagonal(1, 32, 32), 1, 1),
        (np.concatenate([diagonal(2, 8, 8), diagonal(2, 8, 8)]), 2, 4),  # grouped already
    ],
)
def test_blocks_are_found(weight, groups, expected):
    graph, _ = network(weight, groups=groups)
    assert groups_of(graph) == expected


def test_codes_of_other_values_are_no_zeros():
    graph, _ = network(diagonal(4, 8, 8), beta=1)
    assert groups_of(graph) == 1


@pytest.mark.parametrize("name", ["tiny", "kilomac"])
def test_split_networks_compute_the_same(name):
    machine = PRESETS[name]
    channels = 4 * machine.tin
    weight = diagonal(4 * machine.tin, 1, 1)
    graph, codes = network(weight, channels=channels)
    placed = place_network(graph, machine)
    layer = next(layer for layer in placed.lowered.layers if layer.name == "conv")
    assert layer.operation.groups == 4
    check(graph, codes, machine)


def check(graph, codes, machine):
    image = compile_graph(graph, machine)
    output = Emulator(machine, image.data, 1).run(image.pack_input(codes))
    assert require_equal(compare_outputs(image, output, run(graph, codes))) > 0


def test_more_groups_than_a_shuffle_can_have_leave_convolutions_whole():
    """Ten blocks would make ten groups, but a shuffle of two of them stands behind."""
    b = Builder(drawer(2))
    channels = 80
    codes = b.quantize("q", b.affine("r", b.convolution("stem", b.start(1, 4, 4), channels, 8)), 2)
    b.convolution("conv", codes, channels, 2, kernel=(1, 1), padding=(0, 0))
    b.nodes[-1] = dataclasses.replace(b.nodes[-1], weight=diagonal(80, 1, 1), alpha=1, beta=0)
    other = b.affine("r2", b.convolution("side", codes, channels, 2, groups=2))
    total = b.add(Add(name="sum", a=b.shuffle("shuffle", b.affine("r3", "conv"), 2), b=other))
    b.affine("result", b.convolution("last", b.quantize("q2", total, 2), 16, 2, groups=2))
    graph = Graph(b.nodes)
    placed = place_network(graph, TINY)
    layer = next(layer for layer in placed.lowered.layers if layer.name == "conv")
    assert layer.operation.groups == 1
    check(graph, b.codes, TINY)
