"""Writing files so that nobody ever sees half of one: aside in the same folder first, then renamed.

Whatever ends a write before its time, an interruption by the user included, leaves what stood there
before, and nothing aside; but files that are written together are renamed one by one. What can go
wrong on the way is an :class:`~palquant.errors.OutputError`. Other errors of a ``with`` block, such
as a file that it cannot read, pass through as they are.
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

#: Errors of a full disk, which name no file when a write to an open file meets them.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
        if _is_stream(given):
            with given.open("ab") as stream:
                stream.write(data)
            return given
        target = _resolved(given)  # a link goes on pointing to the file
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


@contextmanager
def replace_file(path: StrPath, keep: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Let another program write a file, in a folder aside, and then rename it.

    A device, a pipe or an open stream is for that program to write directly, as for
    :func:`write_bytes`.

    Parameters:
        path: The file.
        keep: Of a block that fails: tells of what it left aside whether it takes its place all the
            same. None for never.

    Yields:
        Where the program writes: no file yet, in the target's file system.

    Raises:
        OutputError: The file cannot be written; whatever stood at ``path`` still does.
    """
    given = Path(path)
    failure = f"{given}: cannot write"
    with _one_line(failure):
        direct = _is_stream(given)
        if direct:
            given.open("ab").close()
        else:
            target = _resolved(given)  # a link goes on pointing to the file
            _make(target.parent)
            folder = _aside(target)
            folder.mkdir()
    if direct:
        yield given
        return
    aside = folder / target.name
    try:
        yield aside
        with _one_line(failure):
            aside.replace(target)
    except BaseException:
        if keep is not None and aside.is_file() and keep(aside):
            with suppress(OSError):
                aside.replace(target)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _ProbeError(Exception):
    """Ends a write before it replaces anything."""


def check_writable(path: StrPath) -> None:
    """Refuse a file that could not be written, before work is spent on what goes into it.

    What stands at ``path`` is left as it is; missing folders are made. A pipe or a device is not
    opened, since its reader would take that for the end.

    Raises:
        OutputError: It cannot be written.
    """
    given = Path(path)
    if _is_stream(given):
        with _one_line(f"{given}: cannot write"):
            if given.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            given.stat()
            if not os.access(given, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    with suppress(_ProbeError), replace_file(given):  # makes the folder, and one aside in it
        raise _ProbeError


def _is_stream(path: Path) -> bool:
    """Whether a path must not be replaced; so does a folder look, which opening it refuses."""
    return str(path.parent) in _STREAMS or (path.exists() and not path.is_file())


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
        OutputError: A file cannot be written; none of them has been replaced then. Only if a rename
            fails, which nothing but a change of rights in this moment makes likely, those that come
            before it in order of their names have been.
    """
    target = Path(directory)
    failure = f"{target}: cannot write"
    existed = target.exists()
    try:
        with _one_line(failure):
            _make(target)
            folder = tempfile.TemporaryDirectory(dir=target, prefix=".aside.")
        with folder as name:
            aside = Path(name)
            with _one_line(failure, within=aside):
                yield aside
            with _one_line(failure):
                moves = [(path, target / path.name) for path in sorted(aside.iterdir())]
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

    Of a link, the folder that it points to is replaced.

    Yields:
        An empty folder, which takes its place when the block ends without an exception.

    Raises:
        OutputError: It cannot be written, or is the current folder or holds it; whatever stood at
            ``directory`` still does.
    """
    given = Path(directory)
    failure = f"{given}: cannot write"
    with _one_line(failure):
        target = _resolved(given)
        with suppress(FileNotFoundError):  # the current folder may be gone
            if Path.cwd().is_relative_to(target):
                raise OutputError(
                    f"{given}: the current folder cannot be replaced as a whole; name another"
                )
        aside, old = _aside(target), _aside(target)
    try:
        with _one_line(failure):
            _make(target.parent)
            aside.mkdir()
        with _one_line(failure, within=aside):
            yield aside
        with _one_line(failure):
            if target.is_dir():
                target.rename(old)
            aside.rename(target)
    finally:
        with _one_line(failure):
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
    failure = f"{place}: cannot write temporary files (TMPDIR names another place)"
    with _one_line(failure):
        folder = tempfile.TemporaryDirectory(prefix="palquant-")
    with folder as name, _one_line(failure, within=Path(name)):
        yield Path(name)


def _resolved(path: Path) -> Path:
    """What a path means in the end, without links."""
    try:
        return path.resolve()
    except RuntimeError as error:  # as Python 3.11 and 3.12 say it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


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
def _one_line(failure: str, within: Path | None = None) -> Iterator[None]:
    """Turn an OSError of the block into one line: the failure, and the reason.

    Of an OutputError within, only the reason is kept: the file that it names lies aside.

    Parameters:
        failure: What could not be done.
        within: Only errors about files in this folder are meant; others pass through. An error that
            names no file is about this folder if it says that a disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = error.__cause__ if isinstance(error, OutputError) else error
        if not isinstance(reason, OSError):
            raise
        if within is not None and not _concerns(error, within):
            raise
        raise OutputError(f"{failure}: {reason.strerror or reason}") from reason


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether an error is about a file in a folder."""
    if isinstance(error, OutputError):  # its text begins with the path
        return str(error).startswith((f"{folder}{os.sep}", f"{folder}: "))
    names = [name for name in (error.filename, error.filename2) if name is not None]
    if not names:
        return error.errno in _FULL
    real = Path(os.path.realpath(folder))
    return any(
        Path(os.path.realpath(os.fsdecode(name))).is_relative_to(real)
        for name in names
        if not isinstance(name, int)
    )
