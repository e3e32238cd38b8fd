"""Plays a program through the machine's queues and tokens, without time: what holds in every run.

Fetch is in order into bounded queues, engines are in order, tokens are counters: a system in which
whatever can happen stays possible until it happens, since each token has one taker and each queue
one reader. Two things follow.

*That it ends.* Any two ways of playing a program can be continued to the same state. So one greedy
run decides: if it completes, every run completes, whatever the memory's latency.

*How many tokens there can be.* Tokens from a to b are those given by the instructions that a has
completed, less those taken by the instructions that b has begun. Hold b where it has begun m
instructions, and let everything else go as far as it can: no run in which b has begun m
instructions has completed more in any engine, as each of its steps is possible in the held run as
well, sooner or later. The tokens from a then are the most that there can be while b stands there,
for every a at once; and the largest number over all m is reached by a run in which b is slow. So
each engine is held in turn and let go one instruction at a time, only when nothing else can move:
that run passes through each of those states. The bound is exact for the machine without time, and
latencies can only rule runs out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from palquant.errors import InstructionError
from palquant.hw.config import Geometry
from palquant.hw.isa import Opcode

_ENGINES = {Opcode.LOAD: "load", Opcode.COMPUTE: "compute", Opcode.STORE: "store"}
_NAMES = tuple(_ENGINES.values())


@dataclass(frozen=True)
class TokenUse:
    """What a program asks of the token counters.

    Attributes:
        most: Largest count of each counter, by (giving engine, taking engine), in any order of
            execution that the queues and the tokens allow.
    """

    most: dict[tuple[str, str], int]


def check_deadlock(
    program: Sequence[tuple[Opcode, dict[str, int]]], geometry: Geometry
) -> TokenUse:
    """Run a program's fetch, queues and tokens until it ends or nothing can move.

    Parameters:
        program: Opcodes with fields, ending with END.
        geometry: The machine, for the depth of its queues.

    Raises:
        InstructionError: The program cannot end: names the first instruction that is stuck in each
            engine and the token that it lacks, or tokens that are left over; or a counter can
            overflow: names the engines and the number of tokens.
    """
    for index, (opcode, fields) in enumerate(program):
        own = _ENGINES.get(opcode)
        if fields.get(f"signal_{own}") or fields.get(f"wait_{own}"):
            raise InstructionError(f"instruction {index} exchanges a token with its own engine")
    most = {}
    for held in _NAMES:
        run = _Run(program, geometry.queue_depth)
        for pair, count in run.play(held).items():
            if pair[1] == held:
                most[pair] = count
        run.require_end()
    capacity = (1 << geometry.token_bits) - 1
    for (giver, taker), count in most.items():
        if count > capacity:
            raise InstructionError(
                f"the program can give {count} tokens from {giver} to {taker} before "
                f"they are taken (at most {capacity})"
            )
    return TokenUse(most)


class _Run:
    """One way of playing a program.

    Parameters:
        program: Opcodes with fields.
        depth: Instructions that a queue holds.
    """

    def __init__(self, program: Sequence[tuple[Opcode, dict[str, int]]], depth: int) -> None:
        self.program = program
        self.depth = depth
        self.position = 0
        self.queues: dict[str, deque[int]] = {name: deque() for name in _NAMES}
        self.tokens = {(a, b): 0 for a in _NAMES for b in _NAMES if a != b}
        self.most = dict(self.tokens)

    def play(self, held: str) -> dict[tuple[str, str], int]:
        """Go on until nothing can move; ``held`` does so only when nothing else can.

        Returns:
            The largest count of each counter.
        """
        others = [name for name in _NAMES if name != held]
        moved = True
        while moved:
            moved = False
            while self._fetch() or any(self._execute(name) for name in others):
                moved = True
            moved |= self._execute(held)
        return self.most

    def _fetch(self) -> bool:
        """Move instructions into their queues; whether there was one to move."""
        start = self.position
        while self.position < len(self.program):
            opcode = self.program[self.position][0]
            if opcode in _ENGINES:
                queue = self.queues[_ENGINES[opcode]]
                if len(queue) >= self.depth:
                    break
                queue.append(self.position)
            elif any(self.queues.values()):
                break
            self.position += 1
        return self.position > start

    def _execute(self, engine: str) -> bool:
        """Begin and complete an engine's next instruction; whether its tokens were there."""
        queue = self.queues[engine]
        if not queue or self._missing(engine):
            return False
        fields = self.program[queue.popleft()][1]
        for other in _NAMES:
            if fields.get(f"wait_{other}"):
                self.tokens[other, engine] -= 1
        for other in _NAMES:
            if fields.get(f"signal_{other}"):
                pair = engine, other
                self.tokens[pair] += 1
                self.most[pair] = max(self.most[pair], self.tokens[pair])
        return True

    def _missing(self, engine: str) -> list[str]:
        """Engines whose tokens an engine's next instruction lacks."""
        fields = self.program[self.queues[engine][0]][1]
        return [
            other
            for other in _NAMES
            if fields.get(f"wait_{other}") and not self.tokens[other, engine]
        ]

    def require_end(self) -> None:
        """Refuse a run that did not come to its end, or left tokens.

        Raises:
            InstructionError: See :func:`check_deadlock`.
        """
        if self.position < len(self.program) or any(self.queues.values()):
            stuck = "; ".join(
                f"{engine} is stuck at instruction {queue[0]}, which waits for "
                + " and ".join(self._missing(engine))
                for engine, queue in self.queues.items()
                if queue
            )
            raise InstructionError(f"the program deadlocks at instruction {self.position}: {stuck}")
        left = [f"{a} to {b}" for (a, b), count in self.tokens.items() if count]
        if left:
            raise InstructionError(f"the program leaves tokens over from {', '.join(left)}")
