"""Sums of bits, and of products of bits, in planned carry chains."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, Const, Module, Signal, Value

from palquant.hw.bit_heap import Level, Segment, plan_sum
from palquant.hw.carry_chain import (
    Position,
    Technology,
    add,
    add_three,
    between,
    make_chain,
)
from palquant.hw.delay import delay_line

__all__ = ["Product", "registered_levels", "sum_levels", "sum_products"]

#: Positions of a chain, unless a single addition is longer, and but for those at its two ends: 15
#: CCU2C of the ECP5 take 1.1 ns.
LONGEST_CHAIN = 28
#: A bit, or the product of two bits.
Product = tuple[Value, Value | None]


def registered_levels(levels: int, latency: int) -> tuple[int, ...]:
    """Levels that end in a register, spread evenly, the last one among them.

    Parameters:
        levels: Number of levels.
        latency: Number of registers, at most one for each level.
    """
    return tuple(-(-levels * (k + 1) // latency) - 1 for k in range(latency))


def _bit(product: Product) -> Value:
    x, y = product
    return x if y is None else x & y


def _add_three(
    name: str, segment: Segment, bits: Sequence[Product]
) -> tuple[list[Position], Signal]:
    """The positions of an addition of three numbers, and the last majority."""
    extra = segment.extra[1:]
    below: Value = _bit(bits[extra[0]]) if extra else Const(0, 1)
    positions = []
    for index, indices in enumerate(segment.positions):
        majority = Signal(name=f"{name}_majority{index}")
        x, y, z = ([_bit(bits[k]) for k in indices] + [Const(0, 1)] * 2)[:3]
        positions.append(add_three(x, y, z, below, majority))
        below = majority
    return positions, majority


def _add_level(
    m: Module, name: str, level: Level, bits: Sequence[Product], technology: Technology
) -> list[Value]:
    """All additions of a level in chains; their output bits, in the plan's order.

    Additions are laid end to end until a chain is as long as timing analysis bears: it does not see
    that no carry passes from one addition to the next.
    """
    positions: list[Position] = []
    sums: list[Value] = []
    # For each addition: where its sums and its carry are, and its last majority.
    found: list[tuple[slice, Signal | None]] = []

    def finish() -> None:
        """Make a chain of the additions so far."""
        nonlocal positions
        positions.append(between())
        sums.extend(make_chain(m, f"{name}_chain{len(sums)}", positions, technology))
        positions = []

    for index, segment in enumerate(level.segments):
        if positions and len(positions) + len(segment.positions) > LONGEST_CHAIN:
            finish()
        carry = bits[segment.extra[0]] if segment.extra else None
        if positions or carry is not None:
            positions.append(between(carry))
        majority = None
        start = len(sums) + len(positions)
        if segment.ternary:
            made, majority = _add_three(f"{name}_{index}", segment, bits)
            positions += made
        else:
            positions += [add(*(bits[k] for k in indices)) for indices in segment.positions]
        found.append((slice(start, len(sums) + len(positions) + 1), majority))
    finish()
    result: list[Value] = []
    for place, majority in found:
        result += [*sums[place], *([] if majority is None else [majority])]
    return result


def sum_levels(products: Sequence[tuple[int, Product]], technology: Technology) -> int:
    """Levels of chains that :func:`sum_products` makes of these products."""
    return len(plan_sum(tuple(weight for weight, _ in products), technology.rows).levels)


def sum_products(
    m: Module,
    products: Sequence[tuple[int, Product]],
    latency: int,
    technology: Technology,
    name: str = "heap",
) -> Value:
    """Sum of products of bits.

    Parameters:
        m: Module to build it in.
        products: Each with the binary logarithm of what it is worth.
        latency: Cycles from the products to their sum.
        technology: What the chains are made of.
        name: Prefix of the names of signals and instances.

    Returns:
        The sum; bits above its largest value are 0.
    """
    plan = plan_sum(tuple(weight for weight, _ in products), technology.rows)
    bits = [product for _, product in products]
    registers = min(latency, len(plan.levels))
    registered = registered_levels(len(plan.levels), registers)
    for number, level in enumerate(plan.levels):
        made = _add_level(m, f"{name}_level{number}", level, bits, technology)
        made += [_bit(bits[index]) for index in level.passed]
        result = Signal(len(made), name=f"{name}_bits{number}", reset_less=True)
        domain = m.d.sync if number in registered else m.d.comb
        domain += result.eq(Cat(*made))
        bits = [(bit, None) for bit in result]
    by_weight = {weight: bit for weight, (bit, _) in zip(plan.result, bits, strict=True)}
    total = Cat(*(by_weight.get(weight, Const(0, 1)) for weight in range(max(by_weight) + 1)))
    return delay_line(m, total, latency - registers, name=f"{name}_total")[-1]
