"""Networks between a stem and a classifier of the host: features in, averages out."""

import numpy as np
import pytest
import torch

from palquant.golden.export import export
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.hosted import HostedNetwork, ResidualInput
from palquant.golden.models import calibrate, resnet18, resnet50
from palquant.golden.reference import run
from palquant.golden.verify import verify
from palquant.sw.normalize import to_codes


def network(make=resnet18, residual_bits=16):
    torch.manual_seed(1)
    config = make(2, base_width=4, image=(3, 64, 64), classes=10, residual_bits=residual_bits)
    return HostedNetwork(config, (8, 16, 16))


@pytest.mark.parametrize("make", [resnet18, resnet50])
@pytest.mark.parametrize("residual_bits", [8, 16])
def test_every_integer_of_the_export_is_the_networks(make, residual_bits):
    model = network(make, residual_bits)
    features = torch.rand(4, 8, 16, 16) * 3
    calibrate(model, [features])
    graph = export(model)
    assert (graph.input.name, graph.output.name) == ("features", "result")
    assert verify(model, graph, features.numpy()) > 0
    # 1.5 times the calibrated range: the input saturates, and both sides know
    verify(model, graph, (features * 1.5).numpy())


def test_the_result_is_the_average_of_the_last_stage():
    model = network()
    features = torch.rand(2, 8, 16, 16)
    calibrate(model, [features])
    seen = []
    model.pool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    found = model(features).detach()
    assert torch.equal(found, seen[0].mean((2, 3)))
    graph = export(model)
    raw = run(graph, to_codes(features.numpy(), graph.input))["result"][:, :, 0, 0]
    assert np.array_equal(raw * graph.output.scale, found.numpy())


def test_the_stream_is_ranged_by_the_features_too():
    stream = ResidualStream(16)
    layer = ResidualInput((1, 1, 2), stream)
    layer(torch.tensor([3.0, -5.0]).reshape(1, 1, 1, 2))
    assert float(stream.peak) == 5.0
    layer.eval()
    stream.eval()
    found = layer(torch.tensor([1.4999 * stream.step, 100.0]).reshape(1, 1, 1, 2))
    assert found.dtype == torch.float64
    assert (found / stream.step).ravel().tolist() == [1, 32767]


def test_trains():
    model = network()
    loss = model(torch.rand(2, 8, 16, 16)).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.dim() == 4)
