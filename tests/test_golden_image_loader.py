"""The same batches whatever number of processes decodes them or trains on them."""

import dataclasses
import os
import signal

import numpy as np
import pytest
from pictures import write_pictures

from palquant.errors import ExecutionError, InputError
from palquant.golden.image_folder import open_image_folder
from palquant.golden.image_loader import (
    EpochBatches,
    HeldOutImages,
    TrainingImages,
    iterate,
    make_loader,
)
from palquant.golden.recipe import folder_config

CONFIG = folder_config(3, architecture="small", image_size=16, batch_size=8)


@pytest.fixture
def folder(tmp_path):
    return open_image_folder(write_pictures(tmp_path / "data"))


def batches(folder, config=CONFIG, *, epoch=0, share=slice(0, 8), workers=0, skip=False):
    keys = EpochBatches(len(folder.training), 8, share, config.seed)
    keys.epoch = epoch
    loader = make_loader(
        TrainingImages(folder.training, config), keys, workers, pin=False, keep=True
    )
    return list(iterate(loader, skip=skip, complete=True))


def pixels(found):
    return np.concatenate([batch.images.numpy() for batch in found])


def labels(found):
    return np.concatenate([batch.labels.numpy() for batch in found])


def test_batches_do_not_depend_on_processes(folder):
    alone = batches(folder)
    assert len(alone) == 72 // 8
    assert alone[0].images.shape == (8, 3, 16, 16)
    assert sorted(labels(alone)) == sorted(folder.training.labels)
    others = batches(folder, workers=2)
    assert np.array_equal(pixels(alone), pixels(others))
    assert np.array_equal(labels(alone), labels(others))
    halves = [batches(folder, share=share) for share in (slice(0, 4), slice(4, 8))]
    for index, batch in enumerate(alone):
        both = [half[index] for half in halves]
        assert np.array_equal(pixels([batch]), pixels(both))
        assert np.array_equal(labels([batch]), labels(both))


def test_batches_depend_on_seed_and_epoch(folder):
    first = pixels(batches(folder))
    assert np.array_equal(pixels(batches(folder)), first)
    assert not np.array_equal(pixels(batches(folder, epoch=1)), first)
    assert not np.array_equal(pixels(batches(folder, dataclasses.replace(CONFIG, seed=1))), first)


@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_images_are_changed_only_if_wanted(folder, crop):
    config = dataclasses.replace(CONFIG, crop=crop, augment=False)
    plain = TrainingImages(folder.training, config)
    first, again = plain[0, 5], plain[7, 5]
    assert np.array_equal(first[0], again[0])
    held_out = HeldOutImages(folder.training, config)
    assert np.array_equal(first[0], held_out[5][0])
    changed = TrainingImages(folder.training, dataclasses.replace(config, augment=True))
    assert len({changed[epoch, 5][0].tobytes() for epoch in range(8)}) > 4
    assert first[1] == again[1] == held_out[5][1] == folder.training.labels[5]


def test_a_bad_file_ends_a_training_or_is_replaced(folder):
    path = folder.training.paths[30]
    os.remove(path)
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"/006\.png: cannot read .* No such file") as caught:
            batches(folder, workers=workers)
        assert "\n" not in str(caught.value)
    found = batches(folder, skip=True)
    assert len(labels(found)) == 72
    assert (labels(found) >= 0).all()
    problems = [text for batch in found for text in batch.problems]
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: cannot read this image: ")


def test_held_out_files_that_are_bad_have_no_label(folder):
    (path,) = folder.held_out.paths[4:5]
    with open(path, "wb") as stream:
        stream.write(b"nonsense")
    loader = make_loader(HeldOutImages(folder.held_out, CONFIG), [list(range(18))], 0, pin=False,
                         keep=False)  # fmt: skip
    (batch,) = iterate(loader, skip=True, complete=False)
    assert (batch.labels < 0).nonzero().flatten().tolist() == [4]
    assert len(batch.problems) == 1


def test_a_data_set_that_is_gone_is_no_endless_search(folder):
    for path in folder.training.paths:
        os.remove(path)
    with pytest.raises(InputError, match=r"; nor can those after it be read$"):
        batches(folder, skip=True)


def test_a_decoding_process_that_dies_is_told(folder):
    keys = EpochBatches(72, 8, slice(0, 8), 0)

    class Deadly(TrainingImages):
        def __getitem__(self, key):
            os.kill(os.getpid(), signal.SIGKILL)

    loader = make_loader(Deadly(folder.training, CONFIG), keys, 1, pin=False, keep=False)
    with pytest.raises(ExecutionError, match=r"^a process that decodes images died, .* fewer"):
        list(iterate(loader, skip=True, complete=True))
