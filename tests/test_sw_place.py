import numpy as np
import pytest

from palquant.errors import UnsupportedLayerError
from palquant.sw.place import group_span, match_groups, natural_placement, place_shuffle


def channel_shuffle(channels, groups):
    return np.arange(channels).reshape(groups, -1).T.reshape(-1)


@pytest.mark.parametrize(("channels", "span"), [(1, 8), (8, 8), (9, 16), (16, 16)])
def test_group_span(channels, span):
    assert group_span(channels, 8) == span


def test_natural_placement():
    placement = natural_placement(6, 2, 8)
    assert placement.slot.tolist() == [0, 1, 2, 8, 9, 10]
    assert placement.channel_at().tolist() == [0, 1, 2, *[-1] * 5, 3, 4, 5, *[-1] * 5]


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
@pytest.mark.parametrize("per_group", [1, 2, 5, 16, 32, 96, 128])
@pytest.mark.parametrize("word", [8, 16, 32])
def test_shuffles_keep_every_lane(groups, per_group, word):
    """The property that makes a shuffle free: channels change groups, never positions."""
    permutation = channel_shuffle(groups * per_group, groups)
    old, new = place_shuffle(permutation, groups, word, word, "layer")
    assert np.array_equal(new.position, old.position[permutation])
    for placement in (old, new):
        slots = placement.slot
        assert len(set(slots.tolist())) == len(slots)
        assert placement.position.max() < per_group <= placement.span
        assert placement.group.tolist() == sorted(placement.group.tolist())


@pytest.mark.parametrize(("per_group", "word"), [(64, 32), (16, 8), (128, 32), (32, 16)])
def test_whole_words_move_where_they_can(per_group, word):
    permutation = channel_shuffle(2 * per_group, 2)
    old, new = place_shuffle(permutation, 2, word, word, "layer")
    target = np.empty(2 * per_group, int)
    target[permutation] = new.group
    for group in range(2):
        for start in range(0, per_group, word):
            lanes = (old.group == group) & (old.position // word == start // word)
            assert len(set(target[lanes].tolist())) == 1


def test_uneven_counts_are_decomposed():
    counts = np.array([[11, 11, 10], [10, 11, 11], [11, 10, 11]])
    matchings = match_groups(counts, 8)
    assert matchings.shape == (32, 3)
    found = np.zeros((3, 3), int)
    for matching in matchings:
        assert sorted(matching.tolist()) == [0, 1, 2]
        found[np.arange(3), matching] += 1
    assert np.array_equal(found, counts)
    assert (matchings[:8] == matchings[0]).all()


def test_random_permutations_keep_every_lane():
    rng = np.random.default_rng(0)
    for groups in (2, 3, 4, 5):
        permutation = rng.permutation(groups * 12)
        old, new = place_shuffle(permutation, groups, 8, 8, "layer")
        assert np.array_equal(new.position, old.position[permutation])


def test_more_than_8_groups_are_refused():
    with pytest.raises(UnsupportedLayerError, match="conv: shuffles 9 groups"):
        place_shuffle(np.arange(18), 9, 8, 8, "conv")
