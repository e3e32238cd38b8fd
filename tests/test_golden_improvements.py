"""Every improvement trains, is exported, and gives the network's own integers."""

import dataclasses

import numpy as np
import pytest
import torch

from palquant.golden.config import TrainConfig
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.data import load_digits_split
from palquant.golden.distill import load_network
from palquant.golden.improvements import build_network, improve, split_parameters
from palquant.golden.learned_thresholds import LearnedThresholdQuantizer
from palquant.golden.quantize import ActivationQuantizer, WeightQuantizer, scale_gradient
from palquant.golden.train import train
from palquant.golden.verify import verify
from palquant.sw.graph import Quantize
from palquant.sw.model import load_model

# With a large rate, so that what quantisers learn is not what they began with.
SHORT = TrainConfig(
    base_width=3, groups=2, epochs=2, batch_size=96, seed=5, quantizer_learning_rate=5e-3
)
IMPROVEMENTS = {
    "gradient_scaling": 0.1,
    "learned_thresholds": True,
    "per_channel": True,
}


def layers(model):
    return [m for m in model.modules() if isinstance(m, ParallelConvolution)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(SHORT, tmp_path_factory.mktemp("plain"), progress=False)


@pytest.mark.parametrize("name", [*IMPROVEMENTS, "all"])
def test_improvements_learn_and_are_exported_exactly(tmp_path, plain, name):
    changes = IMPROVEMENTS if name == "all" else {name: IMPROVEMENTS[name]}
    config = dataclasses.replace(SHORT, **changes)
    result = train(config, tmp_path, progress=False)
    images = load_digits_split().test_images[:40]
    assert verify(result.network, load_model(result.model), images) > 40 * 1000
    assert result.history != plain.history
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    network, loaded = load_network(result.checkpoint)
    assert loaded == config
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(),
                                                 result.network.state_dict().values(),
                                                 strict=True))  # fmt: skip
    first = layers(result.network)[0]
    if config.per_channel:
        for parameter in (first.quantize_weight.lower, first.output_scale):
            assert len(parameter.flatten().unique()) == len(first.weight)
        found = result.graph.metadata["quantizers"]["stage1.0.conv1"]
        assert found["output_scale"] == first.output_scale.tolist()
    if config.learned_thresholds:
        assert first.quantize.widths.std() > 0
        steps = [np.diff(node.thresholds, axis=1) for node in result.graph
                 if isinstance(node, Quantize)]  # fmt: skip
        assert max(abs(np.diff(own, axis=1)).max() for own in steps) > 10  # uniform: at most 1


def test_improvements_are_off_unless_wanted():
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    model = build_network(SHORT)
    assert torch.equal(torch.random.get_rng_state(), state)
    for layer in layers(model):
        assert type(layer.quantize) is ActivationQuantizer
        assert type(layer.quantize_weight) is WeightQuantizer
        assert layer.output_scale.shape == layer.quantize_weight.lower.shape == ()
        assert layer.quantize.gradient_scaling == layer.quantize_weight.gradient_scaling == 0


def test_improvements_do_not_change_the_weights():
    plain = build_network(SHORT)
    improved = build_network(dataclasses.replace(SHORT, **IMPROVEMENTS))
    weights = dict(improved.named_parameters())
    for name, parameter in plain.named_parameters():
        if not name.endswith((".lower", ".upper", ".output_scale")):
            assert torch.equal(parameter, weights[name])
    for layer in layers(improved):
        assert type(layer.quantize) is LearnedThresholdQuantizer
        assert layer.quantize.gradient_scaling == layer.quantize_weight.gradient_scaling == 0.1


def test_quantiser_parameters_go_to_adam():
    model = build_network(dataclasses.replace(SHORT, **IMPROVEMENTS))
    weights, quantizers = split_parameters(model)
    names = {id(p): name for name, p in model.named_parameters()}
    ends = (".lower", ".upper", ".output_scale", ".widths")
    assert all(names[id(p)].endswith(ends) for p in quantizers)
    assert not any(names[id(p)].endswith(ends) for p in weights)
    assert len(weights) + len(quantizers) == len(names)
    assert len(quantizers) == 6 * len(layers(model))


def test_gradient_scaling_is_the_published_formula():
    gradient = torch.tensor([1.0, -2.0, 0.0, 0.5])
    unit = torch.tensor([0.4, 0.4, 0.9, 1.0])  # levels 0, 1/3, 2/3, 1
    error = unit - torch.tensor([1 / 3, 1 / 3, 1, 1])
    expected = gradient * (1 + 0.2 * gradient.sign() * error)
    torch.testing.assert_close(scale_gradient(gradient, unit, 3, 0.2), expected)


@pytest.mark.parametrize("per_channel", [False, True])
def test_ranges_get_the_gradient_of_autograd(per_channel):
    torch.manual_seed(1)
    layer = ParallelConvolution(4, 6, 3, groups=2).double()
    improve(layer, per_channel=per_channel)
    quantizer = layer.double().quantize_weight
    quantizer.initialise(layer.weight / 3)
    factor = torch.rand_like(layer.weight)
    (quantizer.quantize(layer.weight) * factor).sum().backward()
    found = [layer.weight.grad, quantizer.lower.grad, quantizer.upper.grad]
    parameters = [v.detach().clone().requires_grad_()
                  for v in (layer.weight, quantizer.lower, quantizer.upper)]  # fmt: skip
    weight, lower, upper = parameters
    unit = ((weight - lower) / (upper - lower)).clamp(0, 1) * quantizer.steps
    (unit * factor).sum().backward()
    assert ((unit == 0) | (unit == quantizer.steps)).any()
    for expected, gradient in zip(parameters, found, strict=True):
        torch.testing.assert_close(gradient, expected.grad)


def test_channels_without_a_deviation_get_a_range():
    quantizer = WeightQuantizer(2, channels=3)
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[1] = 0.25
    quantizer.initialise(weight)
    assert (quantizer.upper > 0).all()
    assert torch.equal(quantizer.lower, -quantizer.upper)
    torch.testing.assert_close(quantizer.upper[0, 0, 0, 0], 3 * weight[0].std())
