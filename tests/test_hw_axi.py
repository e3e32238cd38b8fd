"""Bursts cover their rows exactly, and never cross a border."""

import dataclasses
import random

import pytest
from simulation import simulate, sink, source, until

from palquant.hw.axi import BurstSplitter
from palquant.hw.presets import geometry

TINY = geometry("tiny")
GEOMETRIES = [
    TINY,
    geometry("kilomac"),
    dataclasses.replace(TINY, bus_bits=32, burst_beats=1, outstanding_bursts=1),
    dataclasses.replace(TINY, bus_bits=128, burst_beats=256),
]


def bursts(row, g):
    """Reference: the bursts of one row."""
    result = []
    address, local, left = row["address"], row["local"], row["beats"]
    while left:
        count = min(left, g.burst_beats - address // g.bus_bytes % g.burst_beats)
        result.append({**row, "address": address, "local": local, "length": count - 1})
        address, local, left = address + count * g.bus_bytes, local + count, left - count
        result[-1]["last"] = row["last"] and not left
        del result[-1]["beats"]
    return result


def random_row(rng, g):
    beats = rng.choice([1, 2, rng.randint(1, 80), rng.randint(1, 600)])
    address = rng.choice([0, 4096, rng.randrange(1 << 20)]) // g.bus_bytes * g.bus_bytes
    local = rng.randrange(1 << 20)
    return {
        "address": max(0, address + rng.choice([0, -g.bus_bytes, g.bus_bytes])),
        "beats": beats,
        "memory": rng.randrange(5),
        "local": min(local, (1 << 20) - beats),
        "last": rng.randrange(2),
    }


@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g.bus_bits}x{g.burst_beats}")
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_splitter_equals_reference(g, stall):
    rng = random.Random(g.burst_beats)
    rows = [random_row(rng, g) for _ in range(12 if g.burst_beats > 1 else 4)]
    expected = [burst for row in rows for burst in bursts(row, g)]
    for burst in expected:
        last = burst["address"] + (burst["length"] + 1) * g.bus_bytes - 1
        assert burst["length"] < g.burst_beats
        assert burst["address"] >> 12 == last >> 12
    dut = BurstSplitter(g)
    received = []
    simulate(
        dut,
        until(lambda: len(received) == len(expected)),
        source(dut.i, rows, stall=stall),
        sink(dut.o, received, stall=stall),
    )
    assert [payload for _, payload in received] == expected
    if not stall:
        cycles = [cycle for cycle, _ in received]
        # A burst a cycle, and a cycle between two rows.
        assert cycles[-1] - cycles[0] == len(cycles) - 1 + len(rows) - 1
