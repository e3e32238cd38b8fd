"""What a training learns from, batch by batch: the digits, or a folder of images.

A source gives each process its share of every batch; together they are the batches that one
process alone would get.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]

from palquant.errors import ConfigurationError, InputError
from palquant.golden.config import TrainConfig
from palquant.golden.data import Labels, Split, add_noise, load_digits_split, shift_images
from palquant.golden.distributed import Process
from palquant.golden.image_folder import ImageFolder, open_image_folder
from palquant.golden.image_loader import (
    Batch,
    EpochBatches,
    HeldOutImages,
    TrainingImages,
    iterate,
    make_loader,
)
from palquant.golden.settings import RunSettings

#: Tells the noise on held-out digits from other uses of a seed: more than any number of epochs.
_HELD_OUT_NOISE = 1 << 32
#: Held-out images that go through the network at a time.
_EVALUATED = 256
#: The same for images of more pixels than the digits.
_EVALUATED_LARGE = 64


class Source(Protocol):
    """Training and held-out images.

    Attributes:
        identity: Tells this data from other data; checkpoints keep it.
        classes: Names of the classes.
        steps: Batches of an epoch.
    """

    identity: str
    classes: tuple[str, ...]
    steps: int

    def training(self, epoch: int) -> Iterator[Batch]:
        """This process's share of the batches of an epoch."""

    def held_out(self) -> Iterator[Batch]:
        """This process's share of the held-out images."""

    def samples(self) -> tuple[npt.NDArray[Any], Labels]:
        """Held-out images to write beside the model and to verify it on, and their classes."""


def open_source(config: TrainConfig, settings: RunSettings, process: Process) -> Source:
    """The data of a training.

    Raises:
        ConfigurationError: Data and configuration do not fit, or batches are not a multiple of
            the processes.
        InputError: The folder is not as expected.
    """
    if config.batch_size % process.count:
        raise ConfigurationError(f"batch size {config.batch_size} is no multiple of the "
                                 f"{process.count} processes")  # fmt: skip
    if config.dataset == "digits":
        if settings.data is not None:
            raise ConfigurationError("a configuration for the digits takes no data folder")
        return DigitsSource(load_digits_split(config.split_seed), config, process)
    if settings.data is None:
        raise ConfigurationError("training on a folder of images needs the folder")
    return FolderSource(open_image_folder(settings.data), config, settings, process)


def _require_batch(config: TrainConfig, images: int) -> None:
    if config.batch_size > images:
        raise ConfigurationError(f"batch size {config.batch_size} exceeds the {images} training "
                                 "images; choose a smaller one (--batch-size)")  # fmt: skip


