"""The dot-product unit: a word of 2-bit digits times another, summed in one cycle.

All arithmetic of the machine's array happens here, in unsigned base-4 digits; signs, levels and
wider operands are made of these sums elsewhere. The products are written as Boolean functions of
whole words, so that synthesis finds four 4-input look-up tables a product rather than a
multiplier, and a simulator computes 64 bits at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.config import DIGIT_BITS

__all__ = [
    "AdderTree",
    "DotProduct",
    "reference",
    "spread_registers",
    "tree_latency",
    "tree_levels",
]

#: Largest product of two digits.
_PRODUCT_MAX = ((1 << DIGIT_BITS) - 1) ** 2


def reference(a: Sequence[int], c: Sequence[int]) -> int:
    """The sum of products that a unit computes."""
    return sum(x * y for x, y in zip(a, c, strict=True))


def tree_levels(lanes: int) -> int:
    """Levels of a binary adder tree over ``lanes`` terms; level 0 is the terms themselves."""
    return (lanes - 1).bit_length()


def spread_registers(levels: int, count: int) -> tuple[int, ...]:
    """Levels of an adder tree that end in a register, spread evenly.

    The last level is among them, so that an accumulator's adder starts from a register; from two
    registers on level 0 is as well, so that one look-up table follows what makes the terms.

    Parameters:
        levels: Of the tree, beside level 0.
        count: Registers, from 1 to ``levels + 1``.
    """
    if count == 1:
        return (levels,)
    return tuple(levels * k // (count - 1) for k in range(count))


def tree_latency(terms: int, registers: Sequence[int]) -> int:
    """Cycles that an adder tree takes: those of ``registers`` that it has levels for."""
    return len(set(registers) & set(range(tree_levels(terms) + 1)))


class AdderTree(wiring.Component):
    """Sum of unsigned terms, in a binary tree.

    Every sum is a named signal: expressions of this size, built as one, take exponential time.

    Parameters:
        terms: Number of terms, a power of two.
        term_max: Largest value of a term.
        registers: Levels whose sums are registered; level 0 is the terms. Levels that the tree
            does not have are ignored, so that one setting serves trees of several sizes.

    Attributes:
        latency: Cycles from terms to sum: the number of levels that are registered.

    Members:
        i: ``In(terms * bits)``, the terms side by side, ``bits`` = bits of ``term_max``.
        o: ``Out(bits of terms * term_max)``.

    Raises:
        ValueError: ``terms`` is not a power of two.
    """

    def __init__(self, terms: int, term_max: int, registers: Sequence[int] = ()) -> None:
        if terms < 1 or terms & (terms - 1):
            raise ValueError(f"Terms must be a power of two, not {terms!r}")
        self.terms = terms
        self.term_max = term_max
        self.term_bits = term_max.bit_length()
        self.registers = tuple(registers)
        self.latency = tree_latency(terms, registers)
        super().__init__(
            {"i": In(terms * self.term_bits), "o": Out((terms * term_max).bit_length())}
        )

    def elaborate(self, platform: object) -> Module:
        """Level by level, neighbours half the level's length apart."""
        m = Module()
        source: Value = self.i
        if 0 in self.registers:
            # One wide register is one assignment for a simulator.
            held = Signal.like(self.i, name="terms")
            m.d.sync += held.eq(self.i)
            source = held
        sums: list[Value] = [
            source[k : k + self.term_bits] for k in range(0, len(source), self.term_bits)
        ]
        for level in range(1, tree_levels(self.terms) + 1):
            domain = m.d.sync if level in self.registers else m.d.comb
            width = (self.term_max << level).bit_length()
            following = []
            half = len(sums) // 2
            for k in range(half):
                total = Signal(width, name=f"level{level}_{k}")
                domain += total.eq(sums[k] + sums[k + half])
                following.append(total)
            sums = list(following)
        m.d.comb += self.o.eq(sums[0])
        return m


class DotProduct(wiring.Component):
    """Sum over lanes of ``a * c``, for unsigned 2-bit ``a`` and ``c``.

    Parameters:
        lanes: Number of products, a power of two, at least 2.
        registers: Levels of the adder tree that are registered; level 0 is the products.

    Attributes:
        latency: Cycles from operands to sum.

    Members:
        a: ``In(2 * lanes)``, a digit per lane, lane 0 lowest.
        c: ``In(2 * lanes)``, likewise.
        o: ``Out(bits of 9 * lanes)``.

    Raises:
        ValueError: ``lanes`` is not a power of two, or less than 2.
    """

    def __init__(self, lanes: int, registers: Sequence[int] = ()) -> None:
        if lanes < 2 or lanes & (lanes - 1):
            raise ValueError(f"Lanes must be a power of two of at least 2, not {lanes!r}")
        self.lanes = lanes
        self.registers = tuple(registers)
        self.latency = tree_latency(lanes, registers)
        width = lanes * DIGIT_BITS
        super().__init__(
            {"a": In(width), "c": In(width), "o": Out((_PRODUCT_MAX * lanes).bit_length())}
        )

    def elaborate(self, platform: object) -> Module:
        """Bit planes of whole words into products, products into the tree."""
        m = Module()
        m.submodules.tree = tree = AdderTree(self.lanes, _PRODUCT_MAX, self.registers)
        width = self.lanes * DIGIT_BITS
        low_bits = Const(int("01" * self.lanes, 2), width)

        def plane(name: str, value: Value) -> Signal:
            """A word with one bit a lane, in the lower bit of the lane's digit."""
            signal = Signal(width, name=name)
            m.d.comb += signal.eq(value)
            return signal

        a0 = plane("a0", self.a & low_bits)
        a1 = plane("a1", (self.a >> 1) & low_bits)
        c0 = plane("c0", self.c & low_bits)
        c1 = plane("c1", (self.c >> 1) & low_bits)
        # a * c = a0 c0 + 2 (a1 c0 + a0 c1) + 4 a1 c1; the middle carries only for 3 * 3, where
        # the carry meets a1 c1 and becomes bit 3.
        upper = plane("upper", a1 & c0)
        lower = plane("lower", a0 & c1)
        p0 = plane("p0", a0 & c0)
        p1 = plane("p1", upper ^ lower)
        p3 = plane("p3", upper & lower)
        p2 = plane("p2", (a1 & c1) ^ p3)
        # A product takes as much room as two lanes: even lanes go to one word, odd to another.
        nibbles = Const(int("0001" * (self.lanes // 2), 2), width)
        words = []
        for parity in range(2):
            word = Signal(width, name=("even", "odd")[parity])
            bits = [((p >> 2 * parity) & nibbles)[:width] for p in (p0, p1, p2, p3)]
            m.d.comb += word.eq(bits[0] | bits[1] << 1 | bits[2] << 2 | bits[3] << 3)
            words.append(word)
        m.d.comb += tree.i.eq(Cat(words))
        m.d.comb += self.o.eq(tree.o)
        return m
