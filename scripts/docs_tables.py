"""Writes the tables of docs/ from the tables that gateware and compiler use.

A document marks the place of a table with ``<!-- table: NAME -->`` and ``<!-- end -->``; what
stands between is replaced.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from amaranth.hdl import Shape
from amaranth.lib.wiring import Out

from palquant.hw import isa
from palquant.hw.arbiter import ReadSource
from palquant.hw.axi import address_constants
from palquant.hw.config import PARAMETER_BITS, PARAMETER_ROWS, Geometry
from palquant.hw.presets import PRESETS
from palquant.hw.registers import (
    COUNTERS,
    IDENTIFICATION,
    REGISTERS,
    Access,
    Activity,
    ErrorCode,
    Register,
    Stall,
)
from palquant.hw.top import TRACE_IDLE, Accelerator

DOCS = Path(__file__).parents[1] / "docs"
_MARKER = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("|", "\\|").replace("``", "`")


def _bits(offset: int, width: int) -> str:
    return f"{offset}" if width == 1 else f"{offset + width - 1}..{offset}"


def _fields(layout: isa.Layout, skip: Sequence[isa.Field] = ()) -> str:
    """The fields of an instruction or header, but those in ``skip``."""
    return table(
        ("field", "bits", "width", "meaning"),
        (
            (
                f"`{item.name}`",
                _bits(layout.offsets[item.name], item.bits),
                f"{item.bits}, signed" if item.signed else item.bits,
                item.doc,
            )
            for item in layout.fields
            if item not in skip
        ),
    )


def _members(cls: type[enum.IntEnum]) -> str:
    """Members of an enumeration; their meaning stands behind them in the source, as ``#:``."""
    source = inspect.getsource(cls)
    comments = dict(re.findall(r"^ +(\w+) = \d+ +#: (.*)$", source, re.MULTILINE))
    if not comments:
        return table(("value", "name"), ((item.value, f"`{item.name}`") for item in cls))
    return table(
        ("value", "name", "meaning"),
        ((item.value, f"`{item.name}`", comments.get(item.name, "")) for item in cls),
    )


def _documented(cls: type[ErrorCode] | type[Stall] | type[Activity]) -> str:
    """Members of an enumeration that carry their meaning."""
    return table(
        ("value", "name", "meaning"), ((item.value, f"`{item.name}`", item.doc) for item in cls)
    )


def _geometry_parameters() -> str:
    """The fields of Geometry, explained by its docstring, with the presets' values."""
    text = inspect.cleandoc(Geometry.__doc__ or "").split("Raises:")[0]
    docs = {
        name: " ".join(words.split())
        for name, words in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    }
    names = [item.name for item in dataclasses.fields(Geometry) if item.name != "name"]
    return table(
        ("parameter", "meaning", *PRESETS),
        (
            (f"`{name}`", docs[name], *(getattr(item, name) for item in PRESETS.values()))
            for name in names
        ),
    )


def _geometry_derived() -> str:
    """What follows from the parameters."""
    derived = {
        name: member
        for name, member in vars(Geometry).items()
        if isinstance(member, property) and name != "identity"
    }
    return table(
        ("size", "meaning", *PRESETS),
        (
            (
                f"`{name}`",
                (inspect.getdoc(member) or "").split("\n")[0],
                *(getattr(item, name) for item in PRESETS.values()),
            )
            for name, member in derived.items()
        ),
    )


def _widths() -> str:
    """The registers of the arithmetic, with what sets their width."""
    shift = next(item.bits for item in isa.PARAMETER_CONTROL.fields if item.name == "shift")
    rows: list[tuple[str, str, str, Callable[[Geometry], int]]] = [
        ("P, sum of code products", "no", "accumulator_bits", lambda g: g.accumulator_bits),
        ("S, sum of activation codes", "no", "activation_sum_bits",
         lambda g: g.activation_sum_bits),
        ("sum of one cycle's products", "no", "dot_bits", lambda g: g.dot_bits),
        ("value v = alpha * P - beta * S", "yes", "value_bits", lambda g: g.value_bits),
        ("scale M", "yes", "scale_bits", lambda g: g.scale_bits),
        ("offset B", "yes", "offset_bits", lambda g: g.offset_bits),
        ("shift Sh", "no", "PARAMETER_CONTROL.shift", lambda g: shift),
        ("threshold T", "yes", "threshold_bits", lambda g: g.threshold_bits),
        ("pool sum", "yes", "pool_bits", lambda g: g.pool_bits),
        ("residual, as stored", "yes", "residual_bits", lambda g: g.residual_bits),
    ]  # fmt: skip
    return table(
        ("register", "signed", "set by", *PRESETS),
        (
            (name, signed, f"`{source}`", *(width(item) for item in PRESETS.values()))
            for name, signed, source, width in rows
        ),
    )


