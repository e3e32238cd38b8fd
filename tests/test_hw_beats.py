"""Results and pooled beats become beats: at the right time, in place, with the right data."""

import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import count, product, repeat

import pytest
from post_bench import advance_of, bank_writes, small_geometry, trace

from palquant.hw.beats import BeatSequencer

GEOMETRIES = {
    beats: small_geometry(f"{beats} beats", tin=8, tout=2 * beats, parameter_slots=12)
    for beats in (1, 2, 4)
}


@dataclass
class Instruction:
    """What the sequencer of beats knows about a COMPUTE."""

    tag: int
    steps: int
    extent: tuple[int, int, int] = (1, 1, 1)  # chunks, rows, columns
    slot: int = 0
    pooled: bool = False
    empty: bool = False

    @property
    def fields(self):
        names = ("output_chunks", "output_rows", "output_columns")
        sizes = dict(zip(names, self.extent, strict=True))
        return sizes | {"steps": self.steps, "parameter_slot": self.slot}


def arrivals(geometry, instructions, gaps):
    """(cycle, instruction, first, last, chunk, row, column, beat), as early as allowed plus gaps.

    ``beat`` is None for a result of the array, which has all beats.
    """
    cycle = 0
    for item in instructions:
        beats = range(geometry.beats) if item.pooled else [None]
        places = list(product(*map(range, item.extent), beats))
        for number, place in enumerate(places):
            yield cycle, item, number == 0, number == len(places) - 1, *place
            cycle += 1 if item.empty else item.steps * (1 if item.pooled else geometry.beats)
            cycle += next(gaps)


def run(geometry, instructions, gaps):
    """Compare every cycle's outputs with what the arrivals call for."""
    dut = BeatSequencer(geometry)
    rng = random.Random(7)
    banks = [{}, {}]
    for item in instructions:
        assert banks[item.tag] in ({}, item.fields), "one configuration for each bank here"
        banks[item.tag] = item.fields
    writes = bank_writes(dut.configuration, banks)
    stimuli = defaultdict(list)
    beats, finishes = {}, set()
    for cycle, item, first, last, chunk, row, column, pooled_beat in arrivals(
        geometry, instructions, gaps
    ):
        port = dut.pooled if item.pooled else dut.result
        stimuli[cycle] += [(port.valid, 1), (port.tag, item.tag), (port.first, first)]
        stimuli[cycle] += [(port.last, last)]
        # Only the data stays; all else has to be looked at in the cycle of the strobe.
        stimuli[cycle + 1] += [(port.valid, 0), (port.tag, 1 - item.tag), (port.first, not first)]
        stimuli[cycle + 1] += [(port.last, not last)]
        if item.pooled:
            limit = 1 << (geometry.value_bits - 1)
            words = [rng.randint(-limit, limit - 1) for _ in range(geometry.lanes)]
            stimuli[cycle + 1] += [(port.values, words)]
            activation_sum = None
        else:
            words = [rng.getrandbits(geometry.accumulator_bits) for _ in range(geometry.tout)]
            activation_sum = rng.getrandbits(geometry.activation_sum_bits)
            stimuli[cycle + 1] += [(port.sums, words), (port.activation_sum, activation_sum)]
            stimuli[cycle] += [(port.empty, item.empty)]
        parts = len(words) // geometry.lanes
        if item.empty:
            finishes.add(cycle)
            continue
        for beat in range(parts):
            place = chunk, row, column, pooled_beat or beat
            beats[cycle + beat * item.steps] = (
                item.tag,
                advance_of(*place),
                item.slot + chunk * geometry.beats + place[-1],
                words[beat * geometry.lanes :][: geometry.lanes],
                activation_sum,
            )
        if last:
            finishes.add(cycle + parts * item.steps - 1)
    end = max(finishes) + 3
    cycles = writes + [stimuli[cycle] for cycle in range(end)]
    b = dut.beat
    outputs = [b.valid, b.finish, b.tag, b.advance, b.slot, dut.products, dut.activation_sum]
    held = due = None
    for now, sample in enumerate(trace(dut, cycles, [*outputs, dut.overrun])):
        cycle = now - len(writes) - dut.LATENCY
        valid, finish, *beat, products, activation_sum, overrun = sample
        assert not overrun
        assert valid == (cycle in beats), cycle
        assert finish == (cycle in finishes), cycle
        if due:
            assert products == due[0]
            assert due[1] in (None, activation_sum)
            held = products, activation_sum
        elif held:
            assert (products, activation_sum) == held, "data stays until the next beat's"
        due = None
        if valid:
            *expected, expected_products, expected_sum = beats[cycle]
            assert beat == expected
            due = expected_products, expected_sum


