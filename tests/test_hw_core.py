"""Everything that can go wrong is reported with its place, and a reset brings the machine back."""

import dataclasses
import random
from collections import deque
from copy import copy

import pytest
from machine import IMAGE, INPUT, OUTPUT, REGION_BYTES, Machine, Tiles
from programs import instruction_offsets

from palquant.hw import isa
from palquant.hw.isa import Base, Memory, Opcode
from palquant.hw.presets import geometry
from palquant.hw.registers import ErrorCode, Stall

TINY = geometry("tiny")
TRANSFER = {"rows": 1, "row_beats": 2}
LOAD = {"memory": Memory.WEIGHT, "base": Base.INPUT, **TRANSFER}
STORE = {"memory": Memory.OUTPUT, "base": Base.OUTPUT, **TRANSFER}


async def expect_good_run(ctx, machine):
    """Whatever happened before: a run must work now."""
    tiles = Tiles(machine.geometry, count=3, seed=5, max_beats=6)
    machine.load(tiles.program)
    await machine.start(ctx)
    status = await machine.interrupt(ctx)
    assert (status["done"], status["error"], status["code"]) == (1, 0, ErrorCode.NONE)
    data = machine.memory.dump(INPUT, tiles.bytes)
    assert machine.memory.dump(OUTPUT, tiles.bytes) == tiles.reference(data)


async def reset(ctx, machine):
    """Reset by the host, and wait until it has happened."""
    await machine.write(ctx, "CONTROL", reset=1)
    for _ in range(200):
        if not any((await machine.read(ctx, "STATUS")).values()):
            return
    raise AssertionError("the reset never ended")


def run_into(machine, code, offset, *, check=None, **settings):
    """Run into an error, look at what is reported, reset, and run again."""

    async def main(ctx):
        await machine.start(ctx, **settings)
        status = await machine.interrupt(ctx)
        assert (status["done"], status["error"]) == (0, 1)
        assert (ErrorCode(status["code"]), await machine.read(ctx, "ERROR_ADDRESS")) == (
            code,
            offset,
        )
        if check is not None:
            await check(ctx)
        await machine.write(ctx, "CONTROL", start=1)  # has no effect after an error
        await ctx.tick().repeat(100)
        assert (await machine.read(ctx, "STATUS"))["error"]
        machine.memory.read_errors.clear()
        machine.memory.write_errors.clear()
        machine.memory.wrong_last.clear()
        machine.memory.wrong_identifiers.clear()
        machine.double.overrun_at = None
        await reset(ctx, machine)
        assert machine.memory.quiet
        assert await machine.read(ctx, "ERROR_ADDRESS") == 0
        await expect_good_run(ctx, machine)

    machine.run(main)


def program(*instructions):
    return [isa.encode(opcode, **fields) for opcode, fields in instructions] + [
        isa.encode(Opcode.END)
    ]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"magic": 0}, ErrorCode.MAGIC),
        ({"version": 99}, ErrorCode.VERSION),
        ({"geometry": 1}, ErrorCode.GEOMETRY),
    ],
)
def test_image_for_another_machine(header, code):
    machine = Machine(TINY)
    machine.load(Tiles(TINY, count=2).program, **header)
    run_into(machine, code, 0)


@pytest.mark.parametrize(("position", "stall"), [(0, 0.0), (4, 0.3)])
def test_unknown_opcode(position, stall):
    machine = Machine(TINY, stall=stall, latency=5)
    tiles = Tiles(TINY, count=3)
    tiles.program[position] = bytes(isa.UNIT_BYTES)
    machine.load(tiles.program)
    run_into(machine, ErrorCode.OPCODE, instruction_offsets(tiles.program)[position])


BAD_TRANSFERS = {
    "load behind the image": (Opcode.LOAD, {**LOAD, "base": Base.IMAGE, "dram_offset": 0x3000}),
    "load behind the input": (Opcode.LOAD, {**LOAD, "dram_offset": REGION_BYTES - 8}),
    "store behind the output": (Opcode.STORE, {**STORE, "dram_offset": REGION_BYTES - 8}),
    "load behind the memory": (Opcode.LOAD, {**LOAD, "address": (1 << 20) - 1}),
    "load into the output buffer": (Opcode.LOAD, {**LOAD, "memory": Memory.OUTPUT}),
    "store from the weights": (Opcode.STORE, {**STORE, "memory": Memory.WEIGHT}),
    "store behind the memory": (Opcode.STORE, {**STORE, "address": (1 << 20) - 1}),
    "store into the input": (Opcode.STORE, {**STORE, "base": Base.INPUT}),
}


