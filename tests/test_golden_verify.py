"""Verification finds a single wrong value and says where it is."""

import dataclasses

import numpy as np
import pytest

from palquant.errors import MismatchError
from palquant.golden.config import NetworkConfig
from palquant.golden.export import export
from palquant.golden.random_network import random_network
from palquant.golden.verify import count_mismatches, observe, verify
from palquant.sw.graph import Convolution, Graph, Input, Normalization, Shape

IMAGES = np.random.default_rng(0).random((5, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    model = random_network(NetworkConfig(base_width=2), seed=6)
    return model, export(model)


def replaced(graph, name, **changes):
    nodes = [dataclasses.replace(n, **changes) if n.name == name else n for n in graph]
    return Graph(nodes, graph.metadata)


@pytest.mark.parametrize("name", ["stem.affine", "stage2.0.affine2", "shuffle3.affine"])
def test_one_offset_is_noticed(network, name):
    model, graph = network
    offset = graph[name].offset.copy()
    channel = int(np.abs(graph[name].scale).argmax())
    offset[channel] += 1 << int(graph[name].shift[channel])
    message = rf"^{name}: image \d, channel {channel}, y \d, x \d: expected -?\d+, actual -?\d+ \("
    with pytest.raises(MismatchError, match=message):
        verify(model, replaced(graph, name, offset=offset), IMAGES)


def test_one_threshold_is_noticed(network):
    model, graph = network
    node = graph["stage1.0.conv1.quantize"]
    thresholds = node.thresholds.copy()
    value = np.median(observe(model, graph, IMAGES)["stem.relu"])
    thresholds[0] = value + (1 if node.negate[0] else 0)
    with pytest.raises(MismatchError, match=r"^stage1\.0\.conv1\.quantize: image"):
        verify(model, replaced(graph, node.name, thresholds=thresholds), IMAGES)


def test_one_logit_is_noticed(network):
    model, graph = network
    offset = graph["classifier.logits"].offset + np.eye(10, dtype=np.int64)[7]
    message = r"^classifier\.logits: image 0, channel 7, y 0, x 0: expected .*\(5 of 50 differ\)$"
    with pytest.raises(MismatchError, match=message):
        verify(model, replaced(graph, "classifier.logits", offset=offset), IMAGES)


def test_counts_values_and_mismatches(network):
    model, graph = network
    compared = verify(model, graph, IMAGES)
    assert count_mismatches(model, graph, IMAGES) == (compared, 0)
    offset = graph["classifier.logits"].offset + np.eye(10, dtype=np.int64)[7]
    changed = replaced(graph, "classifier.logits", offset=offset)
    assert count_mismatches(model, changed, IMAGES) == (compared, len(IMAGES))


def test_nothing_in_common_is_a_failure(network):
    norm = Normalization((0.0,), (1.0,), 1.0)
    source = Input(name="a", shape=Shape(1, 8, 8), bits=8, zero_point=128, normalization=norm)
    conv = Convolution(name="b", input="a", weight=np.zeros((1, 1, 1, 1), np.uint8),
                       weight_bits=8, alpha=1, beta=128)  # fmt: skip
    with pytest.raises(
        MismatchError, match=r"^the network and the graph have no tensor in common$"
    ):
        verify(network[0], Graph([source, conv]), IMAGES)
