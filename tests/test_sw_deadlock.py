"""Deadlocks, and the token counters, against all orders of execution of small programs."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instructions import TINY, compute, load, store

from palquant.errors import InstructionError
from palquant.hw.isa import Memory, Opcode
from palquant.sw.deadlock import check_deadlock
from palquant.sw.schedule import Step, insert_tokens, order_steps

ENGINES = {Opcode.LOAD: "load", Opcode.COMPUTE: "compute", Opcode.STORE: "store"}
NAMES = tuple(ENGINES.values())
PAIRS = [(a, b) for a in NAMES for b in NAMES if a != b]


def plain(program):
    return [(item.opcode, item.fields) for item in program] + [(Opcode.END, {})]


def test_generated_tokens_never_deadlock_and_balance():
    program = order_steps(
        [
            Step(
                [load(Memory.WEIGHT, 2 * (n % 2), beats=2)],
                [compute(n % 2, output=4 * (n % 2))],
                [store(n % 2, beats=1, offset=8 * n)],
            )
            for n in range(20)
        ]
    )
    insert_tokens(program)
    assert check_deadlock(plain(program), TINY).most["load", "compute"] >= 1


def test_a_wait_for_something_behind_a_full_queue_is_a_deadlock():
    """Without bounded queues this program would end: the model must know their depth."""
    depth = TINY.queue_depth
    stuck = (Opcode.COMPUTE, {"wait_load": 1})
    program = [stuck] * (depth + 1) + [(Opcode.LOAD, {"signal_compute": 1})] * (depth + 1)
    with pytest.raises(InstructionError, match=r"compute is stuck at instruction 0.*for load"):
        check_deadlock([*program, (Opcode.END, {})], TINY)
    program = [stuck] * depth + [(Opcode.LOAD, {"signal_compute": 1})] * depth
    check_deadlock([*program, (Opcode.END, {})], TINY)


def test_left_over_tokens_are_refused():
    with pytest.raises(InstructionError, match="leaves tokens over from load to compute"):
        check_deadlock([(Opcode.LOAD, {"signal_compute": 1}), (Opcode.END, {})], TINY)


def test_a_barrier_behind_a_stuck_engine_is_a_deadlock():
    program = [(Opcode.STORE, {"wait_compute": 1}), (Opcode.BARRIER, {}), (Opcode.END, {})]
    with pytest.raises(InstructionError, match="store is stuck"):
        check_deadlock(program, TINY)


def test_more_tokens_than_a_counter_holds_are_refused():
    program = [(Opcode.LOAD, {"signal_compute": 1})] * 256 + [
        (Opcode.COMPUTE, {"wait_load": 1})
    ] * 256
    with pytest.raises(InstructionError, match="can give 256 tokens from load to compute"):
        check_deadlock([*program, (Opcode.END, {})], TINY)


@pytest.mark.parametrize("field", ["wait_load", "signal_load"])
def test_tokens_for_the_own_engine_are_refused(field):
    with pytest.raises(InstructionError, match="instruction 0 exchanges a token with its own"):
        check_deadlock([(Opcode.LOAD, {field: 1}), (Opcode.END, {})], TINY)


class Machine:
    """The states of a program's fetch, queues and engines, in which anything may be slow.

    A state is how many instructions were fetched, how many each engine has begun, and how many
    each has completed.
    """

    def __init__(self, program, depth):
        self.program = program
        self.depth = depth
        self.own = {
            name: [n for n, (opcode, _) in enumerate(program) if ENGINES.get(opcode) == name]
            for name in NAMES
        }

    start = (0, (0, 0, 0), (0, 0, 0))

    def tokens(self, state):
        """Count of each counter."""
        _, begun, complete = state
        return {
            (a, b): sum(
                self.program[n][1].get(f"signal_{b}", 0)
                for n in self.own[a][: complete[NAMES.index(a)]]
            )
            - sum(
                self.program[n][1].get(f"wait_{a}", 0) for n in self.own[b][: begun[NAMES.index(b)]]
            )
            for a, b in PAIRS
        }

    def steps(self, state):
        """States that can follow."""
        fetched, begun, complete = state
        tokens = self.tokens(state)
        found = []
        if fetched < len(self.program):
            name = ENGINES.get(self.program[fetched][0])
            if name is None:
                done = sum(complete) == sum(n < fetched for own in self.own.values() for n in own)
                free = done
            else:
                waiting = sum(n < fetched for n in self.own[name]) - begun[NAMES.index(name)]
                free = waiting < self.depth
            if free:
                found.append((fetched + 1, begun, complete))
        for index, name in enumerate(NAMES):
            if begun[index] < sum(n < fetched for n in self.own[name]):
                fields = self.program[self.own[name][begun[index]]][1]
                waits = [other for other in NAMES if fields.get(f"wait_{other}")]
                if all(tokens[other, name] for other in waits):
                    found.append((fetched, more(begun, index), complete))
            if complete[index] < begun[index]:
                found.append((fetched, begun, more(complete, index)))
        return found

    def ended(self, state):
        return state[0] == len(self.program) and sum(state[2]) == sum(map(len, self.own.values()))


def more(counts, index):
    return (*counts[:index], counts[index] + 1, *counts[index + 1 :])


def random_tokens(rng, count, tokens, barriers):
    """A program of random opcodes in which each pair of engines exchanges random tokens."""
    program = [(rng.choice(list(ENGINES)), {}) for _ in range(count)]
    for _ in range(tokens):
        first, second = sorted(rng.sample(range(count), 2))
        (a, giving), (b, taking) = program[first], program[second]
        signal, wait = f"signal_{ENGINES[b]}", f"wait_{ENGINES[a]}"
        if a is not b and signal not in giving and wait not in taking:
            giving[signal] = taking[wait] = 1
    for _ in range(barriers):
        program.insert(rng.randrange(len(program)), (Opcode.BARRIER, {}))
    return [*program, (Opcode.END, {})]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.sampled_from([1, 2, 4]))
def test_the_bound_is_the_maximum_over_all_orders(seed, depth):
    rng = random.Random(seed)
    program = random_tokens(rng, rng.randint(2, 9), rng.randint(1, 12), rng.randint(0, 1))
    machine = Machine(program, depth)
    most = dict.fromkeys(PAIRS, 0)
    seen, todo = {machine.start}, [machine.start]
    while todo:
        state = todo.pop()
        for pair, count in machine.tokens(state).items():
            most[pair] = max(most[pair], count)
        following = machine.steps(state)
        assert following or machine.ended(state)  # tokens always go forward: none gets stuck
        fresh = set(following) - seen
        seen |= fresh
        todo += fresh
    geometry = dataclasses.replace(TINY, queue_depth=depth)
    assert check_deadlock(program, geometry).most == most


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_interleaving_of_a_longer_program_exceeds_the_bound(seed):
    rng = random.Random(seed)
    program = random_tokens(rng, 60, 60, 2)
    most = check_deadlock(program, TINY).most
    machine = Machine(program, TINY.queue_depth)
    for _ in range(5):
        speed = [rng.random() for _ in range(8)]
        state = machine.start
        while not machine.ended(state):
            following = machine.steps(state)
            state = rng.choices(following, [speed[hash(s) % 8] + 0.01 for s in following])[0]
            assert all(count <= most[pair] for pair, count in machine.tokens(state).items())


def test_a_slow_engine_meets_more_tokens_than_a_greedy_run():
    """Counted greedily, each token is taken as soon as it is given."""
    program = [(Opcode.LOAD, {"signal_compute": 1}), (Opcode.COMPUTE, {"wait_load": 1})] * 20
    most = check_deadlock([*program, (Opcode.END, {})], TINY).most["load", "compute"]
    # COMPUTEs fill their queue, the fetch unit holds one more, and its LOAD went ahead of it.
    assert most == TINY.queue_depth + 1
