"""Carry chains made of an FPGA's own look-up tables and carry logic, position by position.

Synthesis makes a carry chain of every ``+``, and spends a table on each bit: on the operands
alone. But the table of a position has inputs left over, and can compute the operands as well. What
a position does is written here once, as a truth table ``f`` of four inputs:

- its sum is ``f(a, b, c, d) ^ carry``;
- its carry out is its carry in where ``f(a, b, c, d)`` is 1, and ``f(a, b, 0, 0)`` where it is 0.

That is what one half of a CCU2C of the ECP5 computes (Lattice FPGA-TN-02200, "Ripple mode"), and a
LUT6 with its part of a CARRY4 of Xilinx's series 7 (UG474, "Carry Logic") can do the same. The
latter has a second output as well, so that a position there can add three bits: the majority of
the three goes on to the next position over the second output, and the carry out is ``d`` where
``f`` is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from amaranth import Cat, Const, Instance, Module, Mux, Signal, Value

__all__ = [
    "Position",
    "Technology",
    "accumulate",
    "add",
    "add_three",
    "between",
    "make_chain",
]

#: Inputs of a position's truth table.
_INPUTS = 4


class Technology(Enum):
    """What a chain is made of."""

    #: Logic that any tool understands; for simulation, and to prove the others against.
    GENERIC = "generic"
    #: CCU2C of Lattice's ECP5.
    ECP5 = "ecp5"
    #: LUT6 and CARRY4 of Xilinx's series 7.
    XILINX7 = "xilinx7"

    @property
    def rows(self) -> int:
        """Bits that a position can add."""
        return 2 if self is Technology.ECP5 else 3


def _table(function: Callable[[int, int, int, int], int]) -> int:
    """Truth table of a function: bit a + 2 b + 4 c + 8 d is its value."""
    return sum(
        (function(k & 1, k >> 1 & 1, k >> 2 & 1, k >> 3 & 1) & 1) << k for k in range(1 << _INPUTS)
    )


#: Sum of two products of bits. Where a b = c d, both are the carry.
_ADD = _table(lambda a, b, c, d: (a & b) ^ (c & d))
#: Between two numbers, with c = d = 1: shows the carry of the lower one, and a b is the carry into
#: the higher one.
_BETWEEN = _table(lambda a, b, c, d: (a & b) & ~(c & d))
#: Sum of a bit and of one of two others.
_ACCUMULATE = _table(lambda a, b, c, d: a ^ (d if b else c))


@dataclass(frozen=True, eq=False)
class Position:
    """One position of a chain.

    Parameters:
        table: The truth table ``f``; bit a + 2 b + 4 c + 8 d is f(a, b, c, d).
        inputs: a, b, c and d, one bit each.
        majority: Becomes the majority of a, b and c, in a position that adds these three and d;
            None in others.
    """

    table: int
    inputs: tuple[Value, Value, Value, Value]
    majority: Signal | None = None


#: Sum of three bits, and of the majority from below.
_ADD_THREE = _table(lambda a, b, c, d: a ^ b ^ c ^ d)
#: Majority of the first three inputs.
_MAJORITY = _table(lambda a, b, c, d: (a & b) | (a & c) | (b & c))


def _one(value: Value | None) -> Value:
    return Const(1, 1) if value is None else value


def add(x: tuple[Value, Value | None], y: tuple[Value, Value | None] | None = None) -> Position:
    """Add two products of two bits each; None stands for 1, and for a product of 0."""
    zero = (Const(0, 1), Const(0, 1))
    c, d = zero if y is None else y
    return Position(_ADD, (x[0], _one(x[1]), c, _one(d)))


def between(carry: tuple[Value, Value | None] | None = None) -> Position:
    """Show the carry of the number below, and start the number above with a product as carry."""
    a, b = (Const(0, 1), Const(0, 1)) if carry is None else carry
    return Position(_BETWEEN, (a, _one(b), Const(1, 1), Const(1, 1)))


def add_three(x: Value, y: Value, z: Value, below: Value, majority: Signal) -> Position:
    """Add three bits and the majority of the position below; series 7 only.

    Parameters:
        x, y, z: The bits.
        below: The majority of the position below, or another bit worth as much as these.
        majority: What the position above takes, or a bit worth twice as much as these.
    """
    return Position(_ADD_THREE, (x, y, z, below), majority)


def accumulate(term: Value, shift: Value, held: Value, shifted: Value) -> Position:
    """Add a bit to ``held``, or to ``shifted`` where ``shift`` is 1."""
    return Position(_ACCUMULATE, (term, shift, held, shifted))


def make_chain(
    m: Module, name: str, positions: Sequence[Position], technology: Technology
) -> Value:
    """Build a chain.

    Parameters:
        m: Module to build it in.
        name: Prefix of the names of signals and instances.
        positions: From the lowest on. The carry into the first one is 0.
        technology: What it is made of.

    Returns:
        The sums, one bit for each position.

    Raises:
        ValueError: A position adds three bits where the technology has no second output.
    """
    if technology.rows == 2 and any(position.majority is not None for position in positions):
        raise ValueError(f"{technology.value} has no positions that add three bits")
    return _MAKERS[technology](m, name, positions)


def _look_up(table: int, inputs: Sequence[Value]) -> Value:
    return (Const(table, 1 << _INPUTS) >> Cat(*inputs))[0]


def _generic(m: Module, name: str, positions: Sequence[Position]) -> Value:
    carry: Value = Const(0, 1)
    sums = []
    for index, position in enumerate(positions):
        a, b, _, d = position.inputs
        half = Signal(name=f"{name}_half{index}")
        total = Signal(name=f"{name}_sum{index}")
        following = Signal(name=f"{name}_carry{index}")
        if position.majority is None:
            generated = _look_up(position.table, (a, b, Const(0, 1), Const(0, 1)))
        else:
            generated = d
            m.d.comb += position.majority.eq(_look_up(_MAJORITY, position.inputs))
        m.d.comb += [
            half.eq(_look_up(position.table, position.inputs)),
            total.eq(half ^ carry),
            following.eq(Mux(half, carry, generated)),
        ]
        sums.append(total)
        carry = following
    return Cat(*sums)


def _ecp5(m: Module, name: str, positions: Sequence[Position]) -> Value:
    """Two positions in each CCU2C; a lone last one leaves the other half unused."""
    unused = Position(0, (Const(0, 1),) * _INPUTS)
    carry: Value = Const(0, 1)
    sums = Signal(len(positions) + len(positions) % 2, name=f"{name}_sums")
    for index in range(0, len(positions), 2):
        halves = (positions[index], (*positions, unused)[index + 1])
        following = Signal(name=f"{name}_carry{index}")
        inputs = {
            f"i_{letter}{half}": value
            for half, position in enumerate(halves)
            for letter, value in zip("ABCD", position.inputs, strict=True)
        }
        m.submodules[f"{name}_ccu2c{index}"] = Instance(
            "CCU2C",
            p_INIT0=Const(halves[0].table, 16), p_INIT1=Const(halves[1].table, 16),
            p_INJECT1_0="NO", p_INJECT1_1="NO",
            i_CIN=carry, o_COUT=following, o_S0=sums[index], o_S1=sums[index + 1], **inputs,
        )  # fmt: skip
        carry = following
    return sums[: len(positions)]


def _xilinx7(m: Module, name: str, positions: Sequence[Position]) -> Value:
    """A LUT6_2 for each position, whose O5 is f(a, b, 0, 0) or the majority; four to a CARRY4."""
    size = -(-len(positions) // 4) * 4
    half = Signal(size, name=f"{name}_half")
    generated = Signal(size, name=f"{name}_generated")
    sums = Signal(size, name=f"{name}_sums")
    for index, position in enumerate(positions):
        upper = position.table | position.table << 16
        if position.majority is None:
            second: Value = generated[index]
            lower = sum((position.table >> (k & 3) & 1) << k for k in range(32))
        else:
            second = position.majority
            lower = _MAJORITY | _MAJORITY << 16
            m.d.comb += generated[index].eq(position.inputs[3])
        m.submodules[f"{name}_lut{index}"] = Instance(
            "LUT6_2", p_INIT=Const(upper << 32 | lower, 64),
            **{f"i_I{k}": value for k, value in enumerate(position.inputs)},
            i_I4=Const(0, 1), i_I5=Const(1, 1), o_O6=half[index], o_O5=second,
        )  # fmt: skip
    carry: Value = Const(0, 1)
    for index in range(0, size, 4):
        following = Signal(4, name=f"{name}_carry{index}")
        m.submodules[f"{name}_carry4_{index}"] = Instance(
            "CARRY4", i_CI=carry, i_CYINIT=Const(0, 1), i_DI=generated[index : index + 4],
            i_S=half[index : index + 4], o_O=sums[index : index + 4], o_CO=following,
        )  # fmt: skip
        carry = following[3]
    return sums[: len(positions)]


_MAKERS = {
    Technology.GENERIC: _generic,
    Technology.ECP5: _ecp5,
    Technology.XILINX7: _xilinx7,
}
