"""Networks without training: of realistic statistics for benchmarks, and of wild ones for tests.

The wild ones reach every corner that trained networks reach seldom: batch normalisations of
negative, zero and steep gain, quantiser ranges that run downward, residual streams that saturate.
Whatever must be exact on these is exact on a trained network.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from palquant.golden.config import NetworkConfig
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.export import export
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.layers import BatchNormAffine, Logits
from palquant.golden.models import ResidualNetwork, calibrate
from palquant.sw.graph import Graph


def calibrated_network(config: NetworkConfig, seed: int, images: Tensor) -> ResidualNetwork:
    """A network of random weights with the statistics of a trained one, in eval mode.

    Weights are drawn as for training, batch normalisations have gains and offsets like those of
    trained networks, and quantiser ranges and running statistics come from ``images``, so that
    codes are spread over their range.

    Parameters:
        config: The network.
        seed: Chooses all parameters.
        images: What to calibrate with, shape (N, C, H, W), float32 or uint8.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResidualNetwork(config)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, BatchNormAffine):
                    module.weight.normal_(1.0, 0.2)
                    module.bias.normal_(0.0, 0.2)
        calibrate(model, [images])
    return model


def calibrated_graph(
    config: NetworkConfig, seed: int, images: npt.NDArray[Any], **metadata: Any
) -> Graph:
    """:func:`calibrated_network` as an integer graph.

    Parameters:
        config: The network.
        seed: Chooses all parameters.
        images: What to calibrate with, shape (N, C, H, W), float32 or uint8.
        metadata: What the graph is to say of itself.
    """
    return export(calibrated_network(config, seed, torch.from_numpy(images)), **metadata)


def random_network(config: NetworkConfig, seed: int, *, batch: int = 16) -> ResidualNetwork:
    """A calibrated network with random parameters, in eval mode.

    Parameters:
        config: The network.
        seed: Chooses all parameters.
        batch: Number of random images to calibrate with.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResidualNetwork(config)
        images = torch.rand(batch, *config.image)
        calibrate(model, [images])
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, BatchNormAffine):
                    _disturb_statistics(module)
                elif isinstance(module, ParallelConvolution):
                    _disturb_ranges(module)
                elif isinstance(module, Logits):
                    module.bias.normal_(std=0.3)
        calibrate(model, [images], statistics=False)
        for stream in model.streams.modules():
            if isinstance(stream, ResidualStream):
                stream.peak.mul_(_log_uniform(1, 0.1, 1.0)[0])
    return model


def _disturb_statistics(module: BatchNormAffine) -> None:
    """Random gains and offsets; one channel in eight constant, one in sixteen steep."""
    channels = len(module.weight)
    module.weight.copy_(torch.randn(channels) + torch.randint(-1, 2, (channels,)))
    module.weight[torch.rand(channels) < 1 / 8] = 0
    module.bias.normal_(std=0.7)
    deviation = module.running_var.sqrt()
    module.running_mean.add_(torch.randn(channels) * deviation / 2)
    module.running_var.mul_(_log_uniform(channels, 0.3, 3.0))
    module.running_var[torch.rand(channels) < 1 / 16] /= 400


def _disturb_ranges(module: ParallelConvolution) -> None:
    """Other ranges and output scales than the calibrated ones, one in four of them reversed."""
    quantize, weights = module.quantize, module.quantize_weight
    width = float(quantize.upper - quantize.lower) / 2
    quantize.lower.add_(torch.randn(()) * 0.1 * width)
    quantize.upper.sub_(width * torch.rand(()) * 1.4)
    for each in (quantize, weights):
        if torch.rand(()) < 0.25:
            lower = each.lower.clone()
            each.lower.copy_(each.upper)
            each.upper.copy_(lower)
    if torch.rand(()) < 0.25:
        module.output_scale.neg_()


def _log_uniform(count: int, low: float, high: float) -> Tensor:
    return low * (high / low) ** torch.rand(count)
