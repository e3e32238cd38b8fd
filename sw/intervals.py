"""Who touched a range of bytes last, in little time, however long the program is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable

from palquant.hw.isa import Base, Memory
from palquant.sw.accesses import Access


class LatestMap:
    """Numbers that grow from one :meth:`mark` to the next, each put on an interval.

    Intervals that were marked are kept apart and in order, with the number that was put on them
    last; a mark replaces what it covers. A program touches the same intervals again and again, so
    there are few of them at a time, and each mark removes about as many as it adds.
    """

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []
        self._numbers: list[int] = []

    def mark(self, low: int, high: int, number: int) -> None:
        """Put ``number``, at least as large as all before, on bytes ``low`` to ``high - 1``."""
        if low >= high:
            return
        first = bisect_right(self._highs, low)
        end = bisect_left(self._lows, high)
        pieces = [(low, high, number)]
        if first < end:
            if self._lows[first] < low:
                pieces.insert(0, (self._lows[first], low, self._numbers[first]))
            if self._highs[end - 1] > high:
                pieces.append((high, self._highs[end - 1], self._numbers[end - 1]))
        self._lows[first:end] = [piece[0] for piece in pieces]
        self._highs[first:end] = [piece[1] for piece in pieces]
        self._numbers[first:end] = [piece[2] for piece in pieces]

    def latest(self, low: int, high: int) -> int:
        """Largest number on bytes ``low`` to ``high - 1``; -1 if none was ever put there."""
        first = bisect_right(self._highs, low)
        end = bisect_left(self._lows, high)
        return max(self._numbers[first:end], default=-1)


class LastAccesses:
    """The last reader and the last writer of each byte of each memory and region."""

    def __init__(self) -> None:
        # Members of the two enumerations are equal where their numbers are.
        self._maps: dict[tuple[type[Memory | Base], int, bool], LatestMap]
        self._maps = defaultdict(LatestMap)

    def add(self, accesses: Iterable[Access], number: int) -> None:
        """Note what instruction ``number``, not before those noted already, touches."""
        for access in accesses:
            self._maps[type(access.space), access.space, access.write].mark(
                access.low, access.high, number
            )

    def latest_conflict(self, accesses: Iterable[Access]) -> int:
        """The last instruction noted that conflicts with any of some accesses; -1 if none does."""
        found = -1
        for access in accesses:
            for write in (True, False) if access.write else (True,):
                numbers = self._maps.get((type(access.space), access.space, write))
                if numbers is not None:
                    found = max(found, numbers.latest(access.low, access.high))
        return found
