"""Floating-point networks: the same structure and first weights, real arithmetic, trained alike."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from palquant.errors import ModelError
from palquant.golden.config import NetworkConfig, TrainConfig
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.floating_point import to_floating_point, train_floating_point
from palquant.golden.improvements import build_network
from palquant.golden.layers import ChannelPermutation, group_rotation
from palquant.golden.models import ResidualNetwork, resnet50, vgg16
from palquant.golden.quantize import RangeQuantizer, TwosComplementQuantizer


def made(config):
    model = build_network(config)
    to_floating_point(model)
    return model.eval()


def test_it_computes_what_the_structure_says():
    """One network written out by hand, with the very weights."""
    config = TrainConfig(base_width=2, groups=2, seed=3)
    model = made(config)
    weights = dict(model.named_parameters())
    quantised = dict(build_network(config).named_parameters())
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def conv(x, name, stride=1, groups=2):
        w = weights[f"{name}.weight"]
        assert torch.equal(w, quantised[f"{name}.weight"])
        y = F.conv2d(x, w, None, stride, w.shape[-1] // 2, 1, groups)
        return y / (1 + 1e-5) ** 0.5  # an untrained normalisation

    def block(x, name, stride):
        y = conv(F.relu(conv(x, f"{name}.conv1", stride)), f"{name}.conv2")
        if stride == 1:
            return F.relu(x + y)
        channels = y.shape[1]
        y = y[:, [c % 2 * (channels // 2) + c // 2 for c in range(channels)]]
        return F.relu(y + conv(x, f"{name}.downsample.conv", stride))

    x = (images - config.network.mean[0]) / config.network.std[0]
    x = F.relu(conv(x, "stem.conv", groups=1))
    x = block(x, "stage1.0", 1)
    for stage in (2, 3):
        rotated = x.roll(-x.shape[1] // 2, 1)
        x = x + F.relu(conv(rotated, f"shuffle{stage}.conv"))
        x = block(x, f"stage{stage}.0", 2)
    expected = x.mean((2, 3)) @ weights["classifier.conv.weight"].flatten(1).T
    with torch.no_grad():
        weights["classifier.logits.bias"].copy_(torch.arange(10.0))
        found = model(images)
    assert torch.allclose(found, expected + torch.arange(10), atol=1e-5)
    assert torch.equal(model(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)),
                       model(torch.ones(1, 1, 8, 8)))  # fmt: skip


@pytest.mark.parametrize("make", [resnet50, vgg16, NetworkConfig])
def test_no_integers_are_left_in_any_structure(make):
    size = {} if make is NetworkConfig else {"image": (3, 32, 32)}
    config = make(groups=2, base_width=4, classes=7, shared_stem=True, **size)
    model = ResidualNetwork(config)
    to_floating_point(model)
    integer = (RangeQuantizer, TwosComplementQuantizer, ResidualStream)
    assert not [m for m in model.modules() if isinstance(m, integer)]
    logits = model(torch.rand(2, *config.image))
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    rotations = [m for m in model.modules() if isinstance(m, ChannelPermutation)]
    assert any(torch.equal(m.permutation, group_rotation(len(m.permutation), 2).permutation)
               for m in rotations)  # fmt: skip
    assert any(isinstance(m, nn.Conv2d) and m.groups == 2 for m in model.modules())


def test_training_learns_and_repeats_itself():
    config = TrainConfig(base_width=4, groups=1, epochs=2, noise=0.1)
    top1 = train_floating_point(config)
    assert top1 == train_floating_point(config)
    assert 0.3 < top1 < 1


def test_a_diverging_training_is_refused():
    with pytest.raises(ModelError, match=r"^epoch \d: the loss is NaN or infinite; try a smaller"):
        train_floating_point(TrainConfig(base_width=4, epochs=2, learning_rate=1e30))
