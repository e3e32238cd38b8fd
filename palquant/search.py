"""The Pareto front of machines for a network: exact cycles where they matter, a bound where not.

Compiling a network and predicting its cycles takes seconds, and there are thousands of machines. A
lower bound of the cycles costs nothing: multiplications over multipliers, or, once one machine with
the same array has been evaluated, the words that the array and the pooling unit work on. A machine
that could not be 3 % faster than one already found that costs no more is not evaluated: the front
is complete to within that, and to within what another cut of the network may save in busy cycles.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from palquant.candidates import Candidate
from palquant.errors import CapacityError, PalquantError
from palquant.hw.config import Geometry
from palquant.hw.memory_shapes import DEPTHS

__all__ = ["Cycles", "Found", "Search", "front"]

#: How much faster a machine must be able to be than one that costs no more, to be evaluated.
TOLERANCE = 0.03


@dataclass(frozen=True)
class Cycles:
    """What one image takes.

    Parameters:
        total: Cycles of the whole run.
        busy: Of these, cycles in which the array or the pooling unit works.
        read_beats: Bus beats that are loaded.
        write_beats: Bus beats that are stored.
    """

    total: int
    busy: int
    read_beats: int
    write_beats: int


@dataclass(frozen=True)
class Found:
    """An evaluated machine.

    Parameters:
        candidate: The machine.
        cycles: Of one image.
        images_per_s: Images a second.
        cost: What it is weighed by: look-up tables, or the largest share of a resource.
    """

    candidate: Candidate
    cycles: Cycles
    images_per_s: float
    cost: float


def front(found: Iterable[Found]) -> list[Found]:
    """Those that none beats: for more cost, more images a second; cheapest first."""
    kept: list[Found] = []
    for item in sorted(found, key=lambda item: (item.cost, -item.images_per_s)):
        if not kept or item.images_per_s > kept[-1].images_per_s:
            kept.append(item)
    return kept


class Search:
    """Evaluates machines, the most promising first.

    Parameters:
        passes: Multiply-accumulates of 2-bit digits of one image.
        evaluate: Compiles the network for a machine and predicts its cycles.
        cost: What a machine is weighed by.
        refused: Counts machines that the compiler refuses, by reason.

    Attributes:
        found: Machines that were evaluated.
        skipped: Number of machines that could not have been on the front.
    """

    def __init__(
        self,
        passes: int,
        evaluate: Callable[[Geometry], Cycles],
        cost: Callable[[Candidate], float],
        refused: Counter[str],
    ) -> None:
        self.found: list[Found] = []
        self.skipped = 0
        self._passes = passes
        self._evaluate = evaluate
        self._cost = cost
        self._refused = refused
        self._busy: dict[tuple[int, int, int], int] = {}
        self._too_small: list[Geometry] = []

    def bound(self, candidate: Candidate) -> float:
        """Images a second that a machine cannot exceed."""
        g = candidate.geometry
        cycles = self._busy.get((g.tin, g.tout, g.lanes), self._passes / g.peak_macs)
        return candidate.fmax_mhz * 1e6 / cycles

    def run(
        self, candidates: Sequence[Candidate], limit: int, progress: Callable[[int], None]
    ) -> int:
        """Look at all candidates, but evaluate no more than ``limit``.

        Parameters:
            candidates: The machines.
            limit: How many may be evaluated.
            progress: Told how many candidates are settled, now and then.

        Returns:
            How many candidates were left when the limit was reached.
        """
        waiting = [
            (-self.bound(candidate), self._cost(candidate), index)
            for index, candidate in enumerate(candidates)
        ]
        heapq.heapify(waiting)
        while waiting and limit:
            progress(len(candidates) - len(waiting))
            before, cost, index = heapq.heappop(waiting)
            candidate = candidates[index]
            now = -self.bound(candidate)
            if now > before:  # known better since; another one may be more promising
                heapq.heappush(waiting, (now, cost, index))
            elif self._beaten(cost, -now):
                self.skipped += 1
            elif self._hopeless(candidate.geometry):
                self._refused["compiler"] += 1
            else:
                limit -= 1
                self._try(candidate)
        progress(len(candidates) - len(waiting))
        return len(waiting)

    def _beaten(self, cost: float, images_per_s: float) -> bool:
        return any(
            item.cost <= cost and item.images_per_s * (1 + TOLERANCE) >= images_per_s
            for item in self.found
        )

    def _hopeless(self, geometry: Geometry) -> bool:
        """Whether the compiler refused a machine that is as large in everything."""
        return any(
            all(
                getattr(other, name) == getattr(geometry, name)
                for name in ("tin", "tout", "lanes", "bus_bits")
            )
            and all(
                getattr(other, name) >= getattr(geometry, name)
                for name in (*DEPTHS.values(), "parameter_slots")
            )
            for other in self._too_small
        )

    def _try(self, candidate: Candidate) -> None:
        g = candidate.geometry
        try:
            cycles = self._evaluate(g)
        except CapacityError:
            self._too_small.append(g)
            self._refused["compiler"] += 1
            return
        except PalquantError:
            self._refused["compiler"] += 1
            return
        key = (g.tin, g.tout, g.lanes)
        # What the array works on depends a little on how a network is cut, never by much.
        self._busy[key] = min(cycles.busy, self._busy.get(key, cycles.busy))
        images = candidate.fmax_mhz * 1e6 / cycles.total
        self.found.append(Found(candidate, cycles, images, self._cost(candidate)))
