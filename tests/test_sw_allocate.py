import numpy as np
import pytest

from palquant.sw.allocate import FreeList, Ring


def test_first_fit_reuses_the_lowest_space():
    space = FreeList(16)
    a, b, c = (space.allocate(4) for _ in range(3))
    assert (a, b, c) == (0, 4, 8)
    space.release(b)
    assert space.allocate(5) is None
    assert space.allocate(3) == 4
    assert space.used == 11


def test_rotation_leaves_what_was_just_released_alone():
    space = FreeList(16, rotate=True)
    starts = []
    for _ in range(4):
        start = space.allocate(6)
        starts.append(start)
        space.release(start)
    assert starts == [0, 6, 0, 6]


def test_what_leaves_gaps_when_it_rotates_may_fit_side_by_side():
    for rotate, fits in ((True, False), (False, True)):
        memory = FreeList(64, rotate=True)
        memory.release(memory.allocate(30))
        assert (None not in [memory.allocate(20, rotate) for _ in range(3)]) == fits


def test_blocks_are_aligned():
    space = FreeList(16, alignment=4)
    assert [space.allocate(n) for n in (1, 5, 4)] == [0, 4, 12]
    assert space.allocate(1) is None


@pytest.mark.parametrize("rotate", [False, True])
def test_blocks_never_overlap(rotate):
    rng = np.random.default_rng(0)
    space = FreeList(100, alignment=2, rotate=rotate)
    held = {}
    for _ in range(2000):
        if held and rng.random() < 0.5:
            start = list(held)[rng.integers(len(held))]
            space.release(start)
            del held[start]
        else:
            words = int(rng.integers(1, 30))
            start = space.allocate(words)
            if start is not None:
                held[start] = words
        taken = [word for start, words in held.items() for word in range(start, start + words)]
        assert len(set(taken)) == len(taken)
        assert not taken or max(taken) < 100
    for start in held:
        space.release(start)
    assert space.used == 0
    assert FreeList(100).allocate(100) == 0


def test_a_ring_starts_over():
    ring = Ring(10)
    assert [ring.allocate(n) for n in (4, 4, 4, 10, 1)] == [0, 4, 0, 0, 0]
