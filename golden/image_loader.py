"""Batches of image files, decoded by several processes; the same batches for any number of them.

What an image is cut to depends on seed, epoch and image alone, and the order of the images on seed
and epoch, so that neither an interruption nor the number of processes changes anything.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from palquant.errors import ExecutionError, InputError
from palquant.golden.augment import center_crop, mirror, padded_crop, resized_crop
from palquant.golden.config import TrainConfig
from palquant.golden.image_folder import ImageFiles, read_image

#: Files in a row that may be skipped before the data set counts as unusable.
SKIPPED_IN_A_ROW = 100


class Batch(NamedTuple):
    """Images, and what was wrong with files among them.

    Parameters:
        images: Shape (N, C, H, W), uint8, or float32 of 0 to 1.
        labels: Classes, int64, shape (N,); -1 for a held-out image that could not be read.
        problems: One line for each file that was skipped.
    """

    images: Tensor
    labels: Tensor
    problems: list[str]


#: An image (C, H, W), its class, and the problems of files skipped on the way to it.
_Sample = tuple[npt.NDArray[np.uint8], int, list[str]]


class TrainingImages(Dataset[_Sample]):
    """Training images by (epoch, index), changed at random.

    An image that cannot be read is replaced by the next one, so that batches keep their size.

    Parameters:
        files: The files.
        config: The training.
    """

    def __init__(self, files: ImageFiles, config: TrainConfig) -> None:
        self.files = files
        self.config = config

    def __getitem__(self, key: tuple[int, int]) -> _Sample:
        config = self.config
        epoch, first = key
        problems: list[str] = []
        for offset in range(min(SKIPPED_IN_A_ROW, len(self.files))):
            index = (first + offset) % len(self.files)
            try:
                image = read_image(self.files.paths[index])
            except InputError as error:
                problems.append(str(error))
                continue
            if config.augment:
                # One more than the index: a seed's trailing zeros do not count.
                rng = np.random.default_rng([config.seed, epoch, first + 1])
                if config.crop == "resized":
                    image = resized_crop(image, config.image_size, rng, config.crop_scale)
                else:
                    image = padded_crop(image, config.image_size, rng)
                image = mirror(image, rng)
            else:
                image = held_out_crop(image, config)
            return _pixels(image), int(self.files.labels[index]), problems
        return _blank(config.image_size), -1, problems


class HeldOutImages(Dataset[_Sample]):
    """Held-out images by index; one that cannot be read gets the label -1.

    Parameters:
        files: The files.
        config: The training.
    """

    def __init__(self, files: ImageFiles, config: TrainConfig) -> None:
        self.files = files
        self.config = config

    def __getitem__(self, index: int) -> _Sample:
        try:
            image = read_image(self.files.paths[index])
        except InputError as error:
            return _blank(self.config.image_size), -1, [str(error)]
        return _pixels(held_out_crop(image, self.config)), int(self.files.labels[index]), []


def held_out_crop(image: Any, config: TrainConfig) -> Any:
    """An image as evaluation sees it: small ones whole, others as ImageNet's."""
    if config.crop == "padded":
        return center_crop(image, config.image_size, share=1)
    return center_crop(image, config.image_size)


def _pixels(image: Any) -> npt.NDArray[np.uint8]:
    """An image's pixels, (C, H, W)."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _blank(size: int) -> npt.NDArray[np.uint8]:
    return np.zeros((3, size, size), dtype=np.uint8)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Keys (epoch, index) of one process's share of each batch of an epoch.

    Parameters:
        count: Number of images.
        batch_size: Images of a batch over all processes; an incomplete last one is left out.
        share: This process's part of each batch.
        seed: Of the order, with the epoch.
    """

    def __init__(self, count: int, batch_size: int, share: slice, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self.share = share
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size][self.share]
            yield [(self.epoch, int(index)) for index in batch]


def make_loader(
    samples: Dataset[_Sample], batches: Any, workers: int, *, pin: bool, keep: bool
) -> DataLoader[Any]:
    """A loader of ready batches.

    Parameters:
        samples: The images.
        batches: Lists of keys, one for each batch.
        workers: Processes that decode; 0 decodes in this one.
        pin: Whether batches lie in memory from which a GPU can read on its own.
        keep: Whether the processes live on between passes.
    """
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupts,
        persistent_workers=keep and workers > 0,
        pin_memory=pin,
        generator=torch.Generator(),  # the loader seeds its processes; nothing here uses that
    )


def iterate(loader: DataLoader[Any], *, skip: bool, complete: bool) -> Iterator[Batch]:
    """The batches of a loader.

    Parameters:
        loader: Of :func:`make_loader`.
        skip: Whether files that cannot be read are left to the caller to tell of.
        complete: Whether every image must have a class all the same: training images, whose place
            other ones have taken.

    Raises:
        InputError: A file cannot be read and is not to be skipped, or none after it can be.
        ExecutionError: A decoding process died.
    """
    try:
        for images, labels, problems in loader:
            if problems and not skip:
                raise InputError(problems[0])
            if complete and (labels < 0).any():
                raise InputError(f"{problems[0]}; nor can those after it be read")
            yield Batch(images, labels, problems)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ExecutionError("a process that decodes images died, for lack of memory perhaps; try "
                             "fewer workers") from error  # fmt: skip


def _collate(samples: list[_Sample]) -> Batch:
    images, labels, problems = zip(*samples, strict=True)
    return Batch(
        torch.from_numpy(np.stack(images)),
        torch.tensor(labels),
        [p for own in problems for p in own],
    )


def _ignore_interrupts(worker: int) -> None:
    """An interruption is for the training itself, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
