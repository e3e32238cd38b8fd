"""Bisected thresholds against the function itself, at every integer of the range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palquant.golden.layers import BatchNormAffine
from palquant.golden.quantize import ActivationQuantizer, Integers
from palquant.golden.thresholds import bisect_thresholds


def counted(thresholds, negate, x):
    """Codes of x (K, C) as the graph's Quantize defines them."""
    value = torch.where(negate, -x, x)
    return (value[:, :, None] >= thresholds).sum(2)


def chain(channels, bits, lower, upper, seed, relu=True):
    """scale -> batch norm -> ReLU -> quantiser, as a network in eval mode evaluates it."""
    generator = torch.Generator().manual_seed(seed)
    norm = BatchNormAffine(channels).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.weight[0] = 0
        norm.weight[1].mul_(100)
        norm.weight[2].mul_(0.003)
        norm.bias.copy_(torch.randn(channels, generator=generator))
        norm.running_mean.copy_(torch.randn(channels, generator=generator) * 3)
        norm.running_var.copy_(torch.rand(channels, generator=generator) * 4)
    quantizer = ActivationQuantizer(bits)
    quantizer.lower.data.fill_(lower)
    quantizer.upper.data.fill_(upper)
    step = torch.tensor(0.0371)

    def function(values):
        y = norm(Integers(values, step))
        return quantizer(torch.relu(y) if relu else y)

    return function


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.5), (-0.6, 0.8), (1.1, -0.2), (0.2, 0.21)])
@pytest.mark.parametrize("relu", [True, False])
def test_equal_to_the_function_at_every_integer(bits, lower, upper, relu):
    channels, levels = 12, 2**bits - 1
    function = chain(channels, bits, lower, upper, seed=bits, relu=relu)
    low = torch.arange(-400, -400 + channels)
    high = torch.arange(300, 300 + 7 * channels, 7)
    thresholds, negate = bisect_thresholds(function, low, high, levels)
    assert thresholds.shape == (channels, levels)
    assert (thresholds.diff(dim=1) >= 0).all()
    x = torch.stack([torch.linspace(-400, 800, 1201).long()] * channels, 1)
    x = x.clamp(low, high)
    expected = function(x.double()[:, :, None, None])[:, :, 0, 0].long()
    assert torch.equal(counted(thresholds, negate, x), expected)
    assert len(expected.unique()) > 1
    assert {True, False} == set(negate.tolist())
    # Thresholds of steps that are always or never taken are the documented bounds.
    smallest, largest = torch.where(negate, -high, low), torch.where(negate, -low, high)
    assert (thresholds >= smallest[:, None]).all()
    assert (thresholds <= largest[:, None] + 1).all()


def test_equal_at_both_sides_of_every_step_of_a_wide_range():
    function = chain(8, 4, 0.0, 40.0, seed=5)
    low, high = torch.full((8,), -(2**23)), torch.full((8,), 2**23)
    thresholds, negate = bisect_thresholds(function, low, high, 15)
    steps = thresholds.T
    inside = (steps > torch.where(negate, -high, low)) & (steps <= torch.where(negate, -low, high))
    assert inside.any(0).sum() >= 6
    for offset, taken in ((0, 0), (-1, 1)):
        v = torch.where(inside, steps + offset, 0)
        codes = function((torch.where(negate, -v, v)).double()[:, :, None, None])[:, :, 0, 0]
        wanted = torch.arange(1, 16)[:, None]
        assert torch.where(inside, (codes >= wanted) == (taken == 0), True).all()


def test_constants_are_always_or_never():
    low, high = torch.tensor([-5, -5, -5]), torch.tensor([9, 9, 9])
    constants = torch.tensor([0.0, 2, 3]).reshape(1, 3, 1, 1)
    thresholds, negate = bisect_thresholds(lambda v: v * 0 + constants, low, high, 3)
    assert thresholds.tolist() == [[10, 10, 10], [-5, -5, 10], [-5, -5, -5]]
    assert not negate.any()


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.integers(-60, 60), min_size=1, max_size=15),
    low=st.integers(-50, 0),
    high=st.integers(0, 50),
    falling=st.booleans(),
)
def test_any_monotone_staircase(steps, low, high, falling):
    sign = -1 if falling else 1

    def function(values):
        return sum(((sign * values) >= step).double() for step in steps)

    thresholds, negate = bisect_thresholds(
        function, torch.tensor([low]), torch.tensor([high]), len(steps)
    )
    x = torch.arange(low, high + 1)[:, None]
    expected = function(x.double()[:, :, None, None])[:, :, 0, 0].long()
    assert torch.equal(counted(thresholds, negate, x), expected)
