import dataclasses
import re

import pytest

from palquant import hw
from palquant.errors import OutputError
from palquant.hw.presets import PRESETS
from palquant.sim import machine
from palquant.sim.build import CACHE_VARIABLE
from palquant.sim.machine import machine_verilog
from palquant.sim.netlist import randomize_power_on

GEOMETRY = PRESETS["tiny"]


@pytest.fixture
def generated(monkeypatch, tmp_path):
    """Geometries that were generated, with an empty cache and a generator that only pretends."""
    geometries = []

    def generate(geometry):
        geometries.append(geometry)
        return f"module palquant; // {geometry.name}\nendmodule\n"

    monkeypatch.setattr(machine, "verilog", generate)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return geometries


def test_a_machine_is_generated_once(generated):
    assert machine_verilog(GEOMETRY) == machine_verilog(GEOMETRY)
    assert generated == [GEOMETRY]


def test_every_size_counts(generated):
    other = dataclasses.replace(GEOMETRY, burst_beats=16)
    machine_verilog(GEOMETRY)
    machine_verilog(other)
    assert generated == [GEOMETRY, other]


def test_every_line_of_the_gateware_counts(generated, monkeypatch, tmp_path):
    source = tmp_path / "hw" / "__init__.py"
    source.parent.mkdir()
    source.write_text("")
    monkeypatch.setattr(hw, "__file__", str(source))
    machine_verilog(GEOMETRY)
    source.with_name("more.py").write_text("A = 1\n")
    machine_verilog(GEOMETRY)
    source.with_name("more.py").write_text("A = 2\n")
    machine_verilog(GEOMETRY)
    machine_verilog(GEOMETRY)
    assert generated == [GEOMETRY] * 3


def test_a_cache_that_cannot_be_written_is_reported(generated, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    text = r"file: .* simulator cache \(.*is no directory\); PALQUANT_CACHE names another one$"
    with pytest.raises(OutputError, match=text):
        machine_verilog(GEOMETRY)


def test_no_register_or_memory_of_the_machine_starts_with_zeros():
    text = randomize_power_on(machine_verilog(GEOMETRY))
    assert "initial begin" not in text
    assert not re.search(r"\breg [^;=]*=[^;]*'", text)
    memories = re.findall(r"^ *reg [^;]*\[\d+:\d+\];$", text, re.MULTILINE)
    loops = re.findall(r"\$urandom.*\};$", text, re.MULTILINE)
    assert len(loops) == len(memories) > 5
