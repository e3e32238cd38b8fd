"""The exported graph equals the network in every value, and refuses what it cannot express."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from palquant.errors import ModelError, RangeError, UnsupportedLayerError
from palquant.golden.config import NetworkConfig
from palquant.golden.convolution import ParallelConvolution, WideConvolution
from palquant.golden.export import export
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.layers import BatchNormAffine, ChannelPermutation, ResidualAdd, channel_shuffle
from palquant.golden.models import calibrate
from palquant.golden.quantize import InputQuantizer
from palquant.golden.random_network import random_network
from palquant.golden.reference import run
from palquant.golden.verify import observe, verify
from palquant.sw.graph import (
    Affine,
    Clamp,
    Convolution,
    Input,
    Kind,
    Logits,
    MaxPool,
    Permute,
    Quantize,
    Relu,
    SumPool,
)
from palquant.sw.normalize import to_codes


def images_for(config, count=8, seed=0):
    shape = (count, *config.image)
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("groups", "bits", "residual_bits"),
    [
        (*case, residual_bits)
        for case, residual_bits in zip(
            itertools.product((1, 2, 3, 4), (1, 2, 3, 4)), itertools.cycle((8, 12, 16))
        )
    ],
)
def test_every_value_of_a_random_network(groups, bits, residual_bits):
    config = NetworkConfig(base_width=4, groups=groups, weight_bits=bits, activation_bits=bits,
                           residual_bits=residual_bits)  # fmt: skip
    model = random_network(config, seed=100 * groups + bits)
    graph = export(model)
    images = images_for(config)
    elements = {
        node.name: len(images) * shape.channels * shape.height * shape.width
        for node in graph
        if (shape := graph.shapes[node.name])
    }
    observed = observe(model, graph, images)
    # Only the requantization inside the 8-bit code quantiser is no module of its own.
    assert set(elements) - set(observed) == {"classifier.quantize.affine"}
    assert verify(model, graph, images) == sum(elements[name] for name in observed)
    # What is compared is worth comparing: every kind of quantiser gives more than one code.
    outputs = run(graph, to_codes(images, graph.input))
    varied = [n for n, v in outputs.items() if graph.types[n].kind is Kind.CODES and v.std() > 0]
    assert len(varied) >= 0.8 * sum(t.kind is Kind.CODES for t in graph.types.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_bits": 5, "activation_bits": 4},
        {"weight_bits": 8, "activation_bits": 2, "stem_bits": 2, "classifier_bits": 4},
        {"blocks": (2, 1), "base_width": 6, "shuffle": False},
        {"groups": 3, "channel_shuffle": False},
        {"stem_kernel": 7, "stem_stride": 2, "stem_pool": True, "image": (3, 32, 32),
         "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "blocks": (1, 1, 1, 1)},
    ],
)  # fmt: skip
def test_every_value_of_other_structures(changes):
    config = NetworkConfig(**({"base_width": 4} | changes))
    model = random_network(config, seed=3)
    graph = export(model)
    assert verify(model, graph, images_for(config, 3)) > 0
    assert any(isinstance(node, MaxPool) for node in graph) == config.stem_pool
    assert any(node.name.startswith("shuffle") for node in graph) == config.shuffle


def test_nodes_follow_the_modules_and_carry_no_more_than_needed():
    config = NetworkConfig(base_width=4, groups=2)
    graph = export(random_network(config, seed=1))
    kinds = {node.name: type(node) for node in graph}
    assert list(kinds.items())[:8] == [
        ("input", Input),
        ("stem.conv", Convolution),
        ("stem.affine", Affine),
        ("stem.relu", Relu),
        ("stage1.0.conv1.quantize", Quantize),
        ("stage1.0.conv1", Convolution),
        ("stage1.0.conv2.quantize", Quantize),
        ("stage1.0.conv2", Convolution),
    ]
    assert list(kinds.items())[-5:] == [
        ("pool", SumPool),
        ("classifier.quantize.affine", Affine),
        ("classifier.quantize", Clamp),
        ("classifier.conv", Convolution),
        ("classifier.logits", Logits),
    ]
    # Batch norm and ReLU before a quantiser have become thresholds on the accumulator.
    assert graph["stage1.0.conv2.quantize"].inputs == ("stage1.0.conv1",)
    assert graph["stage2.0.shuffle"].inputs == ("stage2.0.affine2",)
    assert isinstance(graph["stage2.0.shuffle"], Permute)
    # Two consumers of one residual quantise it with their own ranges.
    readers = [node.name for node in graph.consumers()["shuffle2.add"]]
    assert readers == ["stage2.0.conv1.quantize", "stage2.0.downsample.conv.quantize"]
    unquantized = [n.name for n in graph if isinstance(n, Convolution) and not n.quantized]
    assert unquantized == ["stem.conv", "classifier.conv"]
    for node in graph:
        if isinstance(node, Convolution) and node.quantized:
            assert (node.alpha, node.beta, node.groups, node.weight_bits) == (2, 3, 2, 2)
        if isinstance(node, Convolution) and not node.quantized:
            assert (node.alpha, node.beta, node.groups, node.weight_bits) == (1, 128, 1, 8)
    assert graph.types["input"].zero_point == 128
    assert graph.types["classifier.quantize"].zero_point == 0


def test_metadata_describes_the_network_and_survives_json():
    config = NetworkConfig(base_width=4, groups=3, weight_bits=2, activation_bits=3)
    model = random_network(config, seed=2)
    graph = export(model, name="mine", top1=0.5)
    metadata = json.loads(json.dumps(graph.metadata))
    assert metadata["name"] == "mine"
    assert metadata["top1"] == 0.5
    assert (metadata["groups"], metadata["weight_bits"], metadata["activation_bits"]) == (3, 2, 3)
    layer = model.get_submodule("stage2.0.conv1")
    assert metadata["quantizers"]["stage2.0.conv1"] == {
        "activation_bits": 3,
        "activation_lower": layer.quantize.lower.item(),
        "activation_upper": layer.quantize.upper.item(),
        "weight_bits": 2,
        "weight_lower": layer.quantize_weight.lower.item(),
        "weight_upper": layer.quantize_weight.upper.item(),
        "output_scale": layer.output_scale.item(),
    }
    residuals = {name for name, kind in graph.types.items() if kind.kind is Kind.RESIDUAL}
    assert set(metadata["steps"]) == residuals - {"classifier.quantize.affine"}
    assert metadata["steps"]["stage2.0.add"] == model.streams[1].step


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_mode_as_it_was(training):
    model = random_network(NetworkConfig(base_width=2), seed=0).train(training)
    export(model)
    assert all(module.training == training for module in model.modules())


class Wrapper(nn.Module):
    """A small network around one piece under test."""

    def __init__(self, tail=None, forward=None, stream_bits=16):
        super().__init__()
        self.stream = ResidualStream(stream_bits)
        self.input = InputQuantizer((1, 6, 6), (0.0,), (1.0,), 0.01)
        self.conv = WideConvolution(1, 4, 3)
        self.affine = BatchNormAffine(4, self.stream)
        self.tail = tail if tail is not None else nn.Identity()
        self._forward = forward
        self.stream.peak.fill_(4.0)

    def forward(self, images):
        x = self.affine(self.conv(self.input(images)))
        return self._forward(self, x) if self._forward else self.tail(x)


class Outsider(nn.Module):
    """No layer of the package."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def initialised(layer, **state):
    layer.initialised.fill_(True)
    with torch.no_grad():
        for name, value in state.items():
            layer.get_parameter(name.replace("__", ".")).fill_(value)
    return layer


