"""Which rows the layers of a group compute for each tile, and where rows lie in a strip's buffer.

A tile is some output rows of the group's last layer. Layers of the same level compute the same
rows; where a layer reads the level before it by windows, that one is ahead by a window's height:

    tile              0         1         2            3x3, stride 2, padding 1, two rows a tile
    level 1 makes     0 1       2 3       4 5
    level 0 makes     0 1 2 3   4 5 6 7   8 9 ...
    level 1 reads     0 1 2 3   3 4 5 6 7   7 8 9 ...

A row that two tiles read stays where it is, and the other rows of the next tile lie behind it in
the opposite direction. So a tile's rows are always at equal distances, which is what a COMPUTE can
address, and the buffer holds no more than one tile reads:

    slot              0  1  2  3  4
    tile 0               0  1  2  3   downwards in memory
    tile 1            7  6  5  4  3   upwards
    tile 2            7  8  9 10 11   downwards
"""

from __future__ import annotations

from dataclasses import dataclass

from palquant.sw.fuse import Group

#: First row, and the one behind the last.
Span = tuple[int, int]


@dataclass(frozen=True)
class Run:
    """Rows of a tensor in a buffer during one tile.

    Parameters:
        row: A row of the tensor.
        slot: Where it lies, in rows from the buffer's start.
        step: Slots from each row to the next: 1 or -1.
    """

    row: int
    slot: int
    step: int = 1

    def find(self, row: int) -> int:
        """Slot of a row."""
        return self.slot + (row - self.row) * self.step


def tile_spans(group: Group, rows: int) -> list[tuple[Span, ...]]:
    """Rows that the layers of each level compute, for each tile of ``rows`` rows of the last level.

    Rows that nobody reads are computed for the last tile.
    """
    levels = group.levels[-1] + 1
    heights = [0] * levels
    windows = [group.members[0].layer] * levels  # the layer that begins each level
    for member, level in reversed(list(zip(group.members, group.levels, strict=True))):
        heights[level] = member.layer.shape.height
        windows[level] = member.layer
    done = [0] * levels
    spans = []
    for first in range(0, heights[-1], rows):
        ends = [min(first + rows, heights[-1])]
        for level in range(levels - 1, 0, -1):
            _, _, end = windows[level].input_rows(done[level], ends[0])
            ends.insert(0, heights[level - 1] if ends[-1] == heights[-1] else end)
        spans.append(tuple(zip(done, ends, strict=True)))
        done = ends
    return spans


def in_order(spans: list[Span]) -> tuple[int, list[Run]]:
    """Rows of each tile from the buffer's start; also the rows that the buffer holds."""
    return max(end - first for first, end in spans), [Run(first, 0) for first, _ in spans]


def back_and_forth(spans: list[Span]) -> tuple[int, list[Run]]:
    """Rows of each tile behind the last row of the one before, which stays; also the buffer's rows.

    Parameters:
        spans: Rows that are made for each tile.
    """
    slot, step, runs = 0, 1, []
    reached = [0]
    for first, end in spans:
        row = max(0, first - 1)
        runs.append(Run(row, slot, step))
        slot += (end - 1 - row) * step
        reached.append(slot)
        step = -step
    low = min(reached)
    return max(reached) - low + 1, [Run(run.row, run.slot - low, run.step) for run in runs]


def reversed_where(runs: list[Run], spans: list[Span]) -> list[Run]:
    """Runs of a buffer for each tile's rows alone, in the directions of another's."""
    return [
        Run(first, 0) if run.step > 0 else Run(end - 1, 0, -1)
        for run, (first, end) in zip(runs, spans, strict=True)
    ]
