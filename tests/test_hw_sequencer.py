"""Words, their order and their pace, with a post-processor of constant latency behind."""

import itertools
import random

import pytest
from compute_words import random_loops, words
from post_bench import small_geometry
from simulation import simulate

from palquant.hw.isa import Source
from palquant.hw.registers import Activity
from palquant.hw.sequencer import Sequencer

GEOMETRY = small_geometry("sequencer")
ARRAY, POOL = Source.ARRAY, Source.POOL

#: Cycles from an instruction's last word to its completion in these tests.
COMPLETION = 30


def pace(fields):
    return fields["steps"] * (1 if fields["source"] == POOL else GEOMETRY.beats)


def run(instructions, *, gaps=None, completion=COMPLETION, geometry=GEOMETRY):
    """What leaves the sequencer.

    Parameters:
        instructions: Fields, offered one after the other.
        gaps: Cycles to wait before offering each.
        completion: Cycles from the last word to ``complete``, a number or one for each.
        geometry: Sizes.

    Returns:
        Words as (cycle, dictionary), activities by cycle, and configurations as (cycle, tag,
        layer).
    """
    dut = Sequencer(geometry)
    gaps = gaps or [0] * len(instructions)
    if isinstance(completion, int):
        completion = [completion] * len(instructions)
    issued, activities, configurations = [], [], []
    due = []
    state = {"complete": 0}

    async def offer(ctx):
        for gap, fields in zip(gaps, instructions, strict=True):
            for _ in range(gap):
                await ctx.tick()
            ctx.set(dut.instruction.payload, fields)
            ctx.set(dut.instruction.valid, 1)
            await ctx.tick().until(dut.instruction.ready)
            ctx.set(dut.instruction.valid, 0)

    async def main(ctx):
        cycle = 0
        while state["complete"] < len(instructions):
            ctx.set(dut.complete, cycle in due)
            activities.append(Activity(ctx.get(dut.activity)))
            if ctx.get(dut.configuration.valid):
                fields = ctx.get(dut.configuration.fields)
                configurations.append((cycle, ctx.get(dut.configuration.tag), fields.layer))
            assert ctx.get(dut.busy) == (len(configurations) > state["complete"])
            state["complete"] += cycle in due
            array, pool = ctx.get(dut.array), ctx.get(dut.pool)
            assert not (array.valid and pool.valid)
            if array.valid or pool.valid:
                control = array if array.valid else pool
                word = {name: int(control[name]) for name, _ in control.shape()}
                word["source"] = ARRAY if array.valid else POOL
                word["address"] = None if ctx.get(dut.padding) else ctx.get(dut.address)
                if array.valid:
                    word["weight"] = ctx.get(dut.weight_address)
                    code = ctx.get(dut.pad_word)
                    word["pad"] = [code >> 2 * lane & 3 for lane in range(geometry.tin)]
                issued.append((cycle, word))
                if control.last:
                    number = sum(word["last"] for _, word in issued) - 1
                    due.append(cycle + completion[number])
            await ctx.tick()
            cycle += 1

    simulate(dut, main, offer)
    return issued, activities, configurations


def check_words(instructions, issued, geometry=GEOMETRY):
    """Every word of every instruction, in order, and nothing else."""
    rest = [word for _, word in issued]
    for number, fields in enumerate(instructions):
        expected = words(geometry, fields)
        actual, rest = rest[: len(expected)], rest[len(expected) :]
        assert len(actual) == len(expected)
        first = 1
        for told, word in zip(actual, expected, strict=True):
            if word["source"] == ARRAY and word["address"] is not None:
                del told["pad"], word["pad"]
            assert {name: told[name] for name in word} == word
            assert told["tag"] == (number + 1) % 2
            if word["emit"]:
                assert told["first"] == first
                first = 0
            if word["source"] == ARRAY:
                assert told["empty"] == fields["hold"]
    assert not rest


def check_pace(instructions, issued):
    """Results follow one another no faster than allowed, and no slower than necessary."""
    expected = [(fields, word) for fields in instructions for word in words(GEOMETRY, fields)]
    allowed = 0
    previous = None
    for (cycle, word), (fields, _) in zip(issued, expected, strict=True):
        if word["emit"]:
            assert cycle >= allowed
        if previous is not None and not previous[1]["last"]:
            earliest = previous[0] + 1
            assert cycle == (max(earliest, allowed) if word["emit"] else earliest)
        if word["emit"]:
            allowed = cycle + pace(fields)
        previous = (cycle, word)


@pytest.mark.parametrize("seed", range(4))
def test_random_instructions(seed):
    rng = random.Random(seed)
    instructions = [random_loops(GEOMETRY, rng, drain=rng.randrange(2)) for _ in range(10)]
    gaps = [rng.choice([0, 0, 0, 5, 60]) for _ in instructions]
    issued, activities, configurations = run(instructions, gaps=gaps)
    check_words(instructions, issued)
    check_pace(instructions, issued)
    for source, activity in ((ARRAY, Activity.ARRAY), (POOL, Activity.POOL)):
        assert activities.count(activity) == sum(w["source"] == source for _, w in issued)
    assert [(tag, layer) for _, tag, layer in configurations] == [
        ((k + 1) % 2, fields["layer"]) for k, fields in enumerate(instructions)
    ]
    lasts = [k for k, (_, word) in enumerate(issued) if word["last"]]
    firsts = [0, *(k + 1 for k in lasts[:-1])]
    for (cycle, _, _), first in zip(configurations, firsts, strict=True):
        assert cycle + 2 <= issued[first][0]