def parallel(**options):
    return ParallelConvolution(4, 4, 1, **options)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (Wrapper(nn.Sigmoid()), UnsupportedLayerError,
         r"^tail: Sigmoid is not supported \(supported: BatchNormAffine, "),
        (Wrapper(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))), UnsupportedLayerError,
         r"^tail\.1: Conv2d is not supported"),
        (Wrapper(nn.Sequential(nn.ReLU(), Outsider(torch.exp))), UnsupportedLayerError,
         "^tail.1: calls function 'exp', which is no layer of palquant.golden$"),
        (Wrapper(Outsider(lambda x: x.flatten(1))), UnsupportedLayerError,
         "^tail: calls method 'flatten'"),
        (Wrapper(forward=lambda self, x: x + x), UnsupportedLayerError,
         "^Wrapper: calls function 'add'"),
        (Wrapper(Outsider(lambda x: x if x.sum() > 0 else -x)), UnsupportedLayerError,
         "^Wrapper: cannot be traced: "),
        (Wrapper(forward=lambda self, x: (x, x)), UnsupportedLayerError,
         "^Wrapper: must return one tensor, that of its last layer$"),
        (Wrapper(WideConvolution(4, 4, 1)), UnsupportedLayerError,
         "^tail: WideConvolution takes integers, found real values$"),
        (Wrapper(nn.Sequential(parallel(), nn.ReLU())), ModelError,
         "^tail.0: was never initialised: train or calibrate the network first$"),
        (Wrapper(initialised(parallel(), quantize__upper=0)), ModelError,
         "^tail: a quantiser's range is empty$"),
        (Wrapper(initialised(parallel(), output_scale=float("nan"))), ModelError,
         "^tail.output_scale holds NaN or infinity$"),
        (Wrapper(nn.Sequential(initialised(parallel()), BatchNormAffine(4), nn.ReLU())),
         UnsupportedLayerError,
         r"^Wrapper: returns real values \(supported: integers, or residuals of a stream\)$"),
        (Wrapper(nn.Sequential(initialised(parallel()), BatchNormAffine(4),
                               channel_shuffle(4, 2))),
         UnsupportedLayerError, "^tail.2: needs residuals of one stream, but reads tail.0$"),
    ],
)  # fmt: skip
def test_refusals_name_the_module(model, error, message):
    with pytest.raises(error, match=message) as caught:
        export(model)
    assert "\n" not in str(caught.value)


