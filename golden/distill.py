"""Learning from a teacher: another network of this package, trained before.

The teacher is its own integer network: it answers in eval mode. Source: Hinton et al., "Distilling
the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palquant.errors import ModelError
from palquant.golden.checkpoint import load_checkpoint, load_state
from palquant.golden.config import TrainConfig
from palquant.golden.improvements import build_network

#: Entries of a training's checkpoint.
ENTRIES = ("config", "epoch", "history", "model", "sgd", "adam", "scaler")


def load_network(path: Path) -> tuple[nn.Module, TrainConfig]:
    """The network that a training's checkpoint holds, in eval mode, and its configuration.

    Raises:
        ModelError: The file is no such checkpoint, or its parts do not fit each other.
    """
    content = load_checkpoint(path, *ENTRIES)
    saved = content["config"]
    names = {item.name for item in fields(TrainConfig)}
    if not isinstance(saved, dict) or not names <= set(saved):
        raise ModelError(f"{path}: its configuration is not one of this version")
    try:
        config = TrainConfig(**{name: saved[name] for name in names})
        model = build_network(config)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: its configuration is not usable: {error}") from error
    load_state(model, content["model"], f"{path}: model")
    return model.eval(), config


class Teacher:
    """A trained network whose answers are part of the loss.

    Parameters:
        path: Checkpoint of its training.
        student: Configuration of the network that learns from it.
        device: Where it runs.

    Attributes:
        identity: Tells it from other teachers.

    Raises:
        ModelError: The file is no checkpoint, or its network reads other images or knows other
            classes than the student.
    """

    def __init__(self, path: Path, student: TrainConfig, device: torch.device) -> None:
        model, config = load_network(path)
        for what, own, wanted in (
            ("images of shape", config.network.image, student.network.image),
            ("a number of classes of", config.classes, student.classes),
        ):
            if own != wanted:
                raise ModelError(f"{path}: the teacher has {what} {own}, expected {wanted}")
        self.model = model.to(device)
        self.identity = identity(path)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, classes), float64, of images (N, C, H, W)."""
        logits: Tensor = self.model(images)
        return logits


def identity(path: Path) -> str:
    """A digest of a file's content."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ModelError(f"{path}: cannot read: {error.strerror or error}") from error


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the softened answers, above that of the teacher with itself; shape ().

    ``T^2 * KL(softmax(teacher / T), softmax(student / T))``, averaged over the images; the factor
    keeps gradients about as large as without T.

    Parameters:
        student: Logits, shape (N, classes).
        teacher: Logits, of the same shape.
        temperature: T, above 0.
    """
    learned = F.log_softmax(student / temperature, 1)
    wanted = F.log_softmax(teacher.to(student.dtype) / temperature, 1)
    return temperature**2 * F.kl_div(learned, wanted, reduction="batchmean", log_target=True)


def total_loss(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, config: TrainConfig
) -> Tensor:
    """Cross-entropy, or its mixture with what a teacher says.

    Parameters:
        logits: The network's, shape (N, classes).
        labels: Classes, int64, shape (N,).
        teacher: The teacher's logits, or None.
        config: The training, for share and temperature.
    """
    loss = F.cross_entropy(logits, labels)
    if teacher is None:
        return loss
    share = config.distillation
    return (1 - share) * loss + share * distillation_loss(logits, teacher, config.temperature)
