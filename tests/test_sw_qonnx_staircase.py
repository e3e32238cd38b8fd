"""Steps of staircases, the multiplication that takes the same steps, and steps in doubt."""

import numpy as np
import pytest

from palquant.errors import RangeError
from palquant.sw.qonnx_staircase import bisect, doubtful_steps, from_line, from_steps


def staircase(gain, offset, levels):
    def codes(x):
        return np.clip(np.rint(x * gain + offset), 0, levels).astype(np.int64)

    return codes


@pytest.mark.parametrize("levels", [1, 3, 15, 255])
def test_every_integer_gets_its_code(levels):
    rng = np.random.default_rng(levels)
    gain = np.concatenate([rng.normal(size=20) * levels / 300, [0.0, 0.0]])
    offset = np.concatenate([rng.normal(size=20) * levels, [-3.0, 2.0]])
    low, high = np.full(22, -700), np.full(22, 500)
    function = staircase(gain, offset, levels)
    steps = bisect(function, low, high, levels)
    x = np.arange(-700, 501)[:, None] + np.zeros(22, np.int64)
    value = np.where(steps.negate, -x, x)
    counted = (value[:, :, None] >= steps.thresholds).sum(-1)
    np.testing.assert_array_equal(counted, function(x))
    assert (np.diff(steps.thresholds, axis=1) >= 0).all()
    assert (steps.thresholds >= steps.low[:, None]).all()
    assert (steps.thresholds <= steps.high[:, None] + 1).all()
    assert steps.negate.any()
    assert not steps.negate.all()


@pytest.mark.parametrize("per_code", [0.4, 1.7, 3.0])
def test_the_fitted_requantization_takes_the_same_steps(per_code):
    """A few integers for each code leave room for one line between all corners."""
    rng = np.random.default_rng(3)
    gain = np.where(rng.random(40) < 0.5, -1, 1) * (0.8 + 0.4 * rng.random(40)) / per_code
    offset = 128 + rng.normal(size=40) * 20
    reach = int(150 * per_code)
    low, high = np.full(40, -reach), np.full(40, reach)
    function = staircase(gain, offset, 255)
    steps = bisect(function, low, high, 255)
    correction = rng.integers(-5000, 5000, 40)
    fitted, wrong = from_steps(steps, correction)
    x = np.arange(-reach, reach + 1)[:, None] + np.zeros(40, np.int64)
    differing = (np.clip(fitted(x), 0, 255) != function(x)).sum(axis=0)
    np.testing.assert_array_equal(differing, wrong)
    assert (wrong == 0).mean() > 0.6
    assert np.abs(fitted.scale).max() < 1 << 15
    assert np.abs(fitted.offset + fitted.scale * correction).max() < 1 << 31


def test_what_no_line_takes_is_counted():
    """More integers for each code than 16 bits of gain tell apart, and a staircase with a bend."""
    gain = np.array([1 / 777.7, -1 / 901.3])
    function = staircase(gain, np.array([128.0, 128.0]), 255)
    reach = np.array([100000, 100000])
    steps = bisect(function, -reach, reach, 255)
    fitted, wrong = from_steps(steps, np.zeros(2, np.int64))
    x = np.arange(-100000, 100001)[:, None] + np.zeros(2, np.int64)
    found = np.clip(fitted(x), 0, 255)
    np.testing.assert_array_equal((found != function(x)).sum(axis=0), wrong)
    assert (wrong > 0).all()
    assert (wrong < 1000).all()  # of 200001
    assert np.abs(found - function(x)).max() == 1

    def bent(x):
        return np.where(x < 0, np.clip(x + 100, 0, 100), np.clip(100 + x // 7, 100, 255))

    steps = bisect(bent, np.array([-200]), np.array([900]), 255)
    fitted, wrong = from_steps(steps, np.zeros(1, np.int64))
    x = np.arange(-200, 901)[:, None]
    assert np.abs(np.clip(fitted(x), 0, 255) - bent(x)).sum() == wrong[0] > 1000


def test_constant_channels_are_fitted():
    function = staircase(np.array([0.0, 0.0]), np.array([7.0, 900.0]), 255)
    reach = np.array([50, 50])
    steps = bisect(function, -reach, reach, 255)
    fitted, wrong = from_steps(steps, np.zeros(2, np.int64))
    assert wrong.tolist() == [0, 0]
    assert fitted.scale.tolist() == [0, 0]
    assert fitted.offset.tolist() == [7, 255]


def test_steps_in_doubt():
    """A step is safe if the largest float below it and the smallest above it agree."""
    exact = staircase(np.array([0.5, 0.5]), np.array([0.0, 0.25]), 3)
    steps = bisect(exact, np.array([-9, -9]), np.array([9, 9]), 3)

    def moved(by):
        return staircase(np.array([0.5, 0.5]), np.array([by, 0.25 + by]), 3)

    assert doubtful_steps(steps, exact, exact) == 0
    # 0.5 x is in the middle between two codes at every odd x; 0.5 x + 0.25 never is.
    assert doubtful_steps(steps, moved(-1e-9), moved(1e-9)) == 3
    assert doubtful_steps(steps, moved(-0.3), moved(0.3)) == 6


def test_lines_use_the_largest_shift():
    gain = np.array([1.0, -0.3, 1e-6, 0.0])
    fitted = from_line(gain, np.array([5.0, 2.0, 0.0, 3.0]), np.zeros(4), np.zeros(4, np.int64))
    assert (np.abs(fitted.scale) < 1 << 15).all()
    assert fitted.shift[0] == 14  # 2^15 is no signed number of 16 bits
    x = np.arange(-1000, 1001)[:, None] + np.zeros(4, np.int64)
    expected = x * gain + np.array([5.0, 2.0, 0.0, 3.0])
    assert np.abs(fitted(x) - expected).max() <= 0.5 + 1000 * 2.0**-16
    with pytest.raises(RangeError, match=r"^channel 1: 1 \* \(x - 0\) \+ 1e\+15 has no 32-bit"):
        from_line(np.ones(2), np.array([0.0, 1e15]), np.zeros(2), np.zeros(2, np.int64))
