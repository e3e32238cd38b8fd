"""The integer network of a released one: the same parameters in this package's own layers.

Nothing is retrained. What the released network does not have, the ranges of the fixed-point
residual streams and of the classifier's 8-bit input, comes from calibration images.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from palquant.golden.blocks import BasicBlock, Bottleneck
from palquant.golden.config import NetworkConfig
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.fixed_point import PeakObserver
from palquant.golden.hosted import HostedNetwork
from palquant.golden.layers import BatchNormAffine, CyclicShuffle
from palquant.golden.models import ARCHITECTURES, ResidualNetwork, calibrate
from palquant.golden.released_network import (
    POOL,
    QuantizedConv2d,
    ReleasedBlock,
    ReleasedResNet,
    ReleasedShuffle,
)
from palquant.sw.graph import HostClassifier, HostEnds, HostStem, Shape

#: How often calibration images pass at most; the second time rarely changes anything.
_PASSES = 4


def network_config(
    released: ReleasedResNet, size: int, mean: tuple[float, ...], std: tuple[float, ...],
    residual_bits: int,
) -> NetworkConfig:  # fmt: skip
    """The configuration of the integer network.

    Parameters:
        released: The network.
        size: Height and width of an image.
        mean: Mean of a pixel per channel, for pixels of 0 to 1.
        std: Standard deviation of a pixel per channel.
        residual_bits: Width of the residual stream.
    """
    structure = released.structure
    return ARCHITECTURES[structure.architecture](
        structure.groups,
        base_width=structure.base_width,
        weight_bits=structure.weight_bits,
        activation_bits=structure.activation_bits,
        residual_bits=residual_bits,
        classes=structure.classes,
        image=(structure.channels, size, size),
        mean=mean,
        std=std,
    )


@torch.no_grad()
def convert(released: ReleasedResNet, config: NetworkConfig, stem: str) -> ResidualNetwork:
    """The integer network with the released parameters, not yet calibrated, in eval mode.

    Parameters:
        released: The network.
        config: From :func:`network_config`.
        stem: One of :data:`released_options.STEMS`; "host" gives a network of the stem's features.
    """
    network = ResidualNetwork(config)
    if stem == "host":
        shape = host_ends(released, config).stem.shape
        network = HostedNetwork(config, dataclasses.astuple(shape))
    else:
        network.stem.conv.weight.copy_(released.conv1.weight)
        _copy_norm(released.bn1, network.stem.affine)
        network.classifier.conv.weight.copy_(released.fc.weight[:, :, None, None])
        network.classifier.logits.bias.copy_(released.fc.bias)
    for name in released.body:
        theirs = released.get_submodule(name)
        ours = network.get_submodule(name.replace("layer", "stage"))
        if isinstance(theirs, ReleasedShuffle):
            assert isinstance(ours, CyclicShuffle)
            _copy_pair(theirs.conv1, ours.conv, ours.affine)
        else:
            for mine, block in zip(ours.children(), theirs.children(), strict=True):
                _copy_block(block, mine)
    return network.eval()


def calibrate_converted(network: ResidualNetwork, batches: list[Tensor]) -> None:
    """Set the ranges of residual streams and 8-bit codes; every value seen counts alike.

    While a stage's range still grows, what its first layers made was rounded to finer steps than in
    the end; so the images pass again until no range changes.

    Parameters:
        network: From :func:`convert`.
        batches: Images, or the stem's features of images for a network of these.
    """
    observers = [module for module in network.modules() if isinstance(module, PeakObserver)]
    for observer in observers:
        observer.decay = 1.0  # training forgets old peaks; here all of them are meant
    for _ in range(_PASSES):
        before = [float(observer.peak) for observer in observers]
        calibrate(network, batches, statistics=False)
        if before == [float(observer.peak) for observer in observers]:
            break


def host_ends(released: ReleasedResNet, config: NetworkConfig) -> HostEnds:
    """Stem and classifier for the host to compute, with the released parameters as they are."""
    norm = released.bn1
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    gain = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    offset = norm.bias.double() - mean.double() * gain
    stem = HostStem(
        image=Shape(*config.image),
        mean=config.mean,
        std=config.std,
        weight=released.conv1.weight.detach().numpy().copy(),
        stride=config.stem_stride,
        padding=config.stem_kernel // 2,
        gain=gain.detach().numpy(),
        offset=offset.detach().numpy(),
        pool=POOL,
    )
    weight, bias = (
        value.detach().numpy().copy() for value in (released.fc.weight, released.fc.bias)
    )
    return HostEnds(stem=stem, classifier=HostClassifier(weight=weight, bias=bias))


def _copy_block(theirs: nn.Module, ours: nn.Module) -> None:
    """The parameters of one residual block."""
    assert isinstance(theirs, ReleasedBlock)
    assert isinstance(ours, BasicBlock | Bottleneck)
    for index in range(1, theirs.depth + 1):
        _copy_convolution(theirs.get_submodule(f"conv{index}"), ours.get_submodule(f"conv{index}"))
        _copy_norm(theirs.get_submodule(f"bn{index}"), ours.get_submodule(f"affine{index}"))
    if isinstance(theirs.downsample, nn.Sequential):
        conv, affine = (ours.downsample.get_submodule(name) for name in ("conv", "affine"))
        _copy_pair(theirs.downsample, conv, affine)


def _copy_pair(theirs: nn.Sequential, conv: nn.Module, affine: nn.Module) -> None:
    """A convolution and the batch normalisation behind it."""
    _copy_convolution(theirs[0], conv)
    _copy_norm(theirs[1], affine)


def _copy_convolution(theirs: nn.Module, ours: nn.Module) -> None:
    assert isinstance(theirs, QuantizedConv2d)
    assert isinstance(ours, ParallelConvolution)
    ours.weight.copy_(theirs.weight)
    ours.quantize.lower.copy_(theirs.lA)
    ours.quantize.upper.copy_(theirs.uA)
    ours.quantize_weight.lower.copy_(theirs.lW)
    ours.quantize_weight.upper.copy_(theirs.uW)
    ours.output_scale.copy_(theirs.output_scale)
    ours.initialised.fill_(True)


def _copy_norm(theirs: nn.Module, ours: nn.Module) -> None:
    assert isinstance(theirs, nn.BatchNorm2d)
    assert isinstance(ours, BatchNormAffine)
    assert theirs.running_mean is not None
    assert theirs.running_var is not None
    ours.eps = theirs.eps
    ours.weight.copy_(theirs.weight)
    ours.bias.copy_(theirs.bias)
    ours.running_mean.copy_(theirs.running_mean)
    ours.running_var.copy_(theirs.running_var)
