"""The package is complete, repeatable, and made of the same texts as the machine's own files."""

import re

import pytest

from palquant.errors import ConfigurationError
from palquant.hw.carry_chain import Technology
from palquant.hw.describe import c_header, geometry_json, registers_json
from palquant.hw.ip_package import FILES, check_part, package
from palquant.hw.presets import geometry
from palquant.sim.machine import machine_verilog

TINY = geometry("tiny")
PART = "xc7z020clg400-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("ip") / "new" / "folder"
    written = package(TINY, place, version="1.2.3", part=PART, technology=None)
    assert [path.name for path in written] == [*FILES]
    return place


def test_all_files_are_there_and_nothing_else(folder):
    assert {path.name for path in folder.iterdir()} == {*FILES}
    assert {*FILES} == {
        "palquant.v", "palquant_ip.v", "component.xml", "xgui.tcl", "package_ip.tcl",
        "block_design.tcl", "palquant.xdc", "palquant_registers.h", "registers.json",
        "geometry.json", "README.md",
    }  # fmt: skip


def test_texts_are_those_that_generate_writes(folder):
    for name, text in (
        ("palquant.v", machine_verilog(TINY)),
        ("palquant_registers.h", c_header(TINY)),
        ("registers.json", registers_json()),
        ("geometry.json", geometry_json(TINY)),
    ):
        assert (folder / name).read_text() == text


def test_same_package_again(folder, tmp_path, monkeypatch):
    text = (folder / "palquant.v").read_text()
    monkeypatch.setattr("palquant.hw.ip_package.verilog", lambda *_: text)
    package(TINY, tmp_path, version="1.2.3", part=PART, technology=None)
    for name in FILES:
        assert (tmp_path / name).read_text() == (folder / name).read_text()


def test_array_is_in_the_cells_of_series_7_unless_told_otherwise(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "palquant.hw.ip_package.verilog",
        lambda machine, technology: asked.append(technology) or "",
    )
    package(TINY, tmp_path, version="1.2.3", part=PART)
    assert asked == [Technology.XILINX7]
    assert "CARRY4" not in (folder / "palquant.v").read_text()


def test_readme_names_files_that_exist(folder):
    text = (folder / "README.md").read_text()
    image = {"image.bin", "manifest.json", "model.npz"}
    named = set(re.findall(r"`([\w.]+\.(?:v|xml|tcl|xdc|h|json|bin|npz))`", text))
    assert named - image <= {*FILES}
    assert {*FILES} - named == {"README.md"}
    assert "checked without Vivado" in text
    assert "0x43c00000" in text


@pytest.mark.parametrize("part", [PART, "xc7z010clg400-1", "xc7z007sclg225-2", "xq7z020-1l-i"])
def test_parts_of_zynq_7000_are_taken(part):
    assert check_part(part) == part


@pytest.mark.parametrize("part", ["", "xc7a35tcpg236-1", "xczu3eg-sbva484-1-e", "xc7z020}; exit"])
def test_other_parts_are_refused(part, tmp_path):
    with pytest.raises(ConfigurationError, match=r"block_design\.tcl is for Zynq-7000"):
        package(TINY, tmp_path / "none", version="1.2.3", part=part)
    assert not (tmp_path / "none").exists()
