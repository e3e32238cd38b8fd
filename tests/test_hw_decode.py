"""The decoder accepts what the instruction table accepts, and nothing else."""

import dataclasses
import random

import pytest
from amaranth import Module
from amaranth.sim import Simulator
from programs import random_instruction

from palquant.errors import InstructionError
from palquant.hw import isa
from palquant.hw.decode import ENGINES, Decoder, bits_above
from palquant.hw.isa import Opcode
from palquant.hw.presets import geometry
from palquant.hw.tokens import Engine

KILOMAC = geometry("kilomac")
BUSES = [32, 64, 128, 256]


def decode(bits, instruction, **sizes):
    """(opcode, one-hot engine, number of the last beat), or the number of the illegal beat."""
    g = dataclasses.replace(KILOMAC, bus_bits=bits, **sizes)
    dut = Decoder(g)
    m = Module()
    m.submodules.dut = dut
    m.d.comb += dut.above.eq(bits_above(g, dut.data))
    result = []

    async def main(ctx):
        held = 0
        for index in range(len(instruction) // g.bus_bytes):
            beat = instruction[index * g.bus_bytes : (index + 1) * g.bus_bytes]
            ctx.set(dut.data, int.from_bytes(beat, "little"))
            ctx.set(dut.index, index)
            ctx.set(dut.held, held)
            if ctx.get(dut.illegal):
                result.append(index)
                return
            opcode = ctx.get(dut.opcode)
            assert not index or opcode == held
            held = opcode
            if ctx.get(dut.last):
                result.append((opcode, ctx.get(dut.engines), index))
                return

    simulator = Simulator(m)
    simulator.add_testbench(main)
    simulator.run()
    return result[0]


@pytest.mark.parametrize("bits", BUSES)
@pytest.mark.parametrize("opcode", isa.LAYOUTS, ids=lambda o: o.name)
def test_legal_instructions(bits, opcode):
    rng = random.Random(bits)
    engine = 1 << ENGINES[opcode] if opcode in ENGINES else 0
    beats = isa.LAYOUTS[opcode].size // bits
    for _ in range(5):
        assert decode(bits, random_instruction(rng, opcode)) == (opcode, engine, beats - 1)


@pytest.mark.parametrize("bits", BUSES)
def test_unknown_opcodes(bits):
    for opcode in set(range(16)) - set(isa.LAYOUTS):
        assert decode(bits, opcode.to_bytes(32, "little")) == 0


@pytest.mark.parametrize("opcode", isa.LAYOUTS, ids=lambda o: o.name)
def test_tokens_that_the_engine_must_not_have(opcode):
    for engine in Engine:
        for kind in ("wait", "signal"):
            field = f"{kind}_{engine.name.lower()}"
            own = ENGINES.get(opcode, engine) is engine
            result = decode(64, isa.encode(opcode, **{field: 1}))
            assert (result == 0) is own


@pytest.mark.parametrize("bits", BUSES)
@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.COMPUTE, Opcode.END], ids=lambda o: o.name)
def test_reserved_bits(bits, opcode):
    layout = isa.LAYOUTS[opcode]
    legal = int.from_bytes(isa.encode(opcode), "little")
    reserved = {layout.used, layout.size - 1, *range(layout.used, layout.size, 37)}
    for bit in sorted(reserved):
        instruction = (legal | 1 << bit).to_bytes(layout.size // 8, "little")
        assert decode(bits, instruction) == bit // bits


@pytest.mark.parametrize("bits", BUSES)
@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.COMPUTE], ids=lambda o: o.name)
def test_values_that_the_machine_does_not_hold(bits, opcode):
    sizes = {"address_bits": 15, "dram_bits": 18, "extent_bits": 6}
    narrow = dataclasses.replace(KILOMAC, **sizes)
    layout = isa.LAYOUTS[opcode]
    last = layout.size // bits - 1
    for item in layout.fields:
        held = item.held(narrow)
        if item.bits == held.bits:
            continue
        place = layout.offsets[item.name] + held.bits
        for value in (held.min, held.max):
            assert decode(bits, isa.encode(opcode, **{item.name: value}), **sizes)[2] == last
        for value in {item.min, held.min - 1, held.max + 1, item.max} - {-1, held.min}:
            instruction = isa.encode(opcode, **{item.name: value})
            assert decode(bits, instruction, **sizes) in range(place // bits, last + 1)
            with pytest.raises(InstructionError, match=rf"{item.name} is {value}; geometry"):
                layout.require_held({item.name: value}, narrow)
