# amaranth: UnusedElaboratable=no
"""The IP's module has all of AXI, connects all of the accelerator, and is clean Verilog."""

import re

import pytest
from amaranth import Shape
from test_hw_generate import lint

from palquant.hw.generate import MODULE
from palquant.hw.ip_wrapper import IP_MODULE, MANAGER, SUBORDINATE, interfaces, wrapper_verilog
from palquant.hw.presets import PRESETS, geometry
from palquant.hw.top import Accelerator
from palquant.sim.machine import machine_verilog

TINY = geometry("tiny")

#: The signals of AMBA AXI4, tables A2-2 to A2-6 of ARM IHI 0022E, but those that a master may leave
#: out because interconnects have a value for them: AxREGION and AxUSER, WUSER, BUSER, RUSER.
ADDRESS = ("ID", "ADDR", "LEN", "SIZE", "BURST", "LOCK", "CACHE", "PROT", "QOS", "VALID", "READY")
AXI4 = {
    *(f"AW{name}" for name in ADDRESS),
    *(f"AR{name}" for name in ADDRESS),
    *(f"W{name}" for name in ("DATA", "STRB", "LAST", "VALID", "READY")),
    *(f"B{name}" for name in ("ID", "RESP", "VALID", "READY")),
    *(f"R{name}" for name in ("ID", "DATA", "RESP", "LAST", "VALID", "READY")),
}
#: The signals of AXI4-Lite, table B1-1.
AXI4_LITE = {
    *(f"AW{name}" for name in ("ADDR", "PROT", "VALID", "READY")),
    *(f"AR{name}" for name in ("ADDR", "PROT", "VALID", "READY")),
    *(f"W{name}" for name in ("DATA", "STRB", "VALID", "READY")),
    *(f"B{name}" for name in ("RESP", "VALID", "READY")),
    *(f"R{name}" for name in ("DATA", "RESP", "VALID", "READY")),
}
#: What a subordinate drives.
ANSWERS = {"AWREADY", "ARREADY", "WREADY", "BID", "BRESP", "BVALID", "RID", "RDATA", "RRESP",
           "RLAST", "RVALID"}  # fmt: skip


def ports(text):
    """Port -> direction and width, as declared in the wrapper."""
    return {
        name: (direction, int(high or 0) + 1)
        for direction, high, name in re.findall(
            r"^  (input|output) wire (?:\[(\d+):0\] )?(\w+),?$", text, re.MULTILINE
        )
    }


def core_ports(machine):
    """The same of the accelerator, from its gateware."""
    found = {"clk": ("input", 1), "rst": ("input", 1)}
    for name, member in Accelerator(machine).signature.members.items():
        direction = "output" if member.flow.name == "Out" else "input"
        found[name] = (direction, Shape.cast(member.shape).width)
    return found


@pytest.mark.parametrize("machine", PRESETS.values(), ids=lambda g: g.name)
def test_interfaces_have_all_signals_with_their_directions(machine):
    found = {item.name: item for item in interfaces(machine)}
    for name, signals, driven in (
        (MANAGER, AXI4, AXI4 - ANSWERS),
        (SUBORDINATE, AXI4_LITE, AXI4_LITE & ANSWERS),
    ):
        assert {port.signal for port in found[name].ports} == signals
        assert {port.signal for port in found[name].ports if port.output} == driven
    assert found[MANAGER].parameters["DATA_WIDTH"] == machine.bus_bits
    widths = {port.signal: port.bits for port in found[MANAGER].ports}
    assert widths["RDATA"] == widths["WDATA"] == 8 * widths["WSTRB"] == machine.bus_bits


def test_ports_are_those_of_the_table():
    expected = {
        port.name: ("output" if port.output else "input", port.bits)
        for item in interfaces(TINY)
        for port in item.ports
    }
    assert ports(wrapper_verilog(TINY)) == expected


@pytest.mark.parametrize("machine", PRESETS.values(), ids=lambda g: g.name)
def test_every_port_of_the_accelerator_is_connected_to_one_of_its_width(machine):
    text = wrapper_verilog(machine)
    outside, inside = ports(text), core_ports(machine)
    wires = {
        name: int(high or 0) + 1
        for high, name in re.findall(r"^  wire (?:\[(\d+):0\] )?(\w+);$", text, re.MULTILINE)
    }
    connections = re.findall(r"^    \.(\w+)\((~?)(\w+)\),?$", text, re.MULTILINE)
    assert sorted(name for name, _, _ in connections) == sorted(inside)
    used = []
    for name, inverted, outer in connections:
        assert bool(inverted) == (name == "rst")  # aresetn is active low
        if outer in wires:
            assert inside[name] == ("output", wires[outer])
            assert name.startswith("trace_")
        else:
            assert inside[name] == outside[outer]
            used.append(outer)
    constants = re.findall(r"^  assign (\w+) = \d+'d0;$", text, re.MULTILINE)
    assert sorted(used + constants) == sorted(outside)


def test_attributes_name_every_port_once_and_every_interface_once():
    text = wrapper_verilog(TINY)
    signals = re.findall(r'X_INTERFACE_INFO = "xilinx.com:\S+:1.0 (\w+) (\w+)"', text)
    expected = [(item.name, port.signal) for item in interfaces(TINY) for port in item.ports]
    assert signals == expected
    named = re.findall(r'X_INTERFACE_PARAMETER = "XIL_INTERFACENAME (\w+),', text)
    assert named == [item.name for item in interfaces(TINY)]
    for fact in (
        '"XIL_INTERFACENAME aclk, ASSOCIATED_BUSIF M_AXI:S_AXI, ASSOCIATED_RESET aresetn"',
        '"XIL_INTERFACENAME aresetn, POLARITY ACTIVE_LOW"',
        '"XIL_INTERFACENAME irq, SENSITIVITY LEVEL_HIGH"',
        '"xilinx.com:signal:interrupt:1.0 irq INTERRUPT"',
        "PROTOCOL AXI4, DATA_WIDTH 64,",
        "PROTOCOL AXI4LITE, DATA_WIDTH 32, ADDR_WIDTH 12,",
    ):
        assert fact in text


def test_verilator_finds_nothing_wrong(tmp_path):
    texts = {MODULE: machine_verilog(TINY), IP_MODULE: wrapper_verilog(TINY)}
    paths = [tmp_path / f"{name}.v" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    assert lint(*paths, top=IP_MODULE) == (0, "")
