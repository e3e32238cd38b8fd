"""What happens to image files before the network sees them, in training and in evaluation.

All randomness comes from the generator that is passed in. Sources: PalQuant's training (random
resized crops and mirroring, Szegedy et al., 2015) and the usual CIFAR recipe (pad, cut and mirror,
He et al., 2016).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

#: Narrowest and widest shape of a resized crop, width to height.
RATIOS = (3 / 4, 4 / 3)
#: Tries to place a resized crop before the middle of the image is taken.
ATTEMPTS = 10
#: Evaluation scales images so that a crop keeps this share of their shorter side.
CENTER_SHARE = 224 / 256


def resized_crop(
    image: Image.Image, size: int, rng: np.random.Generator, smallest: float
) -> Image.Image:
    """A random part of the image, resized to a square.

    Parameters:
        image: Image of any size.
        size: Height and width of the result.
        rng: Source of the crop.
        smallest: Smallest share of the area to keep, above 0, at most 1.
    """
    width, height = image.size
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(smallest, 1)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            top = int(rng.integers(0, height - h + 1))
            return _part(image, left, top, w, h).resize((size, size), Image.Resampling.BILINEAR)
    w = min(width, max(1, round(height * RATIOS[1])))
    h = min(height, max(1, round(width / RATIOS[0])))
    middle = _part(image, (width - w) // 2, (height - h) // 2, w, h)
    return middle.resize((size, size), Image.Resampling.BILINEAR)


def padded_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """The image, fitted to a square, padded with black by an eighth, and cut at random.

    Parameters:
        image: Image of any size.
        size: Height and width of the result.
        rng: Source of the crop.
    """
    padding = -(-size // 8)
    padded = Image.new(image.mode, (size + 2 * padding, size + 2 * padding))
    padded.paste(center_crop(image, size, share=1), (padding, padding))
    left, top = (int(v) for v in rng.integers(0, 2 * padding + 1, 2))
    return _part(padded, left, top, size, size)


def mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image, left and right swapped in half of all cases."""
    if rng.random() < 0.5:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def center_crop(image: Image.Image, size: int, share: float = CENTER_SHARE) -> Image.Image:
    """The middle of the image, scaled so that it holds ``share`` of the shorter side.

    Parameters:
        image: Image of any size.
        size: Height and width of the result.
        share: 224 / 256 scales the shorter side of an ImageNet image to 256 for a size of 224.
    """
    width, height = image.size
    short = max(size, round(size / share))
    if min(width, height) != short:
        factor = short / min(width, height)
        width, height = max(short, round(width * factor)), max(short, round(height * factor))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return _part(image, (width - size) // 2, (height - size) // 2, size, size)


def _part(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height))
