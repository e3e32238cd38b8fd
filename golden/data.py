"""Handwritten digits that come with scikit-learn: 1797 images of 8x8, nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

#: Largest pixel of the original images; they count dark dots of 4x4 blocks.
LARGEST_PIXEL = 16

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels, four fifths to learn from and one fifth held out.

    Parameters:
        train_images: float32 in 0..1, shape (N, 1, 8, 8).
        train_labels: int64 in 0..9, shape (N,).
        test_images: Held-out images, shaped alike.
        test_labels: Held-out labels.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


def load_digits_split(seed: int = 0) -> Split:
    """The digits, split at random.

    Parameters:
        seed: Chooses the split; the same seed gives the same one.
    """
    digits = load_digits()
    images = (digits.images / LARGEST_PIXEL).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(images))
    held_out, kept = np.split(order, [len(images) // 5])
    return Split(images[kept], labels[kept], images[held_out], labels[held_out])


def shift_images(images: Images, rng: np.random.Generator, reach: int = 1) -> Images:
    """Move each image by up to ``reach`` pixels in both directions, filling with zeros.

    Parameters:
        images: Shape (N, C, H, W).
        rng: Source of the shifts.
        reach: Largest shift in pixels.
    """
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    rows, columns = rng.integers(0, 2 * reach + 1, (2, count))
    rows = rows[:, None, None] + np.arange(height)[:, None]
    columns = columns[:, None, None] + np.arange(width)
    moved: Images = padded[np.arange(count)[:, None, None], :, rows, columns]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))


def add_noise(images: Images, rng: np.random.Generator, deviation: float) -> Images:
    """Images with normally distributed noise on every pixel, limited to 0..1.

    Parameters:
        images: Any shape.
        rng: Source of the noise.
        deviation: Standard deviation, at least 0.
    """
    noise = rng.normal(0, deviation, images.shape).astype(np.float32)
    noisy: Images = np.clip(images + noise, 0, 1)
    return noisy


def synthetic_images(
    count: int, shape: tuple[int, int, int], seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Random images with the second-order statistics of photographs.

    The amplitude of a spatial frequency f falls as 1/f (Field, 1987), and channels are strongly
    correlated. Pixels have mean 0.45 and standard deviation 0.22 of their range, about those of
    ImageNet.

    Parameters:
        count: Number of images N.
        shape: Channels, height and width.
        seed: Chooses the images.

    Returns:
        uint8 array of shape (N, C, H, W).
    """
    channels, height, width = shape
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf  # no mean
    noise = rng.normal(size=(count, channels, height, width))
    noise += 2 * rng.normal(size=(count, 1, height, width))
    spectrum = np.fft.rfft2(noise) / frequency
    pixels = np.fft.irfft2(spectrum, (height, width))
    pixels /= pixels.std(axis=(1, 2, 3), keepdims=True) + 1e-9
    images: npt.NDArray[np.uint8] = np.clip((pixels * 0.22 + 0.45) * 255, 0, 255).astype(np.uint8)
    return images
