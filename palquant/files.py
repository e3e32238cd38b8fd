"""Writing files so that nobody ever sees half of one: aside in the same folder first, then renamed.

Whatever ends a write before its time, an interruption by the user included, leaves what stood there
before, and nothing aside. What can go wrong on the way is an :class:`~palquant.errors.OutputError`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from palquant.errors import OutputError

#: Folders of the system in which nothing can be written aside.
_STREAMS = ("/dev", "/dev/fd", "/proc/self/fd")

StrPath = str | os.PathLike[str]


def write_bytes(path: StrPath, data: bytes | memoryview) -> Path:
    """Write a file, aside and then renamed; makes missing folders.

    A device, a pipe or an open stream, such as ``/dev/stdout``, is written directly: it must not be
    replaced.

    Returns:
        The file.

    Raises:
        OutputError: The file cannot be written; whatever stood at ``path`` still does.
    """
    given = Path(path)
    with _one_line(f"{given}: cannot write"):
        if str(given.parent) in _STREAMS or (given.exists() and not given.is_file()):
            with given.open("ab") as stream:
                stream.write(data)
            return given
        target = given.resolve()  # a link goes on pointing to the file
        _make(target.parent)
        aside = _aside(target)
        try:
            with aside.open("xb") as stream:
                stream.write(data)
            aside.replace(target)
        finally:
            with suppress(OSError):
                aside.unlink()
    return given


def write_text(path: StrPath, text: str) -> Path:
    """Write ``text`` as UTF-8 like :func:`write_bytes`.

    Raises:
        OutputError: The file cannot be written.
    """
    return write_bytes(path, text.encode())


def write_json(path: StrPath, document: Any, default: Callable[[Any], Any] | None = None) -> Path:
    """Write a JSON document like :func:`write_bytes`.

    Raises:
        OutputError: The file cannot be written.
    """
    return write_text(path, json.dumps(document, indent=1, default=default) + "\n")


@contextmanager
def write_together(directory: StrPath) -> Iterator[Path]:
    """Write several files into a folder: all of them aside first, then renamed one by one.

    The folder is made if missing; other files in it stay.

    Yields:
        An empty folder for the files; they are renamed when the block ends without an exception.

    Raises:
        OutputError: A file cannot be written; none of them has been replaced then.
    """
    target = Path(directory)
    existed = target.exists()
    try:
        with _one_line(f"{target}: cannot write"):
            _make(target)
            with tempfile.TemporaryDirectory(dir=target, prefix=".aside.") as name:
                yield Path(name)
                moves = [(path, target / path.name) for path in sorted(Path(name).iterdir())]
                for _, final in moves:
                    if final.is_dir():
                        raise IsADirectoryError(errno.EISDIR, f"{final.name} is a directory")
                for path, final in moves:
                    path.replace(final)
    except BaseException:
        if not existed:
            with suppress(OSError):
                target.rmdir()
        raise


@contextmanager
def replace_folder(directory: StrPath) -> Iterator[Path]:
    """Write a folder that replaces an older one as a whole; makes missing parents.

    Yields:
        An empty folder, which takes its place when the block ends without an exception.

    Raises:
        OutputError: It cannot be written; whatever stood at ``directory`` still does.
    """
    target = Path(directory)
    aside, old = _aside(target), _aside(target)
    with _one_line(f"{target}: cannot write"):
        try:
            _make(target.parent)
            aside.mkdir()
            yield aside
            if target.is_dir():
                target.rename(old)
            aside.rename(target)
        finally:
            if old.exists() and not target.exists():
                old.rename(target)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def make_folder(directory: StrPath) -> Path:
    """Make a folder and its parents, unless they exist.

    Raises:
        OutputError: It cannot be made.
    """
    folder = Path(directory)
    with _one_line(f"{folder}: cannot make this folder"):
        _make(folder)
    return folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the length of a block.

    Raises:
        OutputError: It cannot be made, or a file in it cannot be written.
    """
    with _one_line("cannot write temporary files"):
        place = tempfile.gettempdir()
    with (
        _one_line(f"{place}: cannot write temporary files (TMPDIR names another place)"),
        tempfile.TemporaryDirectory(prefix="palquant-") as name,
    ):
        yield Path(name)


def _make(folder: Path) -> None:
    """Make a folder and its parents; plain words for a file that stands in its place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, f"{error.filename} is no directory") from error


def _aside(target: Path) -> Path:
    """A hidden name beside ``target`` that nobody uses."""
    return target.parent / f".{target.name}.{os.urandom(8).hex()}"


@contextmanager
def _one_line(failure: str) -> Iterator[None]:
    """Turn an OSError of the block into one line: the failure, and the reason.

    Of an OutputError within, only the reason is kept: the file that it names lies aside.
    """
    try:
        yield
    except OSError as error:
        reason = error.__cause__ if isinstance(error, OutputError) else error
        if not isinstance(reason, OSError):
            raise
        raise OutputError(f"{failure}: {reason.strerror or reason}") from reason
