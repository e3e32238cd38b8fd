"""Amaranth components as Verilog text that simulates fast.

Amaranth's own conversion lets Yosys simplify as it goes, which takes a bitwise operation with a
constant apart, bit by bit: ``word & 0x5555`` becomes a concatenation of single bits. Synthesis
does not care, but a simulator that could have masked a word now moves 64 bits one at a time. The
array computes on whole words to be simulated fast (:mod:`palquant.hw.mac`), and runs five times as
fast with its expressions left alone. So this is the same conversion without the simplification.
"""

from __future__ import annotations

import re

from amaranth._toolchain.yosys import find_yosys
from amaranth.back import rtlil
from amaranth.lib import wiring

__all__ = ["convert"]

#: Attributes that say where in the Python sources something comes from, or that matter to Amaranth
#: alone.
_INTERNAL_ATTRIBUTES = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")

#: A memory for iCE40's single-port RAM, which is empty at power-on: initial values, which Amaranth
#: gives every memory, would keep it from there.
_LARGE_MEMORY = re.compile(
    r'(^ *\(\* ram_style = "huge" \*\)\n.*?;\n) *initial begin\n(?:.*? = .*?;\n)* *end\n', re.M
)

#: Yosys releases that read what this Amaranth writes.
_OLDEST_YOSYS = (0, 40)


def convert(component: wiring.Component, name: str) -> str:
    """A component and all below it as Verilog.

    Parameters:
        component: What to convert; the ports are its members.
        name: Name of the top module.

    Raises:
        amaranth._toolchain.ToolNotFound: There is no Yosys that is new enough.
    """
    text = rtlil.convert(component, name=name, emit_src=False)
    removed = " ".join(f"-remove {attribute}" for attribute in _INTERNAL_ATTRIBUTES)
    script = [
        f"read_rtlil <<rtlil\n{text}\nrtlil",
        "proc -nomux -norom -noopt",
        "memory_collect",
        f"attrmap {removed}",
        f"attrmap -modattr {removed}",
        "write_verilog -norename",
    ]
    yosys = find_yosys(lambda version: version >= _OLDEST_YOSYS)
    # Yosys warns that not all processes can be written as Verilog; Amaranth's can.
    result: str = yosys.run(["-q", "-"], "\n".join(script), ignore_warnings=True)
    return _LARGE_MEMORY.sub(r"\1", result)
