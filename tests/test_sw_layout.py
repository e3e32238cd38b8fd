import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palquant.errors import PackingError
from palquant.hw.presets import PRESETS
from palquant.sw.graph import Kind, Shape, TensorType
from palquant.sw.layout import TensorLayout
from palquant.sw.place import Placement, natural_placement

TINY = PRESETS["tiny"]
GEOMETRIES = [
    TINY,
    PRESETS["kilomac"],
    dataclasses.replace(TINY, name="narrow", residual_bits=8),
    dataclasses.replace(TINY, name="wide words", tin=64, lanes=8, activation_words=1024),
]
TYPES = [
    *(TensorType(Kind.CODES, bits) for bits in (1, 2, 3, 4, 8)),
    TensorType(Kind.RESIDUAL, 8),
    TensorType(Kind.LOGITS, 32),
]


def scrambled(channels, groups, granularity, rng):
    natural = natural_placement(channels, groups, granularity)
    order = rng.permutation(channels)
    return Placement(groups, natural.span, natural.group[order], natural.position[order])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.name)
@pytest.mark.parametrize("kind", TYPES, ids=lambda t: f"{t.kind.value}{t.bits}")
@given(seed=st.integers(0, 2**31))
def test_pack_and_unpack_are_inverse(geometry, kind, seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    shape = Shape(groups * int(rng.integers(1, 40)), *rng.integers(1, 6, 2).tolist())
    placement = scrambled(shape.channels, groups, max(geometry.tin, geometry.tout), rng)
    layout = TensorLayout("x", kind, shape, placement, geometry)
    values = rng.integers(kind.min, kind.max + 1, (2, *dataclasses.astuple(shape)))
    data = layout.pack(values)
    assert data.shape == (2, layout.bytes)
    assert layout.row_bytes % geometry.bus_bytes == 0
    assert np.array_equal(layout.unpack(data), values)


def test_words_of_a_pixel_are_group_chunk_digit():
    placement = natural_placement(4, 2, 8)
    layout = TensorLayout("x", TensorType(Kind.CODES, 4), Shape(4, 1, 1), placement, TINY)
    data = layout.pack(np.array([1, 2, 4, 8]).reshape(1, 4, 1, 1))[0]
    # group 0: low digits 1, 2; high digits 0, 0; group 1: low 0, 0; high 1, 2
    assert data.reshape(4, 2)[:, 0].tolist() == [0b1001, 0, 0, 0b1001]


def test_wrong_values_are_refused():
    placement = natural_placement(1, 1, 8)
    layout = TensorLayout("x", TensorType(Kind.CODES, 2), Shape(1, 1, 1), placement, TINY)
    with pytest.raises(PackingError, match=r"x: values 4\.\.4 .* expected integers 0\.\.3"):
        layout.pack(np.full((1, 1, 1, 1), 4))
    with pytest.raises(PackingError, match="of type float64"):
        layout.pack(np.ones((1, 1, 1, 1)))
    with pytest.raises(PackingError, match="x: shape"):
        layout.pack(np.zeros((1, 2, 1, 1), int))
    with pytest.raises(PackingError, match="x: bytes of shape"):
        layout.unpack(np.zeros((1, 3), np.uint8))
