"""Quantisers against their published definitions, number by number."""

import math

import numpy as np
import pytest
import torch

from palquant.errors import ConfigurationError
from palquant.golden.quantize import (
    BEST_STEP,
    ActivationQuantizer,
    InputQuantizer,
    TwosComplementQuantizer,
    WeightQuantizer,
    straight_through,
)
from palquant.sw.graph import Input, Normalization, Shape
from palquant.sw.normalize import to_codes

RANGES = [(0.0, 1.0), (-0.7, 0.9), (0.3, 2.5), (1.2, -0.4), (0.5, 0.1)]


def defined(value, lower, upper, bits):
    """The published definition in Python floats; ``round`` is half to even."""
    unit = min(max((value - lower) / (upper - lower), 0.0), 1.0)
    return round(unit * (2**bits - 1))


def with_range(quantizer, lower, upper):
    quantizer.double()
    quantizer.lower.data.fill_(lower)
    quantizer.upper.data.fill_(upper)
    return quantizer


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("lower", "upper"), RANGES)
def test_activation_codes_by_definition(bits, lower, upper):
    quantizer = with_range(ActivationQuantizer(bits), lower, upper)
    x = torch.linspace(-2, 3, 401, dtype=torch.float64)
    expected = [defined(float(v), lower, upper, bits) for v in x]
    assert quantizer.to_int(x).tolist() == expected
    assert quantizer(x).tolist() == expected
    assert set(expected) == set(range(2**bits))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("lower", "upper"), RANGES)
def test_weight_levels_by_definition(bits, lower, upper):
    quantizer = with_range(WeightQuantizer(bits), lower, upper)
    weight = torch.linspace(-2, 3, 601, dtype=torch.float64).reshape(1, 1, 1, -1)
    codes = [defined(float(v), lower, upper, bits) for v in weight.flatten()]
    assert quantizer.to_int(weight).dtype == torch.uint8
    assert quantizer.to_int(weight).flatten().tolist() == codes
    assert quantizer(weight).flatten().tolist() == [2 * c - (2**bits - 1) for c in codes]
    # A real weight is 2q / (L - 1) - 1, which is the level divided by L - 1.
    real = quantizer(weight) / quantizer.steps
    expected = 2 * torch.tensor(codes, dtype=torch.float64) / (2**bits - 1) - 1
    assert torch.allclose(real.flatten(), expected)


def test_codes_halfway_round_to_even():
    quantizer = with_range(ActivationQuantizer(2), 0.0, 3.0)
    assert quantizer(torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)).tolist() == [0, 2, 2]


