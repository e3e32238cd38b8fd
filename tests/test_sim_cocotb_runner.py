import re

import pytest
from copy_engine import verilog

from palquant.errors import ExecutionError, ToolError
from palquant.sim.cocotb_runner import build_bench, run_bench


@pytest.fixture(scope="module")
def bench():
    return build_bench(verilog(), label="copy engine for cocotb")


def run(bench, *tests, seed=0, module="tb_copy", timeout=60.0):
    return run_bench(
        bench, module, parameters={"contents": 5}, tests=tests or None, seed=seed, timeout=timeout
    )


def test_passes_and_failures_are_told_apart(bench):
    result = run(bench, "copies", "only_ports_are_visible", "fails")
    assert sorted(result.passed) == ["copies", "only_ports_are_visible"]
    assert list(result.failed) == ["fails"]
    assert "this cannot be" in result.failed["fails"]
    assert "tb_copy.fails failed" in result.log


def test_power_on_values_are_random_and_reproducible(bench):
    logs = [run(bench, "shows_power_on_values", seed=seed).log for seed in (1, 1, 2)]
    values = [re.search(r"SCRATCH (\d+) (\d+) SEED (\d+)", log).groups() for log in logs]
    assert values[0] == values[1]
    assert len({*values[0], *values[2]}) == 6


def test_tests_that_do_not_exist_are_an_error(bench):
    with pytest.raises(ExecutionError, match="test bench tb_copy ran no test"):
        run(bench, "no_such_test")
    with pytest.raises(ExecutionError, match="has no test no_such_test"):
        run(bench, "copies", "no_such_test")


def test_a_module_that_does_not_exist_is_an_error(bench):
    with pytest.raises(ToolError, match=r"test bench tb_none ended .*No module named"):
        run(bench, module="tb_none")


def test_a_test_that_hangs_is_stopped(bench):
    with pytest.raises(ToolError, match=r"tb_copy \(seed 7\) took longer than 5 s"):
        run(bench, "hangs", seed=7, timeout=5.0)
