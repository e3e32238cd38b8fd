"""Delay lines: a value and its copies in the cycles that follow."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Signal

__all__ = ["delay_line"]


def delay_line(m: Module, value: Any, cycles: int, *, name: str, reset: bool = False) -> list[Any]:
    """The value itself, followed by what it was 1, 2, ... ``cycles`` cycles ago.

    Parameters:
        m: Module that the registers belong to.
        value: A signal, a view, or any expression whose shape can be that of a signal.
        cycles: Number of registers.
        name: Prefix of the registers' names; the number of cycles follows.
        reset: Whether a reset clears the registers. Strobes need it; data does without.

    Returns:
        ``cycles + 1`` values; element ``k`` is the value of ``k`` cycles ago.

    Raises:
        ValueError: ``cycles`` is negative.
    """
    if cycles < 0:
        raise ValueError(f"A delay is a non-negative number of cycles, not {cycles}")
    line = [value]
    for k in range(1, cycles + 1):
        stage = Signal(value.shape(), name=f"{name}_{k}", reset_less=not reset)
        m.d.sync += stage.eq(line[-1])
        line.append(stage)
    return line
