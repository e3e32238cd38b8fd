"""The released networks in float32, held against the formulas in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from released import calibration_images, normalised, trained

from palquant.golden.released_network import QuantizedConv2d, ReleasedResNet, Structure

#: What two ways to compute the same layer may differ by.
TOLERANCE = 1e-5
CASES = [("resnet18", 2), ("resnet18", 3), ("resnet18", 1), ("resnet50", 2)]


def captured(model, kind):
    """Inputs and outputs of all modules of a kind, on real images."""
    found = {}
    handles = [
        module.register_forward_hook(
            lambda m, inputs, output, name=name: found.update({name: (m, inputs[0], output)})
        )
        for name, module in model.named_modules()
        if isinstance(module, kind)
    ]
    with torch.no_grad():
        logits = model(normalised(calibration_images()))
    for handle in handles:
        handle.remove()
    return found, logits


@torch.no_grad()
def difference(found, expected):
    """Largest difference, relative to the largest value where that exceeds 1."""
    return float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))


def unit(x, lower, upper):
    return torch.clamp((x.double() - lower.double()) / (upper.double() - lower.double()), 0, 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_quantised_convolution_follows_the_formula(case):
    model = trained(*case, steps=40 if case[0] == "resnet18" else 15)
    layers, _ = captured(model, QuantizedConv2d)
    compared = 0
    for module, x, _ in layers.values():
        scaled = 3 * unit(x, module.lA, module.uA)
        # A value next to a boundary between two codes may fall to either side: move it away.
        close = ((scaled - 0.5) % 1 - 0.5).abs() > 0.5 - 1e-4
        assert close.float().mean() < 0.01
        x = torch.where(close, module.lA.detach(), x)
        codes = torch.round(3 * unit(x, module.lA, module.uA))
        weight = torch.round(3 * unit(module.weight, module.lW, module.uW)) / 3
        assert 0 < codes.max() <= 3
        expected = F.conv2d(
            codes / 3, 2 * weight - 1, None, module.stride, module.padding, 1, module.groups
        ) * abs(module.output_scale.double())
        with torch.no_grad():
            found = module(x)
        assert found.dtype == torch.float32
        assert torch.equal(module.codes(x).double(), codes)
        assert difference(found, expected) < TOLERANCE
        compared += found.numel()
    assert compared > 10000


def batch_norm(x, norm):
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + 1e-5)
    mean, gain, bias = (
        v.reshape(-1, 1, 1) for v in (norm.running_mean.double(), gain, norm.bias.double())
    )
    return (x.double() - mean) * gain + bias


def shuffle_channels(x, groups):
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def rotate(x, groups):
    parts = x.chunk(groups, 1)
    return torch.cat([*parts[1:], parts[0]], 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_and_shuffles_join_their_layers_as_released(case):
    """Everything between the convolutions, from the convolutions' own results."""
    model = trained(*case, steps=40 if case[0] == "resnet18" else 15)
    groups = case[1]
    found, logits = captured(model, torch.nn.Module)
    depth = 2 if case[0] == "resnet18" else 3
    downsampling = 0
    for name, (module, x, output) in found.items():
        kind = type(module).__name__
        if kind == "ReleasedBlock":
            branch = batch_norm(found[f"{name}.conv{depth}"][2], module.get_submodule(f"bn{depth}"))
            identity = x.double()
            if f"{name}.downsample.0" in found:
                downsampling += 1
                branch = shuffle_channels(branch, groups)
                results = found[f"{name}.downsample.0"][2]
                identity = batch_norm(results, module.downsample[1])
            expected = torch.relu(branch + identity)
            for index in range(1, depth):
                middle = batch_norm(
                    found[f"{name}.conv{index}"][2], module.get_submodule(f"bn{index}")
                )
                read = found[f"{name}.conv{index + 1}"][1]
                assert difference(read, torch.relu(middle)) < TOLERANCE
        elif kind == "ReleasedShuffle":
            assert torch.equal(found[f"{name}.conv1.0"][1], rotate(x, groups))
            expected = x + torch.relu(batch_norm(found[f"{name}.conv1.0"][2], module.conv1[1]))
        else:
            continue
        assert difference(output, expected) < TOLERANCE
    assert downsampling == (3 if case[0] == "resnet18" else 4)
    last = found["layer4"][2]
    expected = F.linear(last.double().mean((2, 3)), model.fc.weight.double(),
                        model.fc.bias.double())  # fmt: skip
    assert difference(logits, expected) < TOLERANCE


