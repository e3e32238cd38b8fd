"""Folders of image files in the layout of ImageNet: ``train/CLASS/*`` and ``val/CLASS/*``.

Classes are numbered in the order of their names. Files are listed once and read when needed.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from palquant.errors import InputError, first_line

#: Endings of names that count as images, in lower case.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
#: The two parts of a data set, and their folders.
TRAINING, HELD_OUT = "train", "val"


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The files of one part.

    Parameters:
        paths: Files, ordered by class, then by name.
        labels: Their classes, int64, shape (N,).
        sizes: Their sizes in bytes, -1 for a link that leads nowhere.
    """

    paths: list[str]
    labels: npt.NDArray[np.int64]
    sizes: list[int]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """A data set of image files.

    Parameters:
        root: Its folder.
        classes: Names of the classes, in order.
        training: Files to learn from.
        held_out: Files to evaluate on.
    """

    root: Path
    classes: tuple[str, ...]
    training: ImageFiles
    held_out: ImageFiles

    @cached_property
    def identity(self) -> str:
        """A digest of classes, file names and file sizes, wherever the folder lies.

        Contents are not read: of a large data set that would take longer than an epoch.
        """
        digest = hashlib.sha256()
        for files in (self.training, self.held_out):
            for path, label, size in zip(files.paths, files.labels, files.sizes, strict=True):
                digest.update(f"{self.classes[label]}/{Path(path).name} {size}\n".encode())
            digest.update(b"\n")
        return digest.hexdigest()[:16]


def open_image_folder(root: str | os.PathLike[str]) -> ImageFolder:
    """List the images of a data set.

    Parameters:
        root: Folder with ``train`` and ``val``, each with one folder for each class.

    Raises:
        InputError: A folder is missing, empty or without images, or the classes of both parts
            differ; says which.
    """
    classes = class_names(root)
    top = Path(root)
    return ImageFolder(
        top, classes, *(_list_images(top / part, classes) for part in (TRAINING, HELD_OUT))
    )


def class_names(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of a data set's classes, in order, without a look at the images.

    Parameters:
        root: Folder with ``train`` and ``val``, each with one folder for each class.

    Raises:
        InputError: A folder is missing, or the classes of both parts differ; says which.
    """
    top = Path(root)
    if not top.is_dir():
        raise InputError(f"{top}: is no folder; expected one with train/CLASS/* and val/CLASS/*")
    names = [_folders(top / part) for part in (TRAINING, HELD_OUT)]
    for part, other, own in zip((TRAINING, HELD_OUT), reversed(names), names, strict=True):
        only = sorted(set(own) - set(other))
        if only:
            more = f" and {len(only) - 1} more" if len(only) > 1 else ""
            raise InputError(f"{top}: class {only[0]!r}{more} is in {part} only; expected the same "
                             "classes in train and val")  # fmt: skip
    return names[0]


def _folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in one part's folder."""
    try:
        with os.scandir(folder) as entries:
            names = tuple(
                sorted(
                    entry.name
                    for entry in entries
                    if entry.is_dir() and not entry.name.startswith(".")
                )
            )
    except OSError as error:
        raise InputError(f"{folder}: cannot list: {error.strerror}; expected a folder with one "
                         "folder of images for each class") from error  # fmt: skip
    if not names:
        raise InputError(f"{folder}: holds no folders; expected one for each class")
    return names


def _list_images(folder: Path, classes: tuple[str, ...]) -> ImageFiles:
    """All image files of one part: links count, hidden files and what cannot hold data do not."""
    paths: list[str] = []
    labels: list[int] = []
    sizes: list[int] = []
    for label, name in enumerate(classes):
        try:
            with os.scandir(folder / name) as entries:
                files = sorted((entry.path, _size(entry)) for entry in entries if _is_image(entry))
        except OSError as error:
            raise InputError(f"{folder / name}: cannot list: {error.strerror}") from error
        if not files:
            raise InputError(f"{folder / name}: holds no images ({', '.join(ENDINGS)})")
        paths += [path for path, _ in files]
        sizes += [size for _, size in files]
        labels += [label] * len(files)
    return ImageFiles(paths, np.array(labels, dtype=np.int64), sizes)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a class's folder counts as an image, by its name and kind.

    A link that leads nowhere counts: it is an image that is missing, which reading it tells.
    """
    if entry.name.startswith(".") or not entry.name.lower().endswith(ENDINGS):
        return False
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _size(entry: os.DirEntry[str]) -> int:
    """Bytes of the file that an entry is or leads to, -1 if there is none."""
    try:
        return entry.stat().st_size
    except OSError:
        return -1


def read_image(path: str) -> Image.Image:
    """Decode an image file as RGB.

    Raises:
        InputError: It is missing, or is no image that can be decoded in full.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that plays no part
            with Image.open(path) as image:
                return image.convert("RGB")
    except Exception as error:  # on arbitrary bytes decoders raise anything
        reason = getattr(error, "strerror", None) or first_line(error)
        text = reason.removesuffix(f" {path!r}")
        raise InputError(f"{path}: cannot read this image: {text}") from error
