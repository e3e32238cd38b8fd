"""Generated files are complete, repeatable, and Verilog that a simulator accepts."""

import os
import re
import subprocess
import sys

import pytest

from palquant.errors import OutputError
from palquant.hw.axi import Lite, ReadChannels, WriteChannels
from palquant.hw.carry_chain import Technology
from palquant.hw.generate import generate, verilog
from palquant.hw.presets import geometry
from palquant.hw.registers import ADDRESS_BITS
from palquant.sim.machine import machine_verilog
from palquant.sim.toolchain import find_toolchain

TINY = geometry("tiny")

#: The only warnings that generated Verilog may give, each with the reason why it is no fault.
HARMLESS = {
    "ASCRANGE": "a signal of no bits is declared as [-1:0]",
    "CASEINCOMPLETE": "the default stands before the case; where there is none, LATCH says so",
    "DECLFILENAME": "all modules are in one file",
    "PROCASSINIT": "a register has a value at power-on, and a process that assigns it",
    "UNUSEDSIGNAL": "signals that nothing reads keep their names, for waveforms",
    "WIDTHEXPAND": "the narrower operand is extended with zeros, as Amaranth means it",
    "WIDTHTRUNC": "a result is cut to what it is assigned to, as Amaranth means it",
}

#: Texts with a fault, by the class of warning that tells.
FAULTS = {
    "LATCH": "always @* case (a) 2'h0: q = b; 2'h1: q = ~b; endcase",
    "UNOPTFLAT": "wire c, d; assign c = d ^ b; assign d = ~c & a[0]; assign q = c;",
    "MULTIDRIVEN": "always @(posedge clk) q <= b; always @(negedge clk) q <= a[0];",
    "UNDRIVEN": "wire c; assign q = b ^ c;",
    "PINMISSING": "other other(.i(b)); assign q = a[0];",
    "COMBDLY": "always @* q <= b;",
    "BLKSEQ": "always @(posedge clk) q = b;",
}


def lint(*paths, top="palquant"):
    """What Verilator's lint says that is not harmless, and its exit status."""
    toolchain = find_toolchain()
    result = subprocess.run(
        [
            str(toolchain.verilator), "--lint-only", "-Wall",
            *(f"-Wno-{name}" for name in HARMLESS), "--top-module", top, *map(str, paths),
        ],
        env=toolchain.environment(),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return result.returncode, result.stderr


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


@pytest.mark.parametrize("g", [TINY, geometry("kilomac")], ids=lambda g: g.name)
def test_verilator_finds_nothing_wrong(g, tmp_path):
    path = tmp_path / "palquant.v"
    path.write_text(machine_verilog(g))
    assert lint(path) == (0, "")


@pytest.mark.parametrize("fault", FAULTS)
def test_verilator_finds_faults(fault, tmp_path):
    path = tmp_path / "palquant.v"
    kind = "reg" if "always" in FAULTS[fault] else "wire"
    path.write_text(
        f"module palquant(input wire clk, input wire [1:0] a, input wire b, output {kind} q);\n"
        f"{FAULTS[fault]}\nendmodule\n"
        "module other(input wire i, output wire o); assign o = i; endmodule\n"
    )
    status, said = lint(path)
    assert status != 0
    assert f"%Warning-{fault}:" in said


def test_files_hold_the_text_that_simulators_are_built_from(files):
    assert files["palquant.v"].read_text() == machine_verilog(TINY)


def test_text_does_not_depend_on_hashes_or_folders(files, tmp_path):
    code = (
        "import sys; from palquant.hw.presets import geometry; "
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
    monkeypatch.setattr("palquant.hw.generate.verilog", lambda *_: "")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/below: cannot write: Not a directory$"):
        generate(TINY, tmp_path / "file" / "below")


def test_failure_leaves_the_old_file(tmp_path, monkeypatch):
    monkeypatch.setattr("palquant.hw.generate.verilog", lambda *_: "new")
    (tmp_path / "palquant.v").write_text("old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    message = f"^{tmp_path}: cannot write: No space left on device$"
    with pytest.raises(OutputError, match=message):
        generate(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["palquant.v"]
    assert (tmp_path / "palquant.v").read_text() == "old"


@pytest.mark.parametrize(("technology", "cell"), [("ecp5", "CCU2C"), ("xilinx7", "CARRY4")])
def test_an_array_for_one_family_names_its_cells(technology, cell):
    text = verilog(TINY, Technology(technology))
    assert f"  {cell} " in text
    assert cell not in verilog(TINY)
