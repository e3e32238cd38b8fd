"""Images become input codes exactly as the graph's normalisation says."""

from fractions import Fraction

import numpy as np
import pytest

from palquant.errors import InputError
from palquant.sw.graph import Input, Normalization, Shape
from palquant.sw.normalize import to_codes


def input_node(channels=1, height=2, width=3, bits=8, zero_point=128, **normalization):
    norm = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "scale": 1.0} | normalization
    return Input(
        name="input",
        shape=Shape(channels, height, width),
        bits=bits,
        zero_point=zero_point,
        normalization=Normalization(**norm),
    )


def test_follows_the_formula_in_exact_arithmetic():
    # Powers of two keep every float64 step exact, so that fractions give the same numbers.
    node = input_node(2, 4, 5, mean=(0.5, -0.25), std=(0.25, 2.0), scale=2.0**-5)
    images = np.random.default_rng(1).integers(-512, 512, (3, 2, 4, 5)).astype(np.float32) / 256
    codes = to_codes(images, node)
    assert codes.dtype == np.uint8
    for index in np.ndindex(images.shape):
        mean, std = (0.5, 0.25) if index[1] == 0 else (-0.25, 2)
        step = (Fraction(float(images[index])) - Fraction(mean)) / Fraction(std) / Fraction(1, 32)
        assert codes[index] == min(max(round(step) + 128, 0), 255)  # round: half to even


def test_rounds_half_to_even_and_saturates():
    node = input_node(1, 1, 6)
    images = np.array([0.5, 1.5, -0.5, -1.5, 500, -500], np.float32).reshape(1, 1, 1, 6)
    assert to_codes(images, node).ravel().tolist() == [128, 130, 128, 126, 255, 0]


@pytest.mark.parametrize(("bits", "zero_point"), [(1, 0), (2, 1), (4, 8), (8, 0)])
def test_codes_fit_the_width(bits, zero_point):
    node = input_node(1, 1, 2, bits=bits, zero_point=zero_point)
    codes = to_codes(np.array([-1e9, 1e9], np.float32).reshape(1, 1, 1, 2), node)
    assert codes.ravel().tolist() == [0, 2**bits - 1]


def test_uint8_image_equals_the_float_image_it_was_made_from():
    node = input_node(1, 16, 16, mean=(0.3,), std=(0.37,), scale=1 / 57)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    floats = pixels.astype(np.float32) / np.float32(255)
    assert np.array_equal(to_codes(pixels, node), to_codes(floats, node))
    assert len(np.unique(to_codes(pixels, node))) > 100


def test_accepts_an_empty_batch():
    assert to_codes(np.zeros((0, 1, 2, 3), np.float32), input_node()).shape == (0, 1, 2, 3)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (1, 3, 2, 3), (1, 1, 3, 2), (1, 1, 1, 2, 3)])
def test_refuses_another_shape(shape):
    with pytest.raises(InputError, match=r"input: images have shape \(.*expected \(N, 1, 2, 3\)$"):
        to_codes(np.zeros(shape, np.float32), input_node())


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.int64, np.bool_])
def test_refuses_another_type(dtype):
    with pytest.raises(InputError, match=r"expected float32 or uint8$"):
        to_codes(np.zeros((1, 1, 2, 3), dtype), input_node())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_no_numbers(value):
    images = np.zeros((3, 1, 2, 3), np.float32)
    images[2, 0, 1, 2] = value
    with pytest.raises(
        InputError, match=r"image 2 holds NaN or infinity at channel 0, row 1, column 2$"
    ):
        to_codes(images, input_node())