def _constants() -> str:
    """The numbers that all programs share."""
    return table(
        ("constant", "value", "meaning"),
        (
            ("`MAGIC`", f"`{isa.MAGIC:#x}`", "first word of a memory image"),
            ("`VERSION`", isa.VERSION, "version of instruction set, memory image and registers"),
            ("`UNIT_BYTES`", isa.UNIT_BYTES, "bytes of one instruction unit"),
            ("`ADDRESS_BITS`", isa.ADDRESS_BITS, "on-chip addresses, at most"),
        ),
    )


def _parameter_rows() -> str:
    """What each row of a parameter slot holds."""
    content = {isa.ROW_OFFSET: "B", isa.ROW_CONTROL: "`PARAMETER_CONTROL`"}
    for number, rows in enumerate(isa.THRESHOLD_ROWS, start=1):
        for position, row in rows.items():
            content[row] = f"code tensor {number}, threshold at tree position {position}"
    return table(
        ("row", "content"),
        ((row, content.get(row, "not used")) for row in range(PARAMETER_ROWS)),
    )


def _parameter_loads() -> str:
    """Rows that a layer stores and loads."""
    widths = {0: "no thresholds", 1: "1 bit", 2: "2 bits", 3: "3 bits", 4: "4 bits"}
    return table(
        ("widest code by thresholds", "rows", "bits per lane"),
        (
            (name, isa.parameter_rows(bits), isa.parameter_rows(bits) * PARAMETER_BITS)
            for bits, name in widths.items()
        ),
    )


#: Registers whose value is wired: a geometry's own.
_WIRED = ("GEOMETRY", "CAPABILITY")


def _reset(register: Register, value: int) -> str | int:
    """What a field holds after a reset; of constants, what it always holds."""
    if register.name in IDENTIFICATION:
        return f"always `{IDENTIFICATION[register.name]:#x}`"
    return "by geometry" if register.name in _WIRED else value


def _register_rows(register: Register) -> list[tuple[object, ...]]:
    fields = list(register.fields.values())
    access = {item.access.value for item, _ in fields}
    offset = f"`{register.offset:#05x}`"
    if [item.name for item, _ in fields] == ["value"]:
        ((item, _),) = fields
        return [
            (
                offset,
                f"`{register.name}`",
                _bits(0, item.bits),
                *access,
                _reset(register, item.reset),
                register.doc,
            )
        ]
    rows: list[tuple[object, ...]] = [(offset, f"`{register.name}`", "", "", "", register.doc)]
    for item, shift in fields:
        values = f" A value of `{item.values.__name__}`." if item.values else ""
        rows.append(
            ("", f"`.{item.name}`", _bits(shift, item.bits), item.access.value,
             _reset(register, item.reset), item.doc + values)
        )  # fmt: skip
    return rows


def _registers() -> str:
    """The register map but the counters."""
    return table(
        ("offset", "register", "bits", "access", "reset", "meaning"),
        (row for item in REGISTERS.values() if not _is_counter(item)
         for row in _register_rows(item)),
    )  # fmt: skip


def _is_counter(register: Register) -> bool:
    name, _, half = register.name.rpartition("_")
    return half in ("LOW", "HIGH") and name in COUNTERS


def _counters() -> str:
    """The counters: low half, high half, meaning."""
    return table(
        ("low", "high", "counter", "counts"),
        (
            (
                f"`{REGISTERS[f'{name}_LOW'].offset:#05x}`",
                f"`{REGISTERS[f'{name}_HIGH'].offset:#05x}`",
                f"`{name}`",
                doc,
            )
            for name, doc in COUNTERS.items()
        ),
    )


def _access() -> str:
    meaning = {
        Access.READ_ONLY: "The machine sets it; writes are ignored.",
        Access.READ_WRITE: "The host sets it and reads it back.",
        Access.WRITE_ONLY: "Reads as 0; writing 1 triggers.",
        Access.WRITE_ONE_TO_CLEAR: "The machine sets it; writing 1 clears it.",
    }
    return table(("access", "meaning"), ((item.value, meaning[item]) for item in Access))