@pytest.mark.parametrize("bad", BAD_TRANSFERS.values(), ids=BAD_TRANSFERS)
def test_bad_address(bad):
    machine = Machine(TINY, latency=20)
    loads = [(Opcode.LOAD, {**LOAD, "row_beats": 60})] * 2
    machine.load(program(*loads, bad, (Opcode.LOAD, LOAD)))
    run_into(machine, ErrorCode.ADDRESS, 0x40 + 2 * isa.UNIT_BYTES)


def test_empty_transfer_is_an_illegal_instruction():
    machine = Machine(TINY)
    machine.load(program((Opcode.LOAD, LOAD), (Opcode.STORE, {**STORE, "rows": 0})))
    run_into(machine, ErrorCode.OPCODE, 0x40 + isa.UNIT_BYTES)


@pytest.mark.parametrize(("tile", "stall"), [(0, 0.0), (3, 0.3)])
def test_read_response(tile, stall):
    machine = Machine(TINY, stall=stall, latency=12)
    tiles = Tiles(TINY, count=5)
    machine.load(tiles.program)
    machine.memory.read_errors.add(INPUT + tiles.tiles[tile][2])
    where = [i for i, word in enumerate(tiles.program) if word[0] & 15 == Opcode.LOAD][tile]
    run_into(machine, ErrorCode.READ_RESPONSE, instruction_offsets(tiles.program)[where])


@pytest.mark.parametrize(("tile", "stall"), [(0, 0.0), (3, 0.3)])
def test_write_response(tile, stall):
    machine = Machine(TINY, stall=stall, latency=12)
    tiles = Tiles(TINY, count=5)
    machine.load(tiles.program)
    machine.memory.write_errors.add(OUTPUT + tiles.tiles[tile][2])
    where = [i for i, word in enumerate(tiles.program) if word[0] & 15 == Opcode.STORE][tile]
    run_into(machine, ErrorCode.WRITE_RESPONSE, instruction_offsets(tiles.program)[where])


@pytest.mark.parametrize("last", [False, True], ids=["early", "missing"])
@pytest.mark.parametrize(("tile", "stall"), [(0, 0.0), (3, 0.3)])
def test_load_s_burst_that_ends_at_a_wrong_beat(tile, stall, last):
    machine = Machine(TINY, stall=stall, latency=12)
    tiles = Tiles(TINY, count=5, seed=4)
    machine.load(tiles.program)
    _, beats, place = tiles.tiles[tile]
    assert beats > 1
    machine.memory.wrong_last.add(INPUT + place + (beats - 1) * last * TINY.bus_bytes)
    where = [i for i, word in enumerate(tiles.program) if word[0] & 15 == Opcode.LOAD][tile]
    run_into(machine, ErrorCode.READ_RESPONSE, instruction_offsets(tiles.program)[where])


@pytest.mark.parametrize(("beat", "offset"), [(1, 0), (8, 0x40), (15, 0x60)])
def test_instruction_s_burst_that_ends_at_a_wrong_beat(beat, offset):
    machine = Machine(TINY, latency=12)
    program = Tiles(TINY, count=3).program
    machine.load(program)
    assert offset in (0, *instruction_offsets(program))
    machine.memory.wrong_last.add(IMAGE + beat * TINY.bus_bytes)
    run_into(machine, ErrorCode.READ_RESPONSE, offset)


def test_write_that_is_acknowledged_with_a_wrong_identifier():
    machine = Machine(TINY, latency=12)
    tiles = Tiles(TINY, count=5)
    machine.load(tiles.program)
    machine.memory.wrong_identifiers.add(OUTPUT + tiles.tiles[3][2])
    where = [i for i, word in enumerate(tiles.program) if word[0] & 15 == Opcode.STORE][3]
    run_into(machine, ErrorCode.WRITE_RESPONSE, instruction_offsets(tiles.program)[where])


UNASKED = {
    "read of the fetch unit": ("unasked_reads", deque([0]), ErrorCode.READ_RESPONSE),
    "read of the load engine": ("unasked_reads", deque([1, 1]), ErrorCode.READ_RESPONSE),
    "write": ("unasked_responses", 2, ErrorCode.WRITE_RESPONSE),
}


