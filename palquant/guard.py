"""Runs something for a user: mistakes become one line and an exit status, results become JSON."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palquant.errors import MismatchError, OutputError, PalquantError
from palquant.files import write_json

Report = dict[str, Any]


def guarded(command: Callable[[], Report], json_file: Path | None = None) -> int:
    """Run something for a user: a mistake becomes one line and an exit status.

    Parameters:
        command: What to run; returns its results.
        json_file: Where the results are written as JSON, also those of a comparison that failed;
            ``-`` is standard output, and nothing else is written there then.

    Returns:
        Exit status: 0 success, 1 a mistake or a mismatch, 130 interrupted.
    """
    try:
        try:
            with _only_json(json_file):
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
        print("; ".join(("palquant: interrupted", *map(str, error.args))), file=sys.stderr)
        return 130
    return 0


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
    return guarded(lambda: command(options), options.json)
