"""Crops stay inside the image, depend on the generator alone, and keep what they should."""

import numpy as np
import pytest
from PIL import Image

from palquant.golden.augment import RATIOS, center_crop, mirror, padded_crop, resized_crop


def picture(width, height):
    """An image whose red channel counts columns and whose green one counts rows."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    pixels[..., 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(200, 100), (64, 64), (30, 250), (1, 1)])
def test_resized_crops_are_parts_of_the_image(width, height):
    shares, ratios = [], []
    for seed in range(60):
        crop = resized_crop(picture(width, height), 64, np.random.default_rng(seed), 0.2)
        pixels = np.asarray(crop).astype(float)
        assert pixels.shape == (64, 64, 3)
        assert (pixels[..., 2] == 255).all()  # nothing from outside
        w, h = ((np.ptp(pixels[..., axis]) + 1) for axis in (0, 1))
        shares.append(w * h / (width * height))
        ratios.append(w / h)
    if (width, height) == (64, 64):
        assert 0.15 < min(shares) < 0.4
        assert 0.8 < max(shares) <= 1
        assert RATIOS[0] * 0.9 < min(ratios) < 0.9 < 1.1 < max(ratios) < RATIOS[1] * 1.1
    if (width, height) == (30, 250):  # too narrow for most tries: the middle, 30 by 40
        rows = np.asarray(resized_crop(picture(30, 250), 64, np.random.default_rng(0), 1.0))[..., 1]
        assert 104 <= rows.min() <= 107
        assert 142 <= rows.max() <= 146


def test_padded_crops_take_every_place():
    source = picture(16, 16)
    seen = set()
    for seed in range(300):
        pixels = np.asarray(padded_crop(source, 16, np.random.default_rng(seed)))
        inside = pixels[..., 2] == 255
        rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
        y = pixels[rows[0], columns[0], 1] - rows[0].astype(int)
        x = pixels[rows[0], columns[0], 0] - columns[0].astype(int)
        assert inside.sum() == (16 - abs(x)) * (16 - abs(y))
        assert not pixels[~inside].any()  # black around it
        seen.add((int(x), int(y)))
    assert seen == {(x, y) for x in range(-2, 3) for y in range(-2, 3)}


def test_other_sizes_are_fitted_before_padding():
    pixels = np.asarray(padded_crop(picture(64, 32), 16, np.random.default_rng(1)))
    assert pixels.shape == (16, 16, 3)
    assert pixels[..., 2].max() == 255


def test_mirror_swaps_half_of_all_images():
    source = picture(8, 4)
    mirrored = 0
    for seed in range(200):
        pixels = np.asarray(mirror(source, np.random.default_rng(seed)))
        if pixels[0, 0, 0] == 7:
            mirrored += 1
            assert np.array_equal(pixels[:, ::-1], np.asarray(source))
        else:
            assert np.array_equal(pixels, np.asarray(source))
    assert 70 < mirrored < 130


def test_evaluation_takes_the_middle():
    # 256 on the shorter side, 224 from the middle: ImageNet's usual evaluation.
    pixels = np.asarray(center_crop(picture(256, 256), 224))
    assert pixels.shape == (224, 224, 3)
    assert (pixels[0, 0, 0], pixels[0, 0, 1]) == (16, 16)
    wide = np.asarray(center_crop(picture(256, 128), 112))
    assert (wide[0, 0, 0], wide[0, 0, 1]) == (72, 8)
    # Twice the size: the middle 7/8 of both sides.
    large = np.asarray(center_crop(picture(250, 250), 112)).astype(int)
    assert abs(int(np.ptp(large[..., 0])) - 250 * 7 / 8) < 4


@pytest.mark.parametrize(("width", "height"), [(16, 16), (5, 3), (16, 40), (300, 17), (1, 1)])
@pytest.mark.parametrize("share", [1, 224 / 256])
def test_every_size_gives_a_full_square(width, height, share):
    pixels = np.asarray(center_crop(picture(width, height), 16, share))
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 2] == 255).all()
    if share == 1 and (width, height) == (16, 16):
        assert np.array_equal(pixels, np.asarray(picture(16, 16)))