def test_the_stem_is_not_quantised():
    model = trained()
    found, _ = captured(model, torch.nn.MaxPool2d)
    images = normalised(calibration_images())
    sums = F.conv2d(images.double(), model.conv1.weight.double(), None, 2, 3)
    expected = F.max_pool2d(torch.relu(batch_norm(sums, model.bn1)), 3, 2, 1)
    assert difference(found["maxpool"][2], expected) < TOLERANCE


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_names_and_shapes_are_those_of_released_files(groups):
    """ResNet-18: the names and shapes that the released code writes."""
    state = ReleasedResNet(Structure("resnet18", groups)).state_dict()
    assert len(state) == 316
    width = 64 * groups
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {
        "conv1.weight": (width, 3, 7, 7),
        "layer1.0.conv1.weight": (width, 64, 3, 3),
        "shuffle2.conv1.0.weight": (width, 64, 1, 1),
        "layer2.0.conv1.weight": (2 * width, 64, 3, 3),
        "layer2.0.downsample.0.weight": (2 * width, 64, 1, 1),
        "layer2.0.downsample.1.running_var": (2 * width,),
        "shuffle4.conv1.1.bias": (4 * width,),
        "fc.weight": (1000, 8 * width),
        "fc.bias": (1000,),
        "layer1.0.conv1.init": (1,),
    } | {
        f"{layer}.{name}": ()
        for layer in ("layer1.0.conv1", "shuffle2.conv1.0", "layer4.0.downsample.0")
        for name in (
            "uW", "lW", "uA", "lA", "output_scale", "bkwd_scaling_factorW", "bkwd_scaling_factorA"
        )
    }  # fmt: skip
    assert expected.items() <= shapes.items()


def test_other_architectures_have_their_own_blocks():
    deep = ReleasedResNet(Structure("resnet34", 2, 4)).state_dict()
    assert "layer3.5.conv2.uA" in deep
    assert "layer1.0.downsample.0.weight" not in deep
    wide = ReleasedResNet(Structure("resnet50", 2, 4)).state_dict()
    assert wide["layer1.0.conv3.weight"].shape == (32, 4, 1, 1)
    assert wide["layer1.0.downsample.0.weight"].shape == (32, 4, 1, 1)
    assert wide["fc.weight"].shape == (1000, 8 * 32)
    single = ReleasedResNet(Structure("resnet18", 1)).state_dict()
    assert not any(name.startswith("shuffle") for name in single)


def test_the_first_batch_sets_ranges_and_scale_as_published():
    torch.manual_seed(0)
    conv = QuantizedConv2d(8, 8, 3, 1, Structure("resnet18", 2, 4)).requires_grad_(False)
    x = torch.randn(4, 8, 6, 6)
    conv.eval()(x)
    assert float(conv.init) == 1
    conv.train()(x)
    assert float(conv.init) == 0
    assert math.isclose(float(conv.uW), 3 * float(conv.weight.std()), rel_tol=1e-6)
    assert float(conv.lW) == -float(conv.uW)
    assert math.isclose(float(conv.uA), 3 * float(x.std()) / math.sqrt(1 - 2 / math.pi),
                        rel_tol=1e-6)  # fmt: skip
    assert float(conv.lA) == float(x.min())
    wanted = F.conv2d(x, conv.weight, None, 1, 1, 1, 2).abs().mean()
    assert math.isclose(float(conv(x).abs().mean()), float(wanted), rel_tol=1e-5)
    before = float(conv.uA)
    conv(10 * x)
    assert float(conv.uA) == before
