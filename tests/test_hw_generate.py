"""Generated files are complete, repeatable, and Verilog that a simulator accepts."""

import os
import re
import subprocess
import sys

import pytest

from palquant.errors import OutputError
from palquant.hw.axi import Lite, ReadChannels, WriteChannels
from palquant.hw.config import geometry
from palquant.hw.generate import generate
from palquant.hw.registers import ADDRESS_BITS
from palquant.sim.toolchain import find_toolchain

TINY = geometry("tiny")

#: Warnings about the style of Verilog that Yosys writes, not about what it says.
STYLE = (
    "ASCRANGE", "CASEINCOMPLETE", "DECLFILENAME", "PROCASSINIT", "UNUSEDSIGNAL",
    "WIDTHEXPAND", "WIDTHTRUNC",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "new" / "folder"
    return {path.name: path for path in generate(TINY, folder)}


def test_all_files_are_there_and_nothing_else(files):
    assert set(files) == {
        "palquant.v", "palquant_registers.h", "registers.json", "instructions.json",
        "geometry.json",
    }  # fmt: skip
    folder = files["palquant.v"].parent
    assert {path.name for path in folder.iterdir()} == set(files)


def test_ports_are_those_of_the_contract(files):
    text = files["palquant.v"].read_text()
    top = text[text.index("\nmodule palquant(") :]
    top = top[: top.index("endmodule")]
    found = {
        name: (direction, int(high or 0) + 1)
        for direction, high, name in re.findall(
            r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", top, re.MULTILINE
        )
    }
    expected = {"clk": ("input", 1), "rst": ("input", 1), "irq": ("output", 1)}
    for prefix, signature in (
        ("m_axi_", ReadChannels(TINY.bus_bits)),
        ("m_axi_", WriteChannels(TINY.bus_bits)),
        ("s_axil_", Lite(ADDRESS_BITS).flip()),
    ):
        for name, member in signature.members.items():
            direction = "output" if member.flow.name == "Out" else "input"
            expected[prefix + name] = (direction, member.shape)
    for name, bits in (
        ("layer", 12), ("activity", 4), ("load_busy", 1), ("load_layer", 12),
        ("store_busy", 1), ("store_layer", 12),
    ):  # fmt: skip
        expected[f"trace_{name}"] = ("output", bits)
    assert found == expected


def test_verilator_finds_nothing_wrong(files):
    toolchain = find_toolchain()
    result = subprocess.run(
        [
            str(toolchain.verilator), "--lint-only", "-Wall", *(f"-Wno-{name}" for name in STYLE),
            "--top-module", "palquant", str(files["palquant.v"]),
        ],
        env=toolchain.environment(),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


def test_text_does_not_depend_on_hashes_or_folders(files, tmp_path):
    code = (
        "import sys; from palquant.hw.config import geometry; "
        "from palquant.hw.generate import generate; generate(geometry('tiny'), sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        cwd=tmp_path,
        check=True,
    )
    for name, path in files.items():
        text = path.read_text()
        assert (tmp_path / name).read_text() == text
        assert not re.search(r"\.py\b|/site-packages/", text)


def test_folder_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr("palquant.hw.generate.verilog", lambda geometry: "")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/below: cannot write: Not a directory$"):
        generate(TINY, tmp_path / "file" / "below")


def test_failure_leaves_the_old_file(tmp_path, monkeypatch):
    monkeypatch.setattr("palquant.hw.generate.verilog", lambda geometry: "new")
    (tmp_path / "palquant.v").write_text("old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    message = f"^{tmp_path}: cannot write: No space left on device$"
    with pytest.raises(OutputError, match=message):
        generate(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["palquant.v"]
    assert (tmp_path / "palquant.v").read_text() == "old"
