"""The machine in simulation: give it an image and inputs, get outputs, cycles and counters.

    result = Simulator(geometry("tiny")).run(image, inputs, output_bytes=1024)
    print(result.cycles, result.counters["ARRAY"], result.outputs[0])

Registers are set as a host's driver would, through the AXI4-Lite port; everything else happens in
C++ (:mod:`palquant.sim.execute`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import ExecutionError, InputError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.registers import COUNTERS, REGISTERS, ErrorCode, Stall
from palquant.sim.bus import Bus
from palquant.sim.execute import (
    Contents,
    Dump,
    LayerActivity,
    Load,
    Progress,
    Read,
    Run,
    Start,
    Step,
    Traffic,
    Write,
    execute,
)
from palquant.sim.machine import build_simulator
from palquant.sw.regions import Regions

Bytes = npt.NDArray[np.uint8]

_STATUS = ("STATUS", "ERROR_ADDRESS", "STALL", "IMAGES_DONE")


@dataclass(frozen=True)
class Status:
    """How a run ended.

    Parameters:
        code: The error, or ``ErrorCode.NONE``.
        error_address: Byte offset in the image of the instruction at fault.
        stall: What each unit (fetch, load, compute, store) waited for at the error.
        images_done: Images that were completed.
    """

    code: ErrorCode
    error_address: int
    stall: Mapping[str, Stall]
    images_done: int

    def describe(self) -> str:
        """One line."""
        if self.code is ErrorCode.NONE:
            return f"{self.images_done} images done"
        waits = ", ".join(f"{unit} {stall.name}" for unit, stall in self.stall.items())
        return (
            f"{self.code.name}: {self.code.doc} Instruction at offset {self.error_address:#x}, "
            f"{self.images_done} images done; {waits}"
        )


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation produced.

    Parameters:
        outputs: Output region of each image, uint8, shape (images, output_bytes).
        regions: Where everything lay in memory.
        status: How the run ended.
        cycles: Cycles from the doorbell to the interrupt.
        counters: Performance counter by name (``hw.registers.COUNTERS``); all 0 where the
            geometry has none.
        activity: Cycles by layer and activity; they add up to ``cycles``.
        start: Cycle of the doorbell since power-on; waveform time is ten times the cycle.
        traffic: What the memory saw of the bus.
        seconds: Wall time of the simulation, without building and loading.
        timeline: What each engine did when (``execute.TIMELINE_TYPE``), where it was asked for.
        bare_seconds: Wall time of a bare loop over the same model; 0 where there was none.
    """

    outputs: Bytes
    regions: Regions
    status: Status
    cycles: int
    counters: Mapping[str, int]
    activity: Sequence[LayerActivity]
    start: int
    traffic: Traffic
    seconds: float
    timeline: npt.NDArray[Any] | None
    bare_seconds: float

    @property
    def cycles_per_second(self) -> float:
        """Speed of the simulation."""
        return self.cycles / self.seconds if self.seconds > 0 else 0.0


