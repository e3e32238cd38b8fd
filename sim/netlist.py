"""What is done to the generated Verilog before it is simulated.

Values at power-on become random, as in a chip. The gateware generator gives every register and
every memory word an initial value, as FPGAs load one with the bitstream. A simulation in which all
memories start at 0 hides reads of words that were never written, and registers that no reset
reaches. So registers lose their initial values (Verilator then draws one for each, from its seed),
and memories get a loop that draws every word: left to Verilator, all words of a memory would be
equal.

The reset becomes a register. The generator writes "unless reset" into the logic before every
register, so that all of it depends on an input; Verilator evaluates what depends on inputs again
whenever inputs may have changed, twice a cycle. Behind a register it does so once: simulation is
1.6 times as fast, and the reset takes effect a cycle later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from palquant.errors import ToolError

# As Yosys writes them: one assignment per word, in one block per memory.
_WORD = r" *(?P<name>\\\S+ |\w+)\[\d+\] = (?P<bits>\d+)'\w+;\n"
_MEMORY_BLOCK = re.compile(rf"^ *initial begin\n(?P<words>(?:{_WORD})+) *end\n", re.MULTILINE)
_ZERO_WORD = re.compile(r"\] = \d+'[bdh]0+;$")
_REGISTER = re.compile(r"^( *reg (?:\[\d+:\d+\] )?(?:\\\S+ |\w+)) *= *\d+'\w+;$", re.MULTILINE)
_DRAWN_BITS = 32  # of one $urandom
_PORT = re.compile(
    r"\b(?P<direction>input|output)\s+(?:(?:reg|wire)\s+)?(?P<range>\[[^\]]*\])?\s*(?P<name>\w+)"
)


def randomize_power_on(verilog: str) -> str:
    """Verilog in which registers and writable memories start with random values.

    Untouched are memories that are never written (tables), and memories whose initial contents
    are not all 0, since somebody chose these.

    Parameters:
        verilog: Verilog as Yosys writes it.
    """

    def block(match: re.Match[str]) -> str:
        name, words = match["name"], match["words"].splitlines()
        pattern = rf"(?<!\S){re.escape(name.strip())} ?\[[^;]*\] *<="
        if not re.search(pattern, verilog) or not all(map(_ZERO_WORD.search, words)):
            return match.group()
        draws = ", ".join(["$urandom"] * -(-int(match["bits"]) // _DRAWN_BITS))
        return (
            f"  initial\n"
            f"    for (integer word = 0; word < {len(words)}; word = word + 1)\n"
            f"      {name}[word] = {{{draws}}};\n"
        )

    return _REGISTER.sub(r"\1;", _MEMORY_BLOCK.sub(block, verilog))


@dataclass(frozen=True)
class Port:
    """A port of a module.

    Parameters:
        name: Its name.
        direction: ``input`` or ``output``.
        range: Its bit range as written, such as ``[31:0]``; empty for one bit.
    """

    name: str
    direction: str
    range: str


def ports(verilog: str, top: str) -> list[Port]:
    """The ports of one module, each declared by itself, in order.

    Raises:
        ToolError: The module is not there, or has no ports.
    """
    pattern = rf"^module {re.escape(top)}\b.*?^endmodule"
    module = re.search(pattern, verilog, re.DOTALL | re.MULTILINE)
    found = [
        Port(match["name"], match["direction"], match["range"] or "")
        for match in (_PORT.finditer(module.group()) if module else ())
    ]
    if not found:
        raise ToolError(f"the Verilog text has no module {top!r} with ports")
    return found


def register_reset(verilog: str, top: str, *, reset: str = "rst", clock: str = "clk") -> str:
    """Verilog whose module ``top`` is a shell around the one given, with a register in ``reset``.

    Raises:
        ToolError: The module is not there, or lacks clock or reset.
    """
    interface = ports(verilog, top)
    if not {reset, clock} <= {port.name for port in interface}:
        raise ToolError(f"module {top!r} has no ports {clock!r} and {reset!r}")
    inner, state = f"{top}_core", f"{reset}_register"
    declared = ",\n".join(f"  {port.direction} {port.range} {port.name}" for port in interface)
    connected = ",\n".join(
        f"    .{port.name}({state if port.name == reset else port.name})" for port in interface
    )
    renamed = re.sub(rf"^module {re.escape(top)}\b", f"module {inner}", verilog, flags=re.MULTILINE)
    return (
        f"{renamed}\n"
        f"module {top}(\n{declared}\n);\n"
        f"  reg {state};\n"
        f"  always @(posedge {clock}) {state} <= {reset};\n"
        f"  {inner} core(\n{connected}\n  );\n"
        f"endmodule\n"
    )
