"""Networks have the published structure, and bad configurations are refused."""

import pytest
import torch

from palquant.errors import ConfigurationError
from palquant.golden.config import NetworkConfig
from palquant.golden.export import export
from palquant.golden.models import (
    ARCHITECTURES,
    ResidualNetwork,
    calibrate,
    resnet18,
    resnet34,
    resnet50,
    vgg16,
)
from palquant.golden.random_network import random_network
from palquant.sw.graph import Convolution


def work(graph):
    """Multiplications and weights of the low-precision layers."""
    macs = weights = 0
    for node in graph:
        if isinstance(node, Convolution) and node.quantized:
            shape = graph.shapes[node.name]
            macs += node.weight.size * shape.height * shape.width
            weights += node.weight.size
    return macs, weights


@pytest.mark.parametrize(
    ("groups", "gmac", "megabit"),
    [(1, 1.696, 22.3), (2, 3.468, 45.0), (3, 5.202, 67.5), (4, 6.936, 89.9)],
)
def test_resnet18_has_the_published_amount_of_work(groups, gmac, megabit):
    # A sixteenth of the width and a seventh of the size: everything scales exactly.
    config = resnet18(groups, base_width=4, image=(3, 32, 32), classes=10)
    macs, weights = work(export(random_network(config, seed=0, batch=2)))
    assert macs * 16**2 * 7**2 / 1e9 == pytest.approx(gmac, abs=6e-4)
    assert weights * 16**2 * 2 / 1e6 == pytest.approx(megabit, abs=6e-2)


