"""Many trainings on the digits, in several processes, each kept as soon as it is done."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from palquant.demo import training_folder
from palquant.errors import ToolError
from palquant.files import temporary_folder, write_json
from palquant.golden.config import TrainConfig
from palquant.golden.data import load_digits_split
from palquant.golden.floating_point import train_floating_point
from palquant.golden.train import train
from palquant.progress import progress_bar
from palquant.sim.build import cache_folder, digest


@dataclass(frozen=True)
class Training:
    """One training.

    Parameters:
        config: Network, data and recipe.
        floating: Whether the network computes in floating point instead.
    """

    config: TrainConfig
    floating: bool = False

    def path(self) -> Path:
        """File for the result; named after everything that the result depends on."""
        content = training_folder(self.config, _split(self.config.split_seed))
        kind = "floating" if self.floating else "integer"
        return cache_folder() / f"{digest([content.encode(), kind.encode()])}.json"

    def run(self) -> float:
        """Share of held-out images that the trained network classifies correctly.

        Raises:
            MismatchError: Any integer of the exported network is not the trained one's.
        """
        if self.floating:
            return train_floating_point(self.config)
        with temporary_folder() as folder:
            return train(self.config, folder, progress=False).top1


#: The digits, read once.
_split = functools.cache(load_digits_split)


def measure(
    trainings: Sequence[Training], *, jobs: int, fresh: bool, progress: bool
) -> dict[Training, float]:
    """Results of trainings, made now or in an earlier run of exactly the same ones.

    Parameters:
        trainings: What to train, each once.
        jobs: Processes that train at the same time, with the threads of their configuration.
        fresh: Train again what was trained before.
        progress: Show a bar on standard error.

    Returns:
        Share of held-out images that each classifies correctly, in the order of ``trainings``.

    Raises:
        ToolError: A training process was ended from outside.
        OutputError: The cache cannot be written.
    """
    paths = {training: training.path() for training in trainings}
    found = {}
    for training, path in paths.items():
        if path.is_file() and not fresh:
            found[training] = float(json.loads(path.read_text())["top1"])
    missing = [training for training in trainings if training not in found]
    with progress_bar(
        total=len(paths), initial=len(found), unit="training", desc="training",
        shown=progress, smoothing=0,
    ) as bar, contextlib.closing(_run(missing, jobs)) as results:  # fmt: skip
        for training, top1 in results:
            write_json(paths[training], {"training": training.config.name, "top1": top1})
            found[training] = top1
            bar.set_postfix_str(f"{training.config.name} {top1:.1%}", refresh=False)
            bar.update()
    return {training: found[training] for training in trainings}


def _run(trainings: Sequence[Training], jobs: int) -> Generator[tuple[Training, float], None, None]:
    """Trainings and their results, in the order in which they end."""
    if jobs == 1:
        for training in trainings:
            yield training, training.run()
        return
    others = set(multiprocessing.active_children())
    # Not forked: a process that has PyTorch's threads cannot be copied safely.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_start) as pool:
        futures = {pool.submit(training.run): training for training in trainings}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException as error:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            # The pool joins its processes; who joins them here as well may miss their end.
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise ToolError(
                    f"a training process was ended from outside; are {jobs} at a time too many "
                    "for the memory?"
                ) from error
            raise


def _start() -> None:
    """Begin a process that its parent ends, not the keyboard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
