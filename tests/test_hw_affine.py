"""The value path against its definition, at the corners of every width."""

import itertools
import random

import pytest
from amaranth import Module
from amaranth.lib.wiring import connect
from post_bench import control_row, parameter_writes, random_words, small_geometry, trace

from palquant.hw import isa
from palquant.hw.affine import CONTROLS, Affine, compute, result_bits
from palquant.hw.parameters import ParameterMemory

GEOMETRY = small_geometry("affine")
PLAIN = dict.fromkeys(CONTROLS.members, 0) | {"saturation_bits": 16}


def fits(value, bits):
    return -(1 << (bits - 1)) <= value < 1 << (bits - 1)


def run(geometry, slots, beats):
    """Results, lanes in use and number of saturations.

    Parameters:
        geometry: Sizes.
        slots: For each slot and lane (scale, offset, shift, valid).
        beats: (slot, controls, values, residuals, gap).
    """
    m = Module()
    m.submodules.affine = dut = Affine(geometry)
    m.submodules.parameters = memory = ParameterMemory(geometry)
    connect(m, dut.scale, memory.scale)
    connect(m, dut.offset, memory.offset)
    connect(m, dut.shift, memory.shift)
    connect(m, dut.lane_valid, memory.valid)

    rows = {
        slot: {
            isa.ROW_OFFSET: [lane[1] for lane in lanes],
            isa.ROW_CONTROL: control_row(
                {"scale": scale, "shift": shift, "valid": valid} for scale, _, shift, valid in lanes
            ),
        }
        for slot, lanes in enumerate(slots)
    }
    cycles = parameter_writes(memory.write, geometry, rows)
    starts = []
    for slot, controls, _, _, gap in beats:
        start = len(cycles)
        starts.append(start)
        cycles.append([(dut.valid, 1), (dut.slot, slot), (dut.controls, controls)])
        cycles += [[(dut.valid, 0), (dut.slot, 0), (dut.controls, {})]] * gap
    cycles += [[(dut.valid, 0)]] + [[] for _ in range(dut.LATENCY + 6)]
    cycles = [list(cycle) for cycle in cycles]
    for start, (_, _, values, residuals, _) in zip(starts, beats, strict=True):
        # Only the cycle that the documentation names counts; around it stands something else.
        for delay, ports, numbers in (
            (dut.VALUE_DELAY, dut.values, values),
            (dut.RESIDUAL_DELAY, dut.residuals, residuals),
        ):
            cycles[start + delay + 1] += [(port, -3) for port in ports]
            cycles[start + delay] = [
                item for item in cycles[start + delay] if all(item[0] is not port for port in ports)
            ] + list(zip(ports, numbers, strict=True))
    outputs = [dut.results, dut.used, dut.saturated]
    seen = trace(m, cycles, outputs)
    results = [seen[start + dut.LATENCY] for start in starts]
    for start, gap in zip(starts, (beat[4] for beat in beats), strict=True):
        held = {tuple(seen[start + dut.LATENCY + k][0]) for k in range(gap + 1)}
        assert len(held) == 1
    saturations = sum(count for _, _, count in seen)
    return [values for values, _, _ in results], [used for _, used, _ in results], saturations


def reference(slots, beats):
    results, used, saturations = [], [], 0
    for slot, controls, values, residuals, _ in beats:
        lanes = []
        for value, residual, (scale, offset, shift, valid) in zip(
            values, residuals, slots[slot], strict=True
        ):
            result, count = compute(
                value,
                controls,
                scale=scale,
                offset=offset,
                shift=shift,
                residual=residual,
                valid=valid,
            )
            lanes.append(result)
            saturations += count
        results.append(lanes)
        used.append(sum(lane[3] << k for k, lane in enumerate(slots[slot])))
    return results, used, saturations


def check(slots, beats, geometry=GEOMETRY):
    assert run(geometry, slots, beats) == reference(slots, beats)


def test_extreme_operands():
    """M, B, Sh and v at their limits, affine results as wide as they are."""
    v = 1 << (GEOMETRY.value_bits - 1)
    lanes = [
        (scale, offset, shift, 1)
        for scale in (-(1 << 15), (1 << 15) - 1)
        for offset in (-(1 << 31), (1 << 31) - 1)
        for shift in (0, 31)
    ]
    slots = [lanes[k : k + 2] for k in range(0, len(lanes), 2)]
    controls = PLAIN | {"affine": 1}
    beats = [
        (slot, controls, values, [0, 0], 0)
        for slot in range(len(slots))
        for values in ([-v, -v], [v - 1, v - 1], [0, -1], [1, 0x1FFFF], [0x20000, -0x20000])
    ]
    check(slots, beats)


def test_overflow_above_32_bits():
    """Results beyond 32 bits whose low 32 bits alone would look like 0 or -1."""
    slots = [[(1 << 14, 0, 0, 1), (1 << 14, -1, 0, 1)]]
    controls = PLAIN | {"affine": 1}
    beats = [(0, controls, [sign << 20, sign << 20], [0, 0], 0) for sign in (1, -1)]
    assert run(GEOMETRY, slots, beats)[0] == [[32767, 32767], [-32768, -32768]]
    check(slots, beats)