@pytest.mark.parametrize("case", UNASKED.values(), ids=UNASKED)
@pytest.mark.parametrize("in_run", [True, False], ids=["in a run", "before it"])
def test_answer_that_nobody_asked_for(case, in_run):
    attribute, answers, code = case
    machine = Machine(TINY)
    machine.load(program((Opcode.LOAD, LOAD), (Opcode.STORE, {**STORE, "wait_compute": 1})))

    async def main(ctx):
        if in_run:
            await machine.start(ctx)
            await ctx.tick().repeat(150)  # everything waits for a token
            assert (await machine.read(ctx, "STATUS"))["busy"]
        setattr(machine.memory, attribute, copy(answers))
        await ctx.tick().repeat(20)
        status = await machine.read(ctx, "STATUS")
        if in_run:
            assert (status["error"], status["code"]) == (1, code)
            assert await machine.read(ctx, "ERROR_ADDRESS") == 0x40 + isa.UNIT_BYTES
            await reset(ctx, machine)
            await machine.write(ctx, "INTERRUPT_STATUS", error=1)
        else:
            assert set(status.values()) == {0}  # dropped
        assert not getattr(machine.memory, attribute)
        await expect_good_run(ctx, machine)

    machine.run(main)


def test_overrun():
    machine = Machine(TINY, latency=5)
    tiles = Tiles(TINY, count=4)
    machine.load(tiles.program)
    machine.double.overrun_at = 2
    where = [i for i, word in enumerate(tiles.program) if word[0] & 15 == Opcode.COMPUTE][2]
    run_into(machine, ErrorCode.OVERRUN, instruction_offsets(tiles.program)[where])


def test_token_overflow():
    machine = Machine(TINY)
    count = (1 << TINY.token_bits) + 3
    load = (Opcode.LOAD, {**LOAD, "row_beats": 1, "signal_store": 1})
    machine.load(program(*[load] * count))
    run_into(
        machine, ErrorCode.TOKEN_OVERFLOW, 0x40 + ((1 << TINY.token_bits) - 1) * isa.UNIT_BYTES
    )


def test_tokens_left_over_do_not_disturb_the_next_run():
    machine = Machine(TINY)
    tokens = {"signal_compute": 1, "signal_store": 1}
    machine.load(program(*[(Opcode.LOAD, {**LOAD, **tokens})] * 3))

    async def main(ctx):
        await machine.start(ctx)
        assert (await machine.interrupt(ctx))["done"]
        await expect_good_run(ctx, machine)

    machine.run(main)


DEADLOCKS = {
    "load waits for compute": ((Opcode.LOAD, {**LOAD, "wait_compute": 1}), "load", Stall.COMPUTE),
    "load waits for store": ((Opcode.LOAD, {**LOAD, "wait_store": 1}), "load", Stall.STORE),
    "compute waits for load": (
        (Opcode.COMPUTE, {"wait_load": 1, "wait_store": 1}),
        "compute",
        Stall.LOAD,
    ),
    "compute waits for store": ((Opcode.COMPUTE, {"wait_store": 1}), "compute", Stall.STORE),
    "store waits for compute": (
        (Opcode.STORE, {**STORE, "wait_compute": 1}),
        "store",
        Stall.COMPUTE,
    ),
}


@pytest.mark.parametrize("case", DEADLOCKS.values(), ids=DEADLOCKS)
def test_watchdog_names_the_token_that_never_comes(case):
    instruction, unit, stall = case
    machine = Machine(TINY)
    machine.load(program((Opcode.LOAD, LOAD), instruction))

    async def check(ctx):
        expected = dict.fromkeys(("fetch", "load", "compute", "store"), Stall.IDLE)
        expected |= {"fetch": Stall.DRAIN, unit: stall}
        assert await machine.read(ctx, "STALL") == expected

    run_into(machine, ErrorCode.WATCHDOG, 0x40 + isa.UNIT_BYTES, check=check, WATCHDOG_LIMIT=200)


def test_watchdog_names_the_full_queue():
    machine = Machine(TINY)
    stuck = (Opcode.STORE, {**STORE, "wait_load": 1})
    machine.load(program(*[stuck] * (TINY.queue_depth + 1), (Opcode.LOAD, LOAD)))

    async def check(ctx):
        found = await machine.read(ctx, "STALL")
        assert (found["fetch"], found["store"]) == (Stall.STORE, Stall.LOAD)

    run_into(machine, ErrorCode.WATCHDOG, 0x40, check=check, WATCHDOG_LIMIT=200)


