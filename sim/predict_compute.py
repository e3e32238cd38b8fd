"""When a COMPUTE does what: its words, its results, and the memory ports that it keeps busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from functools import cached_property

import numpy as np
import numpy.typing as npt

from palquant.hw.affine import Affine
from palquant.hw.beats import BeatSequencer
from palquant.hw.config import Geometry
from palquant.hw.correction import Correction
from palquant.hw.isa import Source, digits, result_words
from palquant.hw.operands import OperandFetch
from palquant.hw.pool import PoolingUnit
from palquant.hw.post import PostProcessor
from palquant.hw.residual_writer import ResidualWriter

Cycles = npt.NDArray[np.int64]

#: From a word's issue to its appearance behind the sequencer's registers.
_ISSUE = 1
#: Registers of the array behind those of the sums, up to a result's ``valid``.
_ARRAY_REGISTERS = 1
# In cycles after a result, as hw/post.py lines its blocks up.
_AFFINE = BeatSequencer.LATENCY + Correction.LATENCY - Affine.VALUE_DELAY
#: When residuals are due.
_RESIDUAL = _AFFINE + Affine.RESIDUAL_DELAY
_RESIDUAL_WRITE = _AFFINE + Affine.LATENCY - ResidualWriter.VALUE_DELAY + ResidualWriter.LATENCY
_CODE_WRITE = PostProcessor.LATENCY


class Port(Enum):
    """Ports on which the datapath goes before LOAD or STORE."""

    ACTIVATION_WRITE = auto()
    RESIDUAL_WRITE = auto()
    RESIDUAL_READ = auto()


def array_latency(geometry: Geometry) -> int:
    """``ComputeEngine.array_latency`` without a compute engine: 1 + operands + array."""
    operands = geometry.read_cycles + OperandFetch.REGISTERS
    return _ISSUE + operands + geometry.array_registers + _ARRAY_REGISTERS


def pool_latency(geometry: Geometry) -> int:
    """``ComputeEngine.pool_latency`` likewise."""
    return _ISSUE + geometry.read_cycles + PoolingUnit.REGISTERS


class ComputeTiming:
    """One COMPUTE, from the cycle in which its first word could be issued.

    Parameters:
        geometry: The machine.
        fields: The instruction's fields.
        start: First cycle in which the sequencer runs.
        paced: First cycle in which the post-processor can take a result, by issue of its last
            word.

    Attributes:
        words: Words that are issued.
        stalled: Cycles in which a word that completes a result waits for the post-processor.
        finish: Cycle in which the last word is issued.
        paced: As the parameter, for the next COMPUTE.
        complete: Cycle of the strobe ``complete``.
    """

    def __init__(
        self, geometry: Geometry, fields: Mapping[str, int], start: int, paced: int
    ) -> None:
        self._geometry = geometry
        self._fields = fields
        self._start = start
        self._pooling = fields["source"] == Source.POOL
        self._steps = steps = fields["steps"]
        beats = geometry.beats
        self._beats = 1 if self._pooling else beats
        pace = max(steps * self._beats, 1)
        self._taps = result_words(fields)
        self._results = fields["output_rows"] * fields["output_columns"] * fields["output_chunks"]
        self._results *= beats if self._pooling else 1
        self._interval = max(self._taps, pace)
        self._first = max(start + self._taps - 1, paced)
        self.words = self._results * self._taps
        self.finish = self._first + (self._results - 1) * self._interval
        self.stalled = self.finish - start + 1 - self.words
        self.paced = self.finish + pace
        self._latency = pool_latency(geometry) if self._pooling else array_latency(geometry)
        writes = (1, 1) if fields["hold"] else (steps, self._beats)
        self.complete = self.finish + self._latency + PostProcessor.completion_cycles(*writes)

    @cached_property
    def _emits(self) -> Cycles:
        """Cycles in which a result's last word is issued."""
        return self._first + self._interval * np.arange(self._results, dtype=np.int64)

    def uses(self, port: Port) -> bool:
        """Whether the datapath needs the port at all."""
        f = self._fields
        if f["hold"]:
            return False
        if port is Port.RESIDUAL_READ:
            return self._pooling or bool(f["residual"])
        if port is Port.RESIDUAL_WRITE:
            return bool(f["residual_out"])
        written = (f[f"code{n}_bits"] and f[f"code{n}_to_activation"] for n in (1, 2))
        return not f["raw"] and any(written)

    def busy(self, port: Port) -> Cycles:
        """Cycles in which the datapath uses a port, in ascending order."""
        if not self.uses(port):
            return np.empty(0, np.int64)
        match port:
            case Port.RESIDUAL_READ:
                return self._pool_reads if self._pooling else self._residual_reads
            case Port.RESIDUAL_WRITE:
                return self._residual_writes
            case Port.ACTIVATION_WRITE:
                return self._activation_writes

    def _of_beats(self, delay: int, offsets: list[int]) -> Cycles:
        """What each beat does so many cycles after its result, at such offsets."""
        beats = np.arange(self._beats) * self._steps
        each = (beats[:, None] + np.array(offsets, np.int64)).reshape(-1)
        return (self._emits[:, None] + self._latency + delay + each).reshape(-1)

    @cached_property
    def _residual_reads(self) -> Cycles:
        return self._of_beats(_RESIDUAL - self._geometry.read_cycles, [0])

    @cached_property
    def _residual_writes(self) -> Cycles:
        f = self._fields
        words = self._geometry.raw_planes if f["raw"] else f["scatter_groups"]
        return self._of_beats(_RESIDUAL_WRITE, list(range(words)))

    @cached_property
    def _activation_writes(self) -> Cycles:
        f = self._fields
        words, longest = 0, 1
        for memory in ("activation", "output"):
            each = sum(digits(f[f"code{n}_bits"]) * f[f"code{n}_to_{memory}"] for n in (1, 2))
            longest = max(longest, each)
            words = each if memory == "activation" else words
        groups = range(f["scatter_groups"])
        return self._of_beats(
            _CODE_WRITE, [group * longest + word for group in groups for word in range(words)]
        )

    @cached_property
    def _pool_reads(self) -> Cycles:
        """Every word, padding as well."""
        begins = np.concatenate(([self._start], self._emits[:-1] + 1))
        cycles = begins[:, None] + np.arange(self._taps)
        cycles[:, -1] = self._emits
        return cycles.reshape(-1) + _ISSUE


