"""Registers hold what their inputs were; a reset clears strobes."""

import pytest
from amaranth import Module, Signal, signed
from amaranth.hdl import Fragment
from amaranth.lib import data
from post_bench import trace

from palquant.hw.delay import beat_line, delay_line, lane_registers, lane_stage


@pytest.fixture
def module():
    """A module that is looked at rather than simulated."""
    yield (m := Module())
    Fragment.get(m, None)


def test_elements_are_the_past_values():
    m = Module()
    given = Signal(signed(5))
    line = delay_line(m, given, 3, name="line")
    values = [-16, 15, 3, 0, -1, 7, 8, 9]
    seen = trace(m, [[(given, value)] for value in values], line)
    for now in range(3, len(values)):
        assert seen[now] == [values[now - k] for k in range(4)]


def test_shapes_and_names_are_kept(module):
    layout = data.StructLayout({"low": 2, "high": signed(3)})
    line = delay_line(module, Signal(layout), 2, name="pair")
    assert [stage.shape() for stage in line] == [layout] * 3
    assert [stage.as_value().name for stage in line[1:]] == ["pair_1", "pair_2"]
    assert delay_line(module, given := Signal(), 0, name="none") == [given]


@pytest.mark.parametrize("reset", [False, True])
def test_only_strobes_are_reset(module, reset):
    line = delay_line(module, Signal(), 2, name="line", reset=reset)
    assert [stage.reset_less for stage in line[1:]] == [not reset] * 2


def test_negative_delay_is_refused(module):
    with pytest.raises(ValueError, match="non-negative number of cycles, not -1"):
        delay_line(module, Signal(), -1, name="line")


def test_a_beats_value_stays_at_each_stage_until_the_next_one():
    m = Module()
    given, strobes = Signal(4), [Signal(name="first"), Signal(name="second")]
    line = beat_line(m, given, strobes, name="line")
    assert [stage.name for stage in line[1:]] == ["line_1", "line_2"]
    assert all(stage.reset_less for stage in line[1:])
    moves = [(1, 0), (0, 1), (0, 0), (1, 1), (1, 0), (0, 1), (0, 0)]
    cycles = [[(given, value), *zip(strobes, move, strict=True)]
              for value, move in enumerate(moves, 3)]  # fmt: skip
    expected, first, second = [], 0, 0
    for value, move in enumerate(moves, 3):
        first, second = (value if move[0] else first), (first if move[1] else second)
        expected.append([first, second])
    assert [row[1:] for row in trace(m, cycles, line)] == [[0, 0], *expected[:-1]]


def test_a_stage_of_each_lane_s_own_is_as_late_as_the_line_s():
    m = Module()
    given = Signal(3)
    line = delay_line(m, given, 3, name="line")
    own = lane_stage(m, line, 2, 4, "own")
    assert [register.name for register in own] == [f"own_2_{lane}" for lane in range(4)]
    assert lane_stage(m, line, 2, 4, "none", together=True) == [line[2]] * 4
    seen = trace(m, [[(given, value)] for value in (5, 1, 7, 2, 4)], [line[2], *own])
    assert seen[1:] == [[first] * 5 for first, *_ in seen[1:]]


def test_lane_registers_load_together_and_hold():
    m = Module()
    enable = Signal()
    given = [Signal(signed(6), name=f"given_{lane}") for lane in range(3)]
    registers = lane_registers(m, [enable] * 3, "word", signed(4), given)
    assert [register.name for register in registers] == ["word_0", "word_1", "word_2"]
    cycles = [
        [(enable, 1), *zip(given, (1, -8, 7), strict=True)],
        [(enable, 0), *zip(given, (2, 3, 4), strict=True)],
        [(enable, 1)],
        [(enable, 0), *zip(given, (0, 0, 0), strict=True)],
        [],
    ]
    first, second = [1, -8, 7], [2, 3, 4]
    assert trace(m, cycles, registers) == [[0, 0, 0], first, first, second, second]