def simple(rng, **fixed):
    """One array result of two words."""
    one = ("kernel_rows", "output_rows", "output_columns", "output_chunks", "input_chunks")
    return random_loops(
        GEOMETRY,
        rng,
        **{
            "source": ARRAY,
            "kernel_columns": 2,
            **dict.fromkeys(one, 1),
            **dict.fromkeys(("input_digits", "weight_digits", "steps", "scatter_groups"), 1),
            **dict.fromkeys(("digit_sum_first", "digit_sum_last"), 0),
            **fixed,
        },
    )


def test_two_cycles_between_instructions():
    rng = random.Random(0)
    instructions = [simple(rng, kernel_columns=20) for _ in range(4)]
    issued, activities, _ = run(instructions, completion=10)
    check_words(instructions, issued)
    lasts = [cycle for cycle, word in issued if word["last"]]
    firsts = [cycle for cycle, word in issued if word["clear"]]
    assert [b - a for a, b in zip(lasts, firsts[1:], strict=False)] == [3, 3, 3]
    assert activities[1 : lasts[-1]].count(Activity.DEPENDENCY) == 7
    assert Activity.DRAIN not in activities


def test_third_instruction_waits_for_the_first():
    rng = random.Random(0)
    issued, activities, configurations = run([simple(rng) for _ in range(4)], completion=50)
    lasts = [cycle for cycle, word in issued if word["last"]]
    assert configurations[1][0] < lasts[0] + 3
    assert [c for c, _, _ in configurations[2:]] == [lasts[0] + 52, lasts[1] + 52]
    assert activities.count(Activity.DRAIN) > 40


@pytest.mark.parametrize("sources", [(ARRAY, POOL), (POOL, ARRAY)])
def test_change_of_source_drains(sources):
    rng = random.Random(0)
    first, second = (simple(rng, source=source, pool_operation=0) for source in sources)
    issued, activities, _ = run([first, second], completion=40)
    lasts = [k for k, (_, word) in enumerate(issued) if word["last"]]
    assert issued[lasts[0] + 1][0] > issued[lasts[0]][0] + 40
    assert Activity.DRAIN in activities


def test_drain_waits_for_all_earlier_instructions():
    rng = random.Random(0)
    plain = [simple(rng), simple(rng)]
    issued, _, _ = run(plain, completion=40)
    assert issued[2][0] < issued[1][0] + 6
    issued, activities, _ = run([plain[0], plain[1] | {"drain": 1}], completion=40)
    assert issued[2][0] == issued[1][0] + 40 + 3
    # From the second cycle of the set-up to that of the completion.
    assert activities.count(Activity.DRAIN) == 40


@pytest.mark.parametrize(("groups", "activity"), [(1, Activity.OUTPUT), (2, Activity.MERGE)])
def test_pace_is_attributed(groups, activity):
    fields = simple(random.Random(0), steps=6, scatter_groups=groups, output_columns=5)
    issued, activities, _ = run([fields])
    emits = [cycle for cycle, word in issued if word["emit"]]
    assert [b - a for a, b in itertools.pairwise(emits)] == [6 * GEOMETRY.beats] * 4
    assert activities.count(activity) == 4 * (6 * GEOMETRY.beats - 2)


def test_pace_reaches_into_the_next_instruction():
    rng = random.Random(0)
    slow = simple(rng, steps=20)
    issued, _, _ = run([slow, simple(rng)], completion=50)
    assert issued[2][0] == issued[1][0] + 3
    assert issued[3][0] == issued[1][0] + 20 * GEOMETRY.beats


def test_hold_and_accumulate():
    rng = random.Random(0)
    instructions = [
        simple(rng, hold=1),
        simple(rng, accumulate=1, shift_first=1, hold=1),
        simple(rng, accumulate=1),
    ]
    issued, _, _ = run(instructions)
    check_words(instructions, issued)
    assert [word["empty"] for _, word in issued if word["emit"]] == [1, 1, 0]
    assert [(w["clear"], w["shift"]) for _, w in issued] == [
        (1, 0), (0, 0), (0, 1), (0, 0), (0, 0), (0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("preset", [{"tin": 8, "tout": 8, "lanes": 8}, {"tin": 4, "lanes": 4}])
def test_other_geometries(preset):
    geometry = small_geometry("other", **preset)
    rng = random.Random(5)
    instructions = [random_loops(geometry, rng) for _ in range(6)]
    issued, _, _ = run(instructions, geometry=geometry)
    check_words(instructions, issued, geometry)
