"""16 bits where they are wanted and sums fit; evaluation stays the integer network."""

import dataclasses

import pytest
import torch

from palquant.golden.config import TrainConfig
from palquant.golden.convolution import ParallelConvolution, WideConvolution
from palquant.golden.data import load_digits_split
from palquant.golden.mixed_precision import choose_precision, make_scaler
from palquant.golden.quantize import Integers
from palquant.golden.train import train
from palquant.golden.verify import verify
from palquant.sw.model import load_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SHORT = TrainConfig(base_width=3, epochs=2, batch_size=96)


@pytest.mark.parametrize(
    ("name", "device", "recent", "expected"),
    [
        ("off", CUDA, True, None),
        ("auto", CPU, True, None),
        ("auto", CUDA, True, torch.bfloat16),
        ("auto", CUDA, False, torch.float16),
        ("bfloat16", CPU, False, torch.bfloat16),
        ("float16", CUDA, True, torch.float16),
    ],
)
def test_the_type_is_what_the_device_does_best(monkeypatch, name, device, recent, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: recent)
    assert choose_precision(name, device) is expected


def test_only_float16_scales_its_gradients():
    assert make_scaler(torch.float16, CPU).is_enabled()
    for precision in (None, torch.bfloat16):
        scaler = make_scaler(precision, CPU)
        assert not scaler.is_enabled()
        assert scaler.state_dict() == {}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_sums_are_rounded_in_training_alone(precision):
    torch.manual_seed(0)
    layer = ParallelConvolution(64, 4, 3, padding=1)
    x = torch.rand(2, 64, 6, 6)
    layer(x)  # initialises
    plain = layer(x).values
    with torch.autocast("cpu", precision):
        rounded = layer(x)
    assert rounded.values.dtype == torch.float32
    assert torch.equal(rounded.values, plain.to(precision).float())
    (rounded.values * rounded.step).sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    layer.eval()
    with torch.autocast("cpu", precision):
        assert torch.equal(layer(x.double()).values.double(), layer(x).values.double())
        assert torch.equal(layer(x).values, plain)


def test_sums_that_do_not_fit_and_8_bit_layers_keep_32_bits():
    torch.manual_seed(0)
    large = ParallelConvolution(512, 2, 3, weight_bits=8, activation_bits=4)
    wide = WideConvolution(3, 2, 3)
    x = torch.rand(1, 512, 4, 4)
    codes = Integers(torch.randint(-128, 128, (1, 3, 5, 5)).float(), torch.tensor(1.0))
    large(x)
    expected = large(x).values, wide(codes).values
    assert expected[0].abs().max() > 2048  # beyond what float16 has exactly
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(large(x).values, expected[0])
        assert torch.equal(wide(codes).values, expected[1])


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision_learns_and_resumes_and_is_exported_exactly(tmp_path, amp):
    config = dataclasses.replace(SHORT, amp=amp)
    result = train(config, tmp_path, progress=False)
    plain = train(SHORT, tmp_path / "plain", progress=False)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.history != plain.history
    images = load_digits_split().test_images[:20]
    assert verify(result.network, load_model(result.model), images) > 0
    again = train(config, tmp_path, resume=True, progress=False)
    assert again.history == result.history
