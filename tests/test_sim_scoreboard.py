import numpy as np
import pytest
from networks import drawer, random_network

from palquant.errors import MismatchError
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator


@pytest.fixture(scope="module")
def run():
    builder = random_network(drawer(4))
    image = compile_graph(builder.graph(), PRESETS["tiny"])
    output = Emulator(image.geometry, image.data).run(image.pack_input(builder.codes))
    return builder, image, output


def test_equal_outputs_are_counted(run):
    builder, image, output = run
    found = compare_outputs(image, output, builder.values)
    expected = sum(builder.values[name].size for name in image.tensors)
    assert require_equal(found) == expected
    assert [item.layer_index for item in found] == sorted(item.layer_index for item in found)


def test_the_first_wrong_value_is_named(run):
    builder, image, output = run
    name = list(image.tensors)[2]
    wrong = {key: value.copy() for key, value in builder.values.items()}
    n, c, y, x = (size - 1 for size in wrong[name].shape)
    wrong[name][n, c, y, x] += 1
    found = compare_outputs(image, output, wrong)
    (item,) = [item for item in found if item.mismatches]
    assert (item.tensor, item.mismatches) == (name, 1)
    first = item.first
    assert first is not None
    assert (first.image, first.channel, first.y, first.x) == (n, c, y, x)
    assert first.expected == first.actual + 1
    assert first.group == image.tensors[name][0].placement.group[c]
    with pytest.raises(MismatchError, match=f"{name}: 1 of .* differ, first image {n}, group"):
        require_equal(found)


def test_a_flipped_bit_in_memory_is_seen(run):
    builder, image, output = run
    for name, (layout, offset) in image.tensors.items():
        damaged = output.copy()
        slot = int(layout.placement.slot[0])
        if layout.type.kind.value == "codes":
            damaged[0, offset + slot // 4] ^= 1 << (2 * (slot % 4))
        else:
            damaged[0, offset + slot * layout.geometry.residual_bits // 8] ^= 1
        found = compare_outputs(image, damaged, builder.values)
        assert {item.tensor for item in found if item.mismatches} == {name}


def test_a_wrong_shape_is_an_error(run):
    builder, image, output = run
    name = next(iter(image.tensors))
    with pytest.raises(MismatchError, match=f"{name}: shape"):
        compare_outputs(image, output, builder.values | {name: np.zeros((1, 1, 1, 1), int)})


def test_comparing_nothing_is_no_success(run):
    builder, image, output = run
    with pytest.raises(MismatchError, match="no tensor to compare"):
        compare_outputs(image, output[:0], {k: v[:0] for k, v in builder.values.items()})
