"""Codes against the search that defines them, and that against counting thresholds."""

import random

import pytest
from amaranth import Module
from amaranth.lib.wiring import connect
from post_bench import control_row, parameter_writes, random_words, small_geometry, trace

from palquant.hw import isa
from palquant.hw.affine import result_bits
from palquant.hw.parameters import ParameterMemory
from palquant.hw.quantize import CODE_BITS, Quantize, compute
from palquant.hw.threshold_search import search_cycles

GEOMETRY = small_geometry("quantize", parameter_slots=3)
T_MIN, T_MAX = -(1 << 23), (1 << 23) - 1


def run(slots, beats, tensor=0, geometry=GEOMETRY):
    """Codes of each beat (slot, bits, values, used, gap), gaps as long as searches need at least.

    ``slots`` gives, for each slot and lane, (negate, thresholds by position); the other tensor
    gets the opposite ones.
    """
    m = Module()
    m.submodules.quantize = dut = Quantize(geometry)
    m.submodules.parameters = memory = ParameterMemory(geometry)
    connect(m, dut.negate, memory.negate[tensor])
    connect(m, dut.thresholds, memory.thresholds[tensor])

    names = ("negate1", "negate2") if tensor == 0 else ("negate2", "negate1")
    rows = {}
    for slot, lanes in enumerate(slots):
        rows[slot] = {
            isa.ROW_CONTROL: control_row(
                {names[0]: negate, names[1]: 1 - negate} for negate, _ in lanes
            )
        }
        for position in range(1, 1 << geometry.threshold_levels):
            numbers = [thresholds.get(position, 0) for _, thresholds in lanes]
            rows[slot][isa.THRESHOLD_ROWS[tensor][position]] = numbers
            rows[slot][isa.THRESHOLD_ROWS[1 - tensor][position]] = [~number for number in numbers]

    cycles = parameter_writes(memory.write, geometry, rows)
    beats = [
        (*beat[:4], max(beat[4], search_cycles([0] * tensor + [beat[1]]) - 1)) for beat in beats
    ]
    starts = []
    for slot, bits, _, _, gap in beats:
        starts.append(len(cycles))
        cycles.append([(dut.valid, 1), (dut.slot, slot), (dut.bits, bits)])
        cycles += [[(dut.valid, 0), (dut.slot, 0), (dut.bits, 15)]] * gap
    cycles = [list(cycle) for cycle in [*cycles, [(dut.valid, 0)], *[[]] * dut.LATENCY]]
    for start, (_, _, values, used, _) in zip(starts, beats, strict=True):
        mask = sum(bit << lane for lane, bit in enumerate(used))
        cycles[start + dut.VALUE_DELAY] += [(dut.used, mask), *zip(dut.values, values, strict=True)]
    seen = trace(m, cycles, dut.codes)
    for start, beat in zip(starts, beats, strict=True):
        held = {tuple(seen[start + dut.LATENCY + k]) for k in range(beat[4] + 1)}
        assert len(held) == 1
    return [seen[start + dut.LATENCY] for start in starts]


def reference(slots, beats):
    return [
        [
            compute(value, bits, thresholds=thresholds, negate=negate, used=lane_used)
            for value, lane_used, (negate, thresholds) in zip(
                values, used, slots[slot], strict=True
            )
        ]
        for slot, bits, values, used, _ in beats
    ]


def tree(thresholds):
    """Sorted thresholds by their position in the search tree."""
    order = isa.tree_order(len(thresholds).bit_length())
    return {position: thresholds[index] for position, index in enumerate(order, start=1)}


@pytest.mark.parametrize("bits", range(1, GEOMETRY.threshold_levels + 1))
def test_code_is_the_number_of_thresholds_reached(bits):
    rng = random.Random(bits)
    for _ in range(50):
        thresholds = sorted(random_words(rng, 6, (1 << bits) - 1))
        for value in range(-33, 33):
            for negate in (0, 1):
                given = -value if negate else value
                assert compute(given, bits, thresholds=tree(thresholds), negate=negate) == sum(
                    value >= threshold for threshold in thresholds
                )


