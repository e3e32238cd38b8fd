"""Training on handwritten digits: one readable loop, the same result for the same configuration.

Recipe (PalQuant, released code): SGD with momentum for weights and batch normalisation, Adam for
the quantisers' ranges and output scales, cosine schedules, cross-entropy. Batch size and learning
rates are adapted to 1438 images.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from tqdm import tqdm  # type: ignore[import-untyped]

from palquant.errors import ConfigurationError, ModelError
from palquant.files import make_folder, write_bytes, write_text
from palquant.golden.checkpoint import load_checkpoint, load_state, save_checkpoint
from palquant.golden.config import TrainConfig, words
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.data import Images, Labels, Split, load_digits_split, shift_images
from palquant.golden.export import export
from palquant.golden.models import ResidualNetwork
from palquant.golden.quantize import RangeQuantizer
from palquant.golden.verify import verify
from palquant.sw.graph import Graph
from palquant.sw.model import save_model

MODEL_FILE = "model.npz"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"
#: The images that training held out, as the network reads them, and their classes.
IMAGES_FILE = "heldout_images.npy"
LABELS_FILE = "heldout_labels.npy"


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a run leaves behind.

    Parameters:
        network: Trained network, in eval mode.
        graph: Exported network, as in the model file.
        top1: Share of held-out images that the integer network classifies correctly, 0..1.
        history: One entry per epoch, as in the metrics file.
        model: Path of the model file.
        metrics: Path of the metrics file (JSON lines).
        checkpoint: Path of the last checkpoint.
        images: Path of the held-out images (NumPy array file).
        labels: Path of their classes.
    """

    network: nn.Module
    graph: Graph
    top1: float
    history: list[dict[str, float]]
    model: Path
    metrics: Path
    checkpoint: Path
    images: Path
    labels: Path


