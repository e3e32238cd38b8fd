"""``palquant package``: the accelerator as an IP package for Vivado."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Collection
from pathlib import Path
from typing import Any

from palquant import __version__
from palquant.errors import InputError, OutputError
from palquant.files import write_together
from palquant.hw.config import geometry
from palquant.sw.formats import FORMATS
from palquant.sw.image import FILES as IMAGE_FILES
from palquant.sw.image import load_image

Report = dict[str, Any]

#: Formats of memory files that Vivado reads.
MEMORY_FORMATS = ("mem", "coe")
#: What the array can be made of.
TECHNOLOGIES = ("xilinx7", "generic")


def package(options: Namespace) -> Report:
    """Write the package and, with an image, memory files: all of them, or none."""
    from palquant.hw.carry_chain import Technology
    from palquant.hw.ip_package import FILES, PART
    from palquant.hw.ip_package import package as write_package

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
    memory_files = (*IMAGE_FILES, *(f"image.{name}" for name in MEMORY_FORMATS))
    _check_folder(options.output, FILES, memory_files)

    with write_together(options.output) as aside:
        write_package(
            machine,
            aside,
            version=__version__,
            part=options.part or PART,
            technology=Technology.XILINX7 if options.technology == "xilinx7" else None,
        )
        if image is not None:
            for name in IMAGE_FILES:
                shutil.copyfile(options.image / name, aside / name)
            for name in options.format:
                text = FORMATS[name](image.data, image.geometry.bus_bytes)
                (aside / f"image.{name}").write_text(text)
        files = [str(options.output / name) for name in sorted(os.listdir(aside))]
    print("\n".join(files))
    return {
        "geometry": machine.name,
        "part": options.part or PART,
        "technology": options.technology,
        "files": files,
    }


def _check_folder(folder: Path, needed: Collection[str], possible: Collection[str]) -> None:
    """Refuse a folder unless it is new, empty, or of an earlier package.

    Parameters:
        folder: The folder.
        needed: All that a package has.
        possible: All that it may have besides.

    Raises:
        OutputError: It holds something else, or a memory image alone.
    """
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found and not {*needed} <= found <= {*needed, *possible}:
        raise OutputError(f"{folder}: holds other files; name an empty or a new directory")
