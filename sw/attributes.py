"""Whether the attributes of a dataclass have the types that it declares.

A model file may say anything, and so may a caller: a stride of ``"2"`` or a float threshold must
be refused with its name, not fail somewhere in a pass.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np


def attribute_problem(instance: Any) -> str | None:
    """What is wrong with the first attribute of another type than declared, or None.

    Understands ``str``, ``bool``, ``int`` (which a ``bool`` is not), ``float`` (finite; an ``int``
    will do), tuples, NumPy arrays of a given element type, nested dataclasses, and ``X | None``.

    Parameters:
        instance: Any dataclass whose annotations are of these kinds.
    """
    cls: Any = type(instance)
    for name, declared in _annotations(cls).items():
        value = getattr(instance, name)
        if not _fits(value, declared):
            return f"{name} is {_describe(value)}, expected {_expected(declared)}"
        if dataclasses.is_dataclass(value):
            inner = attribute_problem(value)
            if inner:
                return f"{name}.{inner}"
    return None


@functools.cache
def _annotations(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def _element_type(declared: Any) -> np.dtype[Any]:
    """``np.int64`` of ``np.ndarray[Any, np.dtype[np.int64]]``."""
    element: np.dtype[Any] = np.dtype(get_args(get_args(declared)[1])[0])
    return element


def _fits(value: Any, declared: Any) -> bool:
    origin = get_origin(declared)
    if origin is types.UnionType:
        return any(_fits(value, kind) for kind in get_args(declared))
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and value.dtype == _element_type(declared)
    if origin is tuple:
        kinds = get_args(declared)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(item, kinds[0]) for item in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if declared is float:
        return type(value) in (int, float) and math.isfinite(value)
    if declared in (int, bool, str):
        return type(value) is declared
    return isinstance(value, declared)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _expected(declared: Any) -> str:
    if get_origin(declared) is types.UnionType:
        return " or ".join(_expected(kind) for kind in get_args(declared))
    if declared is type(None):
        return "None"
    if get_origin(declared) is np.ndarray:
        return f"an array of {_element_type(declared)}"
    if isinstance(declared, types.GenericAlias):
        return str(declared)
    return str(declared.__name__)
