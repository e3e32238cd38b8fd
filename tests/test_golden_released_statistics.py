"""A checkpoint's statistics tell wrong images, normalisations and widths from right ones."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from released import calibration_images, normalised, trained

from palquant.golden.released_network import ReleasedResNet
from palquant.golden.released_statistics import NormDistance, Statistics, enough, measure_statistics

#: Groups and base width of networks whose training came to rest.
NETWORKS = [(2, 4), (3, 5), (1, 8)]


def network(groups, width):
    return trained("resnet18", groups, width, 40)


def with_bits(model, weight_bits, activation_bits):
    """The same parameters, taken for those of other widths."""
    structure = dataclasses.replace(
        model.structure, weight_bits=weight_bits, activation_bits=activation_bits
    )
    other = ReleasedResNet(structure).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("sizes", NETWORKS)
def test_the_right_network_is_near_however_many_images_there_are(sizes):
    model = network(*sizes)
    for count in (32, 16, 8, 4, 2, 1):
        found = measure_statistics(model, normalised(calibration_images()[:count]))
        assert found.images == count
        assert not found.stem_is_far
        assert not found.body_is_far


@pytest.mark.parametrize("sizes", NETWORKS)
def test_wrong_widths_show_behind_the_stem_only(sizes):
    model, images = network(*sizes), normalised(calibration_images())
    right = measure_statistics(model, images)
    for bits in ((1, 2), (2, 1), (3, 2), (3, 3), (4, 4)):
        found = measure_statistics(with_bits(model, *bits), images)
        assert found.body_is_far
        assert found.stem == right.stem


@pytest.mark.parametrize("sizes", NETWORKS)
@pytest.mark.parametrize("count", [32, 8])
def test_wrong_images_and_normalisations_show_at_the_stem(sizes, count):
    pixels = torch.from_numpy(calibration_images()[:count])
    rng = np.random.default_rng(0)
    noise = rng.random(pixels.shape).astype(np.float32)
    for images in (pixels, (pixels - 0.5) / 0.5, normalised(noise), normalised(1 - pixels.numpy())):
        assert measure_statistics(network(*sizes), images).stem_is_far


def test_distances_are_those_of_the_statistics():
    """Of the stem, whose input no other layer changes, against NumPy."""
    model, images = network(2, 4), normalised(calibration_images())
    with torch.no_grad():
        read = model.conv1(images).double().numpy()
    kept = model.bn1.running_var.double().numpy() + model.bn1.eps
    shift = np.abs(read.mean((0, 2, 3)) - model.bn1.running_mean.numpy()) / np.sqrt(kept)
    ratio = np.log2((read.var((0, 2, 3), ddof=1) + model.bn1.eps) / kept)
    found = measure_statistics(model, images).stem
    assert found.layer == "bn1"
    # PyTorch's median of an even number of channels is the lower one of the two in the middle.
    assert found.mean == pytest.approx(np.sort(shift)[len(shift) // 2 - 1], rel=1e-3)
    assert found.variance == pytest.approx(np.sort(ratio)[len(ratio) // 2 - 1], rel=1e-2, abs=1e-4)


def test_statistics_of_training_mode_are_met_exactly():
    """A layer whose running statistics are those of these very images is at no distance."""
    model = network(2, 4)
    other = ReleasedResNet(model.structure)
    other.load_state_dict(model.state_dict())
    images = normalised(calibration_images())
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        other.train()(images)
    found = measure_statistics(other.eval(), images)
    assert len(found.body) == 16 + 3 + 3  # blocks, downsampling ones, cyclic shuffles
    assert found.largest.mean < 1e-3
    assert found.variance < 1e-3
    assert found.stem.mean < 1e-3
    measure_statistics(model, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def made(images, stem, *body):
    return Statistics(images, NormDistance("bn1", *stem), [
        NormDistance(f"layer{index}", *values) for index, values in enumerate(body)
    ])  # fmt: skip


def test_limits():
    assert not made(16, (0.5, -1.0), (0.3, 0.1)).stem_is_far
    assert made(16, (0.51, 0.0), (0.3, 0.1)).stem_is_far
    assert made(16, (0.0, -1.01), (0.3, 0.1)).stem_is_far
    assert not made(100, (0, 0), (0.3, -0.1), (0.1, 0.1)).body_is_far
    assert made(100, (0, 0), (0.31, 0.0), (0.0, 0.0)).body_is_far
    # Of variances the middle one counts, in either direction.
    assert not made(16, (0, 0), (0, 5.0), (0, 0.0), (0, 0.05)).body_is_far
    assert made(16, (0, 0), (0, 0.2), (0, -0.2), (0, 0.0)).body_is_far
    # With a quarter of the images the limits are twice as large.
    assert not made(4, (1.0, 2.0), (0.6, 0.2)).stem_is_far
    assert not made(4, (1.0, 2.0), (0.6, 0.2)).body_is_far
    assert made(4, (1.1, 2.0), (0.61, 0.2)).stem_is_far
    assert made(4, (1.0, 2.0), (0.61, 0.2)).body_is_far
    # What is no number is no agreement.
    assert made(16, (float("nan"), 0), (float("nan"), 0)).stem_is_far


def test_the_dictionary_is_in_plain_units():
    found = made(9, (0.25, -1.0), (0.1, 1.0), (0.4, -1.0)).as_dict()
    assert json.loads(json.dumps(found)) == {
        "images": 9,
        "stem": {"layer": "bn1", "mean_shift": 0.25, "variance_ratio": 0.5},
        "layers": [
            {"layer": "layer0", "mean_shift": 0.1, "variance_ratio": 2.0},
            {"layer": "layer1", "mean_shift": 0.4, "variance_ratio": 0.5},
        ],
        "largest": {"layer": "layer1", "mean_shift": 0.4, "variance_ratio": 0.5},
        "variance_factor": 2.0,
        "stem_is_far": False,
        "body_is_far": True,
    }


def test_as_many_images_as_fit_a_batch():
    assert enough(224) == 20
    assert enough(32) == 1024
    assert enough(5000) == 1
