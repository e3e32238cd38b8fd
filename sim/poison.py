"""Takes away the values that registers and memories have at power-on.

The gateware generator gives every register and every memory word an initial value, as FPGAs load
one with the bitstream. A simulation in which all memories start at 0 hides reads of words that
were never written, and registers that no reset reaches. Without these values Verilator fills
registers and memories at random, from a seed.
"""

from __future__ import annotations

import re

# As Yosys writes them: one assignment per word, in one block per memory. A word of more than 32
# hexadecimal digits is still one literal.
_MEMORY_BLOCK = re.compile(
    r"^ *initial begin\n(?P<words>(?: *(?P<name>\\\S+ |\w+)\[\d+\] = \d+'\w+;\n)+) *end\n",
    re.MULTILINE,
)
_ZERO_WORD = re.compile(r"\] = \d+'[bdh]0+;$")
_REGISTER = re.compile(r"^( *reg (?:\[\d+:\d+\] )?(?:\\\S+ |\w+)) *= *\d+'\w+;$", re.MULTILINE)


def remove_initial_values(verilog: str) -> str:
    """Verilog in which registers and writable memories have no initial values.

    Kept are memories that are never written (tables), and memories whose initial contents are not
    all 0, since somebody chose these.

    Parameters:
        verilog: Verilog as Yosys writes it.
    """

    def block(match: re.Match[str]) -> str:
        name = re.escape(match["name"].strip())
        written = re.search(rf"(?<!\S){name} ?\[[^;]*\] *<=", verilog)
        zero = all(_ZERO_WORD.search(line) for line in match["words"].splitlines())
        return "" if written and zero else match.group()

    return _REGISTER.sub(r"\1;", _MEMORY_BLOCK.sub(block, verilog))
