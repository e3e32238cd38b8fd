"""A board whose serial port is a terminal: as it was written, and as it was synthesised.

The board is a minimal echo: a byte comes back with one added. What the terminal gives is compared
byte by byte; nothing here depends on how fast anything is.
"""

import contextlib
import os
import random
import signal
import subprocess
import termios
from pathlib import Path

import pytest
from amaranth import ClockDomain, ClockSignal, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.errors import ExecutionError, ToolError
from palquant.hw import fpga
from palquant.hw.synthesis import synthesize
from palquant.hw.verilog import convert
from palquant.sim.board import SimulatedBoard, build_board
from palquant.sim.cells import FAMILIES, cell_models

DIVISOR = 5


class Echo(wiring.Component):
    """Answers each byte with that byte plus one, at once: the next may come meanwhile."""

    def __init__(self):
        super().__init__({"clk": In(1), "rx": In(1, init=1), "tx": Out(1, init=1), "led": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain(reset_less=True)
        m.d.comb += ClockSignal().eq(self.clk)
        level, count, bit = Signal(init=1), Signal(range(2 * DIVISOR)), Signal(range(10))
        byte, answer = Signal(8), Signal(10, init=0x3FF)
        left, sending = Signal(range(DIVISOR)), Signal(range(11))
        m.d.sync += level.eq(self.rx)
        with m.If((bit == 0) & ~level):  # to the middle of the first data bit
            m.d.sync += [bit.eq(1), count.eq(DIVISOR + DIVISOR // 2 - 1)]
        with m.Elif(bit == 0):
            pass
        with m.Elif(count != 0):
            m.d.sync += count.eq(count - 1)
        with m.Elif(bit == 9):
            m.d.sync += bit.eq(0)
        with m.Else():
            m.d.sync += [byte.eq(byte[1:] | level << 7), bit.eq(bit + 1), count.eq(DIVISOR - 1)]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.Elif(sending != 0):
            m.d.sync += [
                answer.eq(answer[1:] | 0x200), sending.eq(sending - 1), left.eq(DIVISOR - 1)
            ]  # fmt: skip
        with m.If((bit == 9) & (count == 0)):
            m.d.sync += [
                answer.eq(((byte + 1)[:8] << 1) | 0x200), sending.eq(9), left.eq(DIVISOR - 1),
                self.led.eq(~self.led),
            ]  # fmt: skip
        m.d.comb += self.tx.eq(answer[0])
        return m


def exchange(terminal, sent):
    """All answers to ``sent``; the terminal is written and read at the same time."""
    descriptor = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    received, written = b"", 0
    try:
        while len(received) < len(sent):
            with contextlib.suppress(BlockingIOError):
                written += os.write(descriptor, sent[written : written + 999])
            with contextlib.suppress(BlockingIOError):
                received += os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return received


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def source():
    return {"echo.v": convert(Echo(), "echo")}


@pytest.fixture(scope="module")
def echo(source):
    return build_board(source, "echo", label="an echo")


ALL = bytes(range(256))


def answers(sent):
    return bytes((byte + 1) & 0xFF for byte in sent)


def simulate(executable, sent, **options):
    with SimulatedBoard(executable, divisor=DIVISOR, **options) as board:
        return exchange(board.terminal, sent)


def test_every_byte_and_long_bursts(echo):
    sent = ALL + ALL[::-1] + random.Random(0).randbytes(50_000)
    assert simulate(echo, sent) == answers(sent)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_netlist(family, source, tmp_path):
    (text,) = source.values()
    path = tmp_path / "netlist.v"
    synthesize(text, "echo", fpga.FAMILIES[family], netlist_verilog=path)
    sources = {"netlist.v": path.read_text(), **cell_models(family)}
    executable = build_board(sources, "echo", label=f"an echo in cells of {family}")
    sent = ALL + random.Random(1).randbytes(3000)
    assert simulate(executable, sent) == answers(sent)


def test_nothing_is_lost_while_nobody_reads(echo):
    """Neither what a program has written when it closes the terminal, nor answers to it."""
    sent = ALL * 40  # more than the terminal takes by itself
    with SimulatedBoard(echo, divisor=DIVISOR) as board:
        with open(board.terminal, "wb", buffering=0) as terminal:
            written = 0
            while written < len(sent):
                written += terminal.write(sent[written:])
        received = b""
        with open(board.terminal, "rb", buffering=0) as terminal:
            while len(received) < len(sent):
                received += terminal.read(4096)
    assert received == answers(sent)


def test_the_terminal_changes_no_byte(echo):
    """It is raw before any program has set it up: no echo, no line ends, no control characters."""
    with SimulatedBoard(echo, divisor=DIVISOR) as board:
        descriptor = os.open(board.terminal, os.O_RDWR | os.O_NOCTTY)
        try:
            input_flags, output_flags, control, local, *_ = termios.tcgetattr(descriptor)
        finally:
            os.close(descriptor)
    assert not local & (termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    assert not input_flags & (termios.ICRNL | termios.INLCR | termios.IXON | termios.ISTRIP)
    assert not output_flags & termios.OPOST
    assert control & termios.CSIZE == termios.CS8


def test_the_board_is_gone_behind_the_block(echo):
    with SimulatedBoard(echo, divisor=DIVISOR) as board:
        board.check()
        pid = board._process.pid
        assert not gone(pid)
        assert exchange(board.terminal, ALL) == answers(ALL)
    assert gone(pid)
    assert board.cycles > 10 * DIVISOR * len(ALL)
    assert not os.path.exists(board.terminal)


def test_a_failing_block_ends_the_board_and_keeps_its_error(echo):
    pids = []

    def body():
        with SimulatedBoard(echo, divisor=DIVISOR) as board:
            pids.append(board._process.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert gone(pids[0])


def test_a_board_that_is_killed_is_reported(echo):
    text = r"^the simulated board was ended by signal 9$"

    def body():
        with SimulatedBoard(echo, divisor=DIVISOR) as board:
            os.kill(board._process.pid, signal.SIGKILL)
            board._process.wait()
            with pytest.raises(ExecutionError, match=text):
                board.check()
            raise OSError("the terminal is gone")

    with pytest.raises(ExecutionError, match=text) as caught:
        body()
    assert isinstance(caught.value.__cause__, OSError)


def test_a_board_that_stops_at_its_limit(echo):
    with SimulatedBoard(echo, divisor=DIVISOR, cycle_limit=100_000) as board:
        board._process.wait()
        with pytest.raises(ExecutionError, match="board ended: its limit of cycles is reached"):
            board.check()
    assert board.cycles == 100_000
    assert board.cycles_per_second > 0


def test_a_wrong_divisor_is_noticed(echo):
    def body():
        with SimulatedBoard(echo, divisor=3) as board:
            with open(board.terminal, "wb", buffering=0) as terminal:
                terminal.write(bytes(100))
            board._process.wait()

    text = r"failed with status 3: cycle \d+: tx is low in a stop bit; .* other than 3 cycles a bit"
    with pytest.raises(ExecutionError, match=text):
        body()


def test_a_board_ends_with_the_program_that_started_it(echo):
    """Killed, that program can end nothing itself."""
    command = [str(echo), "--divisor", str(DIVISOR)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("terminal /dev/")
        process.stdout.close()
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--divisor is at least 2"),
        (["--divisor", "1"], "--divisor is at least 2"),
        (["--divisor", "x"], "'x' is not a number"),
        (["--divisor"], "--divisor is unknown, or lacks its value"),
        (["--speed", "1"], "--speed is unknown, or lacks its value"),
    ],
)
def test_the_command_line_is_checked(arguments, text, echo):
    result = subprocess.run([echo, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"{text}\nusage: ")


def test_parameters_are_checked(echo):
    with pytest.raises(ValueError, match="Divisor must be at least 2, not 1"):
        SimulatedBoard(echo, divisor=1)
    with pytest.raises(ValueError, match="Cycle limit must be positive or None, not 0"):
        SimulatedBoard(echo, divisor=2, cycle_limit=0)


def test_what_is_no_board_is_reported(tmp_path):
    with pytest.raises(ToolError, match="cannot run the simulated board /nowhere"):
        SimulatedBoard(Path("/nowhere"), divisor=2).__enter__()
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho first >&2\necho last >&2\nexit 7\n")
    program.chmod(0o755)
    text = "^the simulated board failed with status 7: first: last$"
    with pytest.raises(ExecutionError, match=text):
        SimulatedBoard(program, divisor=2).__enter__()


def test_macros_and_included_files():
    top = """
`include "line.vh"
module top(input clk, input rx, output tx); assign tx = `LINE; `CHECK endmodule
"""
    sources = {"top.v": top, "line.vh": "`define LINE rx\n"}
    loop = build_board(sources, "top", label="a wire", defines={"CHECK": "", "UNUSED": "1"})
    sent = ALL * 3
    assert simulate(loop, sent) == sent
    with pytest.raises(ToolError, match="CHECK"):
        build_board(sources, "top", label="a wire")
