"""What the random networks of the property tests are made of: nothing supported is left out."""

import itertools
from collections import Counter

import pytest
from networks import drawer, random_network

from palquant.hw.presets import PRESETS
from palquant.sw.graph import Add, Convolution, MaxPool, Permute, SumPool

SEEDS = range(300)
#: Drawn networks that must have a feature, for a run of the property tests to meet it as well.
OFTEN = 3


def pools(graph, kind):
    for node in graph:
        if isinstance(node, kind):
            extent = graph.shapes[node.input]
            is_global = node.kernel == (extent.height, extent.width) and max(node.kernel) > 1
            yield "global" if is_global else "local"


def is_cyclic(permutation):
    """Whether it moves whole groups round, rather than channels between groups."""
    steps = [(b - a) % len(permutation) for a, b in itertools.pairwise(permutation)]
    return set(steps) == {1}


def features(graph):
    """What a network is made of, as tuples that start with the kind of thing."""
    lanes = PRESETS["tiny"].tin
    for node in graph:
        shape = graph.shapes[node.name]
        if (shape.height, shape.width) == (1, 1):
            yield ("extent 1x1", type(node).__name__)
        match node:
            case Convolution(groups=groups, weight=weight, stride=stride, padding=padding):
                source = graph.types[node.input]
                channels = graph.shapes[node.input].channels // groups
                yield ("groups", groups)
                yield ("kernel", weight.shape[2:])
                yield ("stride", stride)
                yield ("padding", "some" if any(padding) else "none")
                yield ("bits", node.weight_bits, source.bits)
                yield ("input channels fill words", channels % lanes == 0)
                yield ("output channels fill words", shape.channels // groups % lanes == 0)
            case Add():
                yield ("add",)
            case Permute(permutation=permutation):
                yield ("shuffle", "cyclic" if is_cyclic(permutation.tolist()) else "channels")
            case MaxPool(padding=padding, stride=stride):
                yield ("max-pool padding", "some" if any(padding) else "none")
                yield ("max-pool stride", stride)
    yield from (("max-pool", reach) for reach in pools(graph, MaxPool))
    yield from (("average pool", reach) for reach in pools(graph, SumPool))


@pytest.fixture(scope="module")
def drawn():
    """How many of the networks have each feature."""
    return Counter(
        feature for seed in SEEDS for feature in set(features(random_network(drawer(seed)).graph()))
    )


WANTED = [
    *(("groups", groups) for groups in (1, 2, 3, 4)),
    *(("kernel", (size, size)) for size in (1, 3, 5, 7)),
    *(("stride", (down, right)) for down in (1, 2) for right in (1, 2)),
    *(("bits", weight, activation) for weight in (2, 4, 8) for activation in (2, 4, 8)),
    *(("bits", weight, activation) for weight in (2, 4, 8) for activation in (1, 3)),
    *((f"{side} channels fill words", whole)
      for side in ("input", "output") for whole in (False, True)),
    *(("padding", amount) for amount in ("none", "some")),
    *(("extent 1x1", name) for name in ("Input", "Convolution", "Add", "MaxPool", "SumPool")),
    ("add",),
    *(("shuffle", kind) for kind in ("cyclic", "channels")),
    *((kind, reach) for kind in ("max-pool", "average pool") for reach in ("local", "global")),
    *(("max-pool padding", amount) for amount in ("none", "some")),
    *(("max-pool stride", (step, step)) for step in (1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("feature", WANTED, ids=lambda feature: "-".join(map(str, feature)))
def test_feature_is_drawn(drawn, feature):
    assert drawn[feature] >= OFTEN
