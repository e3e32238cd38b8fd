"""What the parts of the cycle model share: a clock that skips, the decoded program, queues, tokens.

A part of the model is a state and a function ``step(cycle)``. All that parts tell each other goes
through registers in the gateware, so it is an event of a later cycle here: an event changes a
state, then every part takes its step, in any order.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from palquant.errors import ExecutionError
from palquant.hw.config import Geometry
from palquant.hw.isa import Opcode
from palquant.hw.tokens import Engine

#: The engine of an instruction; BARRIER and END have none.
ENGINES = {Opcode.LOAD: Engine.LOAD, Opcode.COMPUTE: Engine.COMPUTE, Opcode.STORE: Engine.STORE}


class Clock:
    """Cycles in which something happens, and what."""

    def __init__(self) -> None:
        self._cycles: list[int] = []
        self._actions: dict[int, list[Callable[[int], None]]] = {}

    def at(self, cycle: int, action: Callable[[int], None] | None = None) -> None:
        """Visit a cycle, and call ``action`` in it before any part takes its step."""
        actions = self._actions.get(cycle)
        if actions is None:
            heapq.heappush(self._cycles, cycle)
            actions = self._actions[cycle] = []
        if action is not None:
            actions.append(action)

    def run(self, steps: Sequence[Callable[[int], None]], done: Callable[[], bool]) -> None:
        """Visit cycles in order until ``done``.

        Raises:
            ExecutionError: Nothing is left to happen.
        """
        cycle = 0
        while not done():
            if not self._cycles:
                raise ExecutionError(f"nothing happens after cycle {cycle} of the run: the program "
                                     "waits for itself")  # fmt: skip
            cycle = heapq.heappop(self._cycles)
            for action in self._actions[cycle]:
                action(cycle)
            del self._actions[cycle]
            for step in steps:
                step(cycle)


@dataclass(frozen=True, eq=False)
class Instruction:
    """An instruction as the machine meets it: once for each image, for those of the body.

    Attributes:
        opcode: What it does.
        fields: Its fields.
        image: Number of the image that it is executed for.
        waits: Engines that it takes a token from.
        signals: Engines that it gives a token to.
    """

    opcode: Opcode
    fields: dict[str, int]
    image: int
    waits: tuple[Engine, ...]
    signals: tuple[Engine, ...]

    @classmethod
    def decoded(cls, opcode: Opcode, fields: dict[str, int], image: int) -> Instruction:
        """Its token bits as engines."""
        waits, signals = (
            tuple(engine for engine in Engine if fields[f"{kind}_{engine.name.lower()}"])
            for kind in ("wait", "signal")
        )
        return cls(opcode, fields, image, waits, signals)


class Tokens:
    """Six counters, and since when each of them is not 0."""

    def __init__(self) -> None:
        self._count = {(giver, taker): 0 for giver in Engine for taker in Engine}
        self._since = dict.fromkeys(self._count, 0)

    def give(self, cycle: int, giver: Engine, taker: Engine) -> None:
        """A token that can be taken from ``cycle`` on."""
        if not self._count[giver, taker]:
            self._since[giver, taker] = cycle
        self._count[giver, taker] += 1

    def take(self, giver: Engine, taker: Engine) -> None:
        """One less."""
        self._count[giver, taker] -= 1

    def available(self, taker: Engine, givers: Sequence[Engine]) -> bool:
        """Whether ``taker`` finds one of each of ``givers``."""
        return all(self._count[giver, taker] for giver in givers)

    def since(self, giver: Engine, taker: Engine) -> int:
        """First cycle of those, up to now, in which there is one."""
        return self._since[giver, taker]


class Dispatch:
    """An engine's queue and dispatcher: :class:`~palquant.hw.tokens.Dispatcher`.

    Parameters:
        clock: The model's clock.
        tokens: The tokens.
        engine: Whose instructions these are.
        geometry: The machine.
        in_flight: Instructions begun and not complete, at most.
    """

    def __init__(
        self, clock: Clock, tokens: Tokens, engine: Engine, geometry: Geometry, in_flight: int
    ) -> None:
        self._clock = clock
        self._tokens = tokens
        self.engine = engine
        self._depth = geometry.queue_depth
        self._in_flight = in_flight
        self._queue: deque[Instruction] = deque()
        self._level = 0  # of the queue, as the fetch unit sees it
        self._begun = 0
        self._head_since = 0  # first cycle in which the queue's head could be seen

    @property
    def room(self) -> bool:
        """Whether the queue has a free place."""
        return self._level < self._depth

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._level and not self._begun

    def push(self, cycle: int, instruction: Instruction) -> None:
        """The fetch unit writes an instruction's last beat; it can be read a cycle later."""
        self._level += 1

        def visible(now: int) -> None:
            if not self._queue:
                self._head_since = now
            self._queue.append(instruction)

        self._clock.at(cycle + 1, visible)

    def head(self, cycle: int) -> Instruction | None:
        """The next instruction, if it may start in this cycle: if it had all before."""
        if not self._queue or self._begun == self._in_flight:
            return None
        head = self._queue[0]
        if not self._tokens.available(self.engine, head.waits):
            return None
        first = self.startable_since()
        if cycle < first:
            self._clock.at(first)
        return head if cycle >= first else None

    def pending_since(self) -> tuple[int, dict[Engine, int]]:
        """Since when the head is there, and since when each token that it waits for is."""
        head = self._queue[0]
        tokens = {giver: self._tokens.since(giver, self.engine) for giver in head.waits}
        return self._head_since, tokens

    def startable_since(self) -> int:
        """First cycle in which the head, which has all that it waits for, may start."""
        pending, tokens = self.pending_since()
        return max(pending, *tokens.values(), 0) + 1

    def take(self, cycle: int) -> None:
        """The engine takes the head."""
        head = self._queue.popleft()
        for giver in head.waits:
            self._tokens.take(giver, self.engine)
        self._begun += 1
        self._head_since = cycle + 1

        def freed(now: int) -> None:
            self._level -= 1

        self._clock.at(cycle + 1, freed)

    def complete(self, cycle: int, instruction: Instruction) -> None:
        """What follows, in the cycle after an instruction's last."""
        self._begun -= 1
        for taker in instruction.signals:
            self._tokens.give(cycle, self.engine, taker)
