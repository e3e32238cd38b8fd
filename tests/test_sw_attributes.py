"""Attributes of another type than declared are found and named."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from palquant.sw.attributes import attribute_problem


@dataclass
class Inner:
    size: int = 3


@dataclass
class Sample:
    text: str = "a"
    flag: bool = True
    count: int = 1
    ratio: float = 0.5
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = (1.0, 2)
    inner: Inner = field(default_factory=Inner)
    table: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    extra: npt.NDArray[np.float64] | None = None


@pytest.mark.parametrize(
    "changes",
    [{}, {"many": ()}, {"ratio": 3}, {"table": np.zeros((3, 0), np.int64)}, {"extra": np.zeros(2)}],
)
def test_declared_types_pass(changes):
    assert attribute_problem(Sample(**changes)) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text": 3}, "text is 3, expected str"),
        ({"text": None}, "text is None, expected str"),
        ({"flag": 1}, "flag is 1, expected bool"),
        ({"flag": np.True_}, "flag is np.True_, expected bool"),
        ({"count": True}, "count is True, expected int"),
        ({"count": 1.0}, "count is 1.0, expected int"),
        ({"count": np.int64(1)}, "count is np.int64(1), expected int"),
        ({"ratio": float("nan")}, "ratio is nan, expected float"),
        ({"ratio": float("inf")}, "ratio is inf, expected float"),
        ({"ratio": "1"}, "ratio is '1', expected float"),
        ({"pair": (1,)}, "pair is (1,), expected tuple[int, int]"),
        ({"pair": [1, 2]}, "pair is [1, 2], expected tuple[int, int]"),
        ({"pair": (1, 2.0)}, "pair is (1, 2.0), expected tuple[int, int]"),
        ({"many": (1.0, None)}, "many is (1.0, None), expected tuple[float, ...]"),
        ({"inner": 3}, "inner is 3, expected Inner"),
        ({"inner": Inner("x")}, "inner.size is 'x', expected int"),
        ({"table": [1, 2]}, "table is [1, 2], expected an array of int64"),
        ({"table": np.zeros(2)}, "table is an array of float64, expected an array of int64"),
        ({"table": np.zeros(2, np.int32)},
         "table is an array of int32, expected an array of int64"),
        ({"extra": 0.5}, "extra is 0.5, expected an array of float64 or None"),
        ({"extra": np.zeros(2, np.float32)},
         "extra is an array of float32, expected an array of float64 or None"),
        ({"text": list(range(100))}, f"text is {str(list(range(100)))[:57]}..., expected str"),
    ],
)  # fmt: skip
def test_another_type_is_named(changes, problem):
    assert attribute_problem(Sample(**changes)) == problem
