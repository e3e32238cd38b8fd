"""Sources: shares of the same batches, samples to verify on, and what does not fit."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from pictures import write_pictures

from palquant.errors import ConfigurationError, InputError
from palquant.golden.config import TrainConfig
from palquant.golden.data import load_digits_split
from palquant.golden.data_source import open_source
from palquant.golden.distributed import Process
from palquant.golden.recipe import folder_config
from palquant.golden.settings import RunSettings

ALONE = Process(0, 1, torch.device("cpu"))
CONFIG = folder_config(3, architecture="small", image_size=16, batch_size=8)


@pytest.fixture
def settings(tmp_path):
    return RunSettings(data=write_pictures(tmp_path / "data"), workers=0, held_out=5)


def joined(batches):
    batches = list(batches)
    return [np.concatenate([np.asarray(batch[i]) for batch in batches]) for i in (0, 1)]


@pytest.mark.parametrize("dataset", ["digits", "folder"])
def test_shares_make_up_what_one_process_sees(dataset, settings):
    config = TrainConfig(batch_size=64) if dataset == "digits" else CONFIG
    if dataset == "digits":
        settings = RunSettings()
    source = open_source(config, settings, ALONE)
    parts = [open_source(config, settings, dataclasses.replace(ALONE, rank=r, count=4))
             for r in range(4)]  # fmt: skip
    whole = list(source.training(3))
    assert len(whole) == source.steps == parts[0].steps > 5
    for batch, *shares in zip(whole, *(part.training(3) for part in parts), strict=True):
        assert all(len(share.labels) == config.batch_size // 4 for share in shares)
        for expected, found in zip(joined([batch]), joined(shares), strict=True):
            assert np.array_equal(expected, found)
    images, labels = joined(source.held_out())
    shares = [joined(part.held_out()) for part in parts]
    assert sum(len(own[1]) for own in shares) == len(labels)
    for rank, own in enumerate(shares):
        assert np.array_equal(own[0], images[rank::4])
        assert np.array_equal(own[1], labels[rank::4])


def test_digits_are_those_of_the_split():
    source = open_source(TrainConfig(augment=False), RunSettings(), ALONE)
    split = load_digits_split()
    for expected, found in zip(
        (split.test_images, split.test_labels), joined(source.held_out()), strict=True
    ):
        assert np.array_equal(expected, found)
    assert np.array_equal(source.samples()[0], split.test_images)
    seen = {image.tobytes() for image in joined(source.training(0))[0]}
    assert seen <= {image.tobytes() for image in split.train_images}
    assert source.classes == tuple("0123456789")


def test_noise_is_new_in_training_and_the_same_on_held_out_digits():
    split = load_digits_split()

    def opened(**changes):
        return open_source(TrainConfig(augment=False, noise=0.2, **changes), RunSettings(), ALONE)

    source = opened()
    images = joined(source.held_out())[0]
    assert np.array_equal(images, source.samples()[0])
    assert np.array_equal(images, joined(opened(seed=7, epochs=1).held_out())[0])
    assert 0.05 < (images - split.test_images).std() < 0.2
    assert not np.array_equal(images, joined(opened(split_seed=1).held_out())[0])
    (first, labels), (second, _) = (joined(source.training(epoch)) for epoch in (0, 1))
    assert np.array_equal(labels, joined(opened().training(0))[1])
    assert len({image.tobytes() for image in (*first, *second)}) == len(first) + len(second)
    # Without noise they are the same digits in the same order.
    plain = joined(open_source(TrainConfig(augment=False), RunSettings(), ALONE).training(0))
    assert np.array_equal(labels, plain[1])
    assert 0.05 < (first - plain[0]).std() < 0.2


def test_samples_of_a_folder_are_spread_over_it(settings):
    source = open_source(CONFIG, settings, ALONE)
    images, labels = source.samples()
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 0, 1, 2, 2]
    held_out = joined(source.held_out())[0]
    assert np.array_equal(images, held_out[[0, 4, 8, 13, 17]])
    few = dataclasses.replace(settings, held_out=100)
    assert np.array_equal(open_source(CONFIG, few, ALONE).samples()[0], held_out)


def test_skipped_files_are_named_once(settings, capsys):
    lenient = dataclasses.replace(settings, bad_images="skip")
    strict, source = (open_source(CONFIG, s, ALONE) for s in (settings, lenient))
    for part in ("train", "val"):
        os.remove(settings.data / part / "class0/000.png")
    for read in (strict.held_out, lambda: strict.training(0), strict.samples):
        with pytest.raises(InputError, match=r"class0/000\.png: cannot read"):
            list(read())
    for epoch in range(2):
        assert (joined(source.held_out())[1] == -1).nonzero()[0].tolist() == [0]
        assert (joined(source.training(epoch))[1] >= 0).all()
    assert capsys.readouterr().err.splitlines() == [
        f"palquant: note: skipped {settings.data}/{part}/class0/000.png: cannot read this image: "
        "No such file or directory"
        for part in ("val", "train")
    ]
    assert source.samples()[1].tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({"classes": 4}, 1, r"data has 3 classes, the configuration 4$"),
        ({"batch_size": 73}, 1, "^batch size 73 exceeds the 72 training images; choose"),
        ({"batch_size": 9}, 2, "^batch size 9 is no multiple of the 2 processes$"),
    ],
)
def test_what_does_not_fit_is_refused(settings, changes, count, message):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ConfigurationError, match=message):
        open_source(config, settings, dataclasses.replace(ALONE, count=count))


def test_data_and_configuration_belong_together(settings):
    with pytest.raises(ConfigurationError, match=r"needs the folder$"):
        open_source(CONFIG, RunSettings(), ALONE)
    with pytest.raises(ConfigurationError, match=r"takes no data folder$"):
        open_source(TrainConfig(), settings, ALONE)
