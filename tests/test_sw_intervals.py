"""The newest number of an interval, against an array with one element for each byte."""

import random

from hypothesis import given
from hypothesis import strategies as st

from palquant.hw.isa import Base, Memory
from palquant.sw.accesses import Access
from palquant.sw.intervals import LastAccesses, LatestMap


@given(seed=st.integers(0, 2**32), size=st.integers(1, 40))
def test_marks_and_questions_at_random(seed, size):
    rng = random.Random(seed)
    numbers = [-1] * size
    found = LatestMap()
    for number in range(60):
        low, high = sorted(rng.choices(range(size + 1), k=2))
        found.mark(low, high, number)
        numbers[low:high] = [number] * (high - low)
        low, high = sorted(rng.sample(range(size + 1), 2))
        assert found.latest(low, high) == max(numbers[low:high])


def test_neighbours_do_not_touch():
    found = LatestMap()
    found.mark(10, 20, 0)
    assert found.latest(0, 10) == found.latest(20, 30) == -1
    assert found.latest(19, 20) == found.latest(0, 11) == 0


def test_memories_and_regions_of_the_same_number_are_kept_apart():
    last = LastAccesses()
    last.add([Access(Memory.WEIGHT, 0, 8, True)], 3)
    assert Memory.WEIGHT == Base.IMAGE
    assert last.latest_conflict([Access(Base.IMAGE, 0, 8, False)]) == -1
    assert last.latest_conflict([Access(Memory.WEIGHT, 0, 8, False)]) == 3


def test_two_readers_do_not_conflict():
    last = LastAccesses()
    last.add([Access(Memory.WEIGHT, 0, 8, True)], 0)
    last.add([Access(Memory.WEIGHT, 0, 8, False)], 1)
    assert last.latest_conflict([Access(Memory.WEIGHT, 7, 9, False)]) == 0
    assert last.latest_conflict([Access(Memory.WEIGHT, 7, 9, True)]) == 1
    assert last.latest_conflict([Access(Memory.WEIGHT, 8, 9, True)]) == -1
