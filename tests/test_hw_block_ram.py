"""Memory cells: as synthesis makes them, for each kind and at the corners between kinds."""

import dataclasses
import re
from collections import Counter

import pytest
from amaranth import Module
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from palquant.hw.block_ram import Mapping, MemoryShape, map_memory
from palquant.hw.fpga import FAMILIES
from palquant.hw.memory_shapes import block_rams, memory_shapes
from palquant.hw.presets import PRESETS
from palquant.hw.synthesis import synthesize
from palquant.hw.top import Accelerator
from palquant.hw.verilog import convert


@pytest.mark.parametrize(
    ("shape", "mapping"),
    [
        (MemoryShape("whole words", 1024, 18), Mapping(1, 0, 1)),
        (MemoryShape("36 bits", 512, 36), Mapping(1, 0, 1)),
        (MemoryShape("deeper", 2048, 36), Mapping(4, 0, 1)),
        (MemoryShape("narrow and deep", 16384, 2), Mapping(2, 0, 1)),
        (MemoryShape("two bits written apart take two-bit blocks", 8192, 8, 4), Mapping(4, 0, 1)),
        (MemoryShape("or nine bits of a wide one each", 512, 64, 32), Mapping(8, 0, 1)),
        (MemoryShape("few words", 16, 32), Mapping(0, 8, 1)),
        (MemoryShape("two banks", 32, 32), Mapping(0, 16, 2)),
        (MemoryShape("a block is cheaper", 64, 32), Mapping(1, 0, 1)),
        (MemoryShape("no register, no block", 64, 32, registered=False), Mapping(0, 32, 4)),
        (MemoryShape("a few bits", 2, 1), Mapping(0, 0, 0)),
    ],
    ids=lambda item: item.name if isinstance(item, MemoryShape) else "",
)
def test_what_synthesis_takes(shape, mapping):
    assert map_memory(shape) == mapping


class OneMemory(wiring.Component):
    def __init__(self, shape):
        self.shape = shape
        address = range(shape.depth)
        super().__init__(
            {"write": In(address), "enable": In(shape.enables), "value": In(shape.width),
             "read": In(address), "result": Out(shape.width)}
        )  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=self.shape.width, depth=self.shape.depth, init=[]
        )
        write = memory.write_port(granularity=self.shape.width // self.shape.enables)
        read = memory.read_port()
        m.d.comb += [
            write.addr.eq(self.write), write.en.eq(self.enable), write.data.eq(self.value),
            read.addr.eq(self.read), self.result.eq(read.data),
        ]  # fmt: skip
        return m


@pytest.mark.parametrize(
    "shape",
    [
        MemoryShape("masked", 1024, 16, 8),
        MemoryShape("just distributed", 48, 8),
        MemoryShape("just a block", 128, 24),
    ],
    ids=lambda shape: shape.name,
)
def test_synthesis_agrees(shape):
    area = synthesize(convert(OneMemory(shape), "design"), "design", FAMILIES["ecp5"])
    assert area.bram == map_memory(shape).blocks


def elaborated_shapes(geometry):
    """Every memory of the machine, found in what Amaranth makes of it; write masks are not."""
    text = rtlil.convert(Accelerator(geometry), name="design", emit_src=False)
    for module in text.split("\nmodule ")[1:]:
        cells = re.findall(r"cell \$memrd_v2 \S+\n(.*?)\n  end", module, re.DOTALL)
        for width, depth, name in re.findall(r"memory width (\d+) size (\d+) \\(\S+)", module):
            (read,) = (text for text in cells if f'"\\\\{name}"' in text)
            registered = "CLK_ENABLE 1" in read
            yield MemoryShape(module.split()[0], int(depth), int(width), 1, registered)


@pytest.mark.parametrize(("name", "memories"), [("tiny", 70), ("icebreaker", 30)])
def test_no_memory_is_forgotten(name, memories):
    geometry = PRESETS[name]
    found = Counter(
        (shape.depth, shape.width, shape.registered, map_memory(shape).blocks)
        for shape in elaborated_shapes(geometry)
    )
    assert found.total() > memories
    for shape in memory_shapes(geometry):
        blocks = map_memory(dataclasses.replace(shape, enables=1)).blocks
        key = (shape.depth, shape.width, shape.registered, blocks)
        found[key] -= shape.count
    assert min(found.values()) >= 0, "a memory does not exist"
    assert not any(blocks for (*_, blocks), left in found.items() if left), "a memory is missing"


def test_block_rams_are_as_many_as_synthesised():
    assert block_rams(PRESETS["tiny"]) == 82
