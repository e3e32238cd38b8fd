"""alpha * P - beta * S against its definition, beats back to back and with gaps."""

import random

import pytest
from post_bench import bank_writes, small_geometry, trace

from palquant.hw.correction import Correction, compute
from palquant.hw.isa import Source

GEOMETRY = small_geometry("correction")
P_MAX, S_MAX = (1 << 26) - 1, (1 << 20) - 1
V_MIN, V_MAX = -(1 << 27), (1 << 27) - 1


def wrap(value):
    """As a signed number of ``value_bits`` bits."""
    return (value - V_MIN) % (1 << 28) + V_MIN


def values(banks, beats):
    """What leaves for each beat (tag, products, activation sum, gap)."""
    dut = Correction(GEOMETRY)
    cycles = bank_writes(dut.configuration, banks)
    starts = []
    for tag, _, _, gap in beats:
        starts.append(len(cycles))
        cycles.append([(dut.valid, 1), (dut.tag, tag)])
        cycles += [[(dut.valid, 0), (dut.tag, 1 - tag)]] * gap
    cycles += [[(dut.valid, 0)]] * (dut.LATENCY + 1)
    noise = [(dut.activation_sum, 3), *((p, 5) for p in dut.products)]
    cycles = [cycle + noise for cycle in cycles]
    for start, (_, products, activation_sum, _) in zip(starts, beats, strict=True):
        cycles[start + dut.VALUE_DELAY] += [
            (dut.activation_sum, activation_sum),
            *zip(dut.products, products, strict=True),
        ]
    seen = trace(dut, cycles, dut.values)
    ends = [*starts[1:], len(cycles) - dut.LATENCY]
    for start, end in zip(starts, ends, strict=True):
        assert len({tuple(seen[t + dut.LATENCY]) for t in range(start, end)}) == 1, "not held"
    return [seen[start + dut.LATENCY] for start in starts]


def reference(banks, beats):
    return [[wrap(compute(p, s, banks[tag])) for p in products] for tag, products, s, _ in beats]


@pytest.mark.parametrize("beta_shift", range(16))
def test_all_weight_types(beta_shift):
    rng = random.Random(beta_shift)
    banks = [
        {"source": Source.ARRAY, "alpha_shift": k, "beta_shift": beta_shift, "beta_minus": k}
        for k in (0, 1)
    ]
    beats = [(0, [P_MAX, 0], 0, 0), (1, [0, P_MAX], 0, 0), (1, [P_MAX, 0], S_MAX, 2)]
    for _ in range(30):
        products = [rng.randint(0, P_MAX) for _ in range(2)]
        beats.append((rng.randint(0, 1), products, rng.randint(0, S_MAX), rng.choice((0, 0, 3))))
    assert values(banks, beats) == reference(banks, beats)


def test_pooled_values_pass():
    fields = {"alpha_shift": 1, "beta_shift": 3, "beta_minus": 1}
    banks = [fields | {"source": Source.POOL}, fields | {"source": Source.ARRAY}]
    beats = [(0, [V_MIN, V_MAX], S_MAX, 0), (1, [5, 6], 7, 0), (0, [-1, 0], 9, 1)]
    assert values(banks, beats) == [[V_MIN, V_MAX], [10 - 49, 12 - 49], [-1, 0]]
    assert reference(banks, beats) == values(banks, beats)