def test_clamping():
    assert [compute(v, 8) for v in (-(1 << 31), -1, 0, 255, 256)] == [0, 0, 0, 255, 255]
    assert compute(7, 8, used=0) == 0


@pytest.mark.parametrize("tensor", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_search(bits, tensor):
    """Values at, just below and just above each threshold, in slots of their own."""
    rng = random.Random(bits * 2 + tensor)
    count = (1 << bits) - 1
    lists = [
        sorted(random_words(rng, 23, count)),
        list(range(-(count // 2), count - count // 2)),
        [T_MIN] * (count // 2) + [T_MAX] * (count - count // 2),
        [T_MIN] * count,
        [T_MAX] * count,
        [0] * count,
    ]
    slots = [
        [(slot % 2, tree(lists[slot])), (1 - slot % 2, tree(lists[slot + 3]))] for slot in range(3)
    ]
    beats = []
    for slot, lanes in enumerate(slots):
        for pivot in {0, *lanes[0][1].values(), *lanes[1][1].values()}:
            for step in (-1, 0, 1):
                # A value is compared with both signs, and must fit the threshold's width.
                value = max(T_MIN + 1, min(T_MAX, pivot + step))
                beats += [(slot, bits, [sign * value] * 2, [1, 1], 0) for sign in (1, -1)]
    rng.shuffle(beats)
    assert run(slots, beats, tensor) == reference(slots, beats)


def test_never_and_always():
    """A code of 0 or of the greatest for every value, by thresholds that none or all reach."""
    count = 15
    slots = [[(0, tree([T_MAX] * count)), (0, tree([T_MIN] * count))]] * 3
    beats = [(0, 4, [value, value], [1, 1], 0) for value in (T_MIN, -1, 0, T_MAX - 1)]
    assert run(slots, beats) == [[0, 15]] * 4
    # The smallest number itself has a negative that fits one bit more.
    slots = [[(1, tree([T_MIN] * count)), (1, tree([T_MAX] * count))]] * 3
    assert run(slots, [(0, 4, [T_MIN, T_MIN], [1, 1], 0)]) == [[15, 15]]


def test_widths_alternate_between_beats():
    rng = random.Random(1)
    slots = [
        [(rng.randint(0, 1), tree(sorted(random_words(rng, 10, 15)))) for _ in range(2)]
        for _ in range(3)
    ]
    beats = []
    for _ in range(500):
        bits = rng.choice((0, 1, 2, 3, 4, 8))
        values = random_words(rng, result_bits(GEOMETRY) if bits == 8 else 11, 2)
        used = [rng.randint(0, 3) > 0 for _ in range(2)]
        beats.append((rng.randrange(3), bits, values, used, rng.choice((0, 0, 0, 1, 7))))
    codes = run(slots, beats)
    assert codes == reference(slots, beats)
    assert {code for lanes in codes for code in lanes} >= {*range(16), 255}


def test_clamps_at_the_limits_of_the_value():
    limit = 1 << (result_bits(GEOMETRY) - 1)
    values = [-limit, -1, 0, 1, 254, 255, 256, 511, 1 << 24, limit - 1]
    beats = [(0, CODE_BITS, [value, -value - 1], [1, 1], 0) for value in values]
    codes = run([[(1, {}), (0, {})]] * 3, beats)
    assert codes == [[max(0, min(255, x)) for x in (value, -value - 1)] for value in values]


def test_wide_thresholds():
    geometry = small_geometry("wide", accumulator_bits=32, threshold_bits=32, parameter_slots=1)
    low, high = -(1 << 31), (1 << 31) - 1
    slots = [[(0, tree([low, 0, high])), (1, tree([low, 0, high]))]]
    beats = [(0, 2, [value, value], [1, 1], 0) for value in (low, low + 1, -1, 0, 1, high)]
    assert run(slots, beats, geometry=geometry) == reference(slots, beats)
