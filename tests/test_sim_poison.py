"""What initial values are removed: on Verilog as the gateware generator writes it."""

import re

from amaranth import Module, Signal
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from palquant.sim.poison import remove_initial_values


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


def test_only_empty_writable_memories_lose_their_contents():
    before = verilog.convert(Example(), name="example")
    memories = {"ram", "filled", "rom"}
    names = {m: next(n for n in _blocks(before) if n.startswith(m)) for m in memories}
    after = remove_initial_values(before)
    assert _blocks(before) - _blocks(after) == {names["ram"]}


def test_registers_lose_their_initial_values():
    before = verilog.convert(Example(), name="example")
    assert re.search(r"reg \[7:0\] count = 8'h03;", before)
    assert re.search(r"reg \[39:0\] late = 40'h", before)
    after = remove_initial_values(before)
    assert re.search(r"reg \[7:0\] count;", after)
    assert re.search(r"reg \[39:0\] late;", after)
    assert not re.search(r"reg [^;]*= \d+'", after)


def test_nothing_else_changes():
    before = verilog.convert(Example(), name="example")
    after = remove_initial_values(before)
    kept = [line for line in before.splitlines() if "initial" not in line]
    lost = set(kept) - set(after.splitlines())
    assert all(re.match(r" *(reg .*= |\w+\[\d+\] = 40'h0+;)", line) for line in lost)
    assert remove_initial_values(after) == after