def test_refuses_an_addition_across_streams():
    other = ResidualStream(16)
    other.peak.fill_(1.0)
    tail = nn.Module()
    tail.conv = initialised(parallel())
    tail.affine = BatchNormAffine(4, other)
    tail.add = ResidualAdd(other)
    model = Wrapper(tail, lambda self, x: self.tail.add(self.tail.affine(self.tail.conv(x)), x))
    with pytest.raises(UnsupportedLayerError, match=r"^tail\.add: needs residuals of one stream, "
                       r"but reads tail\.affine and affine$"):  # fmt: skip
        export(model)


def test_refuses_an_uncalibrated_stream_and_an_impossible_offset():
    model = Wrapper()
    model.stream.peak.fill_(0.0)
    with pytest.raises(ModelError, match=r"^affine: ResidualStream has no range \(peak 0\.0\)"):
        export(model)
    model.stream.peak.fill_(4.0)
    model.affine.bias.data[3] = 1e9
    with pytest.raises(RangeError, match=r"^affine: channel 3: .* no 32-bit requantization off"):
        export(model)


def test_a_module_used_twice_is_refused():
    permutation = ChannelPermutation(torch.tensor([1, 0, 3, 2]))
    model = Wrapper(permutation, lambda self, x: self.tail(self.tail(x)))
    with pytest.raises(UnsupportedLayerError, match=r"^tail: is called twice"):
        export(model)


def test_a_backbone_without_classifier_exports():
    model = Wrapper(nn.Sequential(initialised(parallel()), BatchNormAffine(4), nn.ReLU(),
                                  initialised(parallel(groups=2))))  # fmt: skip
    model.eval()
    graph = export(model)
    assert [node.name for node in graph][-3:] == ["tail.0", "tail.3.quantize", "tail.3"]
    images = np.random.default_rng(0).random((4, 1, 6, 6)).astype(np.float32)
    assert verify(model, graph, images) > 0


def test_calibration_of_a_trained_network_keeps_its_parameters():
    model = random_network(NetworkConfig(base_width=2), seed=4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calibrate(model, [torch.rand(4, 1, 8, 8) * 3], statistics=False)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(name.endswith("peak") for name in changed)
    assert not model.training
