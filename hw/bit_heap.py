"""Sums of many bits of various weights, planned as levels of short carry chains.

A bit heap is a multiset of bits, each worth a power of two. One level adds bits in carry chains: a
chain of ``n`` positions takes two bits of each of ``n`` neighbouring weights, and a third of the
lowest one as its carry, and leaves ``n + 1`` bits: its sums and the carry out. On an FPGA each
position is one look-up table with its carry logic; one more between two chains brings out the
carry of the one and takes in that of the other, so that all chains of a level can be laid end to
end. Such a chain of ``n + 1`` tables thus removes ``n`` bits, and long chains are the cheapest.

Where a table has two outputs, a position can take three bits: their sum goes on to the carry logic,
their majority to the next position. Such a chain takes two more bits of the lowest weight, leaves
two of the highest, and removes ``2 n`` bits.

The plan is a list of numbers; what a bit is, and what adds them, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

__all__ = ["Level", "Plan", "Segment", "plan_sum"]

#: Bits of a position that has a majority.
_TERNARY = 3


@dataclass(frozen=True)
class Segment:
    """One addition of a level. Bits are named by their place in the level's input.

    Parameters:
        weight: Binary logarithm of what the lowest position is worth.
        positions: Bits of each position, lowest first: one to three.
        extra: Bits that go in beside those of the lowest position: none or a carry, and where a
            position has three bits a second one, which takes the place of a majority from below.
    """

    weight: int
    positions: tuple[tuple[int, ...], ...]
    extra: tuple[int, ...]

    @property
    def ternary(self) -> bool:
        """Whether a position has three bits: then majorities are handed on beside the carry."""
        return any(len(bits) == _TERNARY for bits in self.positions)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Binary logarithms of what the output bits are worth: the sums, carry, last majority."""
        top = self.weight + len(self.positions)
        return (*range(self.weight, top), *([top] * (2 if self.ternary else 1)))


@dataclass(frozen=True)
class Level:
    """Additions side by side.

    Parameters:
        segments: The additions.
        passed: Bits that none of them takes.
        weights: Binary logarithms of what the output bits are worth: those of each segment, then
            the passed bits.
    """

    segments: tuple[Segment, ...]
    passed: tuple[int, ...]
    weights: tuple[int, ...]

    @property
    def slots(self) -> int:
        """Carry-chain positions, those between the additions and at both ends included."""
        return sum(len(segment.positions) + 1 for segment in self.segments) + 1

    def evaluate(self, bits: Sequence[int]) -> list[int]:
        """Output bits for the given input bits, for tests and models."""
        result = []
        for segment in self.segments:
            inputs = [bits[index] for index in segment.extra] + [0, 0]
            carry, majority = inputs[:2]
            for position in segment.positions:
                own = sum(bits[index] for index in position)
                total = (own if not segment.ternary else own & 1) + carry + majority
                majority = own >> 1 if segment.ternary else 0
                result.append(total & 1)
                carry = total >> 1
            result += [carry, majority] if segment.ternary else [carry]
        return result + [bits[index] for index in self.passed]


@dataclass(frozen=True)
class Plan:
    """How a heap becomes one bit of each weight.

    Parameters:
        weights: Binary logarithms of what the input bits are worth.
        levels: One after the other; what leaves one enters the next.
    """

    weights: tuple[int, ...]
    levels: tuple[Level, ...]

    @property
    def slots(self) -> int:
        """Carry-chain positions of all levels."""
        return sum(level.slots for level in self.levels)

    @property
    def result(self) -> tuple[int, ...]:
        """Binary logarithms of what the bits that are left are worth, all different."""
        return self.levels[-1].weights if self.levels else self.weights

    def evaluate(self, bits: Sequence[int]) -> int:
        """Sum of the heap for the given bits, as the levels make it."""
        for level in self.levels:
            bits = level.evaluate(bits)
        return sum(bit << weight for bit, weight in zip(bits, self.result, strict=True))


class _Columns:
    """Bits of a level's input that nothing has taken yet, by weight."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = weights
        self.bits: dict[int, list[int]] = {}
        for index, weight in enumerate(weights):
            self.bits.setdefault(weight, []).append(index)

    def height(self, weight: int) -> int:
        return len(self.bits.get(weight, ()))

    def segment(self, weight: int, length: int, rows: int) -> Segment:
        """A chain of at most ``rows`` bits a position, which may be fewer, out of what is left."""
        heights = [min(self.height(weight + k), rows) for k in range(length)]
        ternary = _TERNARY in heights
        more = min(self.height(weight) - heights[0], 2 if ternary else 1)
        return Segment(
            weight,
            tuple(
                tuple(self.bits[weight + k][more if k == 0 else 0 :][:height])
                for k, height in enumerate(heights)
            ),
            tuple(self.bits[weight][:more]),
        )

    def best(self, rows: int) -> Segment | None:
        """The chain that removes the most bits for its tables, the longest of such."""
        found = []
        for weight in self.bits:
            length = 0
            while self.height(weight + length) >= 2:
                length += 1
                for each in range(2, rows + 1):
                    segment = self.segment(weight, length, each)
                    taken = len(segment.extra) + sum(map(len, segment.positions))
                    removed = taken - len(segment.outputs)
                    if removed > 0:
                        found.append((removed / (length + 1), length, -weight, each))
        if not found:
            return None
        _, length, negative, each = max(found)
        return self.segment(-negative, length, each)

    def ripple(self) -> Segment:
        """One carry through all weights from the lowest that has two bits, as far as they reach."""
        lowest = min(weight for weight in self.bits if self.height(weight) >= 2)
        length = 1
        while self.height(lowest + length):
            length += 1
        return self.segment(lowest, length, 2)

    def take(self, segment: Segment) -> None:
        """Remove a chain's bits."""
        for index in (*segment.extra, *(bit for bits in segment.positions for bit in bits)):
            self.bits[self.weights[index]].remove(index)


def _level(weights: tuple[int, ...], rows: int) -> Level:
    columns = _Columns(weights)
    segments = []
    while segment := columns.best(rows):
        segments.append(segment)
        columns.take(segment)
    if not segments:  # nowhere three bits of a weight, nor pairs side by side
        segments.append(columns.ripple())
        columns.take(segments[0])
    passed = tuple(sorted(index for bits in columns.bits.values() for index in bits))
    made = [weight for segment in segments for weight in segment.outputs]
    return Level(tuple(segments), passed, (*made, *(weights[index] for index in passed)))


@cache
def plan_sum(weights: tuple[int, ...], rows: int = 2, first_rows: int = 2) -> Plan:
    """Plan the sum of bits.

    Each level takes chains in the order of what they remove for their tables.

    Parameters:
        weights: Binary logarithms of what the bits are worth, at least 0.
        rows: Bits that a position takes at most, 2 or 3.
        first_rows: The same in the first level, whose bits may be more costly to take.

    Returns:
        Levels that leave one bit of each weight.
    """
    levels: list[Level] = []
    current = weights
    while len(set(current)) < len(current):
        levels.append(_level(current, rows if levels else first_rows))
        current = levels[-1].weights
    return Plan(weights, tuple(levels))
