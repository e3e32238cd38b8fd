"""Runs something for a user: mistakes become one line and an exit status, results become JSON."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from palquant.errors import MismatchError, OutputError, PalquantError
from palquant.files import check_writable, write_json

Report = dict[str, Any]

#: Exit status of a program that a signal ended, less the signal's number.
_SIGNALLED = 128


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end by SIGTERM: an interruption, and cleaned up like one."""


def guarded(
    command: Callable[[], Report], json_file: Path | None = None, outputs: Sequence[Path] = ()
) -> int:
    """Run something for a user: a mistake becomes one line and an exit status.

    Parameters:
        command: What to run; returns its results.
        json_file: Where the results are written as JSON, also those of a comparison that failed;
            ``-`` is standard output, and nothing else is written there then.
        outputs: Other files that it writes at its end: like the JSON file, one that cannot be
            written is refused before the work.

    Returns:
        Exit status: 0 success, 1 a mistake or a mismatch, 130 interrupted, 143 terminated.
    """
    try:
        with _terminable():
            try:
                with _only_json(json_file):
                    for path in (*outputs, *filter(None, [json_file])):
                        if path != STANDARD_OUTPUT:
                            check_writable(path)
                    report: Report | None = command()
            except MismatchError as error:
                if json_file is not None and error.report is not None:
                    try:
                        _write_report(json_file, error.report)
                    except OutputError as second:
                        print(f"palquant: {second}", file=sys.stderr)
                raise
            print(end="", flush=True)
            if json_file is not None:
                _write_report(json_file, report)
    except PalquantError as error:
        print(f"palquant: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has gone, as in `palquant inspect … | head`.
        _drop_output()
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if not where and error.errno == errno.ENOSPC:  # all files are written by palquant.files
            _drop_output()
            where = "standard output: cannot write: "
        print(f"palquant: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("palquant: out of memory; try fewer images (--images)", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        terminated = isinstance(error, TerminatedError)
        what = "terminated" if terminated else "interrupted"
        print("; ".join((f"palquant: {what}", *map(str, error.args))), file=sys.stderr)
        return _SIGNALLED + (signal.SIGTERM if terminated else signal.SIGINT)
    return 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A block that SIGTERM ends as an interruption does, so that it leaves nothing behind.

    Training processes that ``torchrun`` started are left as they are: it ends them by SIGTERM while
    they wait for each other outside Python, where nothing can be raised.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or "RANK" in os.environ or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a copy of this process, which has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # cleaning up is not to be ended half-way
        raise TerminatedError

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


#: The file name that means standard output.
STANDARD_OUTPUT = Path("-")


def _only_json(json_file: Path | None) -> contextlib.AbstractContextManager[object]:
    """A block without output for people, if standard output is for the JSON document."""
    if json_file == STANDARD_OUTPUT:
        return contextlib.redirect_stdout(io.StringIO())
    return contextlib.nullcontext()


def _write_report(json_file: Path, report: Report | None) -> None:
    if json_file == STANDARD_OUTPUT:
        print(json.dumps(report, indent=1), flush=True)
    else:
        write_json(json_file, report)


def _drop_output() -> None:
    """Forget what standard output still holds: Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_guarded(command: Callable[[Namespace], Report], options: Namespace) -> int:
    """Run a command with its options; see :func:`guarded`."""
    files = (getattr(options, name, None) for name in ("plot", "waves"))
    return guarded(lambda: command(options), options.json, [path for path in files if path])
