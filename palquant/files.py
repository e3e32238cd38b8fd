"""Writing files so that nobody ever sees half of one: aside first, then renamed."""

from __future__ import annotations

import json
import os
import shutil
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


def write_together(directory: str | os.PathLike[str], write: Callable[[Path], None]) -> list[Path]:
    """Write several files into a folder: all of them aside first, then renamed one by one.

    Parameters:
        directory: Where they belong; made if missing, other files in it stay.
        write: Writes them into the folder that it is given.

    Returns:
        The files, by name.

    Raises:
        OutputError: A file cannot be written; none of them has been replaced then.
    """
    target = Path(directory)
    existed = target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".aside.") as name:
            write(Path(name))
            written = sorted(Path(name).iterdir())
            return [path.replace(target / path.name) for path in written]
    except OSError as error:
        if not existed:
            shutil.rmtree(target, ignore_errors=True)
        raise OutputError(f"{target}: cannot write: {error.strerror or error}") from error