class DigitsSource:
    """Handwritten digits, held in memory, moved by up to one pixel, and noisy if wanted.

    Noise on held-out images is the same in every training of a split.

    Parameters:
        split: The digits.
        config: The training.
        process: This process.
    """

    identity = "digits"
    classes = tuple("0123456789")

    def __init__(self, split: Split, config: TrainConfig, process: Process) -> None:
        _require_batch(config, len(split.train_images))
        if config.noise:
            rng = np.random.default_rng([config.split_seed, _HELD_OUT_NOISE])
            images = add_noise(split.test_images, rng, config.noise)
            split = replace(split, test_images=images)
        self.split = split
        self.config = config
        self.process = process
        self.steps = len(split.train_images) // config.batch_size

    def training(self, epoch: int) -> Iterator[Batch]:
        """This process's share of the batches of an epoch."""
        config, split = self.config, self.split
        share = self.process.share(config.batch_size)
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(len(split.train_images))
        for index in range(self.steps):
            chosen = order[index * config.batch_size :][: config.batch_size]
            images = split.train_images[chosen]
            if config.augment:  # the whole batch: each process draws what one alone would
                images = shift_images(images, rng)
            if config.noise:
                images = add_noise(images, rng, config.noise)
            labels = split.train_labels[chosen]
            yield Batch(torch.from_numpy(images[share]), torch.from_numpy(labels[share]), [])

    def held_out(self) -> Iterator[Batch]:
        """This process's share of the held-out images."""
        split, process = self.split, self.process
        own = np.arange(len(split.test_images))[process.rank :: process.count]
        for batch in np.array_split(own, max(1, len(own) // _EVALUATED)):
            images, labels = split.test_images[batch], split.test_labels[batch]
            yield Batch(torch.from_numpy(images), torch.from_numpy(labels), [])

    def samples(self) -> tuple[npt.NDArray[Any], Labels]:
        """All held-out digits, and their classes."""
        return self.split.test_images, self.split.test_labels


class FolderSource:
    """Image files, decoded by other processes.

    Parameters:
        folder: The data set.
        config: The training.
        settings: How files are read.
        process: This process.

    Raises:
        ConfigurationError: The configuration is for another number of classes, or the batch size
            exceeds the images.
    """

    def __init__(
        self, folder: ImageFolder, config: TrainConfig, settings: RunSettings, process: Process
    ) -> None:
        if config.classes != len(folder.classes):
            raise ConfigurationError(f"{folder.root} has {len(folder.classes)} classes, the "
                                     f"configuration {config.classes}")  # fmt: skip
        _require_batch(config, len(folder.training))
        self.folder = folder
        self.config = config
        self.settings = settings
        self.process = process
        self.identity = folder.identity
        self.classes = folder.classes
        self._told: set[str] = set()
        self._batches = EpochBatches(
            len(folder.training), config.batch_size, process.share(config.batch_size), config.seed
        )
        self.steps = len(self._batches)
        self._training = self._loader(TrainingImages(folder.training, config), self._batches, True)
        own = range(process.rank, len(folder.held_out), process.count)
        size = min(_EVALUATED_LARGE, config.batch_size // process.count)
        batches = [list(own[start : start + size]) for start in range(0, len(own), size)]
        self._held_out = self._loader(HeldOutImages(folder.held_out, config), batches, False)

    def _loader(self, samples: Any, batches: Any, keep: bool) -> DataLoader[Any]:
        pin = self.process.device.type == "cuda"
        return make_loader(samples, batches, self.settings.workers, pin=pin, keep=keep)

    def training(self, epoch: int) -> Iterator[Batch]:
        """This process's share of the batches of an epoch.

        Raises:
            InputError: A file cannot be read, and bad images are not to be skipped.
        """
        self._batches.epoch = epoch
        yield from self._checked(self._training, complete=True)

    def held_out(self) -> Iterator[Batch]:
        """This process's share of the held-out images; those with a label of -1 do not count.

        Raises:
            InputError: A file cannot be read, and bad images are not to be skipped.
        """
        yield from self._checked(self._held_out, complete=False)

    def _checked(self, loader: DataLoader[Any], *, complete: bool) -> Iterator[Batch]:
        skip = self.settings.bad_images == "skip"
        for batch in iterate(loader, skip=skip, complete=complete):
            for problem in batch.problems:
                if problem not in self._told:
                    self._told.add(problem)
                    tqdm.write(f"palquant: note: skipped {problem}", file=sys.stderr)
            yield batch

    def samples(self) -> tuple[npt.NDArray[Any], Labels]:
        """Held-out images at even distances, uint8, and their classes.

        Raises:
            InputError: None can be read, or one cannot, and bad images are not to be skipped.
        """
        count = len(self.folder.held_out)
        chosen = np.unique(np.linspace(0, count - 1, min(count, self.settings.held_out)).round())
        images = HeldOutImages(self.folder.held_out, self.config)
        found = [images[int(index)] for index in chosen]
        problems = [text for _, _, own in found for text in own]
        good = [(image, label) for image, label, _ in found if label >= 0]
        if problems and (self.settings.bad_images == "fail" or not good):
            raise InputError(problems[0])
        return np.stack([image for image, _ in good]), np.array([label for _, label in good])
