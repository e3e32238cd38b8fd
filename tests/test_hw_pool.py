"""Pooling windows against a plain reduction, padding and extremes included."""

import random

import pytest
from post_bench import small_geometry
from simulation import simulate

from palquant.hw.isa import PoolOperation
from palquant.hw.pool import PoolingUnit, reference


def run(geometry, words, depth=32, seed=0):
    """Pooled beats as (cycle, values, flags), for words (control, address or None)."""
    rng = random.Random(seed)
    limit = 1 << (geometry.residual_bits - 1)
    corners = [-limit, limit - 1, 0, -1]
    memory = [
        [rng.choice([*corners, rng.randrange(-limit, limit)]) for _ in range(geometry.lanes)]
        for _ in range(depth)
    ]
    dut = PoolingUnit(geometry)
    seen = []

    async def main(ctx):
        answers = [memory[0]] * geometry.read_cycles
        stable = announced = None
        for k in range(len(words) + dut.latency + 2):
            control, address = words[k] if k < len(words) else ({"valid": 0}, None)
            ctx.set(dut.control, control)
            ctx.set(dut.padding, address is None)
            ctx.set(dut.address, address or 0)
            ctx.set(dut.read.data, answers.pop(0))
            assert ctx.get(dut.read.enable) == control["valid"]
            answers.append(rng.choice(memory) if address is None else memory[address])
            pooled = dut.pooled
            values = [ctx.get(value) for value in pooled.values]
            if announced:
                seen.append((k - 1 - dut.latency, values, announced))
                stable = values
            assert stable is None or values == stable
            flags = tuple(ctx.get(port) for port in (pooled.tag, pooled.first, pooled.last))
            announced = flags if ctx.get(pooled.valid) else None
            await ctx.tick()

    simulate(dut, main)
    return memory, seen


@pytest.mark.parametrize("residual_bits", [8, 16])
@pytest.mark.parametrize("operation", list(PoolOperation))
def test_random_windows(residual_bits, operation):
    geometry = small_geometry("pool", tin=4, tout=4, lanes=4, residual_bits=residual_bits)
    rng = random.Random(residual_bits + operation)
    words, windows = [], []
    for _ in range(60):
        length = rng.choice([1, 1, 2, 4, 9])
        padding = rng.choice([0, 0.5, 1])
        flags = {name: rng.randrange(2) for name in ("tag", "first", "last")}
        taps = [None if rng.random() < padding else rng.randrange(32) for _ in range(length)]
        for k, address in enumerate(taps):
            while rng.random() < 0.2:
                words.append(({"valid": 0, "clear": 1, "emit": 1, "sum": 1}, None))
            control = {
                "valid": 1,
                "clear": int(k == 0),
                "sum": int(operation is PoolOperation.SUM),
                "emit": int(k == length - 1),
                **flags,
            }
            words.append((control, address))
        windows.append((len(words) - 1, taps, tuple(flags.values())))
    memory, seen = run(geometry, words)
    assert seen == [
        (
            end,
            [
                reference(
                    [None if tap is None else memory[tap][lane] for tap in taps],
                    operation,
                    residual_bits,
                )
                for lane in range(geometry.lanes)
            ],
            flags,
        )
        for end, taps, flags in windows
    ]


def test_reference_of_padding_alone():
    assert reference([None, None], PoolOperation.MAX, 8) == -128
    assert reference([None], PoolOperation.SUM, 8) == 0
