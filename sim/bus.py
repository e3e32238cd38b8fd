"""How the simulated memory answers, and its latency where none is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Cycles of memory latency that every command, benchmark and figure has unless it says another.
LATENCY = 50


@dataclass(frozen=True)
class Bus:
    """How the memory behind the AXI4 master behaves.

    Parameters:
        latency: Cycles from an address to its first data, and from the last data to the response.
        stall: Probability, below 1, that a channel stalls in a cycle; each channel by itself.
        interleave: Mix read data of different identifiers at random, beat by beat.
        seed: Of stalls, of the poison in memory, and of registers and memories at power-on.
        read_error: Byte address whose beats are answered SLVERR when read.
        write_error: Byte address whose bursts are answered SLVERR when written.
        mute: Channel (AR, R, AW, W, B) to the number of handshakes after which it never moves.
    """

    latency: int = LATENCY
    stall: float = 0.0
    interleave: bool = False
    seed: int = 0
    read_error: int | None = None
    write_error: int | None = None
    mute: Mapping[str, int] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The driver's command line for it."""
        words = ["--latency", str(self.latency), "--stall", str(self.stall)]
        words += ["--seed", str(self.seed)]
        if self.interleave:
            words.append("--interleave")
        if self.read_error is not None:
            words += ["--read-error", str(self.read_error)]
        if self.write_error is not None:
            words += ["--write-error", str(self.write_error)]
        for channel, handshakes in self.mute.items():
            words += ["--mute", f"{channel}:{handshakes}"]
        return words
