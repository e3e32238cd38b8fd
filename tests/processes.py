"""Runs a function in several processes that train together, as ``torchrun`` would start them."""

import os
import socket

import torch
import torch.multiprocessing as multiprocessing

from palquant.golden.distributed import join_processes


def _enter(rank, count, port, function, queue):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    torch.set_num_threads(1)
    with join_processes("cpu") as process:
        queue.put((rank, function(process)))
        queue.join()


def in_processes(count, function):
    """What ``function(process)`` returns in each of ``count`` processes, by rank.

    Results are plain values and NumPy arrays.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.JoinableQueue()
    started = multiprocessing.start_processes(
        _enter, (count, port, function, queue), count, join=False, start_method="spawn"
    )
    results = {}
    while len(results) < count:
        if queue.empty():
            assert not started.join(timeout=0.05), "a process ended without a result"
            continue
        rank, value = queue.get()
        results[rank] = value
    for _ in range(count):
        queue.task_done()
    while not started.join():
        pass
    return [results[rank] for rank in range(count)]
