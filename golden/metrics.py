"""What a training tells while it runs: metrics as JSON lines, event files, progress bars."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from palquant.files import write_text
from palquant.progress import progress_bar

METRICS_FILE = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"

#: One epoch: its number, mean loss, accuracies of 0..1, and what was skipped.
Entry = dict[str, float]


def write_metrics(history: list[Entry], path: Path) -> None:
    """All epochs so far, one JSON object a line; replaced as a whole."""
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in history))


class EventWriter:
    """Metrics for TensorBoard.

    Parameters:
        folder: Folder for the event files.
        epoch: Epochs that were complete before; what an interrupted run wrote about later ones
            is hidden.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        # Only here: importing it takes seconds.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(self, entry: Entry, others: dict[str, float]) -> None:
        """Add one epoch's metrics, and ``others`` that are not the same in every run."""
        for name, value in (entry | others).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(entry["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Progress:
    """Bars on standard error: one of the epochs, and one of the images of each epoch.

    Parameters:
        name: Name of the network.
        epochs: Epochs of the whole training.
        epoch: Those that were complete before.
        images: Images of an epoch.
        shown: Whether bars are drawn; rates are measured in any case.
    """

    def __init__(self, name: str, epochs: int, epoch: int, images: int, *, shown: bool) -> None:
        self.images = images
        self.rate = 0.0
        self._shown = shown
        self._epochs = progress_bar(
            total=epochs, initial=epoch, unit="epoch", shown=shown, desc=name
        )
        self._bar: Any = None

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """One epoch's training; measures images per second."""
        start = time.perf_counter()
        self._bar = progress_bar(
            total=self.images, unit="image", shown=self._shown, nested=True, leave=False,
            desc="epoch", mininterval=0.5,
        )  # fmt: skip
        try:
            yield
        finally:
            self._bar.close()
        self.rate = self.images / (time.perf_counter() - start)

    def step(self, images: int, loss: Tensor) -> None:
        """Images of one batch are done; ``loss``, of shape (), is theirs."""
        if self._shown and self._bar is not None:
            self._bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
            self._bar.update(images)

    def complete(self, entry: Entry) -> None:
        """One epoch and its evaluation are done."""
        self._epochs.set_postfix(loss=f"{entry['loss']:.3f}", top1=f"{entry['top1']:.1%}")
        self._epochs.update()

    def close(self) -> None:
        """Leave the bars as they are."""
        with suppress(Exception):
            self._epochs.close()
