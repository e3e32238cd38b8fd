import copy
import itertools
import random

from compute_words import random_loops, words
from hypothesis import given, settings
from hypothesis import strategies as st
from instructions import TINY, compute, load, random_instruction, store
from simulation import simulate

from palquant.hw.config import COMPUTES_UNDER_WAY
from palquant.hw.isa import Base, Cause, Memory, Opcode, Source
from palquant.hw.sequencer import Sequencer
from palquant.sw.schedule import CLEARANCE, PIECE, Step, insert_tokens, order_steps


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


def test_rows_stand_so_far_ahead_that_the_bus_has_time_for_them():
    steps = [Step([load(Memory.WEIGHT, 0, beats=1)], [compute(0)]) for _ in range(9)]
    for step in steps:
        step.computes[0].fields["output_rows"] = 3
    rows = load(Memory.ACTIVATION, 0, beats=10)
    steps[8].loads.append(rows)
    program = order_steps(steps, lookahead=1)
    # Each step leaves two cycles to rows: its weights take the third.
    assert program.index(rows) < program.index(steps[3].computes[0])
    assert program.index(rows) > program.index(steps[2].computes[0])


def test_long_rows_arrive_in_pieces_between_weights():
    steps = [Step([load(Memory.WEIGHT, 0, beats=1)], [compute(0)]) for _ in range(9)]
    for step in steps:
        step.computes[0].fields["output_rows"] = PIECE + 1
    whole = load(Memory.ACTIVATION, 64, beats=2 * PIECE + 3, offset=128)
    steps[8].loads.append(whole)
    program = order_steps(steps, lookahead=1)
    pieces = [item for item in program if item.fields.get("memory") == Memory.ACTIVATION]
    places = [
        sum(item.opcode is Opcode.COMPUTE for item in program[: program.index(piece)])
        for piece in pieces
    ]
    assert places == [5, 6, 7]
    assert [piece.fields["row_beats"] for piece in pieces] == [PIECE, PIECE, 3]
    for before, piece in itertools.pairwise(pieces):
        beats = before.fields["row_beats"]
        assert piece.fields["address"] == before.fields["address"] + beats
        assert piece.fields["dram_offset"] == before.fields["dram_offset"] + 8 * beats
    steps[8].loads[1:] = [whole]
    steps[7].computes = [compute(0, activation=300)]  # all pieces wait for it
    assert whole in order_steps(steps, lookahead=1)


def test_rows_that_wait_for_a_store_do_not_hold_up_weights_meanwhile():
    steps = [Step([load(Memory.WEIGHT, 0, beats=1)], [compute(0)]) for _ in range(9)]
    for step in steps:
        step.computes[0].fields["output_rows"] = 3
    rows = load(Memory.ACTIVATION, 0, beats=10, base=Base.OUTPUT)
    steps[8].loads.append(rows)
    steps[0].stores.append(store(64, beats=12))
    program = order_steps(steps, lookahead=1)
    assert program.index(rows) > program.index(steps[4].computes[0])


def plain_tokens(program):
    """:func:`insert_tokens`, with a search through all earlier instructions for each."""
    history = {"load": [], "compute": [], "store": []}
    waited = {}
    for index, instruction in enumerate(program):
        engine = instruction.opcode.name.lower()
        for other, past in history.items():
            conflicting = [when for when, item in past if instruction.conflicts(item)]
            if other == engine or not conflicting:
                continue
            last = max(conflicting)
            if last <= waited.get((other, engine), -1):
                continue
            waited[other, engine] = last
            instruction.fields[f"wait_{other}"] = 1
            program[last].fields[f"signal_{engine}"] = 1
            if other == "load":
                weights = program[last].fields["memory"] == Memory.WEIGHT
                instruction.fields["cause"] = Cause.WEIGHTS if weights else Cause.ACTIVATIONS
        before = [item for _, item in history["compute"][-1:]]
        if engine == "compute" and any(map(instruction.reads_from, before)):
            instruction.fields["drain"] = 1
        history[engine].append((index, instruction))


