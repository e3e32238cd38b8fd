"""Simulators of the boards that bitstreams are built for."""

from __future__ import annotations

from pathlib import Path

from palquant.hw.board_top import BoardTop
from palquant.hw.boards import MODULE, Board
from palquant.hw.place_and_route import DEVICES
from palquant.hw.verilog import convert
from palquant.sim.board import build_board
from palquant.sim.cells import cell_models

__all__ = ["build_simulated_board"]

_CLOCKS = "cells_clock.v"


def build_simulated_board(board: Board, contents: bytes, netlist: str | None = None) -> Path:
    """The simulator of a board, down to its serial pins; built or found.

    Parameters:
        board: The board.
        contents: What its on-chip memory holds at power-on.
        netlist: Verilog of the synthesised top module; the top before synthesis if None.

    Returns:
        Path of the executable, for :class:`~palquant.sim.board.SimulatedBoard`.

    Raises:
        ToolError: A tool is missing, or the build failed.
    """
    text = convert(BoardTop(board, contents), MODULE) if netlist is None else netlist
    sources = cell_models(DEVICES[board.device].family)
    sources |= {_CLOCKS: Path(__file__).with_name(_CLOCKS).read_text(), f"{MODULE}.v": text}
    kind = "simulated" if netlist is None else "netlist of"
    return build_board(sources, MODULE, label=f"{kind} {board.name}")
