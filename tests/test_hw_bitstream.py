# amaranth: UnusedElaboratable=no
"""From Verilog to a bitstream with the real tools, on a small design in a board's place."""

import dataclasses
import json

import pytest
from amaranth import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.errors import CapacityError, ToolError
from palquant.hw import bitstream, place_and_route
from palquant.hw.bitstream import build_bitstream
from palquant.hw.boards import MODULE, board
from palquant.hw.fpga import Area


class Inverter(wiring.Component):
    """A top with a board's ports, that takes no time to build."""

    def __init__(self, board, contents):
        held = {port: Out(1) for port in board.held_high}
        super().__init__({"clk": In(1), "rx": In(1), "tx": Out(1), "led": Out(1), **held})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = domain = ClockDomain()
        m.d.comb += domain.clk.eq(self.clk)
        m.d.sync += self.tx.eq(~self.rx)
        m.d.sync += self.led.eq(~self.led)
        return m


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bitstream, "BoardTop", Inverter)
    return board("ulx3s")


def test_files_of_a_bitstream(small, tmp_path):
    steps = []
    made = build_bitstream(small, b"", tmp_path / "out", say=steps.append)
    assert len(steps) == 4
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        f"{MODULE}.bit", f"{MODULE}.v", f"{MODULE}_netlist.v", f"{MODULE}.lpf", "nextpnr.log",
        "report.json",
    }  # fmt: skip
    assert made.path == tmp_path / "out" / f"{MODULE}.bit"
    # Lattice's bitstreams begin with a comment, and then the preamble (FPGA-TN-02039).
    assert b"\xff\xff\xbd\xb3" in made.path.read_bytes()[:200]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["fmax_mhz"] == made.routed.fmax_mhz > report["clock_mhz"] == 50
    assert report["resources"]["TRELLIS_FF"]["used"] == made.area.ff == 2
    assert report["board"] == "ulx3s"


def test_a_design_that_is_too_slow_leaves_nothing(small, tmp_path, monkeypatch):
    fast = dataclasses.replace(
        small, loop=dataclasses.replace(small.loop, feedback=100), name="fast"
    )
    with pytest.raises(CapacityError, match="fast runs at 2500 MHz; this placement reaches"):
        build_bitstream(fast, b"", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("area", "text"),
    [
        (Area(90000, 10, 0, 0), "ulx3s needs 90000 TRELLIS_COMB of ecp5-85f, which has 83640"),
        (Area(10, 10, 209, 0), "ulx3s needs 209 DP16KD of ecp5-85f, which has 208"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_resource(small, tmp_path, monkeypatch, area, text):
    monkeypatch.setattr(bitstream, "synthesize", lambda *_: area)
    with pytest.raises(CapacityError, match=text):
        build_bitstream(small, b"", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_can_never_fit_is_refused_before_synthesis(small, tmp_path):
    large = dataclasses.replace(small, preset="kilomac")
    with pytest.raises(CapacityError, match=r"kilomac needs at least \d+ DP16KD of ecp5-85f"):
        build_bitstream(large, b"", tmp_path / "out", say=lambda step: pytest.fail(step))
    assert not (tmp_path / "out").exists()


def test_a_missing_tool_is_named_before_the_work(small, tmp_path, monkeypatch):
    monkeypatch.setenv("ECPPACK", "/nowhere/ecppack")
    with pytest.raises(ToolError, match="ECPPACK=/nowhere/ecppack: no such program"):
        build_bitstream(small, b"", tmp_path / "out", say=lambda step: pytest.fail(step))
    assert place_and_route.DEVICES["ecp5-85f"].packer == ("yowasp-ecppack", "bit")
