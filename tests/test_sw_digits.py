import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palquant.errors import PackingError
from palquant.sw.digits import join_digits, pack_digits, split_digits, unpack_digits


def test_docstring_example():
    assert pack_digits(np.array([1, 2, 3, 0], np.uint8)).tolist() == [0x39]


@given(st.integers(1, 4), st.integers(0, 2**31))
def test_split_and_join_are_inverse(count, seed):
    codes = np.random.default_rng(seed).integers(0, 4**count, (3, 5))
    digits = split_digits(codes, count)
    assert digits.shape == (count, 3, 5)
    assert np.array_equal(join_digits(digits), codes)


@given(st.integers(1, 16), st.integers(0, 2**31))
def test_pack_and_unpack_are_inverse(quads, seed):
    digits = np.random.default_rng(seed).integers(0, 4, (2, 3, 4 * quads), np.uint8)
    assert np.array_equal(unpack_digits(pack_digits(digits)), digits)


@pytest.mark.parametrize("codes", [[4], [-1]])
def test_codes_that_do_not_fit_are_refused(codes):
    with pytest.raises(PackingError, match="do not fit 1 base-4 digits"):
        split_digits(np.array(codes), 1)


def test_digits_above_3_are_refused():
    with pytest.raises(PackingError, match="digit 4 is above 3"):
        pack_digits(np.array([0, 0, 4, 0], np.uint8))


def test_lanes_that_fill_no_byte_are_refused():
    with pytest.raises(PackingError, match="3 lanes do not fill whole bytes"):
        pack_digits(np.zeros(3, np.uint8))
