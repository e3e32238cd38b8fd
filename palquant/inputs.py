"""What users hand to the ``palquant`` command: images and labels, read and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import InputError
from palquant.sw.image import MemoryImage
from palquant.tables import count

#: What a NumPy array file starts with, and what an archive of several does.
_ARRAY, _ARCHIVE = b"\x93NUMPY", b"PK"
#: Largest value of uint8 images that are likely not 0 to 255: the digits as scikit-learn has them.
_LOW_UINT8 = 16


def note(text: str) -> None:
    """Tell the user on standard error what is no mistake, but may surprise."""
    print(f"palquant: note: {text}", file=sys.stderr)


def read_array(path: Path, label: str) -> npt.NDArray[Any]:
    """A NumPy array file, read without executing code.

    Raises:
        InputError: Missing or no array file.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_ARRAY))
        if start == _ARRAY:
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
            return array
    except OSError as error:
        raise InputError(f"{path}: cannot read {label}: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, TokenError, MemoryError) as error:
        if "Object arrays" in str(error):
            raise InputError(f"{path}: holds Python objects, expected numbers") from error
        raise InputError(f"{path}: is a damaged NumPy array file") from error
    if start.startswith(_ARCHIVE):
        raise InputError(f"{path}: is an archive, expected a NumPy array file (.npy)")
    raise InputError(f"{path}: is no NumPy array file (.npy)")


def read_images(
    path: Path, limit: int | None = None, *, note_floats: bool = True
) -> npt.NDArray[Any]:
    """The images of a file, or the first ``limit`` of them.

    What is likely a mistake is noted on standard error: a limit beyond the file's end, and pixels
    of an unexpected scale.

    Parameters:
        path: NumPy array file.
        limit: Largest number of images, or None for all.
        note_floats: Whether float32 pixels beyond 0 to 1 are noted; not if they are refused later.

    Raises:
        InputError: Missing, no array file, or without an image.
    """
    images = read_array(path, "images")
    if not images.ndim or not len(images):
        raise InputError(f"{path}: holds no image, expected shape (N, C, H, W)")
    if note_floats or images.dtype != np.float32:
        _check_scale(path, images)
    if limit is not None and limit > len(images):
        note(f"--images {limit}, but {path} holds {count(len(images), 'image')}")
    return images if limit is None else images[:limit]


def _check_scale(path: Path, images: npt.NDArray[Any]) -> None:
    """Note pixels of a range that is likely not the one expected."""
    if images.ndim != 4 or not images.size or images.dtype not in (np.uint8, np.float32):
        return
    low, high = images.min() + 0.0, images.max() + 0.0  # no -0
    if images.dtype == np.uint8:
        if high <= _LOW_UINT8:
            note(f"{path}: no pixel exceeds {high:g}; uint8 images are expected to use 0 to 255")
    elif np.isfinite([low, high]).all() and (low < 0 or high > 1):
        note(f"{path}: pixels from {low:g} to {high:g}; float32 images are expected in 0 to 1")


def read_labels(path: Path, image: MemoryImage, number: int) -> npt.NDArray[Any]:
    """The classes of the first ``number`` images.

    Raises:
        InputError: Missing, no array file, too few, or not integers within the network's classes.
    """
    labels = read_array(path, "labels")
    if labels.ndim != 1 or len(labels) < number:
        raise InputError(f"{path}: labels of shape {labels.shape}, expected ({number},)")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: labels are {labels.dtype}, expected integers")
    labels = labels[:number]
    classes = image.graph.classes
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise InputError(
            f"{path}: label {outside[0]} is {labels[outside[0]]}, expected classes 0 to "
            f"{classes - 1}"
        )
    return labels
