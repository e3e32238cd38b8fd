"""Changes of the method that a training can ask for; none of them needs other hardware.

Each changes how a low-precision convolution finds its codes or its scales, not what it computes
with them, so that every one is exported by the same code to the same kinds of nodes.
"""

from __future__ import annotations

import torch
from torch import nn

from palquant.golden.config import TrainConfig
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.learned_thresholds import LearnedThresholdQuantizer
from palquant.golden.models import ResidualNetwork
from palquant.golden.quantize import RangeQuantizer, WeightQuantizer


def build_network(config: TrainConfig) -> ResidualNetwork:
    """The untrained network of a training, improvements included.

    Its weights depend on the seed alone, not on the global random state, which stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ResidualNetwork(config.network)
    improve(
        model,
        learned_thresholds=config.learned_thresholds,
        per_channel=config.per_channel,
        gradient_scaling=config.gradient_scaling,
    )
    return model


def improve(
    model: nn.Module,
    *,
    learned_thresholds: bool = False,
    per_channel: bool = False,
    gradient_scaling: float = 0.0,
) -> None:
    """Change all low-precision convolutions of an untrained network.

    Parameters:
        model: Network of this package's layers.
        learned_thresholds: Whether activation quantisers learn where each of their steps lies.
        per_channel: Whether each output channel has its own weight range and output scale.
        gradient_scaling: Factor of element-wise gradient scaling in the quantisers; 0 is the
            plain straight-through estimator.
    """
    for layer in [m for m in model.modules() if isinstance(m, ParallelConvolution)]:
        if learned_thresholds:
            layer.quantize = LearnedThresholdQuantizer(layer.quantize.bits)
        if per_channel:
            channels = len(layer.weight)
            layer.quantize_weight = WeightQuantizer(layer.quantize_weight.bits, channels)
            layer.output_scale = nn.Parameter(torch.ones(channels))
    for quantizer in [m for m in model.modules() if isinstance(m, RangeQuantizer)]:
        quantizer.gradient_scaling = gradient_scaling


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of weights and normalisation, for SGD; and those of quantisers, for Adam."""
    quantizers: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, RangeQuantizer):
            quantizers |= {id(p): p for p in module.parameters(recurse=False)}
        elif isinstance(module, ParallelConvolution):
            quantizers[id(module.output_scale)] = module.output_scale
    weights = [p for p in model.parameters() if id(p) not in quantizers]
    return weights, list(quantizers.values())
