"""Folders of generated files: ``palquant generate``, and ``palquant package`` for Vivado."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from palquant import __version__
from palquant.errors import InputError, OutputError
from palquant.files import write_together
from palquant.hw.config import Geometry
from palquant.hw.presets import geometry
from palquant.sw.formats import FORMATS
from palquant.sw.image import FILES as IMAGE_FILES
from palquant.sw.image import load_image

Report = dict[str, Any]

#: The FPGA unless another one is named: that of PYNQ-Z1, PYNQ-Z2 and Zybo Z7-20.
PART = "xc7z020clg400-1"
#: Formats of memory files that Vivado reads.
VIVADO_FORMATS = ("mem", "coe")
#: What a package's array can be made of.
TECHNOLOGIES = ("xilinx7", "generic")


def generate(options: Namespace) -> Report:
    """Write Verilog, register map and, with an image, memory files."""
    from palquant.hw.carry_chain import Technology
    from palquant.hw.generate import FILES
    from palquant.hw.generate import generate as generate_files

    technology = options.technology and Technology(options.technology)
    return _write(
        options,
        FILES,
        FORMATS,
        lambda machine, aside: generate_files(machine, aside, technology),
    )


def package(options: Namespace) -> Report:
    """Write the package and, with an image, memory files: all of them, or none."""
    from palquant.hw.carry_chain import Technology
    from palquant.hw.ip_package import FILES
    from palquant.hw.ip_package import package as write_package

    technology = Technology.XILINX7 if options.technology == "xilinx7" else None
    report = _write(
        options,
        FILES,
        VIVADO_FORMATS,
        lambda machine, aside: write_package(
            machine, aside, version=__version__, part=options.part, technology=technology
        ),
    )
    return report | {"part": options.part, "technology": options.technology}


def _write(
    options: Namespace,
    names: Collection[str],
    formats: Collection[str],
    write: Callable[[Geometry, Path], object],
) -> Report:
    """Write a machine's files and, with an image, the image's: all of them, or none.

    Parameters:
        options: Of the command line.
        names: What ``write`` writes.
        formats: Formats that an image may be written in besides.
        write: Writes a machine's files into a folder.
    """
    machine = geometry(options.geometry)
    image = load_image(options.image) if options.image else None
    if image is not None and image.geometry.identity != machine.identity:
        raise InputError(
            f"{options.image}: is compiled for geometry {image.geometry.name}, not {machine.name}"
        )
    if options.image and options.output.resolve() == options.image.resolve():
        raise OutputError(f"{options.output}: is the memory image's own folder; name another")
    if options.format and image is None:
        raise InputError("--format needs --image: there is no memory image to write")
    _check_folder(options.output, names, {*IMAGE_FILES, *(f"image.{name}" for name in formats)})

    with write_together(options.output) as aside:
        write(machine, aside)
        if image is not None:
            for name in IMAGE_FILES:
                shutil.copyfile(options.image / name, aside / name)
            for name in options.format:
                text = FORMATS[name](image.data, image.geometry.bus_bytes)
                (aside / f"image.{name}").write_text(text)
        files = [str(options.output / name) for name in sorted(os.listdir(aside))]
    print("\n".join(files))
    return {"geometry": machine.name, "files": files}


def _check_folder(folder: Path, needed: Collection[str], possible: Collection[str]) -> None:
    """Refuse a folder unless it is new, empty, or of an earlier run of the same command.

    Parameters:
        folder: The folder.
        needed: All that the command writes.
        possible: All that it may write besides.

    Raises:
        OutputError: It holds something else, or a memory image alone.
    """
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found and not {*needed} <= found <= {*needed, *possible}:
        raise OutputError(f"{folder}: holds other files; name an empty or a new directory")
