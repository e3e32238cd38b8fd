"""A simulated FPGA board, whose serial port is a terminal that any program can open.

The board is any Verilog, as it was written or as it was synthesised, whose top module has the ports
``clk``, ``rx`` and ``tx``. The line has eight data bits, no parity and one stop bit.
"""

from __future__ import annotations

import contextlib
import re
import select
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from palquant.errors import ExecutionError, ToolError
from palquant.files import temporary_folder
from palquant.sim import process
from palquant.sim.build import VERILATOR_OPTIONS, Recipe, make

__all__ = ["SimulatedBoard", "build_board"]

_DRIVER = "board.cpp"
_LIST = "sources.f"
_MACROS = "macros.v"
#: Seconds for the simulator to make its terminal, and to end when it is told to.
_PATIENCE = 30.0
_SUMMARY = re.compile(r"^(\d+) cycles, (\d+) cycles/s$")


def build_board(
    sources: Mapping[str, str],
    top: str,
    *,
    label: str,
    defines: Mapping[str, str] | None = None,
) -> Path:
    """A board's simulator, built or found.

    Parameters:
        sources: File name, without folders, to Verilog text. Those that end with ``.v`` or ``.sv``
            are read in this order; others are there to be included.
        top: The top module. Its inputs are ``clk`` and ``rx``, its outputs ``tx`` and any others.
            Registers and memories start with the initial values in the text, what has none with
            random ones.
        label: What it is, for people.
        defines: Macros and their texts, each of one line.

    Returns:
        Path of the executable, for :class:`SimulatedBoard`.

    Raises:
        ToolError: A tool is missing, or the build failed, for example since a port is missing.
        OutputError: The cache of builds cannot be written.
    """
    return make(_recipe(sources, top, label, defines or {}))


def _recipe(sources: Mapping[str, str], top: str, label: str, defines: Mapping[str, str]) -> Recipe:
    files = {name: text.encode() for name, text in sources.items()}
    files[_DRIVER] = Path(__file__).with_name(_DRIVER).read_bytes()
    # In files, so that options are the same for all boards, which then share what is compiled.
    files[_MACROS] = "".join(f"`define {name} {text}\n" for name, text in defines.items()).encode()
    read = [_MACROS, *(name for name in sources if name.endswith((".v", ".sv")))]
    files[_LIST] = "\n".join(read).encode()
    return Recipe(
        label=label,
        files=files,
        # Delays, which cells' models may have, mean nothing where only clock cycles count.
        verilator=(*VERILATOR_OPTIONS, "--no-timing", "--top-module", top, "-CFLAGS", "-std=c++20",
                   "-f", _LIST, _DRIVER),
        prefix="Vboard",
        product="board",
    )  # fmt: skip


class SimulatedBoard:
    """A board that is simulated while the ``with`` block runs, and surely gone behind it.

    It is simulated as fast as it goes, whether or not anything is on the line: a whole processor
    core is busy all the time. Bytes of either direction wait as long as need be, so that nothing is
    lost, however late a program reads.

    Parameters:
        executable: A build of :func:`build_board`.
        divisor: Clock cycles per bit; at least 2.
        cycle_limit: Clock cycles after which the board stops; None for never.
        seed: Of all that has no initial value.

    Attributes:
        terminal: Name of the terminal; known inside the block.
        cycles: Clock cycles that were simulated; known behind the block, 0 if it was killed.
        cycles_per_second: Of wall time; likewise.
    """

    def __init__(
        self, executable: Path, *, divisor: int, cycle_limit: int | None = None, seed: int = 0
    ) -> None:
        if divisor < 2:
            raise ValueError(f"Divisor must be at least 2, not {divisor}")
        if cycle_limit is not None and cycle_limit < 1:
            raise ValueError(f"Cycle limit must be positive or None, not {cycle_limit}")
        self._command = [str(executable), "--divisor", str(divisor), "--seed", str(seed)]
        self._command += ["--cycles", str(cycle_limit or 0)]
        self._stack = ExitStack()
        self.terminal = ""
        self.cycles = 0
        self.cycles_per_second = 0

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            ExecutionError: It ended at once.
            ToolError: It cannot be run, or does not make its terminal in time.
        """
        with ExitStack() as stack:
            self._log = stack.enter_context(temporary_folder()) / "log"
            try:
                self._process = stack.enter_context(
                    process.start(self._command, log=self._log, pipe_output=True)
                )
            except OSError as error:
                raise ToolError(
                    f"cannot run the simulated board {self._command[0]}: {error}"
                ) from error
            output = self._process.stdout
            assert output is not None
            if not select.select([output], [], [], _PATIENCE)[0]:
                raise ToolError(f"the simulated board made no terminal in {_PATIENCE:g} s")
            word, _, self.terminal = output.readline().rstrip("\n").partition(" ")
            if word != "terminal":
                raise self._ended()
            self._stack = stack.pop_all()
        return self

    def check(self) -> None:
        """Make sure that the board is being simulated.

        Raises:
            ExecutionError: It is not; the message is what the simulator said last.
        """
        if self._process.poll() is not None:
            raise self._ended()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it.

        Raises:
            ExecutionError: It had ended before, by a failure, or while the block failed: a program
                whose board is gone sees no more than a terminal that does not work.
        """
        with self._stack:
            gone = self._process.poll() is not None
            if not gone:
                self._process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=_PATIENCE)
            if self._process.poll() is not None:
                self._summarize()
            failed = self._process.poll() != 0
            if gone and (failed or isinstance(error, Exception)):
                raise self._ended() from error

    def _summarize(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _SUMMARY.match(line):
                self.cycles, self.cycles_per_second = int(found[1]), int(found[2])

    def _ended(self) -> ExecutionError:
        """What became of it."""
        status = self._process.wait(timeout=_PATIENCE)
        lines = self._log.read_text(errors="replace").splitlines()[-3:]
        if status < 0:
            how = f"was ended by signal {-status}"
        elif status:
            how = f"failed with status {status}"
        else:
            how = "ended: its limit of cycles is reached, or it was told to"
        return ExecutionError(": ".join([f"the simulated board {how}", *filter(None, lines)]))
