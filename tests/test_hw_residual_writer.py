"""Every residual word, cycle by cycle, against the definition in the instruction set."""

import random

import pytest
from post_bench import small_geometry, trace_writer

from palquant.hw import isa
from palquant.hw.affine import result_bits
from palquant.hw.residual_writer import ResidualWriter

GEOMETRIES = [
    small_geometry("16 bits", tin=4, tout=8, lanes=2),
    small_geometry("8 bits", tin=8, tout=4, lanes=4, residual_bits=8),
]


def steps_of_beat(geometry, fields, place, results, groups):
    """(address, {lane: residual}) of each step."""
    (values,) = results
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
    limit = 1 << (result_bits(geometry) - 1)

    def draw(_):
        return [[rng.randrange(-limit, limit) for _ in range(geometry.lanes)]]

    port = dut.residual
    outputs = [port.enable, port.address, port.mask, list(port.data)]
    seen, expected = trace_writer(
        dut, [dut.values], outputs, instructions, rng, draw, steps_of_beat, early
    )
    if early:
        return sum(overrun for _, overrun in seen)
    for cycle, ((enable, address, mask, data), overrun) in enumerate(seen):
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
