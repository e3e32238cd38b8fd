"""Cuts a layer's output chunks into segments that one COMPUTE can write.

Within a segment, consecutive chunks go to consecutive words of memory, or all of their lanes are
scattered over the groups in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant.sw.place import Placement

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive output chunks of one convolution group.

    Parameters:
        group: Group of the convolution (0 for pools).
        outputs: The operation's output channel at each position, -1 for dummies.
        groups: Memory group of each position.
        start: Linear position of the first lane in the array's placement.
        base: Linear position in memory of the first lane; group 0's where lanes are scattered.
        scatter: Number of groups that lanes are spread over, 1 if none.
    """

    group: int
    outputs: Ints
    groups: Ints
    start: int
    base: int
    scatter: int

    def part(self, first: int, last: int, lanes: int) -> Segment:
        """Chunks ``first`` to ``last - 1`` of the segment, each of ``lanes`` positions."""
        where = slice(first * lanes, last * lanes)
        return Segment(
            self.group,
            self.outputs[where],
            self.groups[where],
            self.start + first * lanes,
            self.base + first * lanes,
            self.scatter,
        )


@dataclass(frozen=True)
class Part:
    """What one COMPUTE adds to a result whose weights do not fit on chip at once.

    A result is one pixel of one output chunk. Horner's rule wants the digit sums outermost, so
    each of them takes all input chunks, some at a time.

    Parameters:
        column: Output column.
        digit_sum: Sum of the digit positions.
        first_chunk: First input chunk.
        last_chunk: The one behind the last.
        begins: Whether it starts the result.
        shifts: Whether it starts a lower digit sum.
        ends: Whether it completes the result.
    """

    column: int
    digit_sum: int
    first_chunk: int
    last_chunk: int
    begins: bool
    shifts: bool
    ends: bool


def cut_parts(columns: int, sums: int, chunks: int, most: int) -> list[Part]:
    """Parts of one row of results, pixel by pixel.

    Parameters:
        columns: Output columns.
        sums: Number of digit sums, from ``sums - 1`` down to 0.
        chunks: Input chunks of a tap.
        most: Input chunks of which weights are on chip at once, at most.
    """
    starts = range(0, chunks, most)
    return [
        Part(
            column,
            digit_sum,
            first,
            min(first + most, chunks),
            begins=digit_sum == sums - 1 and first == 0,
            shifts=digit_sum != sums - 1 and first == 0,
            ends=digit_sum == 0 and first == starts[-1],
        )
        for column in range(columns)
        for digit_sum in range(sums - 1, -1, -1)
        for first in starts
    ]


def cut_segments(computed: Placement, target: Ints, conv_groups: int, lanes: int) -> list[Segment]:
    """Segments of a layer, in the order (convolution group, chunk).

    Parameters:
        computed: Placement of the operation's output channels in the array.
        target: Memory group of each output channel.
        conv_groups: Groups of the convolution; divides the placement's groups.
        lanes: Output channels of one chunk.
    """
    channel = computed.channel_at()
    own = np.arange(computed.slots) // computed.span
    # A dummy lane goes to its own group: every group has its dummies at the same positions.
    memory = np.where(channel >= 0, target[np.maximum(channel, 0)], own)
    position = np.arange(computed.slots) % computed.span
    chunks = memory.reshape(-1, lanes)
    mixed = (chunks != chunks[:, :1]).any(axis=1)
    start = position.reshape(-1, lanes)[:, 0] + np.where(mixed, 0, chunks[:, 0] * computed.span)
    per_group = len(chunks) // conv_groups
    segments = []
    first = 0
    for chunk in range(1, len(chunks) + 1):
        goes_on = (
            chunk < len(chunks)
            and chunk % per_group != 0
            and mixed[chunk] == mixed[first]
            and start[chunk] == start[chunk - 1] + lanes
        )
        if not goes_on:
            where = slice(first * lanes, chunk * lanes)
            segments.append(
                Segment(
                    first // per_group,
                    channel[where],
                    memory[where],
                    first * lanes,
                    int(start[first]),
                    computed.groups if mixed[first] else 1,
                )
            )
            first = chunk
    return segments
