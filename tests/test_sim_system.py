"""The whole machine against cocotbext-axi's bus models."""

import dataclasses

import numpy as np
import pytest

from palquant.errors import ExecutionError
from palquant.hw.presets import PRESETS
from palquant.sim.programs import copy_program
from palquant.sim.system import run_registers, run_system

GEOMETRY = PRESETS["tiny"]
REGISTER_TESTS = 15


@pytest.mark.parametrize(("seed", "stall"), [(1, 0.0), (2, 0.3), (3, 0.7)])
def test_programs_run_under_stalls_on_every_channel(seed, stall):
    program = copy_program(GEOMETRY, seed=seed, tiles=4, images=2)
    result = run_system(GEOMETRY, program, seed=seed, stall=stall)
    assert result.passed == ["program_runs"]


@pytest.mark.parametrize(("seed", "stall"), [(1, 0.0), (2, 0.4)])
def test_registers_and_every_documented_error(seed, stall):
    result = run_registers(GEOMETRY, seed=seed, stall=stall)
    assert len(result.passed) == REGISTER_TESTS


def test_a_wrong_byte_is_found_and_named():
    program = copy_program(GEOMETRY, seed=4, tiles=2, images=2)
    outputs = program.outputs.copy()
    place = int(np.flatnonzero(program.written)[-1])
    outputs[1, place] ^= 4
    wrong = dataclasses.replace(program, outputs=outputs)
    text = rf"program_runs failed on tiny \(seed 4\): 1 bytes are wrong.*image 1.*{place:#x}"
    with pytest.raises(ExecutionError, match=text):
        run_system(GEOMETRY, wrong, seed=4)


def test_a_byte_that_must_not_be_written_is_found():
    program = copy_program(GEOMETRY, seed=4, tiles=2, images=1)
    written = program.written.copy()
    place = int(np.flatnonzero(written)[0])
    written[place] = False
    wrong = dataclasses.replace(program, written=written)
    with pytest.raises(ExecutionError, match=rf"output byte {place:#x}.*must not be written"):
        run_system(GEOMETRY, wrong, seed=4)