def test_every_shift_rounds_down():
    rng = random.Random(1)
    geometry = small_geometry("shifts", parameter_slots=64)
    slots = []
    for shift in range(32):
        slots.append([(1, 0, shift, 1), (-1, 0, shift, 1)])
        slots.append([(32767, 1 << 30, shift, 1), (3, 5, shift, 1)])
    beats = []
    for slot, lanes in enumerate(slots):
        for raw in (0, 1):
            controls = PLAIN | {"affine": 1, "raw": raw}
            for width in (12, 20, 28):
                values = random_words(rng, width, 2)
                exact = [(v * s + b) >> h for v, (s, b, h, _) in zip(values, lanes, strict=True)]
                if not raw or all(fits(x, 32) for x in exact):
                    beats.append((slot, controls, values, [0, 0], 0))
    assert len(beats) > 300
    check(slots, beats, geometry)


@pytest.mark.parametrize("bits", range(8, 17))
def test_saturation_borders(bits):
    """One below, at and above each border, behind the affine step and behind the addition."""
    top = 1 << (bits - 1)
    borders = [-top - 1, -top, -top + 1, top - 2, top - 1, top, 0, 1 << 26, -(1 << 27)]
    slots = [[(1, 0, 0, 1), (-1, 0, 0, 1)]]
    affine = PLAIN | {"affine": 1, "saturation_bits": bits}
    beats = [(0, affine, [value, value], [0, 0], 0) for value in borders]
    adds = PLAIN | {"residual": 1, "saturation_bits": bits}
    for value in (-top, 0, top - 1):
        beats += [
            (0, adds, [value, border - value], [max(-32768, min(32767, border - value)), 5], 0)
            for border in borders
            if fits(border - value, GEOMETRY.value_bits)
        ]
    both = affine | {"residual": 1}
    beats += [(0, both, [top, -top - 1], [32767, -32768], 0), (0, both, [top, 3], [-1, 2], 1)]
    check(slots, beats)


def test_every_combination_of_steps():
    """Random beats back to back and with gaps, each with its own combination of steps."""
    names = ("affine", "relu_before", "residual", "relu_after", "raw")
    rng = random.Random(3)
    slots = [
        [(rng.randint(-(1 << 15), (1 << 15) - 1), rng.randint(-999, 999), 16, v) for v in valids]
        for valids in ((1, 1), (1, 1), (1, 1), (0, 1), (1, 0), (0, 0))
    ]
    choices = [
        PLAIN | dict(zip(names, switches, strict=True)) | {"saturation_bits": bits}
        for switches in itertools.product((0, 1), repeat=len(names))
        for bits in (8, 12, 16)
    ]
    beats = [
        (
            rng.randrange(len(slots)),
            rng.choice(choices),
            random_words(rng, rng.randint(2, 28), 2),
            random_words(rng, 16, 2),
            rng.choice((0, 0, 0, 1, 4)),
        )
        for _ in range(800)
    ]
    check(slots, beats)


def test_lanes_without_a_channel_are_zero_and_do_not_count():
    slots = [[(1, 0, 0, 0), (1, 0, 0, 0)]]
    controls = PLAIN | {"affine": 1, "residual": 1, "saturation_bits": 8}
    beats = [(0, controls, [1000, -1000], [500, -500], 0)]
    assert run(GEOMETRY, slots, beats) == ([[0, 0]], [0], 0)


@pytest.mark.parametrize(
    "sizes",
    [
        {"accumulator_bits": 8, "offset_bits": 12, "scale_bits": 4, "pool_bits": 10},
        {"accumulator_bits": 32, "residual_bits": 8, "lanes": 4},
    ],
)
def test_other_widths(sizes):
    """Narrower than a DSP block's operand and than the offset, and the widest."""
    geometry = small_geometry("widths", **sizes)
    lanes = geometry.lanes
    rng = random.Random(geometry.value_bits)
    slots = [
        [
            (
                *random_words(rng, geometry.scale_bits, 1),
                *random_words(rng, geometry.offset_bits, 1),
                rng.randint(0, 31),
                1,
            )
            for _ in range(lanes)
        ]
        for _ in range(8)
    ]
    beats = [
        (
            rng.randrange(8),
            PLAIN | {"affine": rng.randint(0, 3) > 0, "saturation_bits": 8, "residual": number % 2},
            random_words(rng, geometry.value_bits, lanes),
            random_words(rng, geometry.residual_bits, lanes),
            0,
        )
        for number in range(60)
    ]
    check(slots, beats, geometry)


def test_results_are_as_wide_as_values_or_raw_numbers():
    assert result_bits(GEOMETRY) == 32
    assert result_bits(small_geometry("wide", accumulator_bits=32)) == 34
