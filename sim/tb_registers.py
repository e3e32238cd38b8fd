"""cocotb test bench: the register map against its table, and every documented error.

After each error comes a reset and a good run: nothing that goes wrong may need more than that.

Parameters: ``geometry`` (its fields), ``stall`` (probability).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles

from palquant.hw.arbiter import ReadSource
from palquant.hw.registers import (
    ADDRESS_BITS,
    IDENTIFICATION,
    REGISTERS,
    Access,
    ErrorCode,
    Register,
    Stall,
)
from palquant.sim.cocotb_runner import bench_parameters
from palquant.sim.programs import Program, blocked, copy_program, faults
from palquant.sim.tb_bench import Bench, geometry_of
from palquant.sw.regions import Regions

#: Cycles that a small program may take, stalls included.
RUN_CYCLES = 60_000
#: Simulated time that one test may take.
TIMEOUT_MS = 100
#: Watchdog limit of the tests: far more than any stall, far less than a run may take.
WATCHDOG = 1000
#: Registers whose writing does more than to keep a value, or whose value moves by itself.
ACTIVE = ("CONTROL", "INTERRUPT_STATUS")


async def _bench(dut: HierarchyObject) -> tuple[Bench, Program, Regions]:
    """A machine after reset, with a program that it could run."""
    parameters = bench_parameters()
    geometry = geometry_of(parameters)
    program = copy_program(geometry, seed=cocotb.RANDOM_SEED, tiles=3, images=2, beats=80)
    largest = max(len(program.image), *(len(fault.image) for fault in faults(geometry)))
    regions = Regions.place(
        geometry, largest, program.inputs.shape[1], program.outputs.shape[1], len(program.inputs)
    )
    memory = (regions.base, regions.size)
    bench = Bench(dut, geometry, memory=memory, stall=parameters["stall"])
    await bench.start()
    return bench, program, regions


def _writable(register: Register) -> int:
    """Bits that keep what is written to them."""
    return sum(
        register.mask(name)
        for name, (field, _) in register.fields.items()
        if field.access is Access.READ_WRITE
    )


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def reset_values(dut: HierarchyObject) -> None:
    """After a reset every register holds its table's value, or its machine's identification."""
    bench, _, _ = await _bench(dut)
    geometry = bench.geometry
    known = {
        **IDENTIFICATION,
        "GEOMETRY": geometry.identity,
        "CAPABILITY": REGISTERS["CAPABILITY"].encode(
            tin=geometry.tin,
            tout=geometry.tout,
            lanes=geometry.lanes,
            bus_bytes=geometry.bus_bytes,
            counters=geometry.counters,
        ),
    }
    for name, register in REGISTERS.items():
        value = await bench.read(name)
        expected = known.get(name, register.reset)
        assert value == expected, f"{name} is {value:#x} after reset, expected {expected:#x}"


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def access_types(dut: HierarchyObject) -> None:
    """Fields that can be written keep what is written, byte by byte; all others refuse."""
    bench, _, _ = await _bench(dut)
    contents = {name: await bench.read(name) for name in REGISTERS}
    for name, register in REGISTERS.items():
        if name in ACTIVE:
            continue
        mask = _writable(register)
        for byte, length in ((0, 4), *((byte, 1) for byte in bench.rng.sample(range(4), 4))):
            data = bench.rng.randbytes(length)
            await bench.write_bytes(register.offset + byte, data, refused=not mask)
            strobe = (1 << 8 * length) - 1 << 8 * byte & mask
            value = int.from_bytes(data, "little") << 8 * byte
            contents[name] = contents[name] & ~strobe | value & strobe
            found = await bench.read(name)
            assert found == contents[name], (
                f"{name} is {found:#x} after writing bytes {byte} to {byte + length - 1}, "
                f"expected {contents[name]:#x}"
            )
    for name, expected in contents.items():  # no write went to another register
        found = await bench.read(name)
        assert found == expected, f"{name} is {found:#x}, expected {expected:#x}"


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def addresses_without_register(dut: HierarchyObject) -> None:
    """Accesses beyond the map are refused and do nothing."""
    bench, _, _ = await _bench(dut)
    contents = {name: await bench.read(name) for name in REGISTERS}
    end = max(register.offset for register in REGISTERS.values()) + 4
    for offset in (end, end + 4, (1 << ADDRESS_BITS) - 4, 1 << ADDRESS_BITS - 1):
        await bench.read_word(offset, refused=True)
        await bench.write_bytes(offset, b"\xff" * 4, refused=True)
    assert contents == {name: await bench.read(name) for name in REGISTERS}


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def doorbell_needs_its_own_byte(dut: HierarchyObject) -> None:
    """A write to CONTROL that leaves out the doorbell's byte, or writes 0, starts nothing."""
    bench, program, regions = await _bench(dut)
    await bench.prepare(program.image, regions, 1)
    control = REGISTERS["CONTROL"]
    await bench.write_bytes(control.offset + 1, b"\xff\xff\xff")
    await bench.write("CONTROL", 0)
    await ClockCycles(bench.clk, 100)
    assert await bench.read("STATUS") == 0
    assert bench.irq.value == 0


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def interrupt_is_masked(dut: HierarchyObject) -> None:
    """Without INTERRUPT_ENABLE the line stays low, and the event is there all the same."""
    bench, program, regions = await _bench(dut)
    bench.load_inputs(program, regions)
    await bench.prepare(program.image, regions, 1)
    await bench.write("INTERRUPT_ENABLE", error=1)
    await bench.ring()
    for _ in range(RUN_CYCLES):
        if (await bench.fields("STATUS"))["done"]:
            break
    assert bench.irq.value == 0
    assert await bench.fields("INTERRUPT_STATUS") == {"done": 1, "error": 0}
    await bench.write("INTERRUPT_ENABLE", done=1)
    await bench.interrupt(10)
    await bench.write("INTERRUPT_STATUS", error=1)  # clears only what is written as 1
    assert await bench.fields("INTERRUPT_STATUS") == {"done": 1, "error": 0}
    await bench.expect(ErrorCode.NONE)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def faulty_programs(dut: HierarchyObject) -> None:
    """Every faulty program is refused with its code and place; then a good one runs."""
    bench, program, regions = await _bench(dut)
    for fault in faults(bench.geometry):
        dut._log.info("fault: %s", fault.name)
        await bench.prepare(fault.image, regions, 1)
        await bench.ring()
        await bench.interrupt(RUN_CYCLES)
        await bench.expect(fault.code)
        address = await bench.read("ERROR_ADDRESS")
        assert address == fault.address, f"{fault.name}: ERROR_ADDRESS is {address:#x}"
        await bench.ring()  # in error, the doorbell is ignored
        await ClockCycles(bench.clk, 50)
        assert (await bench.fields("STATUS"))["error"] == 1
        await bench.recover()
        await bench.run(program, regions, cycles=RUN_CYCLES)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def faulty_memory(dut: HierarchyObject) -> None:
    """An error response to a read or a write is reported as such; then a good run."""
    bench, program, regions = await _bench(dut)
    assert program.read is not None
    read, written = (bench.rng.choice(np.flatnonzero(m)) for m in (program.read, program.written))
    for attribute, address, code in (
        ("read_error", regions.image, ErrorCode.READ_RESPONSE),
        ("read_error", regions.input + read, ErrorCode.READ_RESPONSE),
        ("write_error", regions.output + written, ErrorCode.WRITE_RESPONSE),
    ):
        bench.load_inputs(program, regions)
        await bench.prepare(program.image, regions, 1)
        setattr(bench.memory, attribute, address)
        await bench.ring()
        await bench.interrupt(RUN_CYCLES)
        await bench.expect(code)
        setattr(bench.memory, attribute, None)
        await bench.recover()
        await bench.run(program, regions, cycles=RUN_CYCLES)