#: What is to be said of a port, beyond its protocol; constants follow from the gateware.
_PORT_NOTES = {
    "clk": "Clock of everything; rising edge.",
    "rst": "Reset: active high, synchronous to `clk`; expected once after power-on.",
    "m_axi_arid": ", ".join(f"{item.value}: {item.name.lower()}" for item in ReadSource)
    + "; see [the bus](architecture.md#bus).",
    "m_axi_awid": "Always 0.",
    "m_axi_bready": "Always 1.",
    "m_axi_arlen": "Beats - 1.",
    "m_axi_awlen": "Beats - 1.",
    "s_axil_awaddr": "Byte address; a register map of 4 KiB.",
    "s_axil_araddr": "Byte address; a register map of 4 KiB.",
    "s_axil_awprot": "Ignored.",
    "s_axil_arprot": "Ignored.",
    "irq": "High as long as an enabled event is pending.",
    "trace_layer": "Layer of the COMPUTE that runs or is waited for.",
    "trace_activity": f"A value of `Activity`; {TRACE_IDLE} outside of runs.",
    "trace_load_busy": "A LOAD is under way.",
    "trace_load_layer": "Its layer.",
    "trace_store_busy": "A STORE is under way.",
    "trace_store_layer": "Its layer.",
}


def _port_note(name: str) -> str:
    for channel in ("m_axi_ar", "m_axi_aw"):
        signal = name.removeprefix(channel)
        values = {key: address_constants(item).get(signal) for key, item in PRESETS.items()}
        if signal == name or None in values.values():
            continue
        if len(set(values.values())) == 1:
            return f"Always {next(iter(values.values()))}."
        return "Always " + ", ".join(f"{value} ({key})" for key, value in values.items()) + "."
    return _PORT_NOTES.get(name, "")


def _ports() -> str:
    """The ports of the Verilog module, in the order of its gateware."""
    machines = {name: Accelerator(item).signature.members for name, item in PRESETS.items()}
    ports = {"clk": ("in", *("1" for _ in PRESETS)), "rst": ("in", *("1" for _ in PRESETS))}
    for name, member in next(iter(machines.values())).items():
        widths = (str(Shape.cast(machine[name].shape).width) for machine in machines.values())
        ports[name] = ("out" if member.flow is Out else "in", *widths)
    return table(
        ("port", "direction", *(f"bits, {name}" for name in PRESETS), "meaning"),
        ((f"`{name}`", *columns, _port_note(name)) for name, columns in ports.items()),
    )


#: Name of each table -> what makes it.
TABLES: dict[str, Callable[[], str]] = {
    "geometry-parameters": _geometry_parameters,
    "geometry-derived": _geometry_derived,
    "widths": _widths,
    "constants": _constants,
    "opcodes": lambda: _members(isa.Opcode),
    "memories": lambda: _members(isa.Memory),
    "bases": lambda: _members(isa.Base),
    "causes": lambda: _members(isa.Cause),
    "sources": lambda: _members(isa.Source),
    "pool-operations": lambda: _members(isa.PoolOperation),
    "instruction-header": lambda: _fields(isa.CONTROL),
    "transfer": lambda: _fields(isa.TRANSFER, isa.HEADER),
    "compute": lambda: _fields(isa.COMPUTE, isa.HEADER),
    "image-header": lambda: _fields(isa.IMAGE_HEADER),
    "parameter-control": lambda: _fields(isa.PARAMETER_CONTROL),
    "parameter-rows": _parameter_rows,
    "parameter-loads": _parameter_loads,
    "registers": _registers,
    "counters": _counters,
    "access": _access,
    "error-codes": lambda: _documented(ErrorCode),
    "stalls": lambda: _documented(Stall),
    "ports": _ports,
    "activities": lambda: _documented(Activity),
}


def fill(text: str) -> str:
    """A document with all of its tables made anew.

    Raises:
        KeyError: A marker names a table that does not exist.
    """
    return _MARKER.sub(lambda found: f"{found[1]}\n{TABLES[found['name']]()}\n{found[3]}", text)


def markers(text: str) -> list[str]:
    """Names of a document's tables."""
    return [found["name"] for found in _MARKER.finditer(text)]


def main(arguments: list[str] | None = None) -> int:
    """Write the documents, or with ``--check`` only name those that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    options = parser.parse_args(arguments)
    stale = []
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text()
        fresh = fill(text)
        if fresh != text:
            stale.append(path)
            if not options.check:
                path.write_text(fresh)
    for path in stale:
        print(f"{path.relative_to(DOCS.parent)}: {'out of date' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
