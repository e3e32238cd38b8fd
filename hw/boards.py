"""Boards: which FPGA they have, on which pins, and what is built for them.

Pins and their electrical standards come from ``amaranth-boards``, which the community keeps. This
file needs no Amaranth before it is asked for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palquant.errors import ConfigurationError, ToolError
from palquant.hw.config import Geometry
from palquant.hw.presets import geometry

__all__ = ["BAUD", "BOARDS", "MODULE", "Board", "PhaseLockedLoop", "board"]

#: Bits per second on the serial line: what USB bridges of boards divide down to exactly.
BAUD = 1_000_000
#: Name of the top module of a bitstream, and of its files.
MODULE = "palquant_board"


@dataclass(frozen=True)
class PhaseLockedLoop:
    """EHXPLLL of the ECP5: makes ``input_hz * feedback / divider`` of its input clock.

    Parameters:
        divider: Of the input; what results is at least 3.125 MHz (FPGA-TN-02200, table 4.1).
        feedback: Of the output, before it is compared with the divided input.
        output: Of the oscillator, which runs at 400 to 800 MHz.
    """

    divider: int
    feedback: int
    output: int


@dataclass(frozen=True)
class Board:
    """A board.

    Parameters:
        name: As in commands.
        title: For people.
        platform: Module and class of its definition in ``amaranth_boards``.
        device: Name of its FPGA in :data:`~palquant.hw.place_and_route.DEVICES`.
        preset: Name of the geometry that is built for it.
        clock: Name of its oscillator in the platform.
        oscillator_hz: Frequency of that.
        loop: What makes the machine's clock of it; None where it is the clock.
        memory_rows: Rows of the on-chip memory.
        large_memory: Whether that is iCE40's single-port RAM, which is empty at power-on.
        led_inverted: Whether the LED is on where its pin is low.
        held_high: Port to (resource, line) of pins that must be high for the board to work.
        programmer: Command that loads a bitstream, without the file's name.
    """

    name: str
    title: str
    platform: tuple[str, str]
    device: str
    preset: str
    clock: str
    oscillator_hz: int
    loop: PhaseLockedLoop | None
    memory_rows: int
    large_memory: bool
    led_inverted: bool
    held_high: Mapping[str, tuple[str, str]]
    programmer: str

    @property
    def geometry(self) -> Geometry:
        """Sizes of its accelerator."""
        return geometry(self.preset)

    @property
    def clock_hz(self) -> int:
        """Frequency of the machine."""
        if self.loop is None:
            return self.oscillator_hz
        return self.oscillator_hz * self.loop.feedback // self.loop.divider

    @property
    def divisor(self) -> int:
        """Clock cycles of a bit on the serial line."""
        return self.clock_hz // BAUD

    @property
    def memory_bytes(self) -> int:
        """Bytes of the on-chip memory."""
        return self.memory_rows * self.geometry.bus_bytes

    def pins(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Site and attributes of each port of :class:`~palquant.hw.board_top.BoardTop`.

        Raises:
            ToolError: ``amaranth-boards`` is not installed.
        """
        module, name = self.platform
        try:
            platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)()
        except ModuleNotFoundError as error:
            raise ToolError(
                "amaranth-boards is not installed: pip install palquant[fpga]"
            ) from error
        held = {}
        for port, (resource, line) in self.held_high.items():
            whole = platform.lookup(resource, 0)
            (pin,) = (part for part in whole.ios if part.name == line)
            held[port] = (pin.ios[0].names[0], {**whole.attrs, **pin.attrs})
        serial = platform.lookup("uart", 0)
        lines = {line.name: line for line in serial.ios}
        led, clock = platform.lookup("led", 0), platform.lookup(self.clock, 0)
        return {
            "clk": (clock.ios[0].names[0], dict(clock.attrs)),
            # Silence is high, also where nothing drives the line.
            "rx": (lines["rx"].ios[0].names[0], {"PULLMODE": "UP", **serial.attrs}),
            "tx": (lines["tx"].ios[0].names[0], dict(serial.attrs)),
            "led": (led.ios[0].names[0], dict(led.attrs)),
            **held,
        }


BOARDS = {
    item.name: item
    for item in (
        Board(
            name="ulx3s",
            title="ULX3S with an ECP5-85F",
            platform=("ulx3s", "ULX3S_85F_Platform"),
            device="ecp5-85f",
            preset="ulx3s",
            clock="clk25",
            oscillator_hz=25_000_000,
            loop=PhaseLockedLoop(divider=1, feedback=2, output=12),
            memory_rows=16384,
            large_memory=False,
            led_inverted=False,
            # Low is a button to the ESP32, which then reboots the board.
            held_high={"wifi_gpio0": ("esp32", "gpio0")},
            programmer="openFPGALoader --board ulx3s",
        ),
        Board(
            name="icebreaker",
            title="iCEBreaker with an iCE40UP5K",
            platform=("icebreaker", "ICEBreakerPlatform"),
            device="ice40up5k",
            preset="icebreaker",
            clock="clk12",
            oscillator_hz=12_000_000,
            loop=None,
            memory_rows=32768,
            large_memory=True,
            led_inverted=True,
            held_high={},
            programmer="iceprog",
        ),
    )
}


def board(name: str) -> Board:
    """The board of that name.

    Raises:
        ConfigurationError: There is none; the message lists those that exist.
    """
    try:
        return BOARDS[name]
    except KeyError:
        known = ", ".join(BOARDS)
        raise ConfigurationError(f"no board is called {name!r} (boards: {known})") from None
