"""Accuracy of a network's eval mode, which is that of the integer network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from palquant.errors import InputError
from palquant.golden.distributed import failing_together, total
from palquant.golden.image_loader import Batch


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], device: torch.device, ranks: tuple[int, ...] = (1,)
) -> tuple[dict[str, float], int]:
    """Shares of images whose class is among the network's first answers, over all processes.

    Parameters:
        model: The network; left in eval mode.
        batches: This process's images; those with a label of -1 do not count.
        device: Where the network is.
        ranks: Numbers of answers that count, 1 for top-1.

    Returns:
        ``{"top1": share, ...}``, shares 0..1, and the number of images that did not count.

    Raises:
        InputError: There are no images that count, or one cannot be read here.
        ToolError: One cannot be read in another process, which says why.
    """
    model.eval()
    counts = torch.zeros(len(ranks) + 2, dtype=torch.int64, device=device)
    with failing_together(device):  # eval mode exchanges nothing, and shares differ in length
        for batch in batches:
            labels = batch.labels.to(device, non_blocking=True)
            logits = model(batch.images.to(device, non_blocking=True))
            valid = labels >= 0
            found = []
            for rank in ranks:
                best = logits.argmax(1, keepdim=True) if rank == 1 else logits.topk(rank, 1).indices
                found.append(((best == labels[:, None]).any(1) & valid).sum())
            counts += torch.stack([*found, valid.sum(), (~valid).sum()])
    *right, images, skipped = total(counts).tolist()
    if not images:
        raise InputError("none of the held-out images can be read")
    return {f"top{k}": n / images for k, n in zip(ranks, right, strict=True)}, skipped
