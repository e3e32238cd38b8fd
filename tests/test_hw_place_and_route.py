"""A small design on a small device."""

import pytest

from palquant.errors import ToolError
from palquant.hw.fpga import FAMILIES
from palquant.hw.place_and_route import DEVICES, place_and_route
from palquant.hw.synthesis import synthesize

COUNTER = """
module counter(input clk, output reg [7:0] o);
  always @(posedge clk) o <= o + 1;
endmodule
"""


def test_a_counter_on_an_ice40(tmp_path):
    netlist, log = tmp_path / "counter.json", tmp_path / "log"
    device = DEVICES["ice40up5k"]
    area = synthesize(COUNTER, "counter", FAMILIES[device.family], netlist)
    routed = place_and_route(netlist, device, target_mhz=20, log=log)
    assert area.ff == 8
    # nextpnr adds cells where a carry chain begins and ends.
    assert area.lut <= routed.used["ICESTORM_LC"] <= area.lut + 4
    assert device.resources.items() <= routed.available.items()
    assert 10 < routed.fmax_mhz < 300
    assert place_and_route(netlist, device, target_mhz=20) == routed
    assert log.is_file()


def test_errors_of_nextpnr_are_passed_on(tmp_path):
    netlist = tmp_path / "none.json"
    netlist.write_text("{}")
    with pytest.raises(ToolError, match=r"^place and route for ice40up5k: "):
        place_and_route(netlist, DEVICES["ice40up5k"], target_mhz=20)


def test_devices_are_of_known_families():
    assert {device.family for device in DEVICES.values()} <= set(FAMILIES)
