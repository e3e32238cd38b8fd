"""Every field of every slot is where the instruction set puts it, whatever the bus width."""

import random

import pytest
from post_bench import parameter_words, random_slot, simulate, small_geometry

from palquant.hw import isa
from palquant.hw.isa import Memory
from palquant.hw.parameters import ParameterMemory

SIZES = [
    {"lanes": 2, "bus_bits": 32, "parameter_slots": 3},
    {"lanes": 4, "bus_bits": 64, "parameter_slots": 2, "tin": 8},
    {"lanes": 4, "bus_bits": 32, "parameter_slots": 1, "threshold_bits": 17, "offset_bits": 20},
]


async def write(ctx, dut, slots, memory=Memory.PARAMETER):
    """Load slots, a bus beat a cycle."""
    ctx.set(dut.write.valid, 1)
    ctx.set(dut.write.memory, memory)
    for address, word in parameter_words(dut.geometry, slots):
        ctx.set(dut.write.address, address)
        ctx.set(dut.write.data, word)
        assert ctx.get(dut.write.ready)
        await ctx.tick()
    ctx.set(dut.write.valid, 0)
    await ctx.tick()


async def read(ctx, port, slot, places=()):
    """What a port answers, which must stay while the port is not enabled."""
    ctx.set(port.slot, slot)
    for position, place in zip(port.position if places else (), places, strict=True):
        ctx.set(position, place)
    ctx.set(port.enable, 1)
    await ctx.tick()
    ctx.set(port.enable, 0)
    ctx.set(port.slot, 0)
    first = [ctx.get(word) for word in port.data]
    await ctx.tick()
    assert [ctx.get(word) for word in port.data] == first
    return first


@pytest.mark.parametrize("sizes", SIZES)
def test_all_fields(sizes):
    geometry = small_geometry("parameters", **sizes)
    rng = random.Random(geometry.lanes)
    slots, controls = {}, {}
    for slot in range(geometry.parameter_slots):
        slots[slot], controls[slot] = random_slot(rng, geometry)
    dut = ParameterMemory(geometry)
    ports = {
        "scale": [dut.scale],
        "shift": [dut.shift],
        "valid": [dut.valid],
        "negate1": [dut.negate[0]],
        "negate2": [dut.negate[1]],
        "group": [dut.code_group, dut.residual_group],
    }

    async def bench(ctx):
        await write(ctx, dut, slots)
        for slot, rows in slots.items():
            for name, users in ports.items():
                expected = [lane[name] for lane in controls[slot]]
                for port in users:
                    assert await read(ctx, port, slot) == expected, (slot, name)
            assert await read(ctx, dut.offset, slot) == rows[isa.ROW_OFFSET]
            for tensor, reads in enumerate(dut.thresholds):
                tree = isa.THRESHOLD_ROWS[tensor]
                assert await read(ctx, reads.first, slot) == rows[tree[1]]
                end = 1 << geometry.threshold_levels
                for position in range(2, end):
                    # Lanes read different places of the tree.
                    places = [2 + (position + lane) % (end - 2) for lane in range(geometry.lanes)]
                    expected = [rows[tree[place]][lane] for lane, place in enumerate(places)]
                    assert await read(ctx, reads.deeper, slot, places) == expected

    simulate(dut, bench)


def test_beats_of_other_memories_are_ignored():
    geometry = small_geometry("other")
    rng = random.Random(1)
    slot, controls = random_slot(rng, geometry)
    others = [random_slot(rng, geometry)[0] for _ in range(len(Memory))]
    dut = ParameterMemory(geometry)

    async def bench(ctx):
        await write(ctx, dut, {0: slot})
        for memory, other in zip(Memory, others, strict=True):
            if memory is not Memory.PARAMETER:
                await write(ctx, dut, {0: other}, memory)
        assert await read(ctx, dut.scale, 0) == [lane["scale"] for lane in controls]
        assert await read(ctx, dut.offset, 0) == slot[isa.ROW_OFFSET]

    simulate(dut, bench)


def test_lanes_and_slots_are_written_alone():
    """A bus beat changes its own lanes of its own slot, and nothing else."""
    geometry = small_geometry("alone", lanes=4, parameter_slots=3)
    rng = random.Random(2)
    slots = {slot: random_slot(rng, geometry)[0] for slot in range(3)}
    dut = ParameterMemory(geometry)
    beats = geometry.parameter_bits_per_row // geometry.bus_bits
    changed = (1 * 32 + isa.ROW_OFFSET) * beats + 2

    async def bench(ctx):
        await write(ctx, dut, slots)
        ctx.set(dut.write.memory, Memory.PARAMETER)
        ctx.set(dut.write.address, changed)
        ctx.set(dut.write.data, 12345)
        ctx.set(dut.write.valid, 1)
        await ctx.tick()
        ctx.set(dut.write.valid, 0)
        await ctx.tick()
        slots[1][isa.ROW_OFFSET][2] = 12345
        for slot, rows in slots.items():
            assert await read(ctx, dut.offset, slot) == rows[isa.ROW_OFFSET]
            assert await read(ctx, dut.thresholds[0].first, slot) == rows[2]

    simulate(dut, bench)
