from instructions import compute, load, store

from palquant.hw.isa import Base, Memory, Opcode
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
