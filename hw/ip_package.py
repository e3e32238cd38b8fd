"""Writes the accelerator as an IP package for Vivado: sources, description, scripts."""

from __future__ import annotations

import os
import re
from pathlib import Path

from palquant.errors import ConfigurationError
from palquant.files import write_text, write_together
from palquant.hw.carry_chain import Technology
from palquant.hw.config import Geometry
from palquant.hw.describe import c_header, geometry_json, registers_json
from palquant.hw.generate import MODULE, verilog
from palquant.hw.ip_scripts import (
    CLOCK_MHZ,
    REGISTERS_ADDRESS,
    constraints_text,
    design_script,
    dialogue_script,
    package_script,
)
from palquant.hw.ip_wrapper import CLOCK, IP_MODULE, MANAGER, RESET, SUBORDINATE, wrapper_verilog
from palquant.hw.ip_xact import component_xml, identifier

#: The Verilog files, the top module's last.
SOURCES = (f"{MODULE}.v", f"{IP_MODULE}.v")
#: The constraints for synthesis out of context.
CONSTRAINTS = f"{MODULE}.xdc"
#: The dialogue of the IP's parameters.
DIALOGUE = "xgui.tcl"
#: What :func:`package` writes.
FILES = (
    *SOURCES,
    "component.xml",
    DIALOGUE,
    "package_ip.tcl",
    "block_design.tcl",
    CONSTRAINTS,
    f"{MODULE}_registers.h",
    "registers.json",
    "geometry.json",
    "README.md",
)

_PARTS = re.compile(r"x[acq]7z[0-9]{3}[a-z0-9]*(-[a-z0-9]+)+")


def check_part(part: str) -> str:
    """The part, if it is a Zynq-7000 by its name.

    Raises:
        ConfigurationError: It is not; the block design has the processor of one.
    """
    if not _PARTS.fullmatch(part):
        raise ConfigurationError(
            f"part {part!r}: block_design.tcl is for Zynq-7000, whose parts begin with xc7z"
        )
    return part


def _readme(geometry: Geometry, version: str, part: str) -> str:
    return f"""\
# palquant accelerator for Vivado, geometry {geometry.name}

`{identifier(version)}`: an AXI4 master of {geometry.bus_bits} bits to memory
(`{MANAGER}`), an AXI4-Lite subordinate for the host (`{SUBORDINATE}`), an interrupt (`irq`, high
while an enabled event is pending), a clock (`{CLOCK}`) and a reset (`{RESET}`: active low,
synchronous).

1. **Add this folder as an IP repository**: Settings, IP, Repository, or in Tcl
   `set_property ip_repo_paths FOLDER [current_project]; update_ip_catalog`. The IP is in the
   catalog under UserIP.
2. **Or make a whole design for a Zynq-7000**: set `board_part` at the top of `block_design.tcl`,
   and in a folder of its own run `vivado -mode batch -source FOLDER/block_design.tcl`. That makes
   a project for {part} at {CLOCK_MHZ} MHz; with `build` set to 1, a bitstream and a
   hardware platform (.xsa) as well.
3. **Talk to it.** The block design has the registers at {REGISTERS_ADDRESS:#010x} and the
   interrupt at IRQ_F2P[0]; `{MODULE}_registers.h` and `registers.json` describe them. The memory
   image (`image.bin`), an input and space for the output go into memory that is physically
   contiguous and in the first 4 GiB, each at a multiple of {geometry.bus_bytes} bytes. Write their
   addresses to IMAGE_ADDRESS, INPUT_ADDRESS and OUTPUT_ADDRESS, 1 to CONTROL, and wait for STATUS.
   Port HP0 does not see the processor's caches: write them back before a run, and invalidate
   the output's lines after it.

| file | what |
| --- | --- |
| `{SOURCES[0]}`, `{SOURCES[1]}` | the accelerator, and the IP's module around it |
| `component.xml`, `{DIALOGUE}` | the IP in IP-XACT |
| `package_ip.tcl` | lets Vivado make `component.xml` itself |
| `block_design.tcl` | makes a project for a Zynq-7000 |
| `{CONSTRAINTS}` | the clock, for synthesis of the IP by itself |
| `{MODULE}_registers.h`, `registers.json`, `geometry.json` | register map, sizes |
| `image.*`, `manifest.json`, `model.npz` | the memory image, if one was given |

This package was checked without Vivado: the Verilog by a simulator, `component.xml` against the
ports and the registers, the scripts in a Tcl interpreter with stand-ins for Vivado's commands.
"""


def package(
    geometry: Geometry,
    directory: str | os.PathLike[str],
    *,
    version: str,
    part: str,
    technology: Technology | None = Technology.XILINX7,
) -> list[Path]:
    """Write an IP package into ``directory``, which is made if it does not exist.

    - ``palquant.v``, ``palquant_ip.v``: the accelerator, and the IP's module around it
    - ``component.xml``, ``xgui.tcl``: the IP in IP-XACT
    - ``package_ip.tcl``: lets Vivado make ``component.xml``
    - ``block_design.tcl``: makes a project with a Zynq-7000's processor
    - ``palquant.xdc``: the clock, for synthesis out of context
    - ``palquant_registers.h``, ``registers.json``, ``geometry.json``: register map and sizes
    - ``README.md``: what to do with them

    Each file is complete whenever it exists under its name.

    Parameters:
        geometry: Sizes of the machine.
        directory: Where to write.
        version: The package's version, of three numbers.
        part: The FPGA, a Zynq-7000.
        technology: What the array is made of; None for adders that any tool understands.

    Returns:
        The files' paths.

    Raises:
        ConfigurationError: The part is no Zynq-7000.
        OutputError: The directory or a file in it cannot be written.
    """
    check_part(part)
    texts = (
        verilog(geometry, technology),
        wrapper_verilog(geometry),
        component_xml(
            geometry,
            version=version,
            technology=technology,
            sources=SOURCES,
            constraints=CONSTRAINTS,
            dialogue=DIALOGUE,
        ),
        dialogue_script(),
        package_script(
            geometry,
            version=version,
            part=part,
            technology=technology,
            sources=SOURCES,
            constraints=CONSTRAINTS,
        ),
        design_script(geometry, version=version, part=part),
        constraints_text(),
        c_header(geometry),
        registers_json(),
        geometry_json(geometry),
        _readme(geometry, version, part),
    )
    with write_together(directory) as aside:
        for name, text in zip(FILES, texts, strict=True):
            write_text(aside / name, text)
    return [Path(directory, name) for name in FILES]
