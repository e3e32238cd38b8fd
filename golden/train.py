"""Training from start to end: data, epochs, checkpoints, export, verification, files.

The recipe is PalQuant's (``golden/recipe.py``). A configuration gives the same result each time,
bit for bit on the CPU, interrupted or not.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from palquant.files import make_folder, write_bytes
from palquant.golden.config import TrainConfig
from palquant.golden.data_source import Source, open_source
from palquant.golden.distill import Teacher
from palquant.golden.distributed import Process, failing_together, join_processes
from palquant.golden.export import export
from palquant.golden.metrics import (
    EVENTS_FOLDER,
    METRICS_FILE,
    Entry,
    EventWriter,
    Progress,
    write_metrics,
)
from palquant.golden.settings import RunSettings
from palquant.golden.training_run import TrainingRun
from palquant.golden.verify import verify
from palquant.kinds import CHECKPOINT_FILE as CHECKPOINT_FILE
from palquant.kinds import MODEL_FILE as MODEL_FILE
from palquant.sw.graph import Graph
from palquant.sw.model import save_model

#: Held-out images, as the network reads them, and their classes.
IMAGES_FILE = "heldout_images.npy"
LABELS_FILE = "heldout_labels.npy"

#: Pixels of the images that are verified at a time; every tensor of the network is kept for them.
_VERIFIED_PIXELS = 1 << 15


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What a run leaves behind.

    Parameters:
        network: Trained network, in eval mode, on the CPU.
        graph: Exported network, as in the model file.
        top1: Share of held-out images that the integer network classifies correctly, 0..1.
        history: One entry per epoch, as in the metrics file.
        model: Path of the model file.
        metrics: Path of the metrics file (JSON lines).
        checkpoint: Path of the last checkpoint.
        images: Path of held-out images (NumPy array file).
        labels: Path of their classes.
        writer: Whether this process wrote the files.
    """

    network: nn.Module
    graph: Graph
    top1: float
    history: list[Entry]
    model: Path
    metrics: Path
    checkpoint: Path
    images: Path
    labels: Path
    writer: bool = True


def train(
    config: TrainConfig,
    output: Path,
    *,
    settings: RunSettings | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train, export, verify on held-out images, and write the results.

    Started by ``torchrun``, every process returns the same; the first one writes the files.

    Parameters:
        config: The run.
        output: Folder for the files; made if missing.
        settings: Where data and device are; the digits and any device unless given.
        resume: Go on after the last complete epoch of an interrupted run of the same
            configuration, if the folder holds a checkpoint; gives what an uninterrupted run
            gives, bit for bit on the CPU.
        progress: Whether to draw progress bars on standard error.

    Raises:
        ConfigurationError: Configuration, data, processes and device do not fit each other.
        InputError: The data folder is not as expected, or an image in it cannot be read.
        OutputError: The folder is not writable.
        ModelError: Its checkpoint does not fit, or the training diverges.
        ToolError: Other training processes cannot be reached.
        MismatchError: The exported graph differs from the network in any integer.
    """
    settings = settings or RunSettings()
    # Networks for the digits are too small for a GPU, and then the same everywhere.
    auto = "cpu" if config.dataset == "digits" else "auto"
    device = auto if settings.device == "auto" else settings.device
    with use_threads(config.threads), join_processes(device) as process:
        with failing_together(process.device):
            source = open_source(config, settings, process)
            teacher = None
            if settings.teacher is not None:
                teacher = Teacher(settings.teacher, config, process.device)
            run = TrainingRun(config, source, process, output / CHECKPOINT_FILE, teacher,
                              skip=settings.bad_images == "skip")  # fmt: skip
            if process.writes:  # not before: what is refused leaves no empty folder
                make_folder(output)
        if resume:
            run.load()
        _run_epochs(run, output, settings, shown=progress and process.writes)
        return _finish(run, source, process, output)


def _run_epochs(run: TrainingRun, output: Path, settings: RunSettings, *, shown: bool) -> None:
    """All epochs that are left, each with its checkpoint and metrics."""
    config = run.config
    images = run.source.steps * config.batch_size
    progress = Progress(config.name, config.epochs, run.epoch, images, shown=shown)
    events = None
    if settings.tensorboard and run.process.writes:
        events = EventWriter(output / EVENTS_FOLDER, run.epoch)
    try:
        while run.epoch < config.epochs:
            entry = run.next_epoch(progress)
            with failing_together(run.process.device):
                run.save()
                if run.process.writes:
                    write_metrics(run.history, output / METRICS_FILE)
                if events:
                    rates = {f"learning rate/{name}": optimizer.param_groups[0]["lr"]
                             for name, optimizer in run.optimizers.items()}  # fmt: skip
                    events.write(entry, {"images per second": progress.rate, **rates})
            progress.complete(entry)
    finally:
        progress.close()
        if events:
            events.close()


def _finish(run: TrainingRun, source: Source, process: Process, output: Path) -> TrainResult:
    """Export the trained network; verify it and write everything, if this process writes."""
    config, model = run.config, run.model.cpu().eval()
    top1 = run.history[-1]["top1"]
    training = {
        "dataset": config.dataset,
        "config": asdict(config),
        "last_epoch": run.history[-1],
    }
    if config.dataset != "digits":
        training["classes"] = list(source.classes)
    graph = export(model, name=config.name, top1=top1, training=training)
    if process.writes:
        images, labels = source.samples()
        each = max(1, _VERIFIED_PIXELS // (images.shape[2] * images.shape[3]))
        for start in range(0, len(images), each):
            verify(model, graph, images[start : start + each])
        save_model(graph, output / MODEL_FILE)
        _write_array(images, output / IMAGES_FILE)
        _write_array(labels, output / LABELS_FILE)
        write_metrics(run.history, output / METRICS_FILE)
    return TrainResult(
        model, graph, top1, run.history,
        output / MODEL_FILE, output / METRICS_FILE, output / CHECKPOINT_FILE,
        output / IMAGES_FILE, output / LABELS_FILE, process.writes,
    )  # fmt: skip


def _write_array(array: np.ndarray, path: Path) -> None:
    """A NumPy array file, replaced as a whole."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_bytes(path, stream.getbuffer())


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """A block in which PyTorch uses ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
