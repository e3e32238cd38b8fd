"""cocotb test bench: one program on the whole machine, stalls on every channel, every byte checked.

Parameters: ``geometry`` (its fields), ``program`` (file of ``Program.save``), ``stall``
(probability), ``cycles`` (limit of one run), ``runs``.
"""

from __future__ import annotations

from pathlib import Path

import cocotb
from cocotb.handle import HierarchyObject

from palquant.sim.cocotb_runner import bench_parameters
from palquant.sim.programs import Program
from palquant.sim.tb_bench import Bench, geometry_of
from palquant.sw.regions import Regions

#: Simulated time that all runs together may take.
TIMEOUT_MS = 10_000


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def program_runs(dut: HierarchyObject) -> None:
    """The program's outputs are as expected, in each of several runs with one reset."""
    parameters = bench_parameters()
    geometry = geometry_of(parameters)
    program = Program.load(Path(parameters["program"]))
    regions = Regions.place(
        geometry,
        len(program.image),
        program.inputs.shape[1],
        program.outputs.shape[1],
        len(program.inputs),
    )
    bench = Bench(dut, geometry, memory=(regions.base, regions.size), stall=parameters["stall"])
    await bench.start()
    for _ in range(parameters["runs"]):
        await bench.run(program, regions, cycles=parameters["cycles"])