def train(
    config: TrainConfig, output: Path, *, resume: bool = False, progress: bool = True
) -> TrainResult:
    """Train, export, verify on the held-out images, and write the results.

    Parameters:
        config: The run.
        output: Folder for the files; made if missing.
        resume: Go on after the last complete epoch of an interrupted run of the same
            configuration, if the folder holds a checkpoint; gives what an uninterrupted run
            gives, bit for bit.
        progress: Whether to draw a progress bar on standard error.

    Raises:
        OutputError: The folder is not writable.
        ModelError: Its checkpoint does not fit.
        MismatchError: The exported graph differs from the network in any integer.
    """
    make_folder(output)
    split = load_digits_split(config.split_seed)
    with _threads(config.threads):
        run = _Run(config, split, output / CHECKPOINT_FILE)
        if resume and run.checkpoint.exists():
            run.load()
        bar = tqdm(total=config.epochs, initial=run.epoch, unit="epoch", disable=not progress,
                   desc=config.network.name)  # fmt: skip
        with bar:
            while run.epoch < config.epochs:
                entry = run.next_epoch()
                run.save()
                _write_metrics(run.history, output / METRICS_FILE)
                bar.set_postfix(loss=f"{entry['loss']:.3f}", top1=f"{entry['top1']:.1%}")
                bar.update()
        run.model.eval()
        top1 = evaluate(run.model, split.test_images, split.test_labels)
        graph = export(
            run.model,
            name=config.network.name,
            top1=top1,
            training={"dataset": "digits", "config": asdict(config), "last_epoch": run.history[-1]},
        )
        verify(run.model, graph, split.test_images)
        save_model(graph, output / MODEL_FILE)
    for name, array in ((IMAGES_FILE, split.test_images), (LABELS_FILE, split.test_labels)):
        _write_array(array, output / name)
    _write_metrics(run.history, output / METRICS_FILE)
    return TrainResult(
        run.model, graph, top1, run.history,
        output / MODEL_FILE, output / METRICS_FILE, run.checkpoint,
        output / IMAGES_FILE, output / LABELS_FILE,
    )  # fmt: skip


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, labels: Labels) -> float:
    """Top-1 accuracy, 0..1, of the network's eval mode, which is the integer network."""
    model.eval()
    correct = 0
    for batch in np.array_split(np.arange(len(images)), max(1, len(images) // 256)):
        best = model(torch.from_numpy(images[batch])).argmax(1)
        correct += int((best == torch.from_numpy(labels[batch])).sum())
    return correct / len(images)


class _Run:
    """Everything that a training needs to go on: network, optimisers, epoch, history."""

    def __init__(self, config: TrainConfig, split: Split, checkpoint: Path) -> None:
        if config.batch_size > len(split.train_images):
            raise ConfigurationError(f"batch size {config.batch_size} exceeds the "
                                     f"{len(split.train_images)} training images")  # fmt: skip
        self.config = config
        self.split = split
        self.checkpoint = checkpoint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = ResidualNetwork(config.network)
        weights, quantizers = split_parameters(self.model)
        self.optimizers: dict[str, Optimizer] = {
            "sgd": SGD(weights, config.learning_rate, config.momentum,
                       weight_decay=config.weight_decay),
            "adam": Adam(quantizers, config.quantizer_learning_rate),
        }  # fmt: skip
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    def next_epoch(self) -> dict[str, float]:
        """Train one epoch and evaluate; the random order depends on seed and epoch alone."""
        config, split = self.config, self.split
        rng = np.random.default_rng([config.seed, self.epoch])
        order = rng.permutation(len(split.train_images))
        batches = len(order) // config.batch_size
        losses = torch.zeros(batches)
        self.model.train()
        for index in range(batches):
            chosen = order[index * config.batch_size :][: config.batch_size]
            images, labels = split.train_images[chosen], split.train_labels[chosen]
            if config.augment:
                images = shift_images(images, rng)
            self._set_learning_rates((self.epoch + index / batches) / config.epochs)
            loss = self._loss(images, labels)
            for optimizer in self.optimizers.values():
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in self.optimizers.values():
                optimizer.step()
            losses[index] = loss.detach()
        self.epoch += 1
        entry = {
            "epoch": self.epoch,
            "loss": float(losses.mean()),
            "top1": evaluate(self.model, split.test_images, split.test_labels),
        }
        self.history.append(entry)
        return entry

    def _loss(self, images: Images, labels: Labels) -> Tensor:
        """Cross-entropy of one batch; a ModelError if the training has diverged."""
        try:
            loss = F.cross_entropy(self.model(torch.from_numpy(images)), torch.from_numpy(labels))
            if not loss.isfinite():
                raise ModelError("the loss is NaN or infinite")
        except ModelError as error:
            raise ModelError(f"epoch {self.epoch + 1}: {error}; try a smaller "
                             "learning rate") from error  # fmt: skip
        return loss

    def _set_learning_rates(self, progress: float) -> None:
        """Half a cosine from 1 to 0 while ``progress`` goes from 0 to 1."""
        factor = (1 + math.cos(math.pi * progress)) / 2
        rates = (self.config.learning_rate, self.config.quantizer_learning_rate)
        for optimizer, rate in zip(self.optimizers.values(), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def save(self) -> None:
        """Write the checkpoint."""
        content: dict[str, Any] = {
            "config": asdict(self.config),
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
        }
        save_checkpoint(content | {k: o.state_dict() for k, o in self.optimizers.items()},
                        self.checkpoint)  # fmt: skip

    def load(self) -> None:
        """Read the checkpoint of an interrupted run of the same configuration."""
        entries = ("config", "epoch", "history", "model", *self.optimizers)
        content = load_checkpoint(self.checkpoint, *entries)
        found, epoch, history = content["config"], content["epoch"], content["history"]
        for name, value in asdict(self.config).items():
            saved = found.get(name) if isinstance(found, dict) else None
            if saved != value:
                raise ModelError(f"{self.checkpoint}: was trained with {words(name)} {saved}, not "
                                 f"{value}")  # fmt: skip
        if not (isinstance(history, list) and epoch == len(history) <= self.config.epochs):
            raise ModelError(f"{self.checkpoint}: epoch {epoch} does not fit its history")
        load_state(self.model, content["model"], f"{self.checkpoint}: model")
        for name, optimizer in self.optimizers.items():
            self._load_optimizer(name, optimizer, content[name])
        self.epoch = epoch
        self.history = history

    def _load_optimizer(self, name: str, optimizer: Optimizer, state: Any) -> None:
        """Load an optimiser's state; every buffer must have the shape of its parameter."""
        try:
            optimizer.load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{self.checkpoint}: {name} does not fit: {error}") from error
        for index, (parameter, buffers) in enumerate(optimizer.state.items()):
            for label, buffer in buffers.items():
                if isinstance(buffer, Tensor) and buffer.shape not in (parameter.shape, ()):
                    raise ModelError(f"{self.checkpoint}: {name}.state.{index}.{label} has shape "
                                     f"{tuple(buffer.shape)}, expected "
                                     f"{tuple(parameter.shape)}")  # fmt: skip


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters for SGD, and the quantisers' ranges and output scales for Adam."""
    quantizers: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, RangeQuantizer):
            quantizers |= {id(p): p for p in (module.lower, module.upper)}
        elif isinstance(module, ParallelConvolution):
            quantizers[id(module.output_scale)] = module.output_scale
    weights = [p for p in model.parameters() if id(p) not in quantizers]
    return weights, list(quantizers.values())


def _write_metrics(history: list[dict[str, float]], path: Path) -> None:
    """All epochs so far, one JSON object a line; replaced as a whole."""
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in history))


def _write_array(array: Images | Labels, path: Path) -> None:
    """A NumPy array file, replaced as a whole."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_bytes(path, stream.getbuffer())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use ``count`` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
