"""Placement of channels: which group, word and lane a channel of a stored tensor occupies.

The order of a convolution's output channels within a group is free, because the weights of its
consumers can be permuted to match. That freedom makes channel shuffles cost nothing: a shuffle
between G old and G new groups is a bipartite multigraph with one edge for each channel, regular
of degree C / G, and such a graph is a union of perfect matchings (Koenig). Matching m becomes
position m of *every* old and *every* new group, so that each channel keeps its position, and
with it its lane, and only changes its group.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant.errors import UnsupportedLayerError
from palquant.sw.graph import MAX_SHUFFLED_GROUPS

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where each channel of a tensor lies.

    Parameters:
        groups: Number of groups.
        span: Positions of one group, channels and dummies; a multiple of the chunk and word size.
        group: Group of each channel, shape (C,).
        position: Position of each channel within its group, shape (C,), 0 to span - 1.
    """

    groups: int
    span: int
    group: Ints
    position: Ints

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.group)

    @property
    def slots(self) -> int:
        """Positions of all groups together."""
        return self.groups * self.span

    @property
    def slot(self) -> Ints:
        """Linear position of each channel, shape (C,)."""
        return self.group * self.span + self.position

    def channel_at(self) -> Ints:
        """Channel at each linear position, -1 for dummies; shape (slots,)."""
        order = np.full(self.slots, -1, np.int64)
        order[self.slot] = np.arange(self.channels)
        return order

    def same_as(self, other: Placement) -> bool:
        """Whether both put every channel at the same place."""
        return (
            self.groups == other.groups
            and self.span == other.span
            and np.array_equal(self.slot, other.slot)
        )


def group_span(channels_per_group: int, granularity: int) -> int:
    """Positions that a group takes: its channels, rounded up to whole chunks and words."""
    return -(-channels_per_group // granularity) * granularity


def natural_placement(channels: int, groups: int, granularity: int) -> Placement:
    """Channels in their own order, each group padded to a multiple of ``granularity``."""
    size = channels // groups
    index = np.arange(channels)
    return Placement(groups, group_span(size, granularity), index // size, index % size)


def match_groups(counts: Ints, run: int) -> Ints:
    """Decompose a regular count matrix into perfect matchings.

    Parameters:
        counts: Channels that old group i and new group j share, shape (G, G); all rows and all
            columns have the same sum D.
        run: Preferred length of runs of equal matchings (the lanes of one word), so that where
            possible whole words move from one old group to one new group.

    Returns:
        New group of each old group in each matching, shape (D, G), the long runs first.
    """
    left = counts.copy()
    groups = len(left)
    rows = np.arange(groups)
    candidates = np.array(list(itertools.permutations(range(groups))))
    whole: list[Ints] = []
    rest: list[Ints] = []
    while left.any():
        # Taking the matching that can be repeated most often keeps runs long; Koenig's theorem
        # says that a regular multigraph always has one, and removing it leaves a regular one.
        repeats = left[rows, candidates].min(axis=1)
        best = int(repeats.argmax())
        times = int(repeats[best])
        left[rows, candidates[best]] -= times
        aligned = times // run * run
        whole += [candidates[best]] * aligned
        rest += [candidates[best]] * (times - aligned)
    return np.array(whole + rest, np.int64).reshape(-1, groups)


def place_shuffle(
    permutation: Ints, groups: int, granularity: int, word: int, name: str
) -> tuple[Placement, Placement]:
    """Placements on both sides of a channel shuffle, such that every channel keeps its position.

    Parameters:
        permutation: New channel c is old channel ``permutation[c]``.
        groups: Number of groups, the same on both sides; at most :data:`MAX_SHUFFLED_GROUPS`.
        granularity: Positions of a group are padded to a multiple of this.
        word: Lanes of one word, the length of run to aim for.
        name: Whose shuffle it is, for messages.

    Returns:
        Placement of the old channels, placement of the new channels.

    Raises:
        UnsupportedLayerError: More groups than :data:`MAX_SHUFFLED_GROUPS`.
    """
    channels = len(permutation)
    if groups > MAX_SHUFFLED_GROUPS:
        raise UnsupportedLayerError(
            f"{name}: shuffles {groups} groups (supported: at most {MAX_SHUFFLED_GROUPS})"
        )
    size = channels // groups
    new_group = np.arange(channels) // size
    old_group = permutation // size
    counts = np.zeros((groups, groups), np.int64)
    np.add.at(counts, (old_group, new_group), 1)
    matchings = match_groups(counts, word)
    waiting = {
        (i, j): iter(np.flatnonzero((old_group == i) & (new_group == j)))
        for i in range(groups)
        for j in range(groups)
    }
    new_position = np.zeros(channels, np.int64)
    for m, matching in enumerate(matchings):
        for i, j in enumerate(matching):
            new_position[next(waiting[i, int(j)])] = m
    old_position = np.zeros(channels, np.int64)
    old_position[permutation] = new_position
    span = group_span(size, granularity)
    old = Placement(groups, span, np.arange(channels) // size, old_position)
    return old, Placement(groups, span, new_group, new_position)
