"""Batch normalisation whose statistics are those of the batch over all processes.

PyTorch's own synchronised batch normalisation runs on GPUs only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palquant.golden.distributed import total


def synchronised_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` in training mode, over the batches of all processes.

    Gradients of ``weight`` and ``bias`` are those of this process's part of the loss, which
    DistributedDataParallel averages; that of x accounts for the statistics' dependence on the x
    of all processes.

    Parameters:
        x: Shape (N, C, H, W); N may differ between processes.
        running_mean: Shape (C,), updated.
        running_var: Shape (C,), updated with the unbiased variance.
        weight: Shape (C,).
        bias: Shape (C,).
        momentum: Weight of this batch in the running statistics.
        eps: Added to the variance.

    Returns:
        Normalised x, of the same shape.
    """
    y, mean, variance, count = _BatchNorm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
    result: Tensor = y
    return result


class _BatchNorm(torch.autograd.Function):
    """Result, mean, biased variance and number of elements of each channel, over all processes.

    Two sums over the processes forward, first the mean and then the squares about it, since a
    difference of large sums would cancel; one backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = torch.full_like(weight, x.numel() // x.shape[1])
        sums, count = total(torch.stack([x.sum(_OTHERS), count]))
        mean = sums / count
        centered = x - _channels(mean)
        variance = total(centered.square().sum(_OTHERS)) / count
        gain = torch.rsqrt(variance + eps)
        normal = centered.mul_(_channels(gain))
        ctx.save_for_backward(normal, weight, gain, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normal * _channels(weight) + _channels(bias), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, weight, gain, count = ctx.saved_tensors
        gradient = gradients[0]
        own = torch.stack([gradient.sum(_OTHERS), (gradient * normal).sum(_OTHERS)])
        along_bias, along_weight = (_channels(v) for v in total(own) / count)
        x = (gradient - along_bias - normal * along_weight) * _channels(weight * gain)
        return x, own[1], own[0], None


#: Axes of a tensor (N, C, H, W) other than its channels.
_OTHERS = (0, 2, 3)


def _channels(v: Tensor) -> Tensor:
    return v.reshape(-1, 1, 1)
