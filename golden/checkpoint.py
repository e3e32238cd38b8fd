"""Training checkpoints: written whole or not at all, read without executing code, and checked."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palquant.errors import ModelError
from palquant.files import write_bytes
from palquant.kinds import CHECKPOINT_FORMAT, instead_of_checkpoint

FORMAT = CHECKPOINT_FORMAT
VERSION = 2
#: First bytes of the zip archive that ``torch.save`` writes.
_ARCHIVE = b"PK\x03\x04"
_NO_CHECKPOINT = "is no checkpoint of a training (checkpoint.pt of palquant train)"


def save_checkpoint(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint, whole or not at all: an interruption leaves the old one.

    Parameters:
        content: Nested dictionaries, lists, tensors and plain values.
        path: File to write.

    Raises:
        OutputError: The file cannot be written.
    """
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, stream)
    write_bytes(path, stream.getbuffer())


def load_checkpoint(path: str | os.PathLike[str], *entries: str) -> dict[str, Any]:
    """Read a checkpoint.

    Parameters:
        path: File that :func:`save_checkpoint` wrote.
        entries: Names that it must hold, and no others.

    Raises:
        ModelError: The file cannot be read, is no checkpoint, has missing or extra entries, or
            holds a tensor with NaN or infinity; the message names the entry.
    """
    target = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged file is refused in one line, not two
            content = torch.load(target, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the restricted unpickler raises anything
        if hint := instead_of_checkpoint(target):
            raise ModelError(f"{target}: {hint}") from error
        if is_torn(target):
            raise ModelError(f"{target}: is damaged (truncated or corrupted)") from error
        if isinstance(error, OSError):
            raise ModelError(f"{target}: cannot read: {error.strerror or error}") from error
        # PyTorch's own text speaks of its programming interface.
        raise ModelError(f"{target}: {_NO_CHECKPOINT}, or is damaged") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{target}: {_NO_CHECKPOINT}")
    if content.get("version") != VERSION:
        raise ModelError(f"{target}: version {content.get('version')}, expected {VERSION}")
    found = {name: value for name, value in content.items() if name not in ("format", "version")}
    _same_names(str(target), set(entries), set(found))
    for name, tensor in _tensors(found):
        if not tensor.isfinite().all():
            raise ModelError(f"{target}: {name} holds NaN or infinity")
    return found


def is_torn(path: Path) -> bool:
    """Whether a file starts like the archive of ``torch.save``, but its end is missing."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_ARCHIVE)) == _ARCHIVE and not zipfile.is_zipfile(stream)
    except zipfile.BadZipFile:
        return True
    except OSError:
        return False


def load_state(module: nn.Module, state: object, source: str) -> None:
    """Load a state dictionary that must match ``module`` entry by entry.

    Parameters:
        module: Network to fill.
        state: Entry name -> tensor.
        source: Where it comes from, for messages.

    Raises:
        ModelError: An entry is missing, extra, no tensor, of another shape or type, or holds NaN
            or infinity; the message names it. The module is then unchanged.
    """
    if not isinstance(state, Mapping):
        raise ModelError(f"{source}: is {type(state).__name__}, expected a state dictionary")
    expected = module.state_dict()
    _same_names(source, set(expected), set(state))
    for name, wanted in expected.items():
        found = state[name]
        if not isinstance(found, Tensor):
            raise ModelError(f"{source}: {name} is {type(found).__name__}, expected a tensor")
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ModelError(
                f"{source}: {name} is {_describe(found)}, expected {_describe(wanted)}"
            )
        if not found.isfinite().all():
            raise ModelError(f"{source}: {name} holds NaN or infinity")
    module.load_state_dict(dict(state))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _same_names(source: str, expected: set[str], found: set[str]) -> None:
    """Refuse missing and extra entries, naming the first."""
    for problem, names in (("missing", expected - found), ("unknown", found - expected)):
        if names:
            first = min(names, key=str)
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ModelError(f"{source}: entry {first!r} is {problem}{more}")


def _tensors(content: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dictionaries, lists and tuples, with dotted names."""
    if isinstance(content, Tensor):
        yield path, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{path}.{index}")
