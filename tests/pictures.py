"""Folders of small images, in which a network has something to learn."""

import numpy as np
from PIL import Image


def draw(rng, label, size):
    """An image (size, size, 3) whose class is its brightest corner, in noise."""
    pixels = rng.integers(0, 100, (size, size, 3), dtype=np.uint8)
    half = size // 2
    top, left = (label // 2) * half, (label % 2) * half
    pixels[top : top + half, left : left + half] += 140
    return pixels


def write_pictures(root, *, classes=3, training=24, held_out=6, size=16, ending="png"):
    """A data set in the layout of ImageNet; returns its folder.

    Parameters:
        root: Folder to make it in.
        classes: Number of classes, at most 4.
        training: Training images of each class.
        held_out: Held-out images of each class.
        size: Height and width.
        ending: Kind of file.
    """
    rng = np.random.default_rng(3)
    for part, count in (("train", training), ("val", held_out)):
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(draw(rng, label, size)).save(folder / f"{index:03}.{ending}")
    return root
