"""Writing files so that nobody ever sees half of one: aside first, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from palquant.errors import PalquantError


class OutputError(PalquantError, OSError):
    """A file or folder that cannot be written: a full disk, a missing right, a wrong kind."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends without an exception.

    Raises:
        OutputError: The file cannot be written; whatever stood at ``path`` still does.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise OutputError(f"{target}: cannot write here: {error.strerror}") from error
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        aside.chmod(0o644)
        aside.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot write: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, aside and then renamed; makes missing folders.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{Path(path).parent}: cannot make: {error.strerror}") from error
    with replacing(path) as stream:
        stream.write(text.encode())


def write_json(
    path: str | os.PathLike[str], document: Any, default: Callable[[Any], Any] | None = None
) -> None:
    """Write a JSON document like :func:`write_text`.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text(path, json.dumps(document, indent=1, default=default) + "\n")
