"""Progress bars: as they are on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

#: Seconds between two lines of a log.
LOG_INTERVAL = 30.0


def progress_bar(*, shown: bool, nested: bool = False, **options: Any) -> Any:
    """A bar on standard error.

    Parameters:
        shown: Whether it is drawn at all.
        nested: Whether it stands below another one; a log leaves it out.
        options: Those of ``tqdm``.
    """
    if sys.stderr.isatty():
        return tqdm(disable=not shown, **options)
    log = {"mininterval": LOG_INTERVAL, "ascii": True, "ncols": 80}
    return tqdm(disable=not shown or nested, **{**options, **log})