class Simulator:
    """One machine, built for simulation.

    Parameters:
        geometry: The machine.
        waves: Whether waveforms can be recorded; such a build is slower.
        executable: A build of the driver; built or found in the cache if None.

    Raises:
        ToolError: A tool is missing, or the build failed.
    """

    def __init__(
        self, geometry: Geometry, *, waves: bool = False, executable: Path | None = None
    ) -> None:
        self.geometry = geometry
        self.executable = executable or build_simulator(geometry, waves=waves)

    def run(
        self,
        image: Contents,
        inputs: Bytes,
        output_bytes: int,
        *,
        bus: Bus | None = None,
        watchdog: int | None = None,
        cycle_limit: int | None = None,
        check: bool = True,
        timeline: bool = False,
        replay: int | None = None,
        waves: Path | None = None,
        waves_window: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> SimulationResult:
        """Ring the doorbell once for a batch of images.

        Parameters:
            image: The memory image: bytes, array, or path of ``image.bin``.
            inputs: Input region of each image, uint8, shape (images, input_bytes).
            output_bytes: Bytes of one image's output region.
            bus: How the memory behaves.
            watchdog: WATCHDOG_LIMIT; the machine's own default if None.
            cycle_limit: Cycles after which the run counts as hanging.
            check: Raise an exception if the image names other regions, or the machine reports an
                error.
            timeline: Record what each engine did when.
            replay: By turns of so many cycles, also time a bare loop over the same model.
            waves: File for waveforms (FST); needs a simulator with ``waves``.
            waves_window: First and last cycle of the waveforms, counted from the doorbell.
            progress: Called about once a second with (cycles, layer).

        Raises:
            InputError: The inputs' shape or type is wrong, or the image is for regions of other
                sizes.
            ExecutionError: The machine reported an error, broke the bus protocol, or hung.
            ToolError: The simulator could not be run.
        """
        if inputs.ndim != 2 or inputs.dtype != np.uint8:
            raise InputError(f"inputs must be uint8 of shape (images, bytes), not {inputs.dtype} "
                             f"of shape {inputs.shape}")  # fmt: skip
        images, input_bytes = inputs.shape
        if check:
            _check_regions(image, input_bytes, output_bytes)
        regions = Regions.place(self.geometry, _length(image), input_bytes, output_bytes, images)
        steps: list[Step] = [
            Load(regions.image, image),
            Load(regions.input, _spaced(inputs, regions.input_stride)),
        ]
        settings = regions.settings(images)
        if watchdog is not None:
            settings["WATCHDOG_LIMIT"] = watchdog
        settings["INTERRUPT_ENABLE"] = REGISTERS["INTERRUPT_ENABLE"].encode(done=1, error=1)
        steps += [Write(REGISTERS[name].offset, value) for name, value in settings.items()]
        control = REGISTERS["CONTROL"]
        steps.append(Start(control.offset, control.encode(start=1)))
        names = [*_STATUS, *_counter_registers()]
        steps += [Read(REGISTERS[name].offset) for name in names]
        steps.append(Dump(regions.output, images * regions.output_stride))
        report = execute(
            self.executable,
            steps,
            base=regions.base,
            size=regions.size,
            bus=bus,
            cycle_limit=cycle_limit,
            timeline=timeline,
            replay=replay,
            waves=waves,
            waves_window=waves_window,
            progress=progress,
        )
        registers = dict(zip(names, report.reads, strict=True))
        status = _status(registers)
        if check:
            _check(status, report.runs[0], images)
        stored = report.dumps[0].reshape(images, regions.output_stride)
        return SimulationResult(
            outputs=stored[:, :output_bytes],
            regions=regions,
            status=status,
            cycles=report.runs[0].cycles,
            counters=_counters(registers),
            activity=report.runs[0].activity,
            start=report.runs[0].start,
            traffic=report.traffic,
            seconds=report.seconds,
            timeline=report.timeline,
            bare_seconds=report.bare_seconds,
        )


def _check_regions(image: Contents, input_bytes: int, output_bytes: int) -> None:
    """The machine keeps to the sizes that the header names; a caller with others is mistaken."""
    if isinstance(image, Path):
        try:
            with image.open("rb") as file:
                start = file.read(isa.HEADER_BYTES)
        except OSError as error:
            raise InputError(f"cannot read {image}: {error.strerror}") from error
    else:
        start = bytes(image[: isa.HEADER_BYTES])
    header = isa.IMAGE_HEADER.decode(start.ljust(isa.HEADER_BYTES, b"\0"))
    for name, found in (("input", input_bytes), ("output", output_bytes)):
        expected = header[f"{name}_bytes"]
        if found != expected:
            raise InputError(f"{name} regions of {found} bytes; the image needs {expected}")


def _length(contents: Contents) -> int:
    if isinstance(contents, Path):
        try:
            return contents.stat().st_size
        except OSError as error:
            raise InputError(f"cannot read {contents}: {error.strerror}") from error
    return contents.nbytes if isinstance(contents, np.ndarray | memoryview) else len(contents)


def _spaced(rows: Bytes, stride: int) -> Bytes:
    """Rows at multiples of ``stride`` bytes; what lies between them is arbitrary, but not 0."""
    if rows.shape[1] == stride:
        return rows
    spaced = np.full((len(rows), stride), 0xA5, np.uint8)
    spaced[:, : rows.shape[1]] = rows
    return spaced


def _counter_registers() -> list[str]:
    return [f"{name}_{half}" for name in COUNTERS for half in ("LOW", "HIGH")]


def _counters(registers: Mapping[str, int]) -> dict[str, int]:
    return {name: registers[f"{name}_LOW"] | registers[f"{name}_HIGH"] << 32 for name in COUNTERS}


def _status(registers: Mapping[str, int]) -> Status:
    status = REGISTERS["STATUS"].decode(registers["STATUS"])
    return Status(
        code=ErrorCode(status["code"]),
        error_address=registers["ERROR_ADDRESS"],
        stall={
            unit: Stall(value)
            for unit, value in REGISTERS["STALL"].decode(registers["STALL"]).items()
        },
        images_done=registers["IMAGES_DONE"],
    )


def _check(status: Status, run: Run, images: int) -> None:
    if status.code is not ErrorCode.NONE:
        raise ExecutionError(f"the machine stopped after {run.cycles} cycles: {status.describe()}")
    if status.images_done != images:
        raise ExecutionError(f"the machine ran {status.images_done} of {images} images")
    if run.outstanding:
        raise ExecutionError(
            f"the machine raised its interrupt with {run.outstanding} bus transactions open"
        )
