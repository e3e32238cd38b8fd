"""Checkpoints of the released format for tests: a few steps of real training on noisy digits."""

import copy
import functools

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from palquant.golden.config import PHOTO_MEAN, PHOTO_STD
from palquant.golden.released_network import ReleasedResNet, Structure

#: Images of training and of calibration.
TRAINING, CALIBRATION = 1400, 32
QUANTIZERS = ("uW", "lW", "uA", "lA", "output_scale")


@functools.cache
def pictures():
    """Digits of 32x32 pixels in three channels, float32, and their classes.

    Noise keeps backgrounds from being one number that is rounded the same way a thousand times.
    """
    digits = load_digits()
    rng = np.random.default_rng(0)
    large = np.kron(digits.images / 16, np.ones((4, 4)))[:, None]
    noise = rng.random((len(large), 3, 32, 32))
    return (0.7 * large + 0.3 * noise).astype(np.float32), digits.target


def calibration_images():
    images, _ = pictures()
    return images[TRAINING : TRAINING + CALIBRATION]


def normalised(images):
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (PHOTO_MEAN, PHOTO_STD))
    return (torch.from_numpy(images) - mean) / std


@functools.cache
def trained(architecture="resnet18", groups=2, base_width=4, steps=40, **bits):
    """A network after some steps of the published recipe, in eval mode; do not change it."""
    images, labels = pictures()
    rng = np.random.default_rng(1)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = ReleasedResNet(Structure(architecture, groups, base_width, 10, **bits))
    named = dict(model.named_parameters())
    ranges = [p for name, p in named.items() if name.rpartition(".")[2] in QUANTIZERS]
    known = {id(p) for p in ranges}
    weights = [p for p in named.values() if id(p) not in known]
    optimizers = [
        torch.optim.SGD(weights, 0.1, 0.9, weight_decay=1e-4),
        torch.optim.Adam(ranges, 1e-4),
    ]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[0], steps)
    model.train()
    for _ in range(steps):
        chosen = rng.integers(0, TRAINING, 32)
        loss = F.cross_entropy(model(normalised(images[chosen])), torch.from_numpy(labels[chosen]))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        schedule.step()
    model.optimizers = optimizers
    model.schedule = schedule
    return model.eval()


def state_of(model):
    """A copy of its parameters."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def checkpoint(model, prefix="module."):
    """What the released training writes."""
    return {
        "epoch": 90,
        "arch": "resnet18",
        "state_dict": {prefix + name: tensor for name, tensor in state_of(model).items()},
        "best_acc1": np.float64(71.1),
        "optimizer_m": copy.deepcopy(model.optimizers[0].state_dict()),
        "optimizer_q": copy.deepcopy(model.optimizers[1].state_dict()),
        "scheduler_m": model.schedule.state_dict(),
        "scheduler_q": model.schedule.state_dict(),
    }


def save(content, path):
    torch.save(content, path)
    return path
