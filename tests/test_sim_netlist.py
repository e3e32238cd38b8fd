"""What becomes of Verilog as the gateware generator writes it."""

import re

import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from copy_engine import verilog

from palquant.errors import ToolError
from palquant.hw.verilog import convert
from palquant.sim.netlist import Port, ports, randomize_power_on, register_reset


class Example(wiring.Component):
    """A RAM, a RAM with contents, a ROM, and registers with and without reset."""

    address: In(4)
    enable: In(1)
    value: In(40)
    outputs: Out(40)

    def elaborate(self, platform):
        m = Module()
        contents = {"ram": [], "filled": [0, 5, 0], "rom": [0, 7, 0, 9]}
        total = 0
        for name, init in contents.items():
            m.submodules[name] = memory = Memory(shape=40, depth=16, init=init)
            if name != "rom":
                port = memory.write_port()
                m.d.comb += [
                    port.addr.eq(self.address),
                    port.en.eq(self.enable),
                    port.data.eq(self.value),
                ]
            read = memory.read_port()
            m.d.comb += [read.addr.eq(self.address), read.en.eq(1)]
            total ^= read.data
        count = Signal(8, init=3)
        late = Signal(40, reset_less=True, init=0x1234)
        m.d.sync += [count.eq(count + 1), late.eq(self.value)]
        with m.If(count[0]):
            m.d.comb += self.outputs.eq(total ^ late ^ count)
        return m


def _blocks(text):
    return set(re.findall(r"initial begin\n *(\w+)\[0\]", text))


def test_only_empty_writable_memories_get_random_contents():
    before = convert(Example(), "example")
    memories = {"ram", "filled", "rom"}
    names = {m: next(n for n in _blocks(before) if n.startswith(m)) for m in memories}
    after = randomize_power_on(before)
    assert _blocks(before) - _blocks(after) == {names["ram"]}
    loops = re.findall(r"for \(integer word = 0; word < (\d+);.*\n *(.*);", after)
    assert loops == [("16", f"{names['ram']}[word] = {{$urandom, $urandom}}")]


def test_registers_lose_their_initial_values():
    before = convert(Example(), "example")
    assert re.search(r"reg \[7:0\] count = 8'h03;", before)
    assert re.search(r"reg \[39:0\] late = 40'h", before)
    after = randomize_power_on(before)
    assert re.search(r"reg \[7:0\] count;", after)
    assert re.search(r"reg \[39:0\] late;", after)
    assert not re.search(r"reg [^;]*= \d+'", after)


def test_nothing_else_changes():
    before = convert(Example(), "example")
    after = randomize_power_on(before)
    lost = set(before.splitlines()) - set(after.splitlines())
    assert all(re.match(r" *(reg .*= |\w+\[\d+\] = 40'h0+;)", line) for line in lost)
    assert randomize_power_on(after) == after


def test_ports_in_both_styles_of_declaration():
    names = [port.name for port in ports(verilog(), "palquant")]
    assert names[:3] == ["clk", "rst", "irq"]
    assert {"m_axi_rdata", "s_axil_awready", "trace_store_layer"} <= set(names)
    assert len(names) == len(set(names))
    text = convert(Example(), "example")
    assert {(port.name, port.direction, port.range) for port in ports(text, "example")} == {
        ("clk", "input", ""),
        ("rst", "input", ""),
        ("address", "input", "[3:0]"),
        ("enable", "input", ""),
        ("value", "input", "[39:0]"),
        ("outputs", "output", "[39:0]"),
    }


def test_a_module_that_is_not_there():
    with pytest.raises(ToolError, match="no module 'none' with ports"):
        ports(verilog(), "none")
    with pytest.raises(ToolError, match="no ports 'clk' and 'reset'"):
        register_reset(verilog(), "palquant", reset="reset")


def test_the_reset_becomes_a_register_and_ports_stay():
    text = convert(Example(), "example")
    shell = register_reset(text, "example")
    assert ports(shell, "example") == ports(shell, "example_core") == ports(text, "example")
    assert Port("rst", "input", "") in ports(shell, "example")
    assert "always @(posedge clk) rst_register <= rst;" in shell
    assert ".rst(rst_register)" in shell
    assert ".address(address)" in shell
