"""Networks of parallel low-precision groups, described by one configuration.

Structure (PalQuant, released code): stem, stages of blocks whose every width is multiplied by the
number of groups, a cyclic shuffle before each stage but the first, average pooling and a
classifier. Stem and classifier have 8-bit activations and two's-complement weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from palquant.golden.blocks import BasicBlock, Bottleneck, Classifier, PlainBlock, Stem
from palquant.golden.config import NetworkConfig
from palquant.golden.fixed_point import PeakObserver, ResidualStream
from palquant.golden.layers import BatchNormAffine, CyclicShuffle, MaxPool, SumPool
from palquant.golden.quantize import InputQuantizer


class ResidualNetwork(nn.Module):
    """The network of a :class:`NetworkConfig`.

    Stages are ``stage1``, ``stage2``, ...; ``shuffle2`` stands before ``stage2``, as in the
    released code.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleList(ResidualStream(config.residual_bits) for _ in config.blocks)
        streams = [s for s in self.streams if isinstance(s, ResidualStream)]
        self.input = InputQuantizer(config.image, config.mean, config.std, config.input_scale)
        self.stem = Stem(config, streams[0])
        self.body: list[str] = []
        inputs = config.base_width * config.groups
        for i, (width, stream) in enumerate(zip(config.widths, streams, strict=True)):
            if i and config.block == "plain":
                self._append(f"pool{i + 1}", MaxPool(2, 2))
            if i and config.shuffle and config.groups > 1:
                shuffle = CyclicShuffle(
                    inputs, streams[i - 1], groups=config.groups,
                    weight_bits=config.weight_bits, activation_bits=config.activation_bits,
                )  # fmt: skip
                self._append(f"shuffle{i + 1}", shuffle)
            self._append(f"stage{i + 1}", self._stage(i, inputs, width, stream))
            inputs = width
        self.pool = SumPool(config.final_size, streams[-1])
        self.classifier = Classifier(config)

    def _stage(self, index: int, inputs: int, width: int, stream: ResidualStream) -> nn.Sequential:
        """The blocks of a stage; the first one changes the shape."""
        config = self.config
        blocks: list[nn.Module] = []
        count = config.blocks[index]
        for block in range(count):
            if config.block == "plain":
                blocks.append(
                    PlainBlock(config, inputs, width, stream if block == count - 1 else None)
                )
            else:
                kind = BasicBlock if config.block == "basic" else Bottleneck
                stride = 2 if index and not block else 1
                blocks.append(kind(config, inputs, width, stride, stream))
            inputs = width
        return nn.Sequential(*blocks)

    def _append(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.body.append(name)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), float32 or uint8."""
        x = self.stem(self.input(images))
        for name in self.body:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.classifier(self.pool(x))
        return logits


def _imagenet(groups: int, changes: dict[str, object], **structure: object) -> NetworkConfig:
    config = NetworkConfig(
        base_width=64,
        groups=groups,
        classes=1000,
        image=(3, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    return dataclasses.replace(config, **structure | changes)  # type: ignore[arg-type]


_RESNET_STEM = {"stem_kernel": 7, "stem_stride": 2, "stem_pool": True}


def resnet18(groups: int = 2, **changes: object) -> NetworkConfig:
    """PalQuant's ResNet-18 at 224x224, with fields changed as given."""
    return _imagenet(groups, changes, blocks=(2, 2, 2, 2), **_RESNET_STEM)


def resnet34(groups: int = 2, **changes: object) -> NetworkConfig:
    """PalQuant's ResNet-34 at 224x224, with fields changed as given."""
    return _imagenet(groups, changes, blocks=(3, 4, 6, 3), **_RESNET_STEM)


def resnet50(groups: int = 2, **changes: object) -> NetworkConfig:
    """ResNet-50 at 224x224, every width times the groups, with fields changed as given."""
    return _imagenet(groups, changes, block="bottleneck", blocks=(3, 4, 6, 3), **_RESNET_STEM)


def vgg16(groups: int = 2, **changes: object) -> NetworkConfig:
    """The 13 convolutions of VGG-16 at 224x224, the first one as the stem, and one classifier.

    With batch normalisation, average pooling before the classifier, and cyclic shuffles between
    the stages. Fields are changed as given.
    """
    return _imagenet(groups, changes, block="plain", blocks=(1, 2, 3, 3, 3))


#: Networks at ImageNet size, by name.
ARCHITECTURES = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg16": vgg16,
}


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Tensor], *, statistics: bool = True) -> None:
    """Set what a network learns from data besides gradients; leaves it in eval mode.

    Parameters:
        model: Network of this package's layers.
        batches: Images (N, C, H, W); each batch is passed once.
        statistics: Whether quantiser ranges that were never initialised and the batch
            normalisations' statistics are set as well (a fresh network: the last batch counts),
            or only the ranges of residual streams and 8-bit codes (a trained, imported one).
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNormAffine)]
    observers = [m for m in model.modules() if isinstance(m, PeakObserver)]
    momenta = [norm.momentum for norm in norms]
    model.train(statistics)
    try:
        for norm in norms:
            norm.momentum = 1.0
        for observer in observers:
            observer.observing = True
        for images in batches:
            model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for observer in observers:
            observer.observing = False
        model.eval()
