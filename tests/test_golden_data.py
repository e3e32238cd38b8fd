"""The digits and their split."""

import numpy as np

from palquant.golden.data import add_noise, load_digits_split, shift_images


def test_split_holds_out_a_fifth_of_all_digits():
    split = load_digits_split(0)
    assert split.train_images.shape == (1438, 1, 8, 8)
    assert split.test_images.shape == (359, 1, 8, 8)
    assert split.train_labels.shape == (1438,)
    for images in (split.train_images, split.test_images):
        assert images.dtype == np.float32
        assert images.min() == 0
        assert images.max() == 1
        assert np.array_equal(images * 16, np.round(images * 16))
    for labels in (split.train_labels, split.test_labels):
        assert labels.dtype == np.int64
        assert np.array_equal(np.unique(labels), np.arange(10))


def test_split_depends_on_the_seed_alone():
    first, again, other = load_digits_split(3), load_digits_split(3), load_digits_split(4)
    assert np.array_equal(first.test_images, again.test_images)
    assert np.array_equal(first.train_labels, again.train_labels)
    assert not np.array_equal(first.test_labels, other.test_labels)
    # Together the parts are all images, whatever the seed.
    for split in (first, other):
        everything = np.concatenate([split.train_images, split.test_images]).reshape(1797, 64)
        ordered = everything[np.lexsort(everything.T)]
        if split is first:
            expected = ordered
    assert np.array_equal(ordered, expected)


def test_shift_moves_each_image_and_fills_with_zeros():
    images = np.random.default_rng(0).random((200, 2, 5, 4)).astype(np.float32) + 1
    moved = shift_images(images, np.random.default_rng(1), reach=2)
    assert moved.shape == images.shape
    assert moved.dtype == np.float32
    seen = set()
    for before, after in zip(images, moved, strict=True):
        padded = np.pad(before, ((0, 0), (2, 2), (2, 2)))
        fits = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[:, y : y + 5, x : x + 4], after)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25


def test_noise_is_normal_and_stays_within_the_range_of_pixels():
    gray = np.full((100, 1, 8, 8), 0.5, np.float32)
    noisy = add_noise(gray, np.random.default_rng(0), 0.1)
    assert noisy.dtype == np.float32
    assert noisy.shape == gray.shape
    assert abs(noisy.mean() - 0.5) < 0.01
    assert abs(noisy.std() - 0.1) < 0.01
    assert (gray == 0.5).all()
    black = add_noise(np.zeros_like(gray), np.random.default_rng(0), 2.0)
    assert black.min() == 0
    assert black.max() == 1
    assert 0.4 < (black == 0).mean() < 0.6
