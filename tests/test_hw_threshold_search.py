"""No two searches read a lane's thresholds in the same cycle, however beats follow each other."""

import itertools

import pytest

from palquant.hw.threshold_search import LEVEL_CYCLES, TENSOR_CYCLES, search_cycles

WIDTHS = (0, 1, 2, 3, 4, 8)


def reads(bits):
    """Cycles in which a beat's searches read, from that of the first tensor's level 1."""
    return [
        tensor * TENSOR_CYCLES + level * LEVEL_CYCLES
        for tensor, width in enumerate(bits)
        if width != 8
        for level in range(width - 1)
    ]


@pytest.mark.parametrize("first", list(itertools.product(WIDTHS, repeat=2)), ids=str)
def test_searches_never_meet(first):
    own = reads(first)
    assert len(set(own)) == len(own)
    least = search_cycles(first)
    for second in itertools.product(WIDTHS, repeat=2):
        for gap in range(least, least + 10):
            assert not set(own) & {gap + cycle for cycle in reads(second)}


def test_codes_of_two_bits_follow_each_other_in_every_cycle():
    assert [search_cycles([bits, 0]) for bits in WIDTHS] == [1, 1, 1, 3, 5, 1]
    assert [search_cycles([0, bits]) for bits in WIDTHS] == [1, 2, 2, 4, 6, 2]
    assert search_cycles([2, 2]) == 2
