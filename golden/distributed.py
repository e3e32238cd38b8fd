"""Several processes that train one network together, each on its share of every batch.

Started by ``torchrun``, which tells each process its rank in environment variables. What a layer
learns from a batch other than by gradients (ranges, peaks, statistics) it must learn from the
whole batch: the reductions here are over all processes, and the plain ones where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from palquant.errors import ConfigurationError, PalquantError, ToolError, first_line
from palquant.golden.settings import launch_variable, launched_rank

Item = TypeVar("Item")


@dataclass(frozen=True)
class Process:
    """This process among those that train together.

    Parameters:
        rank: Its number, 0 to ``count`` - 1; process 0 writes the files.
        count: Number of processes, on all machines.
        device: Its device.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether it is the one that writes files and draws progress."""
        return self.rank == 0

    def share(self, size: int) -> slice:
        """Its part of a batch over all processes, which must be a multiple of their number."""
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)


@contextmanager
def join_processes(device: str) -> Iterator[Process]:
    """Meet the processes that ``torchrun`` started with this one; alone if it started none.

    Parameters:
        device: "cpu", "cuda", or "auto": a GPU if there is one.

    Raises:
        ConfigurationError: There is no such device, or the environment variables of ``torchrun``
            are no numbers of a process.
        ToolError: The other processes cannot be reached.
    """
    count, rank = launch_variable("WORLD_SIZE", 1, 1), launched_rank()
    if rank >= count:
        raise ConfigurationError(f"the environment variable RANK is {rank}, expected less than "
                                 f"WORLD_SIZE, {count}")  # fmt: skip
    found = choose_device(device, launch_variable("LOCAL_RANK", 0, 0))
    if count == 1:
        yield Process(0, 1, found)
        return
    if found.type == "cuda":
        torch.cuda.set_device(found)
    try:
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ToolError(
            f"cannot meet the {count} processes of this training: {first_line(error)}"
        ) from error
    try:
        yield Process(rank, count, found)
    finally:
        dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a process.

    Parameters:
        name: "cpu", "cuda" or "auto".
        local_rank: Number of the process on its machine, which is that of its GPU.

    Raises:
        ConfigurationError: There is no such device.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise ConfigurationError("device cuda: PyTorch finds no GPU; its build "
                                 f"{torch.__version__} may have no CUDA")  # fmt: skip
    if local_rank >= available:
        raise ConfigurationError(f"process {local_rank} of this machine has no GPU of its own: "
                                 f"there are {available}")  # fmt: skip
    return torch.device("cuda", local_rank)


def process_count() -> int:
    """Number of processes that train together; 1 unless :func:`join_processes` met others."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def failing_together(device: torch.device) -> Iterator[None]:
    """A block that ends on all processes if a user's mistake ends it on one.

    Without it the others would wait in their next exchange for one that has gone. Nothing may be
    exchanged within the block.

    Raises:
        PalquantError: What ended the block here.
        ToolError: The block ended in another process, which says why.
    """
    if process_count() == 1:
        yield
        return
    problem: PalquantError | None = None
    try:
        yield
    except PalquantError as error:
        problem = error
    failed = largest(torch.tensor(float(problem is not None), device=device))
    if problem is not None:
        raise problem
    if failed:
        raise ToolError("another process of this training has ended; its own line says why")


def each_together(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """Items of which every process has the same number, until one process cannot make its next.

    Raises:
        PalquantError: The next one cannot be made here.
        ToolError: It cannot be made in another process, which says why.
    """
    iterator = iter(items)
    while True:
        with failing_together(device):
            found = list(islice(iterator, 1))
        if not found:
            return
        yield found[0]


def broadcast(value: Any) -> Any:
    """What process 0 gives, on all processes; any object that can be pickled."""
    if process_count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def total(x: Tensor) -> Tensor:
    """Sum over the processes, elementwise."""
    return _reduced(x, dist.ReduceOp.SUM)


def largest(x: Tensor) -> Tensor:
    """Largest over the processes, elementwise."""
    return _reduced(x, dist.ReduceOp.MAX)


def smallest(x: Tensor) -> Tensor:
    """Smallest over the processes, elementwise."""
    return _reduced(x, dist.ReduceOp.MIN)


def _reduced(x: Tensor, operation: Any) -> Tensor:
    if process_count() == 1:
        return x
    result = x.detach().clone()
    dist.all_reduce(result, operation)
    return result


def mean(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Mean on all processes, of all elements or along ``axes``."""
    if process_count() == 1:
        return x.mean(axes)
    sums = x.double().sum(axes)
    count = torch.full_like(sums, x.numel() / sums.numel())
    sums, count = total(torch.stack([sums, count]))
    result: Tensor = sums / count
    return result.to(x.dtype)


def standard_deviation(x: Tensor) -> Tensor:
    """Unbiased standard deviation of all elements on all processes, shape ()."""
    if process_count() == 1:
        return x.std()
    center = mean(x).double()
    squares = (x.double() - center).square().sum()
    squares, count = total(torch.stack([squares, torch.full_like(squares, x.numel())]))
    variance: Tensor = squares / (count - 1)
    return variance.sqrt().to(x.dtype)
