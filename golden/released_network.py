"""PalQuant's released ResNets in float32: the definition that an imported network is held against.

Names of modules and parameters are those of the released checkpoints, so that a state dictionary
fits entry by entry. ResNet-18 and -34 are the released structure; a bottleneck block was never
released in a form that can be built, so ResNet-50 is torchvision's with every width times G once,
and the same modules (``conv3``, ``bn3``).

Source: Hu et al., "PalQuant", ECCV 2022, and its released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palquant.golden.layers import channel_shuffle, group_rotation
from palquant.golden.quantize import straight_through
from palquant.golden.released_options import STRUCTURES

#: Kernel, stride and padding of the stem's max-pool.
POOL = (3, 2, 1)


@dataclass(frozen=True)
class Structure:
    """What distinguishes one released network from another.

    Parameters:
        architecture: Name in :data:`released_options.STRUCTURES`.
        groups: Parallel groups G.
        base_width: Channels of the stem in each group; 64 in released files.
        classes: Number of classes.
        channels: Channels of an image.
        weight_bits: Width of the weights between stem and classifier.
        activation_bits: Width of the activations between stem and classifier.
    """

    architecture: str
    groups: int
    base_width: int = 64
    classes: int = 1000
    channels: int = 3
    weight_bits: int = 2
    activation_bits: int = 2


class QuantizedConv2d(nn.Conv2d):
    """Grouped convolution with the published quantisers: ``|s| * sum(q / 3 * (2q / 3 - 1))``.

    All in float32, in this order. In training mode the first batch sets ranges and scale.

    Parameters:
        inputs: Input channels, over all groups.
        outputs: Output channels, over all groups.
        kernel: Height and width of the kernel; padding keeps the size at stride 1.
        stride: Vertical and horizontal stride.
        structure: Groups and bits.
    """

    init: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, structure: Structure
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride, kernel // 2, groups=structure.groups, bias=False
        )
        self.weight_steps = (1 << structure.weight_bits) - 1
        self.activation_steps = (1 << structure.activation_bits) - 1
        self.uW = nn.Parameter(torch.tensor(0.0))
        self.lW = nn.Parameter(torch.tensor(0.0))
        self.uA = nn.Parameter(torch.tensor(0.0))
        self.lA = nn.Parameter(torch.tensor(0.0))
        self.output_scale = nn.Parameter(torch.tensor(1.0))
        # Gradient scaling of the code base that the released one grew from; 0 switches it off.
        self.register_buffer("bkwd_scaling_factorW", torch.tensor(0.0))
        self.register_buffer("bkwd_scaling_factorA", torch.tensor(0.0))
        self.register_buffer("init", torch.ones(1))

    def codes(self, x: Tensor) -> Tensor:
        """Activation codes of real values (N, C, H, W), integer-valued float32."""
        return _codes(x, self.lA, self.uA, self.activation_steps)

    def levels(self) -> Tensor:
        """Real weights, between -1 and 1, of the shape of the stored ones."""
        codes = _codes(self.weight, self.lW, self.uW, self.weight_steps)
        return 2 * (codes / self.weight_steps) - 1

    def forward(self, x: Tensor) -> Tensor:
        """Real results of real activations (N, C, H, W)."""
        if self.training and self.init:
            self.initialise(x)
        return self._apply_weights(self.codes(x) / self.activation_steps, self.levels())

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Published initialisation of ranges and scale from one batch (N, C, H, W)."""
        self.uW.copy_(3 * self.weight.std())
        self.lW.copy_(-self.uW)
        self.uA.copy_(3 * x.std() / math.sqrt(1 - 2 / math.pi))
        self.lA.copy_(x.min())
        self.output_scale.fill_(1)
        self.init.fill_(0)
        wanted = F.conv2d(x, self.weight, None, self.stride, self.padding, 1, self.groups)
        self.output_scale.copy_(wanted.abs().mean() / self.forward(x).abs().mean())

    def _apply_weights(self, values: Tensor, levels: Tensor) -> Tensor:
        # NNPACK may take a Winograd or Fourier transform, which rounds more.
        with torch.backends.nnpack.flags(enabled=False):
            sums = F.conv2d(values, levels, None, self.stride, self.padding, 1, self.groups)
        return sums * self.output_scale.abs()


def _codes(x: Tensor, lower: Tensor, upper: Tensor, steps: int) -> Tensor:
    unit = ((x - lower) / (upper - lower)).clamp(0, 1)
    return straight_through(unit * steps, torch.round)


class ReleasedShuffle(nn.Module):
    """``y = x + ReLU(BN(QConv1x1(rotate(x))))``: the cyclic shuffle before a stage."""

    def __init__(self, channels: int, structure: Structure) -> None:
        super().__init__()
        self.rotate = group_rotation(channels, structure.groups)
        self.conv1 = nn.Sequential(
            QuantizedConv2d(channels, channels, 1, 1, structure), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Real values (N, C, H, W) to the same."""
        y: Tensor = x + F.relu(self.conv1(self.rotate(x)))
        return y


class ReleasedBlock(nn.Module):
    """A residual block; its identity path is not quantised.

    Parameters:
        inputs: Input channels, over all groups.
        widths: Output channels of each convolution; two of 3x3, or 1x1, 3x3 and 1x1.
        stride: Stride of the first 3x3 convolution.
        structure: Groups and bits.
    """

    def __init__(
        self, inputs: int, widths: tuple[int, ...], stride: int, structure: Structure
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        strided = kernels.index(3)
        self.depth = len(widths)
        source = inputs
        for index, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
            step = stride if index == strided else 1
            conv = QuantizedConv2d(source, width, kernel, step, structure)
            self.add_module(f"conv{index + 1}", conv)
            self.add_module(f"bn{index + 1}", nn.BatchNorm2d(width))
            source = width
        self.downsample: nn.Module = nn.Identity()
        self.shuffle: nn.Module = nn.Identity()
        if stride != 1 or inputs != source:
            self.downsample = nn.Sequential(
                QuantizedConv2d(inputs, source, 1, stride, structure), nn.BatchNorm2d(source)
            )
            self.shuffle = channel_shuffle(source, structure.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Real values (N, C, H, W) to real values (N, C', H', W')."""
        y = x
        for index in range(1, self.depth + 1):
            if index > 1:
                y = F.relu(y)
            y = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(y))
        z: Tensor = F.relu(self.shuffle(y) + self.downsample(x))
        return z


class ReleasedResNet(nn.Module):
    """A whole network, of normalised images.

    Parameters:
        structure: Which one.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure
        kind, counts = STRUCTURES[structure.architecture]
        width = structure.base_width * structure.groups
        self.conv1 = nn.Conv2d(structure.channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(*POOL)
        self.body: list[str] = []
        inputs = width
        for index, count in enumerate(counts):
            if index and structure.groups > 1:
                self._append(f"shuffle{index + 1}", ReleasedShuffle(inputs, structure))
            inner = width << index
            widths = (inner, inner) if kind == "basic" else (inner, inner, 4 * inner)
            blocks = []
            for block in range(count):
                stride = 2 if index and not block else 1
                blocks.append(ReleasedBlock(inputs, widths, stride, structure))
                inputs = widths[-1]
            self._append(f"layer{index + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, structure.classes)

    def _append(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.body.append(name)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of normalised images (N, C, H, W), float32."""
        with torch.backends.nnpack.flags(enabled=False):
            y = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.body:
            y = self.get_submodule(name)(y)
        logits: Tensor = self.fc(y.mean((2, 3)))
        return logits
