"""Residual networks of parallel low-precision groups, described by one configuration.

Structure (PalQuant, released code): stem, stages of basic blocks whose every width is multiplied
by the number of groups, a cyclic shuffle before each stage but the first, average pooling and a
classifier. Stem and classifier have 8-bit activations and two's-complement weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from palquant.golden.config import NetworkConfig
from palquant.golden.convolution import ParallelConvolution, WideConvolution
from palquant.golden.fixed_point import PeakObserver, ResidualStream
from palquant.golden.layers import (
    BatchNormAffine,
    ChannelPermutation,
    CodeQuantizer,
    CyclicShuffle,
    Logits,
    MaxPool,
    ResidualAdd,
    SumPool,
    channel_shuffle,
)
from palquant.golden.quantize import InputQuantizer


class Stem(nn.Module):
    """8-bit convolution, batch normalisation, ReLU and, for large images, max-pooling."""

    def __init__(self, config: NetworkConfig, stream: ResidualStream) -> None:
        super().__init__()
        width = config.widths[0]
        self.conv = WideConvolution(
            config.image[0], width, config.stem_kernel,
            stride=config.stem_stride, padding=config.stem_kernel // 2,
            weight_bits=config.stem_bits,
        )  # fmt: skip
        self.affine = BatchNormAffine(width, stream)
        self.relu = nn.ReLU()
        self.pool = MaxPool(3, 2, 1) if config.stem_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Input values (N, C, H, W) to the residual (N, W * G, H', W')."""
        y: Tensor = self.pool(self.relu(self.affine(self.conv(x))))
        return y


class Downsample(nn.Module):
    """Identity path of a block that changes the shape: quantised 1x1 convolution."""

    def __init__(
        self, config: NetworkConfig, inputs: int, outputs: int, stride: int, stream: ResidualStream
    ) -> None:
        super().__init__()
        self.conv = ParallelConvolution(
            inputs, outputs, 1, stride=stride, groups=config.groups,
            weight_bits=config.weight_bits, activation_bits=config.activation_bits,
        )  # fmt: skip
        self.affine = BatchNormAffine(outputs, stream)

    def forward(self, x: Tensor) -> Tensor:
        """Residual of one stage to residual of the next."""
        y: Tensor = self.affine(self.conv(x))
        return y


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity path, groups side by side.

    In a block that changes the shape, the groups' channels are shuffled before the addition.
    """

    def __init__(
        self, config: NetworkConfig, inputs: int, outputs: int, stride: int, stream: ResidualStream
    ) -> None:
        super().__init__()

        def convolution(inputs: int, stride: int) -> ParallelConvolution:
            return ParallelConvolution(
                inputs, outputs, 3, stride=stride, padding=1, groups=config.groups,
                weight_bits=config.weight_bits, activation_bits=config.activation_bits,
            )  # fmt: skip

        resized = stride != 1 or inputs != outputs
        self.conv1 = convolution(inputs, stride)
        self.affine1 = BatchNormAffine(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = convolution(outputs, 1)
        self.affine2 = BatchNormAffine(outputs, stream)
        self.shuffle: ChannelPermutation | nn.Identity = nn.Identity()
        self.downsample: Downsample | nn.Identity = nn.Identity()
        if resized:
            self.downsample = Downsample(config, inputs, outputs, stride, stream)
            if config.groups > 1:
                self.shuffle = channel_shuffle(outputs, config.groups)
        self.add = ResidualAdd(stream)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Residual (N, G * C, H, W) to residual (N, G * C', H', W')."""
        y = self.relu1(self.affine1(self.conv1(x)))
        y = self.shuffle(self.affine2(self.conv2(y)))
        z: Tensor = self.relu2(self.add(y, self.downsample(x)))
        return z


class Classifier(nn.Module):
    """8-bit fully connected layer, as a 1x1 convolution of the pooled sums."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.quantize = CodeQuantizer(config.widths[-1], max(9, config.residual_bits))
        self.conv = WideConvolution(
            config.widths[-1], config.classes, 1, weight_bits=config.classifier_bits
        )
        self.logits = Logits(config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pool sums (N, C, 1, 1) to logits (N, classes)."""
        y: Tensor = self.logits(self.conv(self.quantize(x)))
        return y


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
        inputs = config.widths[0]
        for i, (count, width, stream) in enumerate(
            zip(config.blocks, config.widths, streams, strict=True)
        ):
            if i and config.shuffle and config.groups > 1:
                shuffle = CyclicShuffle(
                    inputs, streams[i - 1], groups=config.groups,
                    weight_bits=config.weight_bits, activation_bits=config.activation_bits,
                )  # fmt: skip
                self._append(f"shuffle{i + 1}", shuffle)
            blocks = []
            for block in range(count):
                stride = 2 if i and not block else 1
                blocks.append(BasicBlock(config, inputs, width, stride, stream))
                inputs = width
            self._append(f"stage{i + 1}", nn.Sequential(*blocks))
        self.pool = SumPool(config.final_size, streams[-1])
        self.classifier = Classifier(config)

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


def resnet18(groups: int = 2, **changes: object) -> NetworkConfig:
    """Configuration of PalQuant's ResNet-18 at 224x224, with fields changed as given."""
    config = NetworkConfig(
        base_width=64,
        groups=groups,
        blocks=(2, 2, 2, 2),
        classes=1000,
        image=(3, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


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
