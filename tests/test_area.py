"""``palquant bench area``: what is measured, and that it is measured once."""

import json

import pytest

from palquant import area
from palquant.area import ACCELERATOR, ARRAY, Build, builds, square
from palquant.cli import main
from palquant.hw.fpga import FAMILIES
from palquant.hw.presets import PRESETS

FIELDS = {
    "target", "geometry", "scope", "macs", "lut", "ff", "bram", "dsp", "lut_per_mac", "fmax_mhz",
}  # fmt: skip


@pytest.fixture
def one_build(monkeypatch, tmp_path):
    monkeypatch.setenv("PALQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(area, "builds", lambda: [Build("ecp5", square(8), ARRAY)])


def test_a_build_is_synthesised_once(one_build, tmp_path, monkeypatch, capsys):
    report_file = tmp_path / "area.json"
    command = ["bench", "area", "--quiet", "--json", str(report_file)]
    assert main(command) == 0
    (build,) = json.loads(report_file.read_text())["builds"]
    assert build.keys() == FIELDS
    assert (build["target"], build["geometry"], build["scope"]) == ("ecp5", "8x8", ARRAY)
    assert build["macs"] == 64
    assert build["lut_per_mac"] == build["lut"] / 64 < 12
    assert build["bram"] == build["dsp"] == 0
    assert build["fmax_mhz"] is None  # it was not to be routed
    assert "LUT4 slots" in capsys.readouterr().out
    monkeypatch.setattr(Build, "measure", lambda self: pytest.fail("measured again"))
    assert main(command) == 0


def test_arrays_and_accelerators_on_every_family():
    found = builds()
    assert {build.target for build in found} == set(FAMILIES)
    arrays = [build for build in found if build.scope == ARRAY]
    assert {("ecp5", "32x32"), ("xilinx7", "32x32")} <= {
        (build.target, build.geometry.name) for build in arrays
    }
    whole = [build for build in found if build.scope == ACCELERATOR]
    assert {build.geometry.name for build in whole} == set(PRESETS)
    kilomac = PRESETS["kilomac"]
    assert {build.geometry.accumulator_bits for build in arrays} == {kilomac.accumulator_bits}
    assert len({build.path() for build in found}) == len(found)


@pytest.mark.parametrize("target", ["ecp5", "ice40"])
def test_parts_of_the_benchmark(target, one_build, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(area, "builds", builds)

    def measure(self):
        done.append((self.target, self.scope))
        return dict.fromkeys(FIELDS, 1)

    monkeypatch.setattr(Build, "measure", measure)
    assert main(["bench", "area", "--quiet", "--target", target, "--scope", "array"]) == 0
    assert set(done) == {(target, ARRAY)}


def test_the_largest_array_is_measured_if_it_is_asked_for(one_build, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(
        Build, "measure", lambda self: done.append(self) or dict.fromkeys(FIELDS, 1)
    )
    command = ["bench", "area", "--quiet", "--target", "ecp5", "--scope", "largest"]
    assert main(command) == 0
    (build,) = done
    assert build == area.largest()
    assert build.device == "ecp5-85f"
    assert build.geometry.peak_macs >= 4096


def test_refusals(one_build, capsys):
    assert main(["bench", "area", "--target", "virtex"]) == 1
    assert "no FPGA family is called 'virtex' (families: ecp5" in capsys.readouterr().err
    assert main(["bench", "area", "--target", "ice40", "--scope", "accelerator"]) == 1
    assert "no accelerator is measured on ice40" in capsys.readouterr().err
    assert main(["bench", "area", "--size", "64"]) == 1
    assert "--size is not an option of this benchmark" in capsys.readouterr().err
