"""The state of a training, and one epoch of it.

All randomness of an epoch follows from seed and epoch, so that the state after it is a function of
the state before it: what an interruption loses is the epoch that it interrupted, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, Optimizer

from palquant.errors import ModelError
from palquant.golden.checkpoint import load_checkpoint, load_state, save_checkpoint
from palquant.golden.config import TrainConfig, words
from palquant.golden.data_source import Source
from palquant.golden.distill import ENTRIES, Teacher, total_loss
from palquant.golden.distributed import Process, broadcast, each_together, failing_together, total
from palquant.golden.evaluate import evaluate
from palquant.golden.image_loader import Batch
from palquant.golden.improvements import build_network, split_parameters
from palquant.golden.metrics import Entry, Progress
from palquant.golden.mixed_precision import choose_precision, make_scaler

#: With more classes than this, top-5 accuracy is told as well.
_TOP5_CLASSES = 10


class TrainingRun:
    """Everything that a training needs to go on: network, optimisers, epoch, history.

    Parameters:
        config: The training.
        source: Its data.
        process: This process.
        checkpoint: File that keeps the state; None for a training that is not kept.
        teacher: Network to learn from, or None.
        skip: Whether image files are skipped that cannot be read; their number is then told.
        model: Network to train in place of the one that the configuration says.

    Attributes:
        model: The network.
        epoch: Number of complete epochs.
        history: What each of them gave.
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        process: Process,
        checkpoint: Path | None = None,
        teacher: Teacher | None = None,
        *,
        skip: bool = False,
        model: nn.Module | None = None,
    ) -> None:
        self.config = config
        self.source = source
        self.process = process
        self.checkpoint = checkpoint
        self.teacher = teacher
        self.skip = skip
        self.model = (build_network(config) if model is None else model).to(process.device)
        weights, quantizers = split_parameters(self.model)
        self.optimizers: dict[str, Optimizer] = {
            "sgd": SGD(weights, config.learning_rate, config.momentum,
                       weight_decay=config.weight_decay)
        }  # fmt: skip
        self._rates = {"sgd": config.learning_rate}
        if quantizers:  # none in floating point
            self.optimizers["adam"] = Adam(quantizers, config.quantizer_learning_rate)
            self._rates["adam"] = config.quantizer_learning_rate
        self.precision = choose_precision(config.amp, process.device)
        self.scaler = make_scaler(self.precision, process.device)
        self.epoch = 0
        self.history: list[Entry] = []
        self._parallel: nn.Module | None = None

    @property
    def parallel(self) -> nn.Module:
        """The network as it is trained: wrapped, where processes average their gradients.

        Statistics, peaks and first ranges need no exchange here: layers make them from the batch
        over all processes.
        """
        if self.process.count == 1:
            return self.model
        if self._parallel is None:
            self._parallel = DistributedDataParallel(self.model, forward_sync_buffers=False)
        return self._parallel

    def next_epoch(self, progress: Progress) -> Entry:
        """Train one epoch and evaluate.

        Raises:
            ModelError: The training has diverged.
            InputError: An image file cannot be read, and is not to be skipped.
            ToolError: Another process has ended for such a reason.
        """
        batches, device = self.source.steps, self.process.device
        losses = torch.zeros(batches, device=device)
        skipped = 0
        self.model.train()
        batches_here = each_together(self.source.training(self.epoch), device)
        with progress.epoch():
            for index, batch in enumerate(batches_here):
                self._set_learning_rates((self.epoch + index / batches) / self.config.epochs)
                losses[index] = self._step(batch)
                skipped += len(batch.problems)
                progress.step(self.config.batch_size, losses[index])
        self.epoch += 1
        loss = total(losses.mean()) / self.process.count
        entry: Entry = {"epoch": self.epoch, "loss": float(loss)}
        ranks = (1, 5) if self.config.classes > _TOP5_CLASSES else (1,)
        accuracy, missing = evaluate(self.model, self.source.held_out(), device, ranks)
        entry |= accuracy
        if self.skip:
            entry["skipped"] = int(total(torch.tensor(skipped, device=device))) + missing
        self.history.append(entry)
        return entry

    def _step(self, batch: Batch) -> Tensor:
        """One step of both optimisers; returns the loss of this process's images."""
        loss = self._loss(batch)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers.values():
            self.scaler.step(optimizer)
        self.scaler.update()
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        """Loss of one batch; a ModelError if the training has diverged."""
        device = self.process.device
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        answers = None if self.teacher is None else self.teacher(images)
        try:
            with torch.autocast(device.type, self.precision, enabled=self.precision is not None):
                logits = self.parallel(images)
            loss = total_loss(logits, labels, answers, self.config)
            with failing_together(device):
                if not loss.isfinite():
                    raise ModelError("the loss is NaN or infinite")
        except ModelError as error:
            raise ModelError(f"epoch {self.epoch + 1}: {error}; try a smaller "
                             "learning rate") from error  # fmt: skip
        return loss

    def _set_learning_rates(self, progress: float) -> None:
        """Half a cosine from 1 to 0 while ``progress`` goes from 0 to 1."""
        factor = (1 + math.cos(math.pi * progress)) / 2
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._rates[name] * factor

    def _identity(self) -> dict[str, Any]:
        """What the result depends on, as the checkpoint keeps it."""
        teacher = None if self.teacher is None else self.teacher.identity
        return asdict(self.config) | {"data": self.source.identity, "teacher": teacher}

    def save(self) -> None:
        """Write the checkpoint, if this is the process that writes."""
        if self.checkpoint is None or not self.process.writes:
            return
        content: dict[str, Any] = {
            "config": self._identity(),
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(content | {k: o.state_dict() for k, o in self.optimizers.items()},
                        self.checkpoint)  # fmt: skip

    def load(self) -> bool:
        """Read the checkpoint of an interrupted run of the same training, if there is one.

        Process 0 reads it for all of them.

        Returns:
            Whether there was one.

        Raises:
            ModelError: It does not fit.
        """
        content: dict[str, Any] | None = None
        with failing_together(self.process.device):
            if self.checkpoint is not None and self.process.writes and self.checkpoint.exists():
                try:
                    content = load_checkpoint(self.checkpoint, *ENTRIES)
                except ModelError as error:
                    raise ModelError(f"{error}; without it, training starts anew") from error
        content = broadcast(content)
        if content is None:
            return False
        with failing_together(self.process.device):
            self._restore(content)
        return True

    def _restore(self, content: dict[str, Any]) -> None:
        """Take over a checkpoint's content; a ModelError if it does not fit."""
        found, epoch, history = content["config"], content["epoch"], content["history"]
        for name, value in self._identity().items():
            saved = found.get(name) if isinstance(found, dict) else None
            if saved != value:
                raise ModelError(f"{self.checkpoint}: was trained with {words(name)} {saved}, not "
                                 f"{value}")  # fmt: skip
        if not (isinstance(history, list) and epoch == len(history) <= self.config.epochs):
            raise ModelError(f"{self.checkpoint}: epoch {epoch} does not fit its history")
        load_state(self.model, content["model"], f"{self.checkpoint}: model")
        for name, optimizer in self.optimizers.items():
            self._load_optimizer(name, optimizer, content[name])
        self._load_scaler(content["scaler"])
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

    def _load_scaler(self, state: Any) -> None:
        """Load the gradient scaler's state, which is empty where none is used."""
        if not isinstance(state, dict):
            raise ModelError(f"{self.checkpoint}: scaler does not fit: {state!r}")
        if state and self.scaler.is_enabled():  # another device may use another type
            try:
                self.scaler.load_state_dict(state)
            except (KeyError, TypeError, RuntimeError) as error:
                raise ModelError(f"{self.checkpoint}: scaler does not fit: {error}") from error
