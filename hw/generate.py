"""Writes the machine to files: Verilog, and what others need to know to talk to it."""

from __future__ import annotations

import os
from pathlib import Path

from palquant.files import write_text, write_together
from palquant.hw.carry_chain import Technology
from palquant.hw.compute import ComputeEngine
from palquant.hw.config import Geometry
from palquant.hw.describe import c_header, geometry_json, instructions_json, registers_json
from palquant.hw.top import Accelerator
from palquant.hw.verilog import convert

#: Name of the Verilog module, and of its file.
MODULE = "palquant"
#: What :func:`generate` writes.
FILES = (
    f"{MODULE}.v",
    f"{MODULE}_registers.h",
    "registers.json",
    "instructions.json",
    "geometry.json",
)


def verilog(geometry: Geometry, technology: Technology | None = None) -> str:
    """The accelerator as Verilog: module ``palquant`` and those below it.

    Parameters:
        geometry: Sizes of the machine.
        technology: What the array is made of; None for adders that any tool makes something of.

    The same geometry and the same versions of the tools give the same text, wherever the sources
    lie: no attribute says where a line comes from.
    """
    return convert(Accelerator(geometry, ComputeEngine(geometry, technology)), MODULE)


def generate(
    geometry: Geometry,
    directory: str | os.PathLike[str],
    technology: Technology | None = None,
) -> list[Path]:
    """Write a machine's files into ``directory``, which is made if it does not exist.

    - ``palquant.v``: the accelerator
    - ``palquant_registers.h``: register map, for C
    - ``registers.json``: register map
    - ``instructions.json``: instruction set and image header
    - ``geometry.json``: sizes

    Each file is complete whenever it exists under its name.

    Parameters:
        geometry: Sizes of the machine.
        directory: Where to write.
        technology: See :func:`verilog`.

    Returns:
        The files' paths.

    Raises:
        OutputError: The directory or a file in it cannot be written.
    """
    texts = (
        verilog(geometry, technology),
        c_header(geometry),
        registers_json(),
        instructions_json(),
        geometry_json(geometry),
    )
    with write_together(directory) as aside:
        for name, text in zip(FILES, texts, strict=True):
            write_text(aside / name, text)
    return [Path(directory, name) for name in FILES]
