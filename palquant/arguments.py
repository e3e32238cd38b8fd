"""Options that several commands have, and how their values are read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palquant.hw.boards import BOARDS
from palquant.hw.presets import PRESETS
from palquant.sim.bus import LATENCY


def add_command(
    subparsers: Any, name: str, run: Callable[..., Any], text: str, example: str
) -> argparse.ArgumentParser:
    """Add a command.

    Parameters:
        subparsers: Where to.
        name: Its name.
        run: What it does with its options.
        text: What it is for, in small letters.
        example: Command lines, all but the first indented.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example{'s' if example.count('palquant ') > 1 else ''}:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json",
        type=file_path,
        metavar="FILE",
        help="write the results as JSON; - is standard output, with nothing else on it",
    )
    parser.set_defaults(run=run)
    return parser


def add_images(parser: argparse.ArgumentParser) -> None:
    """The memory image to run, and images to run it on."""
    parser.add_argument(
        "directory", type=file_path, metavar="DIR", help="memory image (palquant compile)"
    )
    add_input(parser)
    parser.add_argument(
        "--latency",
        type=positive,
        metavar="CYCLES",
        help=f"latency of the memory that is simulated with the RTL (default: {LATENCY})",
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """Images to run."""
    parser.add_argument(
        "--input",
        type=file_path,
        required=True,
        metavar="FILE.npy",
        help="images of shape (N, C, H, W): float32 with pixels of 0 to 1, or uint8 of 0 to 255",
    )
    parser.add_argument(
        "--images", type=positive, metavar="N", help="only the first N images (default: all)"
    )


def add_labels(parser: argparse.ArgumentParser) -> None:
    """What the images show."""
    parser.add_argument(
        "--labels",
        type=file_path,
        metavar="FILE.npy",
        help="classes of the images, integers of shape (N,); reports the top-1 accuracy",
    )


def add_geometry(
    parser: argparse.ArgumentParser, default: str | None = None, remark: str = ""
) -> None:
    """The sizes of the machine."""
    presets = ", ".join(
        f"{name} ({item.tin}x{item.tout} multipliers)" for name, item in PRESETS.items()
    )
    parser.add_argument(
        "--geometry",
        required=default is None,
        default=default,
        metavar="NAME",
        help=f"sizes of the machine: {presets}"
        + (f" (default: {default})" if default else "")
        + remark,
    )


def add_board(parser: argparse.ArgumentParser) -> None:
    """The board, and the memory image for it."""
    parser.add_argument(
        "directory", type=file_path, metavar="DIR", help="memory image (palquant compile)"
    )
    parser.add_argument(
        "--board",
        required=True,
        metavar="NAME",
        help="; ".join(f"{item.name}: {item.title}" for item in BOARDS.values()),
    )


def add_output(parser: argparse.ArgumentParser, what: str) -> argparse.Action:
    """The folder for results."""
    return parser.add_argument(
        "-o",
        "--output",
        type=file_path,
        required=True,
        metavar="DIR",
        help=f"folder for {what}; made if missing",
    )


def file_path(text: str) -> Path:
    """Parse a file or folder; an empty text would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; expected a file or folder")
    return Path(text)


def positive(text: str) -> int:
    """Parse a positive integer option."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text}")
    return value


def positive_number(text: str) -> float:
    """Parse a positive number option."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Parse an option of numbers between commas."""
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"must be numbers between commas, not {text}")
    return found
