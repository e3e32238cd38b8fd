"""Instructions leave a queue as they were written, with their offsets, in order."""

import dataclasses
import random

import pytest
from programs import random_instruction
from simulation import simulate, sink, until

from palquant.hw import isa
from palquant.hw.isa import Opcode
from palquant.hw.presets import geometry
from palquant.hw.queues import InstructionQueue

KILOMAC = geometry("kilomac")


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.COMPUTE], ids=lambda o: o.name)
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("bits", [32, 128, 256])
@pytest.mark.parametrize("stall", [0.0, 0.9])
def test_queue_keeps_instructions(opcode, depth, bits, stall):
    g = dataclasses.replace(KILOMAC, bus_bits=bits, queue_depth=depth)
    layout = isa.LAYOUTS[opcode]
    dut = InstructionQueue(g, layout)
    rng = random.Random(depth)
    instructions = [random_instruction(rng, opcode) for _ in range(10)]
    received, offsets = [], []

    async def write(ctx):
        port = dut.write
        for number, instruction in enumerate(instructions):
            while not ctx.get(port.room):
                await ctx.tick()
            beats = len(instruction) // g.bus_bytes
            for index in range(beats):
                beat = instruction[index * g.bus_bytes : (index + 1) * g.bus_bytes]
                ctx.set(port.data, int.from_bytes(beat, "little"))
                ctx.set(port.beat, index)
                ctx.set(port.enable, 1)
                ctx.set(port.commit, index == beats - 1)
                ctx.set(port.offset, 100 * number)
                await ctx.tick()
            ctx.set(port.enable, 0)
            ctx.set(port.commit, 0)

    async def watch(ctx):
        while True:
            _, _, valid, ready, offset = await ctx.tick().sample(
                dut.read.valid, dut.read.ready, dut.offset
            )
            if valid and ready:
                offsets.append(offset)

    simulate(
        dut,
        until(lambda: len(received) == len(instructions)),
        watch,
        sink(dut.read, received, stall=stall),
        testbenches=[write],
    )
    assert [layout.encode(fields) for _, fields in received] == instructions
    assert offsets == [100 * number for number in range(len(instructions))]


@pytest.mark.parametrize("depth", [1, 4])
def test_queue_holds_its_depth(depth):
    g = dataclasses.replace(KILOMAC, queue_depth=depth)
    dut = InstructionQueue(g, isa.TRANSFER)

    async def main(ctx):
        ctx.set(dut.write.enable, 1)
        ctx.set(dut.write.commit, 1)
        for _ in range(depth):
            assert ctx.get(dut.write.room)
            await ctx.tick()
        ctx.set(dut.write.commit, 0)
        assert not ctx.get(dut.write.room)
        ctx.set(dut.read.ready, 1)
        await ctx.tick()
        assert ctx.get(dut.write.room)
        assert ctx.get(dut.read.valid) == (depth > 1)

    simulate(dut, main)
