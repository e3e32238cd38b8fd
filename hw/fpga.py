"""FPGA families: how a netlist's cells count, and with which command synthesis makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from palquant.hw.carry_chain import Technology

__all__ = ["FAMILIES", "Area", "Cell", "Family", "pack_dual_outputs"]

#: Inputs that two functions in one LUT6 may have together.
_DUAL_OUTPUT_INPUTS = 5


@dataclass(frozen=True)
class Area:
    """What a design takes.

    Parameters:
        lut: Look-up tables, in the family's own count.
        ff: Flip-flops.
        bram: Block RAMs, in the family's largest unit.
        dsp: Multiplier blocks.
    """

    lut: int
    ff: int
    bram: float
    dsp: int


@dataclass(frozen=True)
class Cell:
    """A cell of a netlist.

    Parameters:
        kind: Its type.
        inputs: Numbers of the nets at its inputs; constants are left out.
    """

    kind: str
    inputs: frozenset[int]


def pack_dual_outputs(inputs: Iterable[frozenset[int]]) -> int:
    """Tables of six inputs that the given functions take, two to a table where they fit.

    Two functions share a table if they have at most five inputs together. Each function takes the
    partner with which it has most inputs in common, largest functions first: what is found is a
    packing that exists, not always the smallest.

    Parameters:
        inputs: Nets at the inputs of each function, at most six.
    """
    alone = 0
    waiting: dict[int, frozenset[int]] = {}
    by_net: dict[int, set[int]] = {}
    for index, nets in enumerate(inputs):
        if len(nets) > _DUAL_OUTPUT_INPUTS:
            alone += 1
            continue
        waiting[index] = nets
        for net in nets:
            by_net.setdefault(net, set()).add(index)
    small = sorted((i for i in waiting if len(waiting[i]) <= 2), key=lambda i: len(waiting[i]))
    tables = alone

    def remove(index: int) -> frozenset[int]:
        nets = waiting.pop(index)
        for net in nets:
            by_net[net].discard(index)
        return nets

    for index in sorted(waiting, key=lambda i: -len(waiting[i])):
        if index not in waiting:
            continue
        nets = remove(index)
        tables += 1
        near = {other for net in nets for other in by_net[net]}
        fitting = [i for i in near if len(waiting[i] | nets) <= _DUAL_OUTPUT_INPUTS]
        if fitting:
            remove(max(fitting, key=lambda i: (len(waiting[i]), -i)))
            continue
        while small and small[-1] not in waiting:
            small.pop()
        if small and len(waiting[small[-1]]) + len(nets) <= _DUAL_OUTPUT_INPUTS:
            remove(small.pop())
    return tables


def _count(cells: Iterable[Cell], sizes: Mapping[str, float]) -> float:
    return sum(sizes.get(cell.kind, 0) for cell in cells)


def _count_prefix(cells: Iterable[Cell], *prefixes: str) -> int:
    return sum(cell.kind.startswith(prefixes) for cell in cells)


def _ecp5(cells: list[Cell]) -> Area:
    """LUT4 slots: a CCU2C takes two; distributed RAM, 16 words of 4 bits, four and two to write."""
    return Area(
        lut=int(_count(cells, {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6})),
        ff=_count_prefix(cells, "TRELLIS_FF"),
        bram=_count(cells, {"DP16KD": 1, "PDPW16KD": 1}),
        dsp=_count_prefix(cells, "MULT18X18D"),
    )


def _ice40(cells: list[Cell]) -> Area:
    """Logic cells: a carry shares the cell of a table with its operands, where there is one."""
    lut = _count_prefix(cells, "SB_LUT4")
    tables = [cell.inputs for cell in cells if cell.kind == "SB_LUT4"]
    by_net: dict[int, list[frozenset[int]]] = {}
    for inputs in tables:
        for net in inputs:
            by_net.setdefault(net, []).append(inputs)
    lone = 0
    for cell in cells:
        if cell.kind == "SB_CARRY" and cell.inputs:
            near = by_net.get(min(cell.inputs), [])
            lone += not any(cell.inputs <= inputs for inputs in near)
    return Area(
        lut=lut + lone,
        ff=_count_prefix(cells, "SB_DFF"),
        bram=_count(cells, {"SB_RAM40_4K": 1}),
        dsp=_count_prefix(cells, "SB_MAC16"),
    )


def _xilinx7(cells: list[Cell]) -> Area:
    """LUT6 after packing, distributed RAM as in UG474; tables absorb the inverters before them."""
    tables = [cell.inputs for cell in cells if cell.kind in {f"LUT{size}" for size in range(1, 7)}]
    fixed = {"LUT6_2": 1, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4,
             "SRL16E": 1, "SRLC32E": 1}  # fmt: skip
    return Area(
        lut=pack_dual_outputs(tables) + int(_count(cells, fixed)),
        ff=_count_prefix(cells, "FDRE", "FDSE", "FDCE", "FDPE"),
        bram=_count(cells, {"RAMB36E1": 1, "RAMB18E1": 0.5}),
        dsp=_count_prefix(cells, "DSP48E1"),
    )


@dataclass(frozen=True)
class Family:
    """An FPGA family.

    Parameters:
        name: As in commands and reports.
        title: For people.
        unit: What its look-up tables are counted in.
        synthesis: Yosys commands; ``{top}`` stands for the top module.
        technology: What an array engineered for it is made of; None where there is none.
        count: Area of a netlist's cells.
    """

    name: str
    title: str
    unit: str
    synthesis: tuple[str, ...]
    technology: Technology | None
    count: Callable[[list[Cell]], Area]


#: What ``synth_xilinx`` does, but with abc where it takes abc9, which fails on arrays: the names it
#: makes exist already (Yosys 0.70).
_XILINX7_SYNTHESIS = (
    "synth_xilinx -family xc7 -noiopad -run :map_luts -top {top}",
    "opt_expr -mux_undef -noclkinv",
    "abc -luts 2:2,3,6:5,10,20",
    "clean",
    "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6",
    "xilinx_dffopt",
    "opt_lut_ins -tech xilinx",
    "blackbox =A:whitebox",
)

FAMILIES = {
    item.name: item
    for item in (
        # Nothing is read of a memory's row while it is written. Yosys cannot know that, and would
        # add logic around block RAM, which does not promise what is read then.
        Family("ecp5", "Lattice ECP5", "LUT4 slots",
               ("synth_ecp5 -noiopad -no-rw-check -top {top}",), Technology.ECP5, _ecp5),
        Family("ice40", "Lattice iCE40 UltraPlus", "logic cells",
               ("synth_ice40 -device u -dsp -no-rw-check -top {top}",), None, _ice40),
        Family("xilinx7", "Xilinx series 7", "LUT6", _XILINX7_SYNTHESIS, Technology.XILINX7,
               _xilinx7),
    )
}  # fmt: skip


def cells_of(module: Mapping[str, Any]) -> list[Cell]:
    """Cells of a flat module of a Yosys JSON netlist."""
    found = []
    for cell in module["cells"].values():
        directions = cell["port_directions"]
        nets = {
            net
            for port, bits in cell["connections"].items()
            if directions[port] == "input"
            for net in bits
            if isinstance(net, int)
        }
        found.append(Cell(cell["type"], frozenset(nets)))
    return found
