"""Networks in floating point, of the structure and with the first weights of a quantised one.

They are the upper end of a comparison: what the method costs by its low precision alone. Every
layer that computes with integers is replaced by PyTorch's own of the same shape; the structure
itself (stages, shuffles, identity paths) is that of the network, not a copy of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from palquant.golden.config import TrainConfig
from palquant.golden.convolution import ParallelConvolution, WideConvolution
from palquant.golden.data_source import open_source
from palquant.golden.distributed import join_processes
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.improvements import build_network
from palquant.golden.layers import BatchNormAffine, CodeQuantizer, Logits, ResidualAdd, SumPool
from palquant.golden.metrics import Progress
from palquant.golden.quantize import InputQuantizer
from palquant.golden.settings import RunSettings
from palquant.golden.train import use_threads
from palquant.golden.training_run import TrainingRun


class Normalization(nn.Module):
    """Images to real values of mean 0 and standard deviation 1.

    Parameters:
        quantizer: Whose mean and standard deviation it takes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, quantizer: InputQuantizer) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(quantizer, name)).reshape(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, C, H, W), of float32 or uint8 ones."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.mean) / self.std


class Addition(nn.Module):
    """Residual addition that never saturates."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum of two tensors of the same shape."""
        return a + b


class ClassBias(nn.Module):
    """Bias of a classifier.

    Parameters:
        bias: One value for each class.
    """

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of sums (N, classes, 1, 1)."""
        return x.flatten(1) + self.bias


def _convolution(layer: ParallelConvolution | WideConvolution) -> nn.Conv2d:
    outputs, inputs, kernel, _ = layer.weight.shape
    # On the device "meta" nothing is drawn: the weights are the layer's.
    made = nn.Conv2d(inputs * layer.groups, outputs, kernel, layer.stride, layer.padding,
                     groups=layer.groups, bias=False, device="meta")  # fmt: skip
    made.weight = layer.weight
    return made


def _batch_norm(layer: BatchNormAffine) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(len(layer.weight), layer.eps, layer.momentum)


#: What takes the place of each layer of integers; a residual stream has nothing left to do.
_REPLACEMENTS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    InputQuantizer: Normalization,
    ParallelConvolution: _convolution,
    WideConvolution: _convolution,
    BatchNormAffine: _batch_norm,
    ResidualAdd: lambda layer: Addition(),
    ResidualStream: lambda layer: nn.Identity(),
    SumPool: lambda layer: nn.AvgPool2d(layer.kernel, layer.stride),
    CodeQuantizer: lambda layer: nn.Identity(),
    Logits: lambda layer: ClassBias(layer.bias),
}


def to_floating_point(model: nn.Module) -> None:
    """Replace every layer of integers of an untrained network, in place.

    Parameters:
        model: Network of this package's layers; its weights stay.
    """
    for name, child in model.named_children():
        make = _REPLACEMENTS.get(type(child))
        if make is None:
            to_floating_point(child)
        else:
            setattr(model, name, make(child))


def train_floating_point(config: TrainConfig) -> float:
    """Train a configuration's network in floating point, with its recipe and its data.

    Widths of weights and activations do not count. The same configuration gives the same result,
    bit for bit.

    Parameters:
        config: The training; of the digits.

    Returns:
        Share of held-out images that the network classifies correctly after the last epoch.

    Raises:
        ModelError: The training has diverged.
    """
    with use_threads(config.threads), join_processes("cpu") as process:
        source = open_source(config, RunSettings(), process)
        model = build_network(config)
        to_floating_point(model)
        run = TrainingRun(config, source, process, model=model)
        progress = Progress(config.name, config.epochs, 0, 0, shown=False)
        while run.epoch < config.epochs:
            run.next_epoch(progress)
        return run.history[-1]["top1"]
