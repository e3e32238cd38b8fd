"""Reads checkpoints of PalQuant's released format, without executing code from the file.

A released checkpoint is what ``torch.save`` makes of a dictionary with the entries ``epoch``,
``arch``, ``state_dict``, ``best_acc1`` and the states of optimisers and schedulers, or a bare
state dictionary. Parameters' names may start with ``module.``, which training on several devices
leaves behind.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palquant.errors import ModelError
from palquant.golden.checkpoint import is_torn

#: What training on several devices puts before each name.
PREFIX = "module."
#: Plain numbers of NumPy, as accuracies are sometimes kept. Making one executes nothing.
_NUMBERS = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
#: How the restricted unpickler names what it refuses.
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


def read_released(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The parameters of a released checkpoint.

    Parameters:
        path: File of ``torch.save``.

    Returns:
        Name without ``module.`` -> tensor, on the CPU.

    Raises:
        ModelError: The file cannot be read, is damaged, holds objects other than tensors and plain
            values, or no state dictionary; says which.
    """
    target = Path(path)
    content = _load(target)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise ModelError(f"{target}: holds {type(state).__name__}, expected a state dictionary")
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = str(key).removeprefix(PREFIX)
        if not isinstance(value, Tensor):
            raise ModelError(f"{target}: entry {str(key)!r} is {type(value).__name__}, expected a "
                             "tensor")  # fmt: skip
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise ModelError(f"{target}: entry {str(key)!r} is no plain tensor of real numbers")
        if name in found:
            raise ModelError(f"{target}: entry {name!r} is there with and without {PREFIX!r}")
        found[name] = value.detach()
    if not found:
        raise ModelError(f"{target}: its state dictionary is empty")
    return found


def _load(target: Path) -> Any:
    """The file's content: tensors, containers and plain values."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_plain_numbers()):
            warnings.simplefilter("ignore")  # a damaged file is refused in one line, not two
            return torch.load(target, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the restricted unpickler raises anything
        refused = _REFUSED.search(str(error))
        if refused:
            raise ModelError(
                f"{target}: holds the Python object {refused[1]}, which is not loaded: only "
                "tensors and plain values are; save its state_dict alone"
            ) from error
        if is_torn(target):
            raise ModelError(f"{target}: is damaged (truncated or corrupted)") from error
        if isinstance(error, OSError):
            raise ModelError(f"{target}: cannot read: {error.strerror or error}") from error
        # PyTorch's own text would advise to execute code from the file.
        raise ModelError(
            f"{target}: is no file of torch.save, is damaged, or holds more than tensors and plain "
            "values"
        ) from error


def _plain_numbers() -> list[Any]:
    """What a file may name besides tensors: NumPy's numbers, under old and new module names."""
    scalar = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return [*named, np.dtype, *(type(np.dtype(name)) for name in _NUMBERS)]
