"""Runs cocotb test benches on Verilated machines, at speed and with builds that are kept.

cocotb's own runner makes every signal of the design public, which costs a factor of five. Here
only the ports of the top module are, by a Verilator control file.
"""

from __future__ import annotations

import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cocotb_tools.config
import find_libpython

from palquant.errors import ExecutionError, ToolError
from palquant.files import temporary_folder
from palquant.sim import process
from palquant.sim.build import TOP, VERILATOR_OPTIONS, Recipe, make
from palquant.sim.netlist import ports, randomize_power_on
from palquant.sim.toolchain import find_toolchain

#: Environment variable that names the JSON file with a test bench's parameters.
PARAMETERS_VARIABLE = "PALQUANT_BENCH"
#: Seconds of wall time after which a whole run of a test bench is stopped.
TIMEOUT = 300.0


@dataclass(frozen=True)
class BenchResult:
    """What became of a test bench's tests.

    Parameters:
        passed: Names of the tests that passed.
        failed: Name of each test that failed, and why.
        log: Everything that the simulation printed.
    """

    passed: list[str]
    failed: dict[str, str]
    log: str


def _recipe(verilog: str, top: str, label: str) -> Recipe:
    share, libraries = cocotb_tools.config.share_dir, cocotb_tools.config.libs_dir
    public = "".join(
        f'public_flat_rw -module "{top}" -var "{port.name}"\n' for port in ports(verilog, top)
    )
    return Recipe(
        label=label,
        files={
            f"{top}.v": randomize_power_on(verilog).encode(),
            "ports.vlt": f"`verilator_config\n{public}".encode(),
            "main.cpp": (share / "lib" / "verilator" / "verilator.cpp").read_bytes(),
        },
        verilator=(
            *VERILATOR_OPTIONS, "--vpi", "--timescale", "1ns/1ps", "--top-module", top,
            "-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator",
            "ports.vlt", f"{top}.v", "main.cpp",
        ),
        prefix="Vtop",
        product="bench",
    )  # fmt: skip


def build_bench(verilog: str, *, label: str, top: str = TOP) -> Path:
    """A machine that cocotb test benches can run on, built or found.

    Parameters:
        verilog: The machine.
        label: What it is, for people.
        top: Its top module.

    Raises:
        ToolError: A tool is missing, or the build failed.
    """
    return make(_recipe(verilog, top, label))


def run_bench(
    executable: Path,
    module: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    tests: Sequence[str] | None = None,
    seed: int = 0,
    top: str = TOP,
    timeout: float = TIMEOUT,
) -> BenchResult:
    """Run the tests of a cocotb module.

    Parameters:
        executable: A build of :func:`build_bench`.
        module: Import name of the module with the tests.
        parameters: What the test bench's :func:`bench_parameters` will return; anything that JSON
            can hold.
        tests: Names of the tests to run; all of the module if None.
        seed: Of everything random: test bench, registers and memories at power-on.
        top: The machine's top module.
        timeout: Seconds of wall time.

    Raises:
        ExecutionError: No test ran, or not exactly those that were asked for.
        ToolError: The simulator crashed, or took too long.
    """
    with temporary_folder() as folder:
        (folder / "parameters.json").write_text(json.dumps(dict(parameters or {})))
        environment = find_toolchain().environment()
        environment |= _cocotb_environment(module, top, seed, folder)
        if tests is not None:
            pattern = "|".join(re.escape(test) for test in tests)
            environment["COCOTB_TEST_FILTER"] = rf"\.({pattern})$"
        random = ("+verilator+rand+reset+2", f"+verilator+seed+{seed % 0x7FFFFFFF + 1}")
        log = folder / "log"
        status = process.run(
            [str(executable), *random],
            log=log,
            label=f"test bench {module} (seed {seed})",
            environment=environment,
            folder=folder,
            timeout=timeout,
        )
        text = log.read_text(errors="replace")
        results = folder / "results.xml"
        if not results.is_file():
            raise ToolError(f"test bench {module} ended with status {status} and no results: "
                            f"{process.complaint(log)}")  # fmt: skip
        passed, failed = _results(results)
    if not passed and not failed:
        raise ExecutionError(f"test bench {module} ran no test")
    if tests is not None and {*passed, *failed} != {*tests}:
        missing = sorted({*tests} - {*passed, *failed})
        raise ExecutionError(f"test bench {module} has no test {', '.join(missing)}")
    return BenchResult(passed, failed, text)


def bench_parameters() -> dict[str, Any]:
    """Inside a test bench: the parameters that :func:`run_bench` was given."""
    return dict(json.loads(Path(os.environ[PARAMETERS_VARIABLE]).read_text()))


def _cocotb_environment(module: str, top: str, seed: int, folder: Path) -> dict[str, str]:
    library = find_libpython.find_libpython()
    if library is None:
        raise ToolError("cocotb needs Python as a shared library, and there is none: install it "
                        "(Debian package libpython3-dev)")  # fmt: skip
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": f"{library};{cocotb_tools.config.pygpi_entry_point()}",
        "COCOTB_TOPLEVEL": top,
        "COCOTB_TEST_MODULES": module,
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_RESULTS_FILE": str(folder / "results.xml"),
        "COCOTB_ANSI_OUTPUT": "0",
        PARAMETERS_VARIABLE: str(folder / "parameters.json"),
    }


def _results(path: Path) -> tuple[list[str], dict[str, str]]:
    passed: list[str] = []
    failed: dict[str, str] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        trouble = case.find("failure")
        if trouble is None:
            trouble = case.find("error")
        name = case.get("name", "?")
        if trouble is not None:
            failed[name] = trouble.get("message") or trouble.get("error_msg") or "failed"
        elif case.find("skipped") is None:
            passed.append(name)
    return passed, failed
