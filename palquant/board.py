"""FPGA boards: ``palquant bitstream`` builds for them, ``palquant host`` runs images on them."""

from __future__ import annotations

import contextlib
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import ConfigurationError, InputError, MismatchError, ToolError
from palquant.hw.boards import BAUD, MODULE, Board, board
from palquant.inputs import read_images, read_labels
from palquant.progress import progress_bar
from palquant.sw.image import MemoryImage, load_image
from palquant.tables import count

Report = dict[str, Any]

#: Seconds in which a real board answers, and a simulated one, which may be a thousand times slower.
ANSWER_SECONDS, SIMULATED_ANSWER_SECONDS = 1.0, 60.0


class SerialTransport:
    """A serial port, real or simulated, as :class:`~palquant.sw.link.LinkClient` wants it.

    Parameters:
        port: Name of the port.

    Raises:
        InputError: It cannot be opened.
        ToolError: pyserial is not installed.
    """

    def __init__(self, port: str) -> None:
        try:
            import serial  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise ToolError("pyserial is not installed: pip install pyserial") from error
        try:
            self._serial = serial.Serial(port, BAUD, exclusive=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{port}: cannot open this serial port: {reason}") from error
        self._serial.reset_input_buffer()
        # A USB bridge keeps short answers for 16 ms unless told otherwise. What is none cannot be
        # told, such as a simulated board's terminal; pyserial says so with a ValueError.
        with contextlib.suppress(ValueError):
            self._serial.set_low_latency_mode(True)

    def write(self, data: bytes, /) -> object:
        """Send all of ``data``."""
        return self._serial.write(data)

    def read(self, maximum: int, timeout_s: float, /) -> bytes:
        """What has arrived, after waiting for the first byte."""
        self._serial.timeout = timeout_s
        found: bytes = self._serial.read(1)
        more = min(self._serial.in_waiting, maximum - 1)
        return found + self._serial.read(more) if found and more else found

    def close(self) -> None:
        """Give the port back."""
        self._serial.close()


def image_for(target: Board, directory: Path) -> MemoryImage:
    """The image of a folder, if it is made for the board's accelerator.

    Raises:
        ConfigurationError: It is for another geometry.
        ImageError: The folder holds no image.
    """
    image = load_image(directory)
    if image.geometry != target.geometry:
        other = " with other sizes" if image.geometry.name == target.preset else ""
        raise ConfigurationError(
            f"{directory}: compiled for {image.geometry.name}{other}; the {target.name} needs "
            f"--geometry {target.preset} of this version"
        )
    return image


def bitstream(options: Namespace) -> Report:
    """Build the bitstream of a board, with a network in it where the board's memory keeps one."""
    from palquant.hw.bitstream import build_bitstream
    from palquant.sw.board import place

    target = board(options.board)
    image = image_for(target, options.directory)
    place(image, target.memory_bytes)  # refuses what does not fit
    contents = b"" if target.large_memory else image.data
    began = time.monotonic()

    def say(step: str) -> None:
        if not options.quiet:
            text = f"{target.name}: {step} ({time.monotonic() - began:.0f} s)"
            print(text, file=sys.stderr, flush=True)

    made = build_bitstream(target, contents, options.output, seed=options.seed, say=say)
    report = made.report(target) | {"seconds": time.monotonic() - began}
    used = ", ".join(
        f"{name} {item['used']:,} of {item['available']:,}"
        for name, item in report["resources"].items()
    )
    print(
        f"{made.path}: {target.title}, {target.preset} at {made.clock_mhz:g} MHz (fmax "
        f"{made.routed.fmax_mhz:.1f} MHz)\n{used}\n"
        f"load it with: {target.programmer} {made.path}"
    )
    if target.large_memory:
        print("the network is not in it: palquant host writes it into the board's memory")
    return report


def _read_netlist(path: Path) -> str:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise InputError(f"{path}: cannot read the netlist: {reason}") from error
    if f"module {MODULE}(" not in text:
        raise InputError(f"{path}: has no module {MODULE}; palquant bitstream writes such a file")
    return text


@contextlib.contextmanager
def _terminal(target: Board, image: MemoryImage, options: Namespace) -> Iterator[str]:
    """Name of the serial port: the one that was given, or a simulated board's."""
    from palquant.sim.board import SimulatedBoard

    if options.port is not None:
        yield options.port
        return
    from palquant.sim.board_build import build_simulated_board

    contents = b"" if target.large_memory else image.data
    netlist = None if options.netlist is None else _read_netlist(options.netlist)
    simulator = build_simulated_board(target, contents, netlist)
    with SimulatedBoard(simulator, divisor=target.divisor) as simulated:
        yield simulated.terminal


def host(options: Namespace) -> Report:
    """Run images on a board, and compare all that it stores with the reference."""
    from palquant.golden.reference import run as run_reference
    from palquant.sim.scoreboard import compare_outputs
    from palquant.sw.board import BoardDriver
    from palquant.sw.link import LinkClient
    from palquant.sw.normalize import input_values

    if (options.port is None) == (not options.simulate):
        raise ConfigurationError("host: give either --port, or --simulate")
    if options.netlist is not None and not options.simulate:
        raise ConfigurationError("host: --netlist is for --simulate alone")
    target = board(options.board)
    image = image_for(target, options.directory)
    images = read_images(options.input, options.images)
    labels = read_labels(options.labels, image, len(images)) if options.labels else None
    codes = input_values(images, image.graph)
    inputs = image.pack_input(codes)
    outputs: list[npt.NDArray[np.uint8]] = []
    cycles: list[int] = []
    with _terminal(target, image, options) as port, contextlib.closing(
        SerialTransport(port)
    ) as transport:  # fmt: skip
        patience = SIMULATED_ANSWER_SECONDS if options.simulate else ANSWER_SECONDS
        driver = BoardDriver(
            LinkClient(transport, timeout_s=patience),
            image,
            target.memory_bytes,
            patience_s=60 * patience,
        )
        driver.identify()
        if options.load or not driver.holds_image():
            with progress_bar(
                total=len(image.data), unit="B", unit_scale=True, desc="image",
                shown=not options.quiet,
            ) as bar:  # fmt: skip
                driver.load(lambda done: bar.update(done - bar.n))
        with progress_bar(
            total=len(inputs), unit="image", desc="images", shown=not options.quiet
        ) as bar:
            for region in inputs:
                outputs.append(driver.run(region))
                if image.geometry.counters:
                    cycles.append(driver.cycles())
                bar.update()
    stored = np.stack(outputs)
    predictions = image.predict(stored)
    compared = compare_outputs(image, stored, run_reference(image.graph, codes))
    wrong = [item for item in compared if item.mismatches]
    report: Report = {
        "board": target.name,
        "simulated": bool(options.simulate),
        "predictions": predictions.tolist(),
        "values_compared": sum(item.values for item in compared),
        "mismatches": sum(item.mismatches for item in compared),
        "cycles": cycles,
    }
    print("predictions: " + " ".join(map(str, predictions[:64])) + (" ..." * (len(images) > 64)))
    if labels is not None:
        report["top1"] = float((predictions == labels).mean())
        print(f"top-1: {report['top1']:.4f}")
    if cycles:
        average = sum(cycles) / len(cycles)
        print(f"{average:,.0f} cycles, {1000 * average / target.clock_hz:.3f} ms an image at "
              f"{target.clock_hz / 1e6:g} MHz")  # fmt: skip
    print(
        f"{count(report['values_compared'], 'value')} compared, {report['mismatches']} mismatches"
    )
    if wrong:
        raise MismatchError(f"board: {wrong[0].first}", report)
    return report
