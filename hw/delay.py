"""Pipeline registers: delay lines, and registers that move with a stage's beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from amaranth import Module, ShapeLike, Signal

__all__ = ["beat_line", "copy_register", "delay_line", "lane_registers", "lane_stage"]


def delay_line(
    m: Module, value: Any, cycles: int, *, name: str, reset: bool = False, stays: bool = False
) -> list[Any]:
    """The value itself, followed by what it was 1, 2, ... ``cycles`` cycles ago.

    Parameters:
        m: Module that the registers belong to.
        value: A signal, a view, or any expression whose shape can be that of a signal.
        cycles: Number of registers.
        name: Prefix of the registers' names; the number of cycles follows.
        reset: Whether a reset clears the registers. Strobes need it; data does without.
        stays: Whether the value stays for as many cycles by itself: then there are no registers.

    Returns:
        ``cycles + 1`` values; element ``k`` is the value of ``k`` cycles ago.

    Raises:
        ValueError: ``cycles`` is negative.
    """
    if cycles < 0:
        raise ValueError(f"A delay is a non-negative number of cycles, not {cycles}")
    if stays:
        return [value] * (cycles + 1)
    line = [value]
    for k in range(1, cycles + 1):
        stage = Signal(value.shape(), name=f"{name}_{k}", reset_less=not reset)
        m.d.sync += stage.eq(line[-1])
        line.append(stage)
    return line


def beat_line(m: Module, value: Any, strobes: Sequence[Any], *, name: str) -> list[Any]:
    """The value of a beat at each stage of its way; it stays until the next beat arrives there.

    Parameters:
        m: Module that the registers belong to.
        value: A signal, a view, or any expression whose shape can be that of a signal.
        strobes: One for each register: a beat leaves the stage before it.
        name: Prefix of the registers' names; the number of the stage follows.

    Returns:
        ``len(strobes) + 1`` values, the first of which is the value itself.
    """
    line = [value]
    for k, strobe in enumerate(strobes, 1):
        stage = Signal(value.shape(), name=f"{name}_{k}", reset_less=True)
        with m.If(strobe):
            m.d.sync += stage.eq(line[-1])
        line.append(stage)
    return line


def copy_register(m: Module, value: Any, name: str) -> Any:
    """The value a cycle later, in a register of its own for some of its users.

    A value that many need far apart goes to several such registers, each near those that it
    serves. Synthesis would make one of registers that hold the same; the attribute keeps it from
    that (see :mod:`palquant.hw.synthesis`).

    Parameters:
        m: Module that the register belongs to.
        value: A signal, a view, or any expression whose shape can be that of a signal.
        name: The register's name.
    """
    signal = Signal(value.shape(), name=name, reset_less=True, attrs={"keep": "true"})
    m.d.sync += signal.eq(value)
    return signal


def lane_stage(
    m: Module, line: Sequence[Any], stage: int, lanes: int, name: str, *, together: bool = False
) -> list[Any]:
    """A stage of a delay line, in a register for each lane.

    Parameters:
        m: Module that the registers belong to.
        line: The delay line.
        stage: Number of the stage, from 1.
        lanes: Number of lanes.
        name: Prefix of the registers' names; the lane's number follows.
        together: Whether all lanes take it from the line itself.
    """
    if together:
        return [line[stage]] * lanes
    return [copy_register(m, line[stage - 1], f"{name}_{stage}_{lane}") for lane in range(lanes)]


def lane_registers(
    m: Module,
    enables: Sequence[Any],
    name: str,
    shape: ShapeLike,
    values: Iterable[Any],
    *,
    stays: bool = False,
) -> list[Any]:
    """A register for each lane, loaded with the lane's value where its enable is high.

    Parameters:
        m: Module that the registers belong to.
        enables: When to load, lane by lane; otherwise the registers keep what they hold.
        name: Prefix of the registers' names; the lane's number follows.
        shape: Shape of a lane's register.
        values: One value for each lane.
        stays: Whether the values stay by themselves: then there are wires instead of registers.

    Returns:
        The registers, lane by lane.
    """
    registers = []
    for lane, (enable, value) in enumerate(zip(enables, values, strict=True)):
        register = Signal(shape, name=f"{name}_{lane}", reset_less=True)
        if stays:
            m.d.comb += register.eq(value)
        else:
            with m.If(enable):
                m.d.sync += register.eq(value)
        registers.append(register)
    return registers