@contextlib.contextmanager
def _altered(channel: Any, field: str, identifier: tuple[str, int], number: int) -> Iterator[None]:
    """Invert a bit of what the memory sends: of the channel's ``number``-th with an identifier."""
    send, name = channel.send, identifier[0]
    left = number

    async def altered(item: Any) -> None:
        nonlocal left
        if int(getattr(item, name)) == identifier[1]:
            if left == 0:
                setattr(item, field, int(getattr(item, field)) ^ 1)
            left -= 1
        await send(item)

    channel.send = altered
    yield
    channel.send = send


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def memory_that_breaks_the_rules(dut: HierarchyObject) -> None:
    """A wrong RLAST or BID, and answers that nobody asked for, are reported; then a good run."""
    bench, program, regions = await _bench(dut)
    for channel, field, identifier, number, code in (
        ("R", "rlast", ("rid", ReadSource.FETCH), 0, ErrorCode.READ_RESPONSE),
        ("R", "rlast", ("rid", ReadSource.LOAD), bench.rng.randrange(20), ErrorCode.READ_RESPONSE),
        ("B", "bid", ("bid", 0), 0, ErrorCode.WRITE_RESPONSE),
    ):
        dut._log.info("wrong %s", field)
        bench.load_inputs(program, regions)
        await bench.prepare(program.image, regions, 1)
        with _altered(bench.channels[channel], field, identifier, number):
            await bench.ring()
            await bench.interrupt(RUN_CYCLES)
        await bench.expect(code)
        await bench.recover()
        await bench.run(program, regions, cycles=RUN_CYCLES)
    for channel, unasked, code in (
        ("R", {"rid": ReadSource.FETCH, "rlast": 1}, ErrorCode.READ_RESPONSE),
        ("R", {"rid": ReadSource.LOAD, "rlast": 1}, ErrorCode.READ_RESPONSE),
        ("B", {"bid": 0}, ErrorCode.WRITE_RESPONSE),
    ):
        dut._log.info("unasked: %s", unasked)
        await bench.prepare(blocked(bench.geometry), regions, 1)
        await bench.ring()
        await ClockCycles(bench.clk, WATCHDOG)  # nothing moves any more
        assert not bench.irq.value
        item = bench.channels[channel]._transaction_obj()
        for name, value in unasked.items():
            setattr(item, name, value)
        bench.channels[channel].send_nowait(item)
        await bench.interrupt(RUN_CYCLES)
        await bench.expect(code)
        await bench.recover()
        await bench.run(program, regions, cycles=RUN_CYCLES)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def silent_memory(dut: HierarchyObject) -> None:
    """A channel that never moves again ends in the watchdog's error; then a good run."""
    bench, program, regions = await _bench(dut)
    probability = bench_parameters()["stall"]
    for channel in bench.channels:
        dut._log.info("silent channel: %s", channel)
        bench.load_inputs(program, regions)
        await bench.prepare(program.image, regions, 1)
        await bench.write("WATCHDOG_LIMIT", WATCHDOG)
        bench.channels[channel].clear_pause_generator()
        bench.channels[channel].pause = True
        await bench.ring()
        await bench.interrupt(RUN_CYCLES)
        await bench.expect(ErrorCode.WATCHDOG)
        stall = await bench.fields("STALL")
        waiting = {Stall(value) for value in stall.values()}
        assert waiting & {Stall.ADDRESS, Stall.DATA, Stall.RESPONSE}, f"{channel}: STALL is {stall}"
        bench.stall(probability)
        await bench.recover()
        await bench.run(program, regions, cycles=RUN_CYCLES)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def missing_token(dut: HierarchyObject) -> None:
    """A token that nobody gives ends in the watchdog's error, which says who waits for whom."""
    bench, program, regions = await _bench(dut)
    await bench.prepare(blocked(bench.geometry), regions, 1)
    await bench.write("WATCHDOG_LIMIT", WATCHDOG)
    await bench.ring()
    await bench.interrupt(RUN_CYCLES)
    await bench.expect(ErrorCode.WATCHDOG)
    stall = await bench.fields("STALL")
    assert Stall(stall["store"]) is Stall.LOAD
    assert Stall(stall["fetch"]) is Stall.DRAIN
    await bench.recover()
    await bench.run(program, regions, cycles=RUN_CYCLES)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def doorbell_while_busy(dut: HierarchyObject) -> None:
    """A doorbell during a run changes nothing, nor do settings: they are taken at the doorbell."""
    bench, program, regions = await _bench(dut)
    images = len(program.inputs)
    bench.load_inputs(program, regions)
    before = bench.memory.dump(regions.output, images * regions.output_stride)
    await bench.prepare(program.image, regions, images)
    await bench.ring()
    assert (await bench.fields("STATUS"))["busy"] == 1
    for name in regions.settings(images):
        await bench.write(name, bench.rng.getrandbits(32))
    await bench.ring()
    await bench.interrupt(RUN_CYCLES)
    await bench.expect(ErrorCode.NONE)
    bench.check_outputs(program, regions, before)
    await ClockCycles(bench.clk, 200)
    assert (await bench.fields("STATUS"))["busy"] == 0
    assert await bench.read("IMAGES_DONE") == images


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def settings_behind_the_doorbell(dut: HierarchyObject) -> None:
    """Settings written right behind the doorbell, before it is answered, are the next run's."""
    bench, program, regions = await _bench(dut)
    images = len(program.inputs)
    for first in regions.settings(images):
        bench.load_inputs(program, regions)
        before = bench.memory.dump(regions.output, images * regions.output_stride)
        await bench.prepare(program.image, regions, images)
        names = [first, *(name for name in regions.settings(images) if name != first)]
        accesses = [cocotb.start_soon(bench.ring())]
        accesses += [
            cocotb.start_soon(bench.write(name, bench.rng.getrandbits(32))) for name in names
        ]
        for access in accesses:
            await access
        await bench.interrupt(RUN_CYCLES)
        await bench.expect(ErrorCode.NONE)
        assert await bench.read("IMAGES_DONE") == images
        bench.check_outputs(program, regions, before)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def status_and_counters_without_a_pause(dut: HierarchyObject) -> None:
    """After the doorbell STATUS never shows the last run's end; at the end counters are final."""
    bench, program, regions = await _bench(dut)
    faulty = faults(bench.geometry)[0].image
    for image, good in ((program.image, True), (program.image, True), (faulty, False)):
        bench.load_inputs(program, regions)
        await bench.prepare(image, regions, len(program.inputs))
        await bench.ring()
        seen: list[dict[str, int]] = []
        cycles: list[int] = []
        while not seen or seen[-1]["busy"]:
            assert len(seen) < RUN_CYCLES
            status = cocotb.start_soon(bench.fields("STATUS"))
            counter = cocotb.start_soon(bench.read("CYCLES_LOW"))  # does not wait for the other
            seen.append(await status)
            cycles.append(await counter)
        assert len(seen) > 1
        assert not any(status["done"] or (good and status["error"]) for status in seen[:-1])
        assert (seen[-1]["done"], seen[-1]["error"]) == (good, not good)
        assert len(set(cycles)) > 1
        assert await bench.read("CYCLES_LOW") == cycles[-1]
        await bench.write("INTERRUPT_STATUS", done=1, error=1)
    await bench.recover()
    await bench.run(program, regions, cycles=RUN_CYCLES)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def reset_in_mid_run(dut: HierarchyObject) -> None:
    """A reset, by register or by wire, at any time; then a good run."""
    bench, program, regions = await _bench(dut)
    for attempt in range(8):
        bench.load_inputs(program, regions)
        await bench.prepare(program.image, regions, len(program.inputs))
        await bench.ring()
        await ClockCycles(bench.clk, bench.rng.randint(1, 1000))
        if attempt % 2:
            await bench.reset()
        else:
            await bench.recover()
        await bench.run(program, regions, cycles=RUN_CYCLES)


@cocotb.test(timeout_time=TIMEOUT_MS, timeout_unit="ms")
async def no_images(dut: HierarchyObject) -> None:
    """IMAGE_COUNT 0 is a run of nothing: it ends at once and touches no output."""
    bench, program, regions = await _bench(dut)
    before = bench.memory.dump(regions.output, regions.output_stride)
    await bench.prepare(program.image, regions, 0)
    await bench.ring()
    await bench.interrupt(RUN_CYCLES)
    await bench.expect(ErrorCode.NONE)
    assert await bench.read("IMAGES_DONE") == 0
    assert bench.memory.dump(regions.output, regions.output_stride) == before
    await bench.run(program, regions, cycles=RUN_CYCLES)