@pytest.mark.parametrize(
    ("channel", "when"),
    [("ar", 1), ("r", 1), ("ar", 140), ("r", 90), ("aw", 1), ("w", 140), ("b", 90)],
)
def test_memory_that_answers_no_more_and_then_again(channel, when):
    machine = Machine(TINY, latency=3)
    tiles = Tiles(TINY, count=30, max_beats=12)
    machine.load(tiles.program)
    memory = machine.memory

    async def main(ctx):
        await machine.start(ctx, WATCHDOG_LIMIT=150)
        await ctx.tick().repeat(when)
        memory.deaf.add(channel)
        status = await machine.interrupt(ctx)
        assert status["code"] == ErrorCode.WATCHDOG
        stalls = set((await machine.read(ctx, "STALL")).values())
        blocked = {"ar": Stall.ADDRESS, "aw": Stall.ADDRESS, "b": Stall.RESPONSE}
        assert blocked.get(channel, Stall.DATA) in stalls
        await machine.write(ctx, "CONTROL", reset=1)
        await ctx.tick().repeat(100)
        status = await machine.read(ctx, "STATUS")
        assert (status["busy"], status["resetting"]) == (1, 1)
        await machine.write(ctx, "CONTROL", start=1)  # too early
        memory.deaf.clear()
        for _ in range(300):
            if not any((await machine.read(ctx, "STATUS")).values()):
                break
        assert memory.quiet
        await expect_good_run(ctx, machine)

    machine.run(main)


@pytest.mark.parametrize("seed", range(4))
def test_reset_in_the_middle_of_a_run(seed):
    rng = random.Random(seed)
    machine = Machine(TINY, latency=rng.randrange(30), stall=rng.choice([0.0, 0.3]))
    tiles = Tiles(TINY, count=30, seed=seed)
    machine.load(tiles.program)

    async def main(ctx):
        await machine.start(ctx)
        await ctx.tick().repeat(rng.randrange(1, 300))
        await reset(ctx, machine)
        assert machine.memory.quiet
        assert set((await machine.counters(ctx)).values()) == {0}
        assert await machine.read(ctx, "IMAGE_ADDRESS") == IMAGE
        assert set((await machine.read(ctx, "INTERRUPT_STATUS")).values()) == {0}
        await expect_good_run(ctx, machine)

    machine.run(main)


@pytest.mark.parametrize("event", ["done", "error"])
def test_events_stay_over_a_reset_until_they_are_cleared(event):
    machine = Machine(TINY)
    machine.load(program((Opcode.LOAD, LOAD)) if event == "done" else [bytes(isa.UNIT_BYTES)])

    async def main(ctx):
        await machine.start(ctx)
        await ctx.tick().repeat(200)
        assert (await machine.read(ctx, "STATUS"))[event]
        await reset(ctx, machine)
        found = await machine.read(ctx, "INTERRUPT_STATUS")
        assert found == {"done": event == "done", "error": event == "error"}
        assert ctx.get(machine.dut.irq)
        await machine.write(ctx, "INTERRUPT_STATUS", **found)
        assert not ctx.get(machine.dut.irq)
        await expect_good_run(ctx, machine)

    machine.run(main)


def test_compute_that_hangs_is_no_obstacle_to_a_reset():
    machine = Machine(TINY, latency=3)
    machine.load(Tiles(TINY, count=30).program)

    async def main(ctx):
        await machine.start(ctx, WATCHDOG_LIMIT=150)
        await ctx.tick().repeat(120)
        machine.double.port_stall = 1.0  # neither loads nor stores reach the on-chip memories
        assert (await machine.interrupt(ctx))["code"] == ErrorCode.WATCHDOG
        assert Stall.MEMORY in (await machine.read(ctx, "STALL")).values()
        await reset(ctx, machine)
        machine.double.port_stall = 0.0
        await expect_good_run(ctx, machine)

    machine.run(main)


def test_misaligned_regions_are_refused():
    g = dataclasses.replace(TINY, counters=False)
    for name, code in (("IMAGE_ADDRESS", 0), ("INPUT_ADDRESS", 0x40)):
        machine = Machine(g)
        machine.load(program((Opcode.LOAD, LOAD)))
        base = IMAGE if name == "IMAGE_ADDRESS" else INPUT
        run_into(machine, ErrorCode.ADDRESS, code, **{name: base + TINY.bus_bytes // 2})
    assert base + TINY.bus_bytes < IMAGE + 3 * REGION_BYTES
