"""Convolutions against int64 products, the released formula and the float convolution."""

import pytest
import torch
import torch.nn.functional as F

from palquant.errors import ConfigurationError
from palquant.golden.convolution import ParallelConvolution, WideConvolution, convolve
from palquant.golden.quantize import Integers


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


def integer_convolution(values, levels, stride, padding, groups):
    """By unfolding and int64 products: no floating point."""
    outputs, inputs, kernel, _ = levels.shape
    padded = F.pad(values.long(), (padding,) * 4)
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)
    windows = windows.unflatten(1, (groups, inputs))
    grouped = levels.long().unflatten(0, (groups, outputs // groups))
    result = torch.zeros(len(values), outputs, *windows.shape[3:5], dtype=torch.int64)
    for group in range(groups):
        products = windows[:, group, None] * grouped[group][None, :, :, None, None]
        chosen = slice(group * outputs // groups, (group + 1) * outputs // groups)
        result[:, chosen] = products.sum((2, 5, 6))
    return result


@pytest.mark.parametrize("largest", [3, 255, 4000])
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize(
    ("groups", "stride", "padding", "kernel"), [(1, 1, 1, 3), (2, 2, 1, 3), (4, 1, 0, 1)]
)
def test_exact_convolution_equals_integers(largest, batch, groups, stride, padding, kernel):
    values = torch.randint(0, largest + 1, (batch, 16, 9, 9)).float()
    levels = torch.randint(-largest, largest + 1, (8, 16 // groups, kernel, kernel)).float()
    found = convolve(values, levels, stride, padding, groups, exact=True)
    expected = integer_convolution(values, levels, stride, padding, groups)
    assert torch.equal(found.long(), expected)
    assert found.dtype == (torch.float64 if largest == 4000 else torch.float32)


def calibrated_convolution(bits=2, groups=2, kernel=3, **options):
    layer = ParallelConvolution(
        8, 12, kernel, groups=groups, weight_bits=bits, activation_bits=bits, **options
    )
    x = torch.randn(6, 8, 7, 7).relu()
    layer(x)
    assert layer.initialised
    return layer, x


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_parallel_convolution_is_the_released_float_formula(bits, groups):
    layer, x = calibrated_convolution(bits, groups, padding=1, stride=2)
    layer.output_scale.data.mul_(-1.7)
    q, w = layer.quantize, layer.quantize_weight
    # Released order: quantise to real values, convolve those, then scale.
    real_x = torch.round(((x - q.lower) / (q.upper - q.lower)).clamp(0, 1) * q.steps) / q.steps
    unit = ((layer.weight - w.lower) / (w.upper - w.lower)).clamp(0, 1)
    real_w = (torch.round(unit * w.steps) / w.steps - 0.5) * 2
    expected = layer.output_scale.abs() * F.conv2d(real_x, real_w, None, 2, 1, 1, groups)
    for mode in (True, False):
        values, step, _ = layer.train(mode)(x)
        assert torch.equal(values, values.round())
        assert torch.allclose(values * step, expected, rtol=1e-5, atol=1e-5)


def test_published_initialisation_of_the_output_scale():
    layer, x = calibrated_convolution(2, 2, padding=1)
    wanted = F.conv2d(x, layer.weight, None, 1, 1, 1, 2).abs().mean()
    values, step, _ = layer(x)
    assert (values * step).abs().mean().item() == pytest.approx(wanted.item(), rel=1e-5)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(x * 3)  # only the first batch counts
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_all_quantiser_parameters_receive_gradients():
    layer, x = calibrated_convolution(2, 2, padding=1)
    values, step, _ = layer(x)
    (values * step).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_wide_convolution_approximates_the_float_one(bits):
    layer = WideConvolution(3, 5, 3, stride=2, padding=1, weight_bits=bits)
    x = torch.randint(-128, 128, (4, 3, 8, 8)).float()
    values, step, _ = layer.eval()(Integers(x, torch.tensor(0.02)))
    assert torch.equal(values, values.round())
    assert step.shape == (1, 5, 1, 1)
    exact = F.conv2d(x * 0.02, layer.weight, None, 2, 1)
    tolerance = step.amax().item() * 0.5 * 128 * 27  # half a weight step at every tap
    assert ((values * step - exact).abs() <= tolerance).all()
    if bits == 8:
        assert torch.allclose(values * step, exact, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_correction_is_what_unsigned_codes_add(bits):
    layer = WideConvolution(3, 5, 3, weight_bits=bits).eval()
    codes = torch.randint(0, 256, (4, 3, 8, 8)).float()
    values, _, correction = layer(Integers(codes - 128, torch.tensor(0.02), -128.0))
    # The machine's sum is over the codes themselves; without padding every tap counts.
    levels = layer.quantize_weight(layer.weight)
    machine = integer_convolution(codes, levels, 1, 0, 1)
    assert correction.abs().max() > 0
    assert torch.equal(machine + correction.long().reshape(-1, 1, 1), values.long())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ParallelConvolution(8, 12, 1, groups=3),
            "^3 groups do not divide 8 input and 12 output channels$",
        ),
        (lambda: ParallelConvolution(8, 12, 1, groups=0), "^0 groups do not divide"),
    ],
)
def test_refuses_settings_out_of_range(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
