"""``palquant package`` from the outside: files, report, and one line for each mistake."""

import json

import pytest
from networks import shuffled_network

from palquant.cli import main
from palquant.generated import PART
from palquant.hw.ip_package import FILES
from palquant.hw.presets import geometry
from palquant.sw.compile import compile_graph
from palquant.sw.formats import FORMATS
from palquant.sw.image import FILES as IMAGE_FILES
from palquant.sw.image import load_image, save_image

TINY = geometry("tiny")


@pytest.fixture(autouse=True)
def short_verilog(monkeypatch):
    """What the gateware becomes is tested elsewhere."""
    monkeypatch.setattr(
        "palquant.hw.ip_package.verilog", lambda machine, technology: f"// {technology}\n"
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image") / "image"
    save_image(compile_graph(shuffled_network().graph(), TINY), folder)
    return folder


def package(output, *options):
    return main(["package", "--geometry", "tiny", "-o", str(output), *map(str, options)])


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_package_without_an_image(tmp_path, capsys):
    report_file = tmp_path / "report.json"
    folder = tmp_path / "ip"
    assert package(folder, "--json", report_file) == 0
    assert names(folder) == {*FILES}
    report = json.loads(report_file.read_text())
    assert report["files"] == sorted(str(folder / name) for name in FILES)
    assert (report["geometry"], report["part"], report["technology"]) == ("tiny", PART, "xilinx7")
    assert capsys.readouterr().out.splitlines() == report["files"]
    assert "XILINX7" in (folder / "palquant.v").read_text()


def test_package_with_an_image_in_vivados_formats(image, tmp_path):
    folder = tmp_path / "ip"
    options = ["--image", image, "--format", "mem", "--format", "coe"]
    assert package(folder, *options) == 0
    assert names(folder) == {*FILES, *IMAGE_FILES, "image.mem", "image.coe"}
    data = load_image(image).data
    for name in ("mem", "coe"):
        assert (folder / f"image.{name}").read_text() == FORMATS[name](data, TINY.bus_bytes)
    for name in IMAGE_FILES:
        assert (folder / name).read_bytes() == (image / name).read_bytes()
    assert package(folder, *options) == 0  # again


def test_package_of_the_portable_array_for_another_part(tmp_path):
    assert package(tmp_path, "--technology", "generic", "--part", "xc7z010clg400-1") == 0
    assert (tmp_path / "palquant.v").read_text() == "// None\n"
    assert "set part {xc7z010clg400-1}" in (tmp_path / "block_design.tcl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "mem"], "--format needs --image: there is no memory image to write"),
        (["--part", "xczu3eg-sbva484-1-e"], "block_design.tcl is for Zynq-7000, whose parts begin"),
        (["--geometry", "small"], "no geometry is called 'small'"),
        (["--geometry", "kilomac", "--image", "IMAGE"], "is compiled for geometry tiny, not"),
        (["-o", "IMAGE", "--image", "IMAGE"], "is the memory image's own folder; name another"),
        (["-o", "OTHER"], "holds other files; name an empty or a new directory"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(options, message, image, tmp_path, capsys):
    other, folder = tmp_path / "other", tmp_path / "ip"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    options = [{"IMAGE": image, "OTHER": other}.get(word, word) for word in options]
    assert package(folder, *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("palquant: ")
    assert message in line
    assert not folder.exists()
    assert names(other) == {"notes.txt"}
    assert names(image) == {*IMAGE_FILES}