@pytest.mark.parametrize("beats", GEOMETRIES)
@pytest.mark.parametrize("steps", range(1, 9))
def test_results_back_to_back(beats, steps):
    extent = (2, 2, 3)
    instructions = [
        Instruction(0, steps, extent, 1),
        Instruction(1, 1, (1, 1, 2), 0),
        Instruction(0, steps, extent, 1),
        Instruction(1, 1, (1, 1, 2), 0),
    ]
    run(GEOMETRIES[beats], instructions, repeat(0))


@pytest.mark.parametrize("beats", GEOMETRIES)
def test_pooled_beats_and_results_with_gaps(beats):
    rng = random.Random(beats)
    instructions = [
        Instruction(0, 3, (2, 3, 2), 0),
        Instruction(1, 2, (2, 2, 2), 4, pooled=True),
        Instruction(0, 3, (2, 3, 2), 0),
    ]
    run(GEOMETRIES[beats], instructions, (rng.choice((0, 0, 1, 5)) for _ in count()))
    run(GEOMETRIES[beats], instructions, repeat(0))


def test_empty_results_only_finish():
    geometry = GEOMETRIES[2]
    held = Instruction(0, 0, empty=True)
    last = Instruction(1, 3)
    run(geometry, [held, last, held, last], repeat(0))
    # Its steps do not matter, even where they belong to another instruction of the bank.
    run(geometry, [Instruction(0, 63, empty=True), last], repeat(0))


def test_most_steps():
    """Two 8-bit tensors into one memory, over 8 groups: 64 steps, which the field wraps to 0."""
    geometry = GEOMETRIES[2]
    dut = BeatSequencer(geometry)
    cycles = bank_writes(dut.configuration, [{"steps": 0}, {}])
    start = len(cycles)
    cycles.append([(dut.result.valid, 1), (dut.result.first, 1), (dut.result.last, 1)])
    cycles += [[(dut.result.valid, 0)]] + [[]] * 130
    seen = trace(dut, cycles, [dut.beat.valid, dut.beat.finish])
    assert [t - start for t, (valid, _) in enumerate(seen) if valid] == [1, 65]
    assert [t - start for t, (_, finish) in enumerate(seen) if finish] == [128]


@pytest.mark.parametrize("beats", GEOMETRIES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_overrun(beats, steps):
    """A result that comes a cycle too early is reported, one in time is not."""
    for early in (0, 1):
        if steps * beats - early == 0:
            continue  # the same cycle
        dut = BeatSequencer(GEOMETRIES[beats])
        cycles = bank_writes(dut.configuration, [{"steps": steps}, {}])
        for _ in range(2):
            cycles.append([(dut.result.valid, 1)])
            cycles += [[(dut.result.valid, 0)]] * (steps * beats - 1 - early)
        cycles += [[(dut.result.valid, 0)]] * 3
        assert sum(trace(dut, cycles, dut.overrun)) == early


def test_overrun_of_a_pooled_beat():
    for early in (0, 1):
        dut = BeatSequencer(GEOMETRIES[1])
        cycles = bank_writes(dut.configuration, [{"steps": 4}, {}])
        cycles += [[(dut.pooled.valid, 1)], *[[(dut.pooled.valid, 0)]] * (3 - early)]
        cycles += [[(dut.pooled.valid, 1)], [(dut.pooled.valid, 0)], []]
        assert sum(trace(dut, cycles, dut.overrun)) == early