def constants(step):
    return [load for load in step.loads if not load.moves_rows]


def busy(items):
    return sum(item.cycles for item in items)


def plain_order(steps, lookahead):
    """:func:`order_steps`, with a look at each earlier step."""

    def used(items, earlier):
        found = [
            index
            for index, step in enumerate(steps[:earlier])
            if any(load.conflicts(user) for load in items for user in step.computes + step.stores)
        ]
        return max(found, default=-1)

    def far(index, items):
        for first in range(index, -1, -1):
            between = steps[first:index]
            spare = [busy(step.computes) - busy(constants(step)) for step in between]
            if sum(max(0, cycles) for cycles in spare) >= busy(items):
                return first
        return 0

    def left(index, load):
        stored = [
            other
            for other, step in enumerate(steps[:index])
            if any(load.conflicts(store) for store in step.stores)
        ]
        if not stored:
            return 0
        end = 0
        for other in range(stored[-1] + 1):
            end = max(end, sum(busy(step.computes) for step in steps[: other + 1]))
            end += busy(steps[other].stores)
        starts = [sum(busy(step.computes) for step in steps[:first]) for first in range(index + 1)]
        return next((first for first, start in enumerate(starts) if start >= end), index)

    placed = [[] for _ in steps]
    reached = [0, 0]
    for index, step in enumerate(steps):
        near = max(0, index - lookahead)
        rows = [load for load in step.loads if load.moves_rows]
        items = [(0, constants(step), near)] if constants(step) else []
        for number, item in enumerate(rows):
            early = min(near, max(far(index, rows[number:]), used([item], index) + CLEARANCE))
            items.append((1, [item], max(early, left(index, item))))
        for kind, loads, place in items:
            last = used(loads, index)
            place = last + 2 if last >= place else place
            reached[kind] = max(reached[kind], min(index, place))
            placed[reached[kind]] += loads
    program = []
    for loads, step in zip(placed, steps, strict=True):
        program += loads + step.computes + step.stores
    return program


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_tokens_are_those_of_a_search_through_all_instructions(seed):
    rng = random.Random(seed)
    program = [random_instruction(rng) for _ in range(rng.randint(1, 60))]
    expected = copy.deepcopy(program)
    insert_tokens(program)
    plain_tokens(expected)
    assert [item.fields for item in program] == [item.fields for item in expected]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), lookahead=st.integers(0, 8))
def test_order_is_that_of_a_search_through_all_steps(seed, lookahead):
    rng = random.Random(seed)
    steps = []
    for _ in range(rng.randint(1, 20)):
        step = Step()
        for item in (random_instruction(rng) for _ in range(rng.randint(1, 5))):
            getattr(step, f"{item.opcode.name.lower()}s").append(item)
        steps.append(step)
    program = order_steps(steps, lookahead)
    assert list(map(id, program)) == list(map(id, plain_order(steps, lookahead)))


def test_the_machine_overlaps_as_many_computes_as_draining_allows_for():
    """Draining for ``COMPUTES_UNDER_WAY - 1`` of them is enough only if no more are taken."""
    dut = Sequencer(TINY)
    rng = random.Random(0)
    fields = random_loops(TINY, rng, source=Source.ARRAY, drain=0, steps=1)
    cycles = 10 + len(words(TINY, fields))

    async def main(ctx):
        ctx.set(dut.instruction.payload, fields)
        ctx.set(dut.instruction.valid, 1)
        for completed in range(4):
            taken = 0
            for _ in range(8 * cycles):
                taken += ctx.get(dut.instruction.ready)
                await ctx.tick()
            assert taken == (1 if completed else COMPUTES_UNDER_WAY)
            ctx.set(dut.complete, 1)
            taken = ctx.get(dut.instruction.ready)
            assert not taken
            await ctx.tick()
            ctx.set(dut.complete, 0)

    simulate(dut, main)
