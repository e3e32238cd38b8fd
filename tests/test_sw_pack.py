import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palquant.errors import PackingError
from palquant.hw import isa
from palquant.hw.presets import PRESETS
from palquant.sw.graph import Convolution
from palquant.sw.pack import pack_weights, unpack_weights

TINY = PRESETS["tiny"]


def padded(count, multiple, rng):
    order = np.full(-(-count // multiple) * multiple, -1)
    order[np.sort(rng.permutation(len(order))[:count])] = rng.permutation(count)
    return order


@given(seed=st.integers(0, 2**31), bits=st.sampled_from([2, 4, 8]))
def test_weights_come_back(seed, bits):
    rng = np.random.default_rng(seed)
    geometry = dataclasses.replace(TINY, tin=int(rng.choice([8, 16])), lanes=8)
    shape = (*rng.integers(1, 30, 2).tolist(), *rng.integers(1, 4, 2).tolist())
    weight = rng.integers(0, 1 << bits, shape, np.uint8)
    node = Convolution(name="c", input="x", weight=weight, weight_bits=bits, alpha=2, beta=3)
    outputs, inputs = padded(shape[0], geometry.tout, rng), padded(shape[1], geometry.tin, rng)
    words = pack_weights(node, outputs, inputs, geometry)
    assert words.shape[1] * 8 == geometry.weight_bits_per_word
    assert np.array_equal(unpack_weights(words, node, outputs, inputs, geometry), weight)


def test_incomplete_chunks_are_refused():
    weight = np.zeros((8, 8, 1, 1), np.uint8)
    node = Convolution(name="c", input="x", weight=weight, weight_bits=2, alpha=2, beta=3)
    with pytest.raises(PackingError, match="c: 7 outputs and 8 inputs do not fill chunks"):
        pack_weights(node, np.arange(7), np.arange(8), TINY)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_threshold_tree_finds_every_code(bits):
    """Walking the tree rows in hardware order counts the thresholds that are reached."""
    thresholds = np.sort(np.random.default_rng(bits).integers(-9, 9, (1 << bits) - 1))
    tree = [thresholds[index] for index in isa.tree_order(bits)]
    for value in range(-10, 11):
        position = 1
        for _ in range(bits):
            position = 2 * position + int(value >= tree[position - 1])
        assert position - (1 << bits) == (value >= thresholds).sum()
