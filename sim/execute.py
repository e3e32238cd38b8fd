"""Runs the fast driver: a list of steps in, a report out.

This layer knows files, processes and the driver's command line (``options.h``), and nothing of
registers or programs: :mod:`palquant.sim.driver` knows those.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import ExecutionError, OutputError, ToolError
from palquant.files import replace_file, temporary_folder
from palquant.sim import process
from palquant.sim.bus import Bus
from palquant.sim.waves import is_whole

#: What a memory can be filled with; a path is read by the simulator itself, without a copy here.
Contents = bytes | bytearray | memoryview | npt.NDArray[Any] | Path
#: Called while a machine runs with (cycles since the doorbell, layer).
Progress = Callable[[int, int], None]

#: One stretch of cycles in which an engine did one thing: see ``Timeline`` in ``profile.h``.
#: Cycles count from the doorbell of run ``run``; ``activity`` is 0 but for the compute engine.
TIMELINE_TYPE = np.dtype(
    [("first", "<u8"), ("last", "<u8"), ("layer", "<u2"), ("engine", "u1"), ("activity", "u1"),
     ("run", "<u4")]
)  # fmt: skip
#: Values of ``engine`` in a timeline.
TIMELINE_ENGINES = ("load", "compute", "store")

# Exit status of the driver, ``Status`` in driver.cpp.
_USAGE = 2
_EXECUTION = (3, 4, 5)


@dataclass(frozen=True)
class Load:
    """Fill memory from ``address`` on."""

    address: int
    contents: Contents


@dataclass(frozen=True)
class Write:
    """Write a register."""

    offset: int
    value: int


@dataclass(frozen=True)
class Start:
    """Write a register, and count cycles until the interrupt."""

    offset: int
    value: int


@dataclass(frozen=True)
class Read:
    """Read a register; the value goes to :attr:`Report.reads`."""

    offset: int


@dataclass(frozen=True)
class Dump:
    """Read memory; the bytes go to :attr:`Report.dumps`."""

    address: int
    length: int


@dataclass(frozen=True)
class Reset:
    """Reset the machine; the memory keeps its contents."""


Step = Load | Write | Start | Read | Dump | Reset


@dataclass(frozen=True)
class LayerActivity:
    """Cycles that the compute engine spent on one activity for one layer.

    Parameters:
        layer: Layer number.
        activity: Number of the activity (``hw.registers.Activity``).
        cycles: How many.
        first: First such cycle, counted from the doorbell.
        last: Last such cycle.
    """

    layer: int
    activity: int
    cycles: int
    first: int
    last: int


@dataclass(frozen=True)
class Run:
    """One doorbell and what followed.

    Parameters:
        start: Cycle of the doorbell since power-on: waveform time is ten times the cycle.
        cycles: Cycles from the doorbell to the interrupt.
        outstanding: Bus transactions that were open at the interrupt.
        activity: Where the cycles went; they add up to ``cycles``.
    """

    start: int
    cycles: int
    outstanding: int
    activity: list[LayerActivity]


@dataclass(frozen=True)
class Traffic:
    """What the memory saw of the AXI4 master."""

    read_bursts: int
    read_beats: int
    write_bursts: int
    write_beats: int
    error_responses: int


@dataclass(frozen=True)
class Report:
    """What a simulation did.

    Parameters:
        runs: One for each :class:`Start`.
        reads: One value for each :class:`Read`.
        dumps: One array of bytes for each :class:`Dump`.
        traffic: What the memory saw.
        cycles: Clock cycles since power-on.
        seconds: Wall time of all runs.
        timeline: Array of :data:`TIMELINE_TYPE`, where it was asked for.
        bare_seconds: Wall time of the bare loop; 0 where there was none.
    """

    runs: list[Run]
    reads: list[int]
    dumps: list[npt.NDArray[np.uint8]]
    traffic: Traffic
    cycles: int
    seconds: float
    timeline: npt.NDArray[Any] | None
    bare_seconds: float


def execute(
    executable: Path,
    steps: Sequence[Step],
    *,
    base: int,
    size: int,
    bus: Bus | None = None,
    cycle_limit: int | None = None,
    timeline: bool = False,
    replay: int | None = None,
    waves: Path | None = None,
    waves_window: tuple[int, int] | None = None,
    progress: Progress | None = None,
    progress_seconds: float = 1.0,
) -> Report:
    """Carry out steps on a simulated machine.

    Parameters:
        executable: A build of the driver.
        steps: What to do, in order.
        base: First bus address of the memory.
        size: Bytes of the memory; what no :class:`Load` fills is poison.
        bus: How the memory behaves.
        cycle_limit: Cycles after which a run counts as hanging.
        timeline: Whether to record what each engine did when.
        replay: By turns of so many cycles, also time a bare loop over the same model.
        waves: File for waveforms (FST); needs an executable that records them. Those of a run
            that failed are kept too if they are whole; if not, an older file stays.
        waves_window: First and last cycle of the waveforms, counted from each doorbell.
        progress: Called every ``progress_seconds`` of a run.
        progress_seconds: See there.

    Raises:
        ExecutionError: The machine broke the bus protocol, did not answer a register access, or
            did not raise the interrupt in time.
        OutputError: The waveforms or a temporary file cannot be written, or the run has none of the
            cycles of the window.
        ToolError: The simulator could not be run, or did not understand its command line.
    """
    with ExitStack() as stack:
        recording = waves and stack.enter_context(replace_file(waves, keep=is_whole))
        folder = stack.enter_context(temporary_folder())
        result = folder / "result.json"
        command = [str(executable), "--base", str(base), "--size", str(size)]
        command += ["--result", str(result), *(bus or Bus()).arguments()]
        if cycle_limit is not None:
            command += ["--cycle-limit", str(cycle_limit)]
        if timeline:
            command += ["--timeline", str(folder / "timeline")]
        if replay is not None:
            command += ["--replay", str(replay)]
        if recording is not None:
            command += ["--waves", str(recording.absolute())]
            if waves_window is not None:
                command += ["--waves-from", str(waves_window[0])]
                command += ["--waves-to", str(waves_window[1])]
        if progress is not None:
            command += ["--progress", str(progress_seconds)]
        command += _step_arguments(steps, folder)
        _run(command, folder / "log", progress)
        if recording is not None and recording != waves and not is_whole(recording):
            raise OutputError(
                f"{waves}: cannot write: the simulator left no whole waveforms; either the disk is "
                "full, or the run has none of the cycles to record"
            )
        return _report(folder, steps, timeline)


def _step_arguments(steps: Sequence[Step], folder: Path) -> list[str]:
    words: list[str] = []
    for index, step in enumerate(steps):
        match step:
            case Load(address, contents):
                if isinstance(contents, Path):
                    path = contents.absolute()
                else:
                    path = folder / f"load{index}"
                    path.write_bytes(
                        np.ascontiguousarray(contents).data
                        if isinstance(contents, np.ndarray)
                        else contents
                    )
                words += ["--load", f"{path}@{address}"]
            case Write(offset, value):
                words += ["--write", f"{offset}={value}"]
            case Start(offset, value):
                words += ["--start", f"{offset}={value}"]
            case Read(offset):
                words += ["--read", str(offset)]
            case Dump(address, length):
                words += ["--dump", f"{folder / f'dump{index}'}@{address}:{length}"]
            case Reset():
                words.append("--reset")
    return words


def _run(command: Sequence[str], log: Path, progress: Progress | None) -> None:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(process.start(command, log=log, pipe_output=True))
        except OSError as error:
            raise ToolError(f"cannot run the simulator {command[0]}: {error}") from error
        assert running.stdout is not None
        for line in running.stdout:
            word, *numbers = line.split()
            if word == "progress" and progress is not None:
                _, cycle, layer = map(int, numbers)
                progress(cycle, layer)
        status = running.wait()
    if status in _EXECUTION:
        raise ExecutionError(_first_line(log))
    if status == _USAGE:
        raise ToolError(f"the simulator refused: {_first_line(log)}")
    if status != 0:
        raise ToolError(f"the simulator failed with status {status}: {process.complaint(log)}")


def _first_line(log: Path) -> str:
    return log.read_text(errors="replace").partition("\n")[0]


def _report(folder: Path, steps: Sequence[Step], timeline: bool) -> Report:
    data = json.loads((folder / "result.json").read_text())
    return Report(
        runs=[
            Run(
                start=run["start"],
                cycles=run["cycles"],
                outstanding=run["outstanding"],
                activity=[LayerActivity(*entry) for entry in run["activity"]],
            )
            for run in data["runs"]
        ],
        reads=[value for _, value in data["reads"]],
        dumps=[
            _dump(folder / f"dump{index}", step.length)
            for index, step in enumerate(steps)
            if isinstance(step, Dump)
        ],
        traffic=Traffic(**data["traffic"]),
        cycles=data["cycles"],
        seconds=data["seconds"],
        timeline=np.fromfile(folder / "timeline", dtype=TIMELINE_TYPE) if timeline else None,
        bare_seconds=data["bare_seconds"],
    )


def _dump(path: Path, length: int) -> npt.NDArray[np.uint8]:
    """What the simulator wrote; on a full disk it can end with less, and without a complaint."""
    contents = np.fromfile(path, dtype=np.uint8)
    if len(contents) != length:
        raise OSError(errno.ENOSPC, f"the simulator wrote {len(contents)} of {length} bytes")
    return contents
