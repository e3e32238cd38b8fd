"""The two test benches of the whole machine as functions that raise if a test fails."""

from __future__ import annotations

import dataclasses
from typing import Any

from palquant.errors import ExecutionError
from palquant.files import temporary_folder
from palquant.hw.config import Geometry
from palquant.sim.cocotb_runner import BenchResult, build_bench, run_bench
from palquant.sim.machine import machine_verilog
from palquant.sim.programs import Program


def run_system(
    geometry: Geometry,
    program: Program,
    *,
    seed: int = 0,
    stall: float = 0.3,
    cycles: int = 200_000,
    runs: int = 2,
) -> BenchResult:
    """Run a program against cocotbext-axi's bus models and check every byte of its outputs.

    Parameters:
        geometry: The machine.
        program: What to run, and what should come of it.
        seed: Of stalls, poison, and values at power-on.
        stall: Probability of a stall on each channel in each cycle.
        cycles: Cycles that one run may take.
        runs: Runs without a reset between them.

    Raises:
        ExecutionError: A check failed; the message has the seed.
        ToolError: A tool is missing or failed.
    """
    with temporary_folder() as folder:
        path = folder / "program.npz"
        program.save(path)
        extra = {"program": str(path), "stall": stall, "cycles": cycles, "runs": runs}
        return _run(geometry, "palquant.sim.tb_system", extra, seed)


def run_registers(geometry: Geometry, *, seed: int = 0, stall: float = 0.3) -> BenchResult:
    """Check the register map against its table, and provoke every documented error.

    Parameters:
        geometry: The machine.
        seed: Of stalls, values written, poison, and values at power-on.
        stall: Probability of a stall on each channel in each cycle.

    Raises:
        ExecutionError: A check failed; the message has the seed.
        ToolError: A tool is missing or failed.
    """
    return _run(geometry, "palquant.sim.tb_registers", {"stall": stall}, seed)


def _run(geometry: Geometry, module: str, extra: dict[str, Any], seed: int) -> BenchResult:
    executable = build_bench(machine_verilog(geometry), label=f"test bench of {geometry.name}")
    parameters = {"geometry": dataclasses.asdict(geometry), **extra}
    result = run_bench(executable, module, parameters=parameters, seed=seed)
    if result.failed:
        name, reason = next(iter(result.failed.items()))
        raise ExecutionError(
            f"{module}: {name} failed on {geometry.name} (seed {seed}): {reason.splitlines()[0]} "
            f"[{len(result.failed)} of {len(result.failed) + len(result.passed)} tests failed]"
        )
    return result
