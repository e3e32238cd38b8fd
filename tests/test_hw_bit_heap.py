"""Plans of bit heaps: whatever the bits, the levels keep their sum, and use few tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palquant.hw.bit_heap import plan_sum


def value(bits, weights):
    return sum(bit << weight for bit, weight in zip(bits, weights, strict=True))


def products(lanes):
    """Weights of the partial products of a dot product of 2-bit digits."""
    return (0, 1, 1, 2) * lanes


@given(st.data(), st.lists(st.integers(0, 6), min_size=1, max_size=60), st.sampled_from([2, 3]))
def test_levels_keep_the_sum(data, weights, rows):
    plan = plan_sum(tuple(weights), rows)
    bits = data.draw(st.lists(st.integers(0, 1), min_size=len(weights), max_size=len(weights)))
    current, places = bits, plan.weights
    for level in plan.levels:
        current = level.evaluate(current)
        assert len(current) == len(level.weights)
        assert value(current, level.weights) == value(bits, weights)
        places = level.weights
    assert len(set(places)) == len(places)
    assert plan.result == places
    assert plan.evaluate(bits) == value(bits, weights)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.sampled_from([2, 3]))
def test_each_bit_is_used_once(weights, rows):
    current = tuple(weights)
    for level in plan_sum(current, rows).levels:
        used = list(level.passed)
        for segment in level.segments:
            used += [*segment.extra, *(bit for bits in segment.positions for bit in bits)]
            assert len(segment.extra) <= (2 if segment.ternary else 1)
            for offset, bits in enumerate(segment.positions):
                assert 1 <= len(bits) <= rows
                assert all(current[bit] == segment.weight + offset for bit in bits)
            assert all(current[bit] == segment.weight for bit in segment.extra)
        assert sorted(used) == list(range(len(current)))
        current = level.weights


def test_the_first_level_takes_no_three_products_at_once():
    """Their factors would not fit a table."""
    for lanes in (2, 8, 32, 128):
        plan = plan_sum(products(lanes), rows=3)
        assert not any(segment.ternary for segment in plan.levels[0].segments)
    assert any(s.ternary for level in plan.levels for s in level.segments)


@pytest.mark.parametrize(
    ("rows", "lanes", "slots", "levels"),
    [(2, 8, 46, 5), (2, 32, 182, 7), (2, 64, 353, 8), (3, 8, 37, 4), (3, 32, 138, 6)],
)
def test_tables_of_a_dot_product(rows, lanes, slots, levels):
    """A change that costs area is to be seen; products and adder tree of 32 lanes take 330."""
    plan = plan_sum(products(lanes), rows)
    assert (plan.slots, len(plan.levels)) == (slots, levels)


def test_different_weights_need_no_levels():
    assert plan_sum((3, 0, 5)).levels == ()
    assert plan_sum((3, 0, 5)).evaluate([1, 1, 0]) == 9
