"""The published recipe is what a folder of images gets, and the digits keep theirs."""

import dataclasses

import pytest

from palquant.errors import ConfigurationError
from palquant.golden.config import NetworkConfig, TrainConfig
from palquant.golden.models import ARCHITECTURES
from palquant.golden.recipe import folder_config
from palquant.golden.settings import RunSettings, launched_rank


def test_imagenet_gets_the_published_recipe():
    config = folder_config(1000)
    assert (config.architecture, config.groups, config.image_size) == ("resnet18", 2, 224)
    assert (config.epochs, config.batch_size) == (90, 256)
    assert (config.learning_rate, config.quantizer_learning_rate) == (0.1, 1e-4)
    assert (config.momentum, config.weight_decay) == (0.9, 1e-4)
    assert (config.crop, config.crop_scale, config.augment) == ("resized", 0.2, True)
    assert (config.amp, config.gradient_scaling) == ("off", 0)
    assert (config.learned_thresholds, config.per_channel) == (False, False)


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_are_the_published_ones(architecture, groups):
    config = folder_config(1000, architecture=architecture, groups=groups)
    assert config.network == ARCHITECTURES[architecture](groups)
    assert config.name == f"{architecture}-w64-g{groups}-w2a2"
    rates = (config.batch_size, config.learning_rate, config.quantizer_learning_rate)
    assert rates == ((512, 0.2, 2e-4) if groups == 4 else (256, 0.1, 1e-4))
    assert config.crop_scale == (0.2 if (architecture, groups) == ("resnet18", 2) else 0.08)


def test_small_images_are_treated_as_cifar_is():
    config = folder_config(10, image_size=32)
    assert (config.crop, config.stem) == ("padded", "3x3")
    network = config.network
    assert (network.image, network.classes) == ((3, 32, 32), 10)
    assert (network.stem_kernel, network.stem_stride, network.stem_pool) == (3, 1, False)
    assert network.final_size == 4


def test_what_is_given_counts():
    config = folder_config(5, groups=4, batch_size=64, stem="7x7", image_size=64, epochs=3)
    assert (config.batch_size, config.learning_rate, config.epochs) == (64, 0.2, 3)
    assert config.network.stem_pool
    assert config.crop == "padded"


def test_the_digits_keep_their_recipe():
    config = TrainConfig()
    assert config.network == NetworkConfig()
    assert (config.name, config.epochs, config.batch_size) == ("w16-g2-w2a2", 30, 64)
    assert TrainConfig(architecture="resnet18", base_width=4).network.blocks == (2, 2, 2, 2)


@pytest.mark.parametrize(("architecture", "block"), [("small", "basic"), ("plain", "plain")])
def test_small_networks_are_three_stages_of_one_block(architecture, block):
    config = TrainConfig(architecture=architecture, base_width=8, shuffle=False)
    assert config.network == NetworkConfig(block=block, base_width=8, shuffle=False)
    photos = folder_config(5, architecture=architecture)
    assert (photos.network.block, photos.base_width, photos.stem) == (block, 16, "3x3")


def test_names_tell_networks_apart():
    assert TrainConfig(architecture="plain", groups=1).name == "plain-w16-g1-w2a2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "alexnet"}, r"^architecture must be one of small, .*, not alexnet$"),
        ({"stem": "5x5"}, "^stem must be one of 3x3, 7x7, not 5x5$"),
        ({"crop": "none"}, "^crop must be one of resized, padded, not none$"),
        ({"amp": "half"}, "^amp must be one of off, auto, bfloat16, float16, not half$"),
        ({"crop_scale": 0.0}, r"^crop scale must be above 0 and at most 1, not 0\.0$"),
        ({"distillation": 1.5}, r"^distillation must be above 0 and at most 1, not 1\.5$"),
        ({"temperature": float("nan")}, "^temperature must be above 0 and at most 100, not nan$"),
        ({"noise": -0.1}, r"^noise must be a number of at least 0, not -0\.1$"),
        ({"dataset": "folder", "noise": 0.1}, "^noise is for the digits alone$"),
        ({"gradient_scaling": -1.0}, r"^gradient scaling must be .* at least 0, not -1\.0$"),
        ({"image_size": 0}, "^image size must be a positive integer, not 0$"),
        ({"image_size": 16}, "^the digits are images of 8 pixels in 10 classes, not of 16 in 10$"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "^device must be one of auto, cpu, cuda, not tpu$"),
        ({"bad_images": "no"}, "^bad images must be one of fail, skip, not no$"),
        ({"workers": -1}, "^workers must be at least 0, not -1$"),
        ({"held_out": 0}, "^held-out images must be a positive number, not 0$"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        RunSettings(**changes)


def test_the_launcher_tells_the_rank(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert launched_rank() == 0
    monkeypatch.setenv("RANK", "3")
    assert launched_rank() == 3


@pytest.mark.parametrize("text", ["x", "", "1.5", "-1"])
def test_a_rank_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("RANK", text)
    message = f"^the environment variable RANK is {text!r}, expected an integer from 0 on, as torch"
    with pytest.raises(ConfigurationError, match=message):
        launched_rank()


def test_every_field_says_what_it_means():
    for item in dataclasses.fields(TrainConfig):
        assert item.metadata["help"].endswith(".")
        assert isinstance(item.metadata["exposed"], bool)
