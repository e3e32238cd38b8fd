"""Options of the commands for FPGA boards and parts: ``package``, ``bitstream`` and ``host``."""

from __future__ import annotations

from typing import Any

from palquant import board, generated
from palquant.arguments import (
    add_board,
    add_command,
    add_geometry,
    add_input,
    add_labels,
    add_output,
    file_path,
)


def add_commands(sub: Any) -> None:
    """Add them to the ``palquant`` command."""
    _add_package(sub)
    bitstream = add_command(
        sub,
        "bitstream",
        board.bitstream,
        "build the bitstream of an FPGA board, with a network in it",
        "palquant compile build/digits/model.npz --geometry ulx3s --result-only -o build/ulx3s\n"
        "  palquant bitstream --board ulx3s build/ulx3s -o build/bitstream",
    )
    add_board(bitstream)
    add_output(bitstream, "bitstream, netlist, pins and report")
    bitstream.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="of placement: another one gives another clock frequency (default: 1)",
    )
    bitstream.add_argument("--quiet", action="store_true", help="show no progress")

    host = add_command(
        sub,
        "host",
        board.host,
        "run images on an FPGA board, or on a simulated one, and compare the results",
        "palquant host --board ulx3s --port /dev/ttyUSB0 build/ulx3s "
        "--input build/digits/heldout_images.npy --images 4\n"
        "  palquant host --board ulx3s --simulate build/ulx3s "
        "--input build/digits/heldout_images.npy --images 1",
    )
    add_board(host)
    host.add_argument("--port", metavar="PORT", help="serial port of the board")
    host.add_argument(
        "--simulate", action="store_true", help="simulate the whole board, down to its serial pins"
    )
    host.add_argument(
        "--netlist",
        type=file_path,
        metavar="FILE.v",
        help="with --simulate: the netlist that palquant bitstream writes, rather than the Verilog "
        "that it is made of",
    )
    add_input(host)
    add_labels(host)
    host.add_argument(
        "--load",
        action="store_true",
        help="write the image into the board's memory even if it seems to be there",
    )
    host.add_argument("--quiet", action="store_true", help="show no progress")


def _add_package(sub: Any) -> None:
    parser = add_command(
        sub,
        "package",
        generated.package,
        "write an IP package for Vivado, with AXI interfaces, for Zynq and other Xilinx parts",
        "palquant package --geometry tiny --image build/image -o build/ip",
    )
    add_geometry(parser)
    add_output(parser, "the package")
    parser.add_argument(
        "--image", type=file_path, metavar="DIR", help="memory image to include (default: none)"
    )
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        choices=generated.VIVADO_FORMATS,
        help="also write the image in this format (repeatable; default: image.bin and .hex only)",
    )
    parser.add_argument(
        "--part",
        default=generated.PART,
        metavar="PART",
        help=f"Zynq-7000 that the scripts make projects for (default: {generated.PART})",
    )
    parser.add_argument(
        "--technology",
        choices=generated.TECHNOLOGIES,
        default=generated.TECHNOLOGIES[0],
        help="array in the carry chains of Xilinx series 7, or of adders that any tool understands "
        "(default: xilinx7)",
    )
