"""Thresholds that are learned: uniform at first, then anywhere; always a staircase."""

import pytest
import torch

from palquant.golden.learned_thresholds import LearnedThresholdQuantizer
from palquant.golden.quantize import ActivationQuantizer


def quantizer(bits, lower=-0.5, upper=2.5, widths=None):
    layer = LearnedThresholdQuantizer(bits)
    with torch.no_grad():
        layer.lower.fill_(lower)
        layer.upper.fill_(upper)
        if widths is not None:
            layer.widths.copy_(torch.tensor(widths).log())
    return layer


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_it_starts_as_the_uniform_quantiser(bits):
    uniform = ActivationQuantizer(bits)
    uniform.load_state_dict({"lower": torch.tensor(-0.5), "upper": torch.tensor(2.5)})
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1000, generator=generator, dtype=torch.float64) * 4 - 1
    assert torch.equal(quantizer(bits)(x), uniform(x))


def test_thresholds_lie_in_the_middle_of_the_intervals():
    layer = quantizer(2, 0.0, 10.0, [5.0, 1.0, 4.0])
    # Intervals 0..5, 5..6, 6..10: steps at 2.5, 5.5 and 8.
    x = torch.tensor([-1.0, 2.49, 2.51, 5.49, 5.51, 7.99, 8.01, 11.0])
    assert layer(x).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(layer.to_int(x), layer(x).long())


@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_a_staircase_in_double_precision(reverse):
    torch.manual_seed(0)
    for _ in range(20):
        ends = (2.5, -0.5) if reverse else (-0.5, 2.5)
        layer = quantizer(4, *ends, (torch.rand(15) + 0.01).tolist())
        codes = layer.to_int(torch.linspace(-1, 3, 5001, dtype=torch.float64))
        steps = codes.diff()
        assert ((steps <= 0) if reverse else (steps >= 0)).all()
        assert set(codes.tolist()) == set(range(16))


def test_gradients_are_those_of_the_piecewise_linear_function():
    widths = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)

    def position(x, lower, upper, logarithms):
        shares = logarithms.softmax(0)
        unit = (x - lower) / (upper - lower)
        first, second = shares[0], shares[0] + shares[1]
        return torch.where(
            unit < first, unit / shares[0],
            torch.where(unit < second, 1 + (unit - first) / shares[1],
                        2 + (unit - second) / shares[2]),
        )  # fmt: skip

    layer = quantizer(2, -0.5, 2.5, widths.tolist()).double()
    x = torch.linspace(-0.45, 2.45, 77, dtype=torch.float64, requires_grad=True)
    factor = torch.linspace(-1, 2, 77, dtype=torch.float64)
    (layer(x) * factor).sum().backward()
    parameters = [
        v.detach().clone().requires_grad_() for v in (x, layer.lower, layer.upper, layer.widths)
    ]
    (position(*parameters) * factor).sum().backward()
    for expected, found in zip(
        parameters, (x, layer.lower, layer.upper, layer.widths), strict=True
    ):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-8)


def test_values_outside_the_range_give_no_gradient():
    layer = quantizer(2)
    x = torch.tensor([-1.0, 1.0, 3.0], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad[0] == x.grad[2] == 0
    assert x.grad[1] > 0


def test_gradients_can_be_scaled_as_those_of_the_uniform_one():
    uniform, learned = ActivationQuantizer(2), LearnedThresholdQuantizer(2)
    gradients = []
    for layer in (uniform, learned):
        layer.gradient_scaling = 0.3
        x = torch.linspace(0.01, 0.99, 50, requires_grad=True)
        (layer(x) * torch.linspace(-1, 1, 50)).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert gradients[0].abs().std() > 0
