"""Random networks are reproducible and do reach the corners that they are for."""

import numpy as np
import torch

from palquant.golden.config import NetworkConfig
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.export import export
from palquant.golden.layers import BatchNormAffine
from palquant.golden.random_network import random_network
from palquant.golden.reference import run
from palquant.sw.graph import Kind, Quantize

CONFIG = NetworkConfig(base_width=4, groups=2)


def states(seed):
    return random_network(CONFIG, seed).state_dict()


def test_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first, untouched = states(3), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), untouched)  # the global generator is left alone
    again, other = states(3), states(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_reaches_its_corners():
    zero = negative = reversed_ranges = negative_scale = negated = saturated = 0
    for seed in range(4):
        model = random_network(CONFIG, seed)
        assert not model.training
        for module in model.modules():
            if isinstance(module, BatchNormAffine):
                zero += int((module.weight == 0).sum())
                negative += int((module.weight < 0).sum())
            elif isinstance(module, ParallelConvolution):
                reversed_ranges += int(module.quantize.upper < module.quantize.lower)
                negative_scale += int(module.output_scale < 0)
        graph = export(model)
        negated += sum(int(node.negate.sum()) for node in graph if isinstance(node, Quantize))
        codes = np.random.default_rng(seed).integers(0, 256, (8, 1, 8, 8)).astype(np.uint8)
        for name, values in run(graph, codes).items():
            kind = graph.types[name]
            if kind.kind is Kind.RESIDUAL:
                saturated += int(((values == kind.min) | (values == kind.max)).sum())
    assert min(zero, negative, reversed_ranges, negative_scale, negated, saturated) > 0
