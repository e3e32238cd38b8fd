"""The copy engine of copy_engine.v: how tests build it and what its registers are."""

import enum
from pathlib import Path

import numpy as np

from palquant.sim.build import build_driver
from palquant.sim.bus import Bus
from palquant.sim.execute import Dump, Load, Read, Report, Start, Write, execute

BASE = 0x4000_0000
SIZE = 1 << 21
TARGET = BASE + (1 << 20)


class Offset(enum.IntEnum):
    SOURCE = 0x00
    TARGET = 0x04
    BEATS = 0x08
    START = 0x0C
    ACKNOWLEDGE = 0x10
    ERRORS = 0x14
    CYCLES = 0x18
    SCRATCH = 0x1C
    FAULT = 0x20
    SPLIT = 0x24
    SWITCHES = 0x28
    NEXT_SCRATCH = 0x2C


class Fault(enum.IntEnum):
    NONE = 0
    WITHDRAW = 1
    CHANGE = 2
    EARLY_LAST = 3
    NO_LAST = 4
    CROSS = 5
    NARROW = 6
    UNALIGNED = 7
    WRAP = 8
    NO_ANSWER = 9
    EARLY_INTERRUPT = 10
    DROP_DATA = 11


def verilog(bits: int = 64) -> str:
    text = (Path(__file__).parent / "copy_engine.v").read_text()
    assert "`define DATA 64" in text
    # As the gateware generator would write a memory's initial contents.
    words = "\n".join(f"    scratch[{word}] = {bits}'h{0:0{bits // 4}x};" for word in range(256))
    return text.replace("DATA 64", f"DATA {bits}").replace("SCRATCH_WORDS", words)


def build(bits: int = 64, *, waves: bool = False) -> Path:
    return build_driver(verilog(bits), label=f"copy engine ({bits} bits)", waves=waves)


def steps(data, beats, *, source=BASE + 0x100, target=TARGET, fault=Fault.NONE):
    """Copies ``beats`` beats; reads SCRATCH before it, ERRORS and CYCLES after it."""
    return [
        Load(source, data),
        Write(Offset.SOURCE, source),
        Write(Offset.TARGET, target),
        Write(Offset.BEATS, beats),
        Write(Offset.FAULT, fault),
        Read(Offset.SCRATCH),
        Start(Offset.START, 1),
        Write(Offset.ACKNOWLEDGE, 1),
        Read(Offset.ERRORS),
        Read(Offset.CYCLES),
        Dump(target, len(data)),
    ]


def copy(data, *, bits: int = 64, bus: Bus | None = None, fault=Fault.NONE, **options) -> Report:
    beats = len(data) * 8 // bits
    return execute(
        build(bits), steps(data, beats, fault=fault), base=BASE, size=SIZE, bus=bus, **options
    )


def sample(length: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)
