"""Whether images, normalisation and widths are those that a checkpoint was trained with.

A checkpoint tells neither the width of its codes nor the normalisation of its images, but each
batch normalisation keeps mean and variance of what it read while the network was trained. Here
every layer is looked at under the same conditions: batch normalisation uses the statistics of the
images at hand, as it did in training, so that what is wrong in one layer does not add up over the
layers behind it. The stem's input depends on images and normalisation alone; what is read behind it
was normalised before, and depends on the widths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palquant.golden.released_network import ReleasedResNet

#: Pixels of the images that are looked at: 20 images of 224x224. They go through as one batch.
PIXELS = 1 << 20
#: Below so many images the limits grow with the inverse root of their number.
ENOUGH_IMAGES = 16
#: How far the stem may be off: mean in standard deviations, variance in powers of two.
STEM_LIMITS = (0.5, 1.0)
#: The same behind the stem: the largest mean of all layers, and the middle one of their variances.
BODY_LIMITS = (0.3, 0.1)


@dataclass(frozen=True)
class NormDistance:
    """How far what one batch normalisation reads is from what it read in training.

    Parameters:
        layer: Name of the batch normalisation.
        mean: Median over the channels of ``|mean - running mean| / running standard deviation``.
        variance: Median over the channels of ``log2(variance / running variance)``.
    """

    layer: str
    mean: float
    variance: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable: ``layer``, ``mean_shift`` and ``variance_ratio``."""
        return {"layer": self.layer, "mean_shift": self.mean, "variance_ratio": 2**self.variance}


@dataclass(frozen=True)
class Statistics:
    """What the batch normalisations of a network say of the images that it got.

    Parameters:
        images: Number of images.
        stem: The batch normalisation behind the stem's convolution.
        body: All others, in the order of execution.
    """

    images: int
    stem: NormDistance
    body: list[NormDistance]

    @property
    def largest(self) -> NormDistance:
        """The one behind the stem whose mean is furthest off."""
        return max(self.body, key=lambda distance: distance.mean)

    @property
    def variance(self) -> float:
        """Median over the layers behind the stem of how far variances are off, in powers of two."""
        return median(abs(distance.variance) for distance in self.body)

    def _limits(self, limits: tuple[float, float]) -> tuple[float, float]:
        few = math.sqrt(ENOUGH_IMAGES / min(ENOUGH_IMAGES, self.images))
        return limits[0] * few, limits[1] * few

    @property
    def stem_is_far(self) -> bool:
        """Whether images or normalisation are likely not those of the training."""
        mean, variance = self._limits(STEM_LIMITS)
        return not (self.stem.mean <= mean and abs(self.stem.variance) <= variance)

    @property
    def body_is_far(self) -> bool:
        """Whether widths of codes, or images, are likely not those of the training."""
        mean, variance = self._limits(BODY_LIMITS)
        return not (self.largest.mean <= mean and self.variance <= variance)

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable.

        Entries: ``images``; ``stem`` and ``layers``, of :meth:`NormDistance.as_dict`; ``largest``,
        the one of ``layers`` whose mean is furthest off; ``variance_factor``, the middle one of the
        layers' variances, as a factor of at least 1 in either direction; ``stem_is_far`` and
        ``body_is_far``.
        """
        return {
            "images": self.images,
            "stem": self.stem.as_dict(),
            "layers": [distance.as_dict() for distance in self.body],
            "largest": self.largest.as_dict(),
            "variance_factor": 2**self.variance,
            "stem_is_far": self.stem_is_far,
            "body_is_far": self.body_is_far,
        }


def enough(size: int) -> int:
    """Number of images of ``size`` by ``size`` pixels to look at, at least 1."""
    return max(1, PIXELS // size**2)


@torch.no_grad()
def measure_statistics(released: ReleasedResNet, inputs: Tensor) -> Statistics:
    """Compare the statistics of what batch normalisations read with those of the training.

    Parameters:
        released: The float network, in eval mode; left as it is.
        inputs: Normalised images (N, C, H, W); all of them go through at once.
    """
    found: list[NormDistance] = []

    def normalise(norm: nn.BatchNorm2d, x: Tensor, name: str) -> Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        count = x.numel() // x.shape[1]
        # Running variances are unbiased ones.
        found.append(_distance(name, norm, mean, variance * (count / max(1, count - 1))))
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, eps=norm.eps)

    handles = [
        module.register_forward_hook(
            lambda m, inputs, output, name=name: normalise(m, inputs[0], name)
        )
        for name, module in released.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        released(inputs)
    finally:
        for handle in handles:
            handle.remove()
    stem, *body = found
    return Statistics(len(inputs), stem, body)


def _distance(name: str, norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> NormDistance:
    """The distance of a batch's statistics, of shape (C,), from those that a layer keeps."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    kept = norm.running_var + norm.eps
    shift = (mean - norm.running_mean).abs() / kept.sqrt()
    ratio = torch.log2((variance + norm.eps) / kept)
    return NormDistance(name, float(shift.median()), float(ratio.median()))