@pytest.mark.parametrize("quantizer", [ActivationQuantizer(3), WeightQuantizer(3)])
def test_gradient_is_that_of_the_unrounded_function(quantizer):
    with_range(quantizer, -0.5, 1.25)
    x = torch.linspace(-1, 2, 97, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(97, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    inputs = (x, quantizer.lower, quantizer.upper)
    found = torch.autograd.grad((quantizer.quantize(x) * upstream).sum(), inputs)
    unit = (x - quantizer.lower) / (quantizer.upper - quantizer.lower)
    expected = torch.autograd.grad((unit.clamp(0, 1) * 7 * upstream).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert b.abs().max() > 0.1
        assert torch.allclose(a, b, rtol=1e-12)


def test_straight_through_rounds_and_passes_the_gradient():
    x = torch.tensor([-1.5, 0.4, 2.5], requires_grad=True)
    y = straight_through(x, torch.floor)
    assert y.tolist() == [-2, 0, 2]
    assert torch.autograd.grad((y * torch.tensor([1.0, 2, 3])).sum(), x)[0].tolist() == [1, 2, 3]


def test_published_initialisation():
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) + 1
    activation, weight = ActivationQuantizer(2), WeightQuantizer(2)
    activation.initialise(x)
    weight.initialise(x)
    std = x.numpy().std(ddof=1)
    assert activation.lower.item() == x.min()
    assert activation.upper.item() == pytest.approx(3 * std / math.sqrt(1 - 2 / math.pi), rel=1e-5)
    assert weight.upper.item() == pytest.approx(3 * std, rel=1e-5)
    assert weight.lower.item() == -weight.upper.item()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_twos_complement_by_definition(bits):
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    weight[2] = 0
    quantizer = TwosComplementQuantizer(bits)
    step, levels, codes = quantizer.step(weight), quantizer(weight), quantizer.to_int(weight)
    limit = 2 ** (bits - 1) - 1
    assert step.shape == (6, 1, 1, 1)
    assert step[2] == 1
    assert codes.dtype == torch.uint8
    for channel in range(6):
        scale = float(weight[channel].abs().max()) / limit or 1.0
        if bits in BEST_STEP and channel != 2:
            best = BEST_STEP[bits] * math.sqrt(float(weight[channel].square().mean()))
            scale = min(scale, best)
        assert float(step[channel]) == pytest.approx(scale, rel=1e-6)
        for w, level, code in zip(
            weight[channel].flatten().double(), levels[channel].flatten(),
            codes[channel].flatten(), strict=True,
        ):  # fmt: skip
            assert abs(float(level)) <= limit
            inside = min(max(float(w) / scale, -limit), limit)
            assert abs(inside - float(level)) <= 0.5 + 1e-4
            assert int(code) == int(level) + 2 ** (bits - 1)
    assert quantizer.alpha * codes.double().sub(quantizer.beta / quantizer.alpha).eq(levels).all()


@pytest.mark.parametrize("bits", sorted(BEST_STEP))
def test_few_levels_take_the_step_of_least_error(bits):
    """Normal weights, in one channel: no other step does better by more than noise."""
    weight = torch.randn(1, 1, 500, 500, generator=torch.Generator().manual_seed(3))
    quantizer = TwosComplementQuantizer(bits)
    limit = quantizer.beta - 1
    step = float(quantizer.step(weight))

    def error(step: float) -> float:
        return float((weight - (weight / step).round().clamp(-limit, limit) * step).square().mean())

    assert error(step) == pytest.approx({2: 0.190, 4: 0.0129}[bits], rel=0.02)
    assert all(error(step) <= 1.001 * error(factor * step) for factor in (0.9, 0.97, 1.03, 1.1))
    assert float(quantizer(weight).abs().max()) == limit


def test_a_lone_weight_of_two_bits_is_kept():
    weight = torch.tensor([-0.3, 2.0, 0.0]).reshape(3, 1, 1, 1)
    quantizer = TwosComplementQuantizer(2)
    assert torch.equal(quantizer(weight) * quantizer.step(weight), weight)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_input_values_are_the_codes_of_the_graph(dtype):
    shape, mean, std, scale = (3, 16, 16), (0.2, 0.5, 0.9), (0.1, 0.4, 1.3), 0.07
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (5, *shape)).astype(np.uint8)
    if dtype is np.float32:
        images = rng.normal(0.5, 3, images.shape).astype(np.float32)
    node = Input(name="input", shape=Shape(*shape), bits=8, zero_point=128,
                 normalization=Normalization(mean, std, scale))  # fmt: skip
    quantizer = InputQuantizer(shape, mean, std, scale)
    values, step, correction = quantizer(torch.from_numpy(images))
    codes = to_codes(images, node)
    assert np.array_equal(values.numpy(), codes.astype(int) - 128)
    assert step == scale
    assert correction == -128
    if dtype is np.float32:
        assert {0, 255} <= set(codes.flatten().tolist())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationQuantizer(0), r"^ActivationQuantizer of 0 bits \(supported: 1 to 4\)$"),
        (lambda: ActivationQuantizer(5), r"of 5 bits \(supported: 1 to 4\)$"),
        (lambda: WeightQuantizer(9), r"^WeightQuantizer of 9 bits \(supported: 1 to 8\)$"),
        (lambda: TwosComplementQuantizer(3), r"weights of 3 bits \(supported: 2, 4, 8\)$"),
        (
            lambda: InputQuantizer((3, 4, 4), (0.0,), (1.0,), 1.0),
            "^1 means and 1 standard deviations for images of 3 channels$",
        ),
        (
            lambda: InputQuantizer((1, 4, 4), (0.0,), (0.0,), 1.0),
            "^normalisation needs positive standard deviations and scale$",
        ),
        (lambda: InputQuantizer((1, 4, 4), (0.0,), (1.0,), 0.0), "^normalisation needs positive"),
    ],
)
def test_refuses_settings_out_of_range(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