class Ports:
    """What is known of the datapath's use of each port, from COMPUTEs that have started."""

    def __init__(self) -> None:
        self._busy: dict[Port, deque[tuple[Cycles, Cycles]]] = {port: deque() for port in Port}
        self._waiting: dict[Port, deque[ComputeTiming]] = {port: deque() for port in Port}

    def add(self, timing: ComputeTiming) -> list[Port]:
        """A COMPUTE has started; returns the ports that it uses."""
        used = [port for port in Port if timing.uses(port)]
        for port in used:
            self._waiting[port].append(timing)
        return used

    def last(self, port: Port | None, first: int, beats: int) -> int:
        """Cycle of the last of ``beats`` beats that take the port from cycle ``first`` on.

        Beats follow each other without a gap but for the datapath. ``first`` never goes back.
        """
        if port is None:
            return first + beats - 1
        self._learn(port, first)
        return self._pushed_back(port, first, beats)

    def last_of_rows(self, port: Port, first: int, needed: Sequence[bool]) -> int:
        """The same, for beats of which only some take the port."""
        self._learn(port, first)
        cycle = first - 1
        for takes in needed:
            cycle = self._pushed_back(port, cycle + 1, 1) if takes else cycle + 1
        return cycle

    def _learn(self, port: Port, first: int) -> None:
        """Look at COMPUTEs that have started, and forget what was over before ``first``."""
        known, waiting = self._busy[port], self._waiting[port]
        while waiting:
            timing = waiting.popleft()
            if timing.complete >= first:
                busy = timing.busy(port)
                known.append((busy, busy - np.arange(len(busy))))
        while known and (not len(known[0][0]) or known[0][0][-1] < first):
            known.popleft()

    def _pushed_back(self, port: Port, first: int, beats: int) -> int:
        last = first + beats - 1
        for busy, free_before in self._busy[port]:
            # Beats are pushed back by as many busy cycles as lie before the last one's place:
            # the number k is the smallest with busy[begin + k] > last + k.
            begin = int(np.searchsorted(busy, first))
            end = int(np.searchsorted(free_before, last - begin, side="right"))
            last += max(end - begin, 0)
        return last