@pytest.mark.parametrize(
    ("network", "gmac", "megaweights"),
    [(resnet34, 3.545, 21.26), (resnet50, 3.97, 23.45), (vgg16, 15.26, 14.71)],
)
def test_other_networks_have_their_published_amount_of_work(network, gmac, megaweights):
    """Between stem and classifier, with one group: the work of the torchvision networks."""
    config = network(1, base_width=4, image=(3, 32, 32), classes=10)
    macs, weights = work(export(random_network(config, seed=0, batch=2)))
    assert macs * 16**2 * 7**2 / 1e9 == pytest.approx(gmac, rel=2e-3)
    assert weights * 16**2 / 1e6 == pytest.approx(megaweights, rel=2e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_architectures_can_be_evaluated(name, groups):
    config = ARCHITECTURES[name](groups, base_width=4, image=(3, 32, 32), classes=7)
    model = ResidualNetwork(config)
    model(torch.rand(2, 3, 32, 32))
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_resnet50_widens_its_first_stage_with_a_shuffle():
    """As torchvision's, every width times the groups."""
    with torch.device("meta"):
        model = ResidualNetwork(resnet50(2))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["stage1.0.conv1.weight"] == (128, 64, 1, 1)
    assert shapes["stage1.0.conv2.weight"] == (128, 64, 3, 3)
    assert shapes["stage1.0.conv3.weight"] == (512, 64, 1, 1)
    assert shapes["stage1.0.downsample.conv.weight"] == (512, 64, 1, 1)
    assert shapes["stage4.2.conv3.weight"] == (4096, 512, 1, 1)
    assert shapes["classifier.conv.weight"] == (1000, 4096, 1, 1)
    assert model.get_submodule("stage2.0.conv2").stride in (2, (2, 2))
    assert "stage1.0.shuffle.permutation" in dict(model.named_buffers())


def test_resnet18_has_the_published_weights():
    with torch.device("meta"):
        shapes = {
            name: tuple(p.shape) for name, p in ResidualNetwork(resnet18(2)).named_parameters()
        }
    assert shapes["stem.conv.weight"] == (128, 3, 7, 7)
    assert shapes["stage1.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["shuffle2.conv.weight"] == (128, 64, 1, 1)
    assert shapes["stage2.0.conv1.weight"] == (256, 64, 3, 3)
    assert shapes["stage2.0.downsample.conv.weight"] == (256, 64, 1, 1)
    assert shapes["shuffle4.conv.weight"] == (512, 256, 1, 1)
    assert shapes["classifier.conv.weight"] == (1000, 1024, 1, 1)
    assert "stage1.0.downsample.conv.weight" not in shapes
    assert "shuffle1.conv.weight" not in shapes


@pytest.mark.parametrize(
    ("changes", "present"), [({}, True), ({"shuffle": False}, False), ({"groups": 1}, False)]
)
def test_shuffles_stand_between_the_stages(changes, present):
    names = ResidualNetwork(NetworkConfig(base_width=2, **changes)).body
    assert names == (
        ["stage1", "shuffle2", "stage2", "shuffle3", "stage3"]
        if present
        else ["stage1", "stage2", "stage3"]
    )


def test_channel_shuffle_only_where_groups_meet_a_new_shape():
    def shuffled(groups, **changes):
        config = NetworkConfig(base_width=2, groups=groups, blocks=(2, 2, 1), **changes)
        model = ResidualNetwork(config)
        return [n for n, _ in model.named_buffers() if n.endswith("shuffle.permutation")]

    assert shuffled(1) == []
    assert shuffled(2) == ["stage2.0.shuffle.permutation", "stage3.0.shuffle.permutation"]
    assert shuffled(2, shuffle=False) == shuffled(2)
    assert shuffled(2, channel_shuffle=False) == []
    names = ResidualNetwork(NetworkConfig(base_width=2, channel_shuffle=False)).body
    assert "shuffle2" in names  # the cyclic ones are another matter


def test_names():
    assert NetworkConfig().name == "w16-g2-w2a2"
    assert NetworkConfig(groups=1, weight_bits=4, activation_bits=4).name == "w16-g1-w4a4"
    assert NetworkConfig(shuffle=False).name == "w16-g2-w2a2-noshuffle"
    assert NetworkConfig(channel_shuffle=False).name == "w16-g2-w2a2-nochannelshuffle"
    assert NetworkConfig(groups=1, channel_shuffle=False).name == "w16-g1-w2a2"


@pytest.mark.parametrize(("size", "stride", "pool", "stages", "final"), [
    (8, 1, False, 3, 2), (224, 2, True, 4, 7), (7, 1, False, 2, 4), (5, 1, False, 4, 1),
])  # fmt: skip
def test_final_size_is_what_the_layers_leave(size, stride, pool, stages, final):
    config = NetworkConfig(image=(1, size, size), stem_stride=stride, stem_pool=pool,
                           blocks=(1,) * stages, base_width=1, groups=1)  # fmt: skip
    assert config.final_size == final
    model = ResidualNetwork(config)
    assert model(torch.rand(2, 1, size, size)).shape == (2, 10)


def test_calibration_sets_statistics_to_those_of_the_batch():
    torch.manual_seed(0)
    model = ResidualNetwork(NetworkConfig(base_width=4))
    images = torch.rand(32, 1, 8, 8)
    momentum = model.stem.affine.momentum
    calibrate(model, [images])
    assert not model.training
    assert model.stem.affine.momentum == momentum
    values, step, _ = model.stem.conv(model.input(images))
    mean = (values * step).mean((0, 2, 3))
    assert torch.allclose(model.stem.affine.running_mean, mean, atol=1e-5)
    assert all(stream.peak > 0 for stream in model.streams)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 0}, "^groups must be a positive integer, not 0$"),
        ({"base_width": -1}, "^base_width must be a positive integer, not -1$"),
        ({"block": "dense"}, "^block must be one of basic, bottleneck, plain, not dense$"),
        ({"block": "plain", "blocks": (1,) * 5}, "^images of 8 pixels are too small for 5 plain"),
        ({"blocks": ()}, r"^blocks must be positive integers, not \(\)$"),
        ({"blocks": (1, 0)}, r"^blocks must be positive integers, not \(1, 0\)$"),
        ({"image": (1, 8, 9)}, "^images must be square, not 8x9$"),
        ({"residual_bits": 20}, r"^residual stream of 20 bits \(supported: 8 to 16\)$"),
        ({"activation_bits": 5}, r"^ActivationQuantizer of 5 bits \(supported: 1 to 4\)$"),
        ({"weight_bits": 0}, r"^WeightQuantizer of 0 bits \(supported: 1 to 8\)$"),
        ({"stem_bits": 3}, r"^two's-complement weights of 3 bits \(supported: 2, 4, 8\)$"),
        ({"mean": (0.1, 0.2)}, r"^means \(0.1, 0.2\) and .* do not fit images of 1 channels$"),
        ({"std": (0.0,)}, r"^means .* and standard deviations \(0.0,\) do not fit images of 1"),
    ],
)
def test_refuses_bad_configurations(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        ResidualNetwork(NetworkConfig(**changes))
