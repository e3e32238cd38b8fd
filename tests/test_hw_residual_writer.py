"""Every residual word, cycle by cycle, against the definition in the instruction set."""

import random
from itertools import product

import pytest
from post_bench import bank_writes, small_geometry, trace
from test_hw_beats import advance_of

from palquant.hw import isa
from palquant.hw.affine import result_bits
from palquant.hw.residual_writer import ResidualWriter

GEOMETRIES = [
    small_geometry("16 bits", tin=4, tout=8, lanes=2),
    small_geometry("8 bits", tin=8, tout=4, lanes=4, residual_bits=8),
]


def steps_of_beat(geometry, fields, place, values, groups):
    """(address, {lane: residual}) of each step."""
    if not fields["residual_out"]:
        return
    chunk, row, column, beat = place
    planes = geometry.raw_planes if fields["raw"] else 1
    address = (
        fields["residual_out_address"]
        + row * fields["residual_out_row_stride"]
        + column * fields["residual_out_pixel_stride"]
        + (chunk * geometry.beats + beat) * planes
    )
    mask = (1 << geometry.residual_bits) - 1
    for step in range(planes if fields["raw"] else fields["scatter_groups"]):
        further = step * (1 if fields["raw"] else fields["residual_out_group_stride"])
        plane = step if fields["raw"] else 0
        lanes = {
            k: value >> (plane * geometry.residual_bits) & mask
            for k, value in enumerate(values)
            if fields["scatter_groups"] == 1 or groups[k] == step
        }
        yield (address + further) % (1 << isa.ADDRESS_BITS), lanes


def random_fields(rng, **fixed):
    return {
        "raw": 0,
        "scatter_groups": rng.choice((1, 2, 5, 8)),
        "residual_out": 1,
        "residual_out_address": rng.randrange(1 << 20),
        "residual_out_row_stride": rng.randrange(1 << 20),
        "residual_out_pixel_stride": rng.randrange(1 << 16),
        "residual_out_group_stride": rng.randrange(1 << 12),
        **fixed,
    }


def run(geometry, instructions, rng, early=0):
    """Compare every cycle of the port; returns the number of words, or of overruns."""
    dut = ResidualWriter(geometry)
    banks = [{}, {}]
    for tag, fields, _ in instructions:
        banks[tag] = fields
    cycles = bank_writes(dut.configuration, banks)
    expected, late = {}, []
    limit = 1 << (result_bits(geometry) - 1)
    for tag, fields, extent in instructions:
        for place in product(*map(range, (*extent, geometry.beats))):
            slot = rng.randrange(geometry.parameter_slots)
            groups = [rng.randrange(8) for _ in range(geometry.lanes)]
            values = [rng.randrange(-limit, limit) for _ in range(geometry.lanes)]
            start = len(cycles)
            steps = list(steps_of_beat(geometry, fields, place, values, groups))
            for step, word in enumerate(steps):
                expected[start + dut.LATENCY + step] = word
            advance = advance_of(*place)
            cycles.append([(dut.valid, 1), (dut.tag, tag), (dut.advance, advance)])
            cycles[-1] += [(dut.slot, slot)]
            idle = [(dut.valid, 0), (dut.tag, 1 - tag), (dut.slot, 0)]
            gap = 0 if early else rng.choice((0, 0, 0, 1, 3))
            cycles += [idle] * (max(1, len(steps)) - 1 + gap - early)
            late.append((start + dut.VALUE_DELAY, slot, values, groups))
    cycles += [[(dut.valid, 0)]] * (dut.LATENCY + 1)
    cycles = [list(cycle) for cycle in cycles]
    for cycle, _, values, groups in late:
        cycles[cycle] += list(zip(dut.values, values, strict=True))
        cycles[cycle] += list(zip(dut.group.data, groups, strict=True))
    port = dut.residual
    outputs = [port.enable, port.address, port.mask, list(port.data)]
    seen = trace(dut, cycles, [outputs, [dut.group.enable, dut.group.slot], dut.overrun])
    if early:
        return sum(overrun for *_, overrun in seen)
    for cycle, slot, *_ in late:
        assert seen[cycle - 1][1] == [1, slot], "memories answer in the next cycle"
    for cycle, ((enable, address, mask, data), _, overrun) in enumerate(seen):
        assert not overrun
        assert bool(enable) == (cycle in expected)
        if enable:
            lanes = {k: data[k] for k in range(geometry.lanes) if mask >> k & 1}
            assert (address, lanes) == expected[cycle]
    return len(expected)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.name)
@pytest.mark.parametrize("seed", range(4))
def test_random_instructions_alternate(geometry, seed):
    rng = random.Random(seed)
    raw = random_fields(rng, raw=1, scatter_groups=1)
    silent = random_fields(rng, residual_out=0)
    others = [random_fields(rng), raw, silent]
    for other in others:
        first = random_fields(rng)
        instructions = [(0, first, (2, 2, 2)), (1, other, (2, 1, 2))] * 2
        assert run(geometry, instructions, rng) > 0


def test_overrun():
    rng = random.Random(1)
    fields = random_fields(rng, scatter_groups=3)
    overruns = run(GEOMETRIES[1], [(0, fields, (1, 1, 2))], rng, early=1)
    assert overruns == 1
