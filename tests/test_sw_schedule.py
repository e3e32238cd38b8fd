import pytest
from instructions import TINY, compute, load, store

from palquant.errors import InstructionError
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.deadlock import check_deadlock
from palquant.sw.schedule import Step, insert_tokens, order_steps


def tokens(instruction):
    return {
        name
        for name, value in instruction.fields.items()
        if value and name.startswith(("wait_", "signal_"))
    }


def test_a_chain_of_three_engines():
    program = [load(Memory.WEIGHT, 0), compute(0), store(0)]
    insert_tokens(program)
    assert tokens(program[0]) == {"signal_compute"}
    assert tokens(program[1]) == {"wait_load", "signal_store"}
    assert tokens(program[2]) == {"wait_compute"}


def test_disjoint_instructions_need_no_tokens():
    program = [load(Memory.WEIGHT, 64), compute(0), store(512)]
    insert_tokens(program)
    assert [tokens(item) for item in program] == [set()] * 3


def test_overwriting_weights_waits_for_their_last_reader():
    program = [load(Memory.WEIGHT, 0), compute(0), compute(0), load(Memory.WEIGHT, 0)]
    insert_tokens(program)
    assert tokens(program[1]) == {"wait_load"}
    assert tokens(program[2]) == {"signal_load"}
    assert tokens(program[3]) == {"wait_compute"}


def test_one_wait_covers_what_came_before():
    program = [load(Memory.WEIGHT, 0), load(Memory.WEIGHT, 4), compute(2), compute(0)]
    insert_tokens(program)
    assert tokens(program[1]) == {"signal_compute"}
    assert tokens(program[3]) == set()


def test_reading_back_from_dram_waits_for_the_store():
    program = [store(0, offset=64), load(Memory.ACTIVATION, 0, base=Base.OUTPUT, offset=64)]
    insert_tokens(program)
    assert tokens(program[1]) == {"wait_store"}


def test_regions_of_dram_are_not_mixed_up():
    program = [store(0, offset=64), load(Memory.ACTIVATION, 0, base=Base.IMAGE, offset=64)]
    insert_tokens(program)
    assert tokens(program[1]) == set()


def test_a_compute_that_reads_its_predecessor_drains():
    first, second = compute(0), compute(1, activation=300)
    first.fields |= {"code1_to_activation": 1, "code1_activation_address": 300}
    program = [first, second]
    insert_tokens(program)
    assert second.fields["drain"] == 1
    assert first.fields.get("drain", 0) == 0


def test_loads_are_moved_ahead_but_not_over_their_users():
    weights = [load(Memory.WEIGHT, 2 * (index % 3), beats=2) for index in range(6)]
    computes = [compute(index % 3) for index in range(6)]
    steps = [Step([w], [c]) for w, c in zip(weights, computes, strict=True)]
    program = order_steps(steps, lookahead=4)
    assert [item for item in program if item.opcode is Opcode.LOAD] == weights
    assert [item for item in program if item.opcode is Opcode.COMPUTE] == computes
    for index in range(3, 6):  # overwrites what step index - 3 reads
        assert program.index(weights[index]) > program.index(computes[index - 3])
        assert program.index(weights[index]) < program.index(computes[index])
    assert program.index(weights[2]) < program.index(computes[0])


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
    with pytest.raises(InstructionError, match="gives 256 tokens from load to compute"):
        check_deadlock([*program, (Opcode.END, {})], TINY)
