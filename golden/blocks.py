"""The parts of a network: stem, blocks of groups side by side, classifier.

Every width that a block is given counts all groups. A block that changes the shape shuffles the
groups' channels on its residual branch before the addition (PalQuant, released code).
"""

from __future__ import annotations

from torch import Tensor, nn

from palquant.golden.config import NetworkConfig
from palquant.golden.convolution import ParallelConvolution, WideConvolution
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.layers import (
    BatchNormAffine,
    ChannelPermutation,
    ChannelRepeat,
    CodeQuantizer,
    Logits,
    MaxPool,
    ResidualAdd,
    channel_shuffle,
)


def _convolution(
    config: NetworkConfig, inputs: int, outputs: int, kernel: int, stride: int = 1
) -> ParallelConvolution:
    """Quantised convolution with padding that keeps the size at stride 1."""
    return ParallelConvolution(
        inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=config.groups,
        weight_bits=config.weight_bits, activation_bits=config.activation_bits,
    )  # fmt: skip


class Stem(nn.Module):
    """8-bit convolution, batch normalisation, ReLU and, for large images, max-pooling.

    Groups have channels of their own, or all read the same.
    """

    def __init__(self, config: NetworkConfig, stream: ResidualStream) -> None:
        super().__init__()
        width = config.stem_width
        self.conv = WideConvolution(
            config.image[0], width, config.stem_kernel,
            stride=config.stem_stride, padding=config.stem_kernel // 2,
            weight_bits=config.stem_bits,
        )  # fmt: skip
        self.affine = BatchNormAffine(width, stream)
        self.relu = nn.ReLU()
        self.pool = MaxPool(3, 2, 1) if config.stem_pool else nn.Identity()
        shared = config.shared_stem and config.groups > 1
        self.repeat = ChannelRepeat(config.groups) if shared else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Input values (N, C, H, W) to the residual (N, W * G, H', W')."""
        y: Tensor = self.repeat(self.pool(self.relu(self.affine(self.conv(x)))))
        return y


class Downsample(nn.Module):
    """Identity path of a block that changes the shape: quantised 1x1 convolution."""

    def __init__(
        self, config: NetworkConfig, inputs: int, outputs: int, stride: int, stream: ResidualStream
    ) -> None:
        super().__init__()
        self.conv = _convolution(config, inputs, outputs, 1, stride)
        self.affine = BatchNormAffine(outputs, stream)

    def forward(self, x: Tensor) -> Tensor:
        """Residual of one stage to residual of the next."""
        y: Tensor = self.affine(self.conv(x))
        return y


class _ResidualBlock(nn.Module):
    """What residual blocks share: identity path, channel shuffle, addition."""

    shuffle: ChannelPermutation | nn.Identity
    downsample: Downsample | nn.Identity

    def _join(
        self, config: NetworkConfig, inputs: int, outputs: int, stride: int, stream: ResidualStream
    ) -> None:
        """Make the identity path, and what brings both paths together."""
        self.shuffle = nn.Identity()
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = Downsample(config, inputs, outputs, stride, stream)
            if config.groups > 1 and config.channel_shuffle:
                self.shuffle = channel_shuffle(outputs, config.groups)
        self.add = ResidualAdd(stream)
        self.relu = nn.ReLU()

    def _merge(self, branch: Tensor, x: Tensor) -> Tensor:
        """Sum of the residual branch, up to its last batch normalisation, and the identity path."""
        z: Tensor = self.relu(self.add(self.shuffle(branch), self.downsample(x)))
        return z


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions and an identity path (ResNet-18, ResNet-34)."""

    def __init__(
        self, config: NetworkConfig, inputs: int, outputs: int, stride: int, stream: ResidualStream
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(config, inputs, outputs, 3, stride)
        self.affine1 = BatchNormAffine(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = _convolution(config, outputs, outputs, 3)
        self.affine2 = BatchNormAffine(outputs, stream)
        self._join(config, inputs, outputs, stride, stream)

    def forward(self, x: Tensor) -> Tensor:
        """Residual (N, G * C, H, W) to residual (N, G * C', H', W')."""
        y = self.relu1(self.affine1(self.conv1(x)))
        return self._merge(self.affine2(self.conv2(y)), x)


class Bottleneck(_ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions and an identity path (ResNet-50).

    The convolutions inside have a quarter of the channels; the stride is the 3x3 convolution's.
    """

    def __init__(
        self, config: NetworkConfig, inputs: int, outputs: int, stride: int, stream: ResidualStream
    ) -> None:
        super().__init__()
        inner = outputs // config.expansion
        self.conv1 = _convolution(config, inputs, inner, 1)
        self.affine1 = BatchNormAffine(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = _convolution(config, inner, inner, 3, stride)
        self.affine2 = BatchNormAffine(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = _convolution(config, inner, outputs, 1)
        self.affine3 = BatchNormAffine(outputs, stream)
        self._join(config, inputs, outputs, stride, stream)

    def forward(self, x: Tensor) -> Tensor:
        """Residual (N, G * C, H, W) to residual (N, G * C', H', W')."""
        y = self.relu1(self.affine1(self.conv1(x)))
        y = self.relu2(self.affine2(self.conv2(y)))
        return self._merge(self.affine3(self.conv3(y)), x)


class PlainBlock(nn.Module):
    """One 3x3 convolution with batch normalisation and ReLU (VGG).

    Parameters:
        config: The network.
        inputs: Input channels.
        outputs: Output channels.
        stream: Residual stream that it writes to; None if only a convolution reads the result.
    """

    def __init__(
        self, config: NetworkConfig, inputs: int, outputs: int, stream: ResidualStream | None
    ) -> None:
        super().__init__()
        self.conv = _convolution(config, inputs, outputs, 3)
        self.affine = BatchNormAffine(outputs, stream)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Real values (N, G * C, H, W) to real values (N, G * C', H, W)."""
        y: Tensor = self.relu(self.affine(self.conv(x)))
        return y


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
