"""Whether a waveform file is whole.

A simulator that meets a full disk, or is stopped, says nothing of its waveforms. An FST file is a
sequence of blocks: a byte with the type, eight with the length, themselves included, big-endian.
Lengths are filled in when a block is complete, and what describes the signals comes last.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Types of the blocks that hold value changes.
_CHANGES = frozenset({1, 5, 8})
#: Types of the blocks that hold the signals' names.
_NAMES = frozenset({4, 6, 7})
_LENGTH_BYTES = 8


def is_whole(path: Path) -> bool:
    """Whether an FST file shows something, and nothing of it is missing.

    Parameters:
        path: A file that is not being written; need not exist.
    """
    if not path.is_file():
        return False
    found = set()
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        place = 0
        while place < end:
            file.seek(place)
            head = file.read(1 + _LENGTH_BYTES)
            length = int.from_bytes(head[1:], "big")
            if length < _LENGTH_BYTES:
                return False
            found.add(head[0])
            place += 1 + length
    return place == end and bool(found & _CHANGES) and bool(found & _NAMES)
