"""Plays a program through the machine's queues and tokens, without time, to prove that it ends.

Fetch is in order into bounded queues, engines are in order, tokens are counters: a system in which
whatever can happen stays possible until it happens. So one greedy run decides: if it completes,
every run completes, whatever the memory's latency.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from palquant.errors import InstructionError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Opcode

_ENGINES = {Opcode.LOAD: "load", Opcode.COMPUTE: "compute", Opcode.STORE: "store"}


@dataclass(frozen=True)
class TokenUse:
    """What a program asks of the token counters.

    Attributes:
        most: Largest count of each counter, by (giving engine, taking engine), in program order.
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
            engine and the token that it lacks, or tokens that are left over.
    """
    queues: dict[str, deque[int]] = {name: deque() for name in _ENGINES.values()}
    tokens = {(a, b): 0 for a in queues for b in queues if a != b}
    most = dict(tokens)
    position = 0
    moved = True
    while moved:
        moved = False
        while position < len(program):
            opcode = program[position][0]
            if opcode in _ENGINES:
                queue = queues[_ENGINES[opcode]]
                if len(queue) >= geometry.queue_depth:
                    break
                queue.append(position)
            elif any(queues.values()):
                break
            position += 1
            moved = True
        for engine, queue in queues.items():
            while queue:
                fields = program[queue[0]][1]
                needed = [(other, engine) for other in queues if fields.get(f"wait_{other}")]
                if any(not tokens.get(pair) for pair in needed):
                    break
                for pair in needed:
                    tokens[pair] -= 1
                for other in queues:
                    if fields.get(f"signal_{other}"):
                        tokens[engine, other] += 1
                        most[engine, other] = max(most[engine, other], tokens[engine, other])
                queue.popleft()
                moved = True
    if position < len(program) or any(queues.values()):
        stuck = "; ".join(
            f"{engine} is stuck at instruction {queue[0]}, which waits for "
            + " and ".join(
                other
                for other in queues
                if program[queue[0]][1].get(f"wait_{other}") and not tokens[other, engine]
            )
            for engine, queue in queues.items()
            if queue
        )
        raise InstructionError(f"the program deadlocks at instruction {position}: {stuck}")
    left = [f"{a} to {b}" for (a, b), count in tokens.items() if count]
    if left:
        raise InstructionError(f"the program leaves tokens over from {', '.join(left)}")
    capacity = (1 << isa.TOKEN_BITS) - 1
    for (giver, taker), count in most.items():
        if count > capacity:
            raise InstructionError(
                f"the program gives {count} tokens from {giver} to {taker} before "
                f"they are taken (at most {capacity})"
            )
    return TokenUse(most)
