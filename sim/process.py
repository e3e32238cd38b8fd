"""Runs other programs: quietly, with a progress line, leaving nothing behind when interrupted."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from palquant.errors import ToolError

#: Commands shorter than this do not announce themselves.
QUIET_SECONDS = 3.0

# "error:", "%Error: ", "ModuleNotFoundError: ", but not a file called error.cpp.
_ERROR = re.compile(r"error\w*(?=[: ])", re.IGNORECASE)


class ProgressLine:
    """One line on stderr that says what is going on and for how long.

    On a terminal the line is rewritten every second; elsewhere it appears once.

    Parameters:
        label: What is going on.
        stream: Where to write.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self.label = label
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._shown = False

    def update(self) -> None:
        """Show the line, if it is time."""
        seconds = time.monotonic() - self._started
        if seconds < QUIET_SECONDS:
            return
        if self._stream.isatty():
            self._stream.write(f"\r{self.label} ({seconds:.0f} s)")
        elif not self._shown:
            self._stream.write(f"{self.label} ...\n")
        self._stream.flush()
        self._shown = True

    def finish(self) -> None:
        """End the line, if it was shown."""
        if self._shown and self._stream.isatty():
            self._stream.write("\n")


@contextlib.contextmanager
def start(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    pipe_output: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A program that is running inside the ``with`` block and surely gone behind it.

    Parameters:
        command: Program and arguments.
        log: File that takes its output.
        environment: Its environment; this process's if None.
        folder: Its working folder; this process's if None.
        pipe_output: Let stdout go to ``process.stdout`` rather than into the log.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            [os.fspath(item) for item in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe_output else file,
            stderr=file,
            text=True,
            env=None if environment is None else dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # The whole group: make has compilers running, and cocotb may have helpers.
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    label: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout: float | None = None,
    progress: Callable[[], None] | None = None,
) -> int:
    """Run a program to its end.

    Parameters:
        command: Program and arguments.
        log: File that takes its output.
        label: What it does, for messages.
        environment: Its environment; this process's if None.
        folder: Its working folder; this process's if None.
        timeout: Seconds after which it is killed; None for never.
        progress: Called about once a second while it runs.

    Returns:
        Its exit status.

    Raises:
        ToolError: It could not be started, or took longer than ``timeout``.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        with start(command, log=log, environment=environment, folder=folder) as process:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=1.0 if deadline is None else 0.2)
                if progress is not None:
                    progress()
                if deadline is not None and time.monotonic() > deadline:
                    raise ToolError(f"{label} took longer than {timeout:g} s and was stopped")
    except OSError as error:
        raise ToolError(f"{label}: cannot run {command[0]}: {error}") from error


def complaint(log: Path) -> str:
    """The line of a log that says what went wrong: the first that speaks of an error, or the last.

    Traces of Python calls are skipped.
    """
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    return (errors or lines[-1:] or ["it said nothing"])[0]
