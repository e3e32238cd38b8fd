"""The register file does what the register map says, register for register."""

import random

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from combinational import combinational_paths
from lite_host import LiteHost
from simulation import simulate

from palquant.hw.axilite import RegisterFile, field_name
from palquant.hw.registers import ADDRESS_BITS, REGISTERS, Access, Field, RegisterMap

OKAY, SLVERR = 0, 2
MASK = 0xFFFFFFFF


def fields(*accesses):
    for register in REGISTERS.values():
        for field, _ in register.fields.values():
            if field.access in accesses:
                yield register, field


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_read_only_fields_show_their_inputs(stall):
    dut = RegisterFile(REGISTERS)
    host = LiteHost(dut.bus, stall=stall)
    rng = random.Random(1)
    checked = []

    async def main(ctx):
        values = {}
        for register, field in fields(Access.READ_ONLY):
            value = rng.getrandbits(field.bits)
            ctx.set(getattr(dut, field_name(register, field)), value)
            values.setdefault(register.name, {})[field.name] = value
        for name, expected in values.items():
            register = REGISTERS[name]
            assert await host.read(ctx, register.offset) == (register.encode(**expected), OKAY)
            assert await host.write(ctx, register.offset, MASK) == SLVERR
            assert await host.read(ctx, register.offset) == (register.encode(**expected), OKAY)
            checked.append(name)

    simulate(dut, main)
    assert len(checked) > 30


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_read_write_fields_keep_what_was_written_by_byte(stall):
    dut = RegisterFile(REGISTERS)
    host = LiteHost(dut.bus, stall=stall)
    rng = random.Random(2)
    registers = {register.name: register for register, _ in fields(Access.READ_WRITE)}

    async def main(ctx):
        content = {name: register.reset for name, register in registers.items()}
        for name, register in registers.items():
            assert await host.read(ctx, register.offset) == (content[name], OKAY)
        for _ in range(60):
            name = rng.choice(sorted(registers))
            register = registers[name]
            value, strobe = rng.getrandbits(32), rng.getrandbits(4)
            assert await host.write(ctx, register.offset, value, strobe) == OKAY
            written = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
            written &= sum(register.mask(field) for field in register.fields)
            content[name] = (content[name] & ~written) | (value & written)
        for name, register in registers.items():
            assert await host.read(ctx, register.offset) == (content[name], OKAY)
            for field, value in register.decode(content[name]).items():
                signal = getattr(dut, field_name(register, register.fields[field][0]))
                assert ctx.get(signal) == value

    simulate(dut, main)


def test_write_only_fields_strobe_once_and_read_as_zero():
    dut = RegisterFile(REGISTERS)
    host = LiteHost(dut.bus)
    control = REGISTERS["CONTROL"]
    strobes = []

    async def watch(ctx):
        while True:
            _, _, start, reset = await ctx.tick().sample(dut.control_start, dut.control_reset)
            if start or reset:
                strobes.append((start, reset))

    async def main(ctx):
        assert await host.write(ctx, control.offset, control.encode(start=1)) == OKAY
        assert await host.write(ctx, control.offset, control.encode(reset=1)) == OKAY
        assert await host.write(ctx, control.offset, MASK, strobe=0b1110) == OKAY
        assert await host.write(ctx, control.offset, MASK) == OKAY
        assert await host.read(ctx, control.offset) == (0, OKAY)
        await ctx.tick().repeat(3)

    simulate(dut, main, watch)
    assert strobes == [(1, 0), (0, 1), (1, 1)]


def test_events_are_kept_until_cleared_and_set_wins():
    dut = RegisterFile(REGISTERS)
    host = LiteHost(dut.bus)
    status = REGISTERS["INTERRUPT_STATUS"]

    async def main(ctx):
        ctx.set(dut.interrupt_status_done_set, 1)
        await ctx.tick()
        ctx.set(dut.interrupt_status_done_set, 0)
        assert await host.read(ctx, status.offset) == (status.encode(done=1), OKAY)
        await host.write(ctx, status.offset, status.encode(error=1))
        assert ctx.get(dut.interrupt_status_done)
        await host.write(ctx, status.offset, status.encode(done=1))
        assert not ctx.get(dut.interrupt_status_done)
        ctx.set(dut.interrupt_status_error_set, 1)
        await host.write(ctx, status.offset, status.encode(error=1))
        assert ctx.get(dut.interrupt_status_error)

    simulate(dut, main)


def test_addresses_without_a_register_are_errors():
    dut = RegisterFile(REGISTERS)
    host = LiteHost(dut.bus, stall=0.2)
    first = 4 * len(REGISTERS)

    async def main(ctx):
        for address in (first, first + 4, 0x200, (1 << ADDRESS_BITS) - 4):
            assert await host.read(ctx, address) == (0, SLVERR)
            assert await host.write(ctx, address, MASK) == SLVERR
        for register, field in fields(Access.READ_WRITE):
            assert ctx.get(getattr(dut, field_name(register, field))) == field.reset

    simulate(dut, main)


def test_any_map_will_do():
    table = RegisterMap()
    table.add("MIX", "All kinds.", Field("a", 3, Access.READ_ONLY, "Input."),
              Field("b", 5, Access.READ_WRITE, "Kept.", 9),
              Field("c", 1, Access.WRITE_ONE_TO_CLEAR, "Event."))  # fmt: skip
    dut = RegisterFile(table)
    host = LiteHost(dut.bus)

    async def main(ctx):
        ctx.set(dut.mix_a, 5)
        ctx.set(dut.mix_c_set, 1)
        await ctx.tick()
        ctx.set(dut.mix_c_set, 0)
        assert await host.read(ctx, 0) == (table["MIX"].encode(a=5, b=9, c=1), OKAY)
        await host.write(ctx, 0, table["MIX"].encode(a=2, b=30, c=1))
        assert await host.read(ctx, 0) == (table["MIX"].encode(a=5, b=30, c=0), OKAY)

    simulate(dut, main)


class _Feedthrough(wiring.Component):
    """One input that a register keeps from the outputs, and one that nothing does."""

    cut: In(1)
    open: In(2)
    registered: Out(1)
    combinational: Out(2)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.registered.eq(self.cut)
        m.d.comb += self.combinational.eq((self.open & 1) + self.registered)
        return m


def test_paths_are_found_where_there_are_some():
    assert combinational_paths(_Feedthrough()) == {("open", "combinational")}


def test_no_input_of_the_bus_reaches_an_output_within_a_cycle():
    paths = combinational_paths(RegisterFile(REGISTERS))
    assert {source for source, _ in paths} <= {"hold"}
    assert not {output for _, output in paths if output.startswith("bus__")}


@pytest.mark.parametrize(
    "stalls",
    [
        {"aw": 0.0, "w": 0.0, "b": 0.0},
        {"aw": 0.0, "w": 0.9, "b": 0.0},
        {"aw": 0.9, "w": 0.0, "b": 0.0},
        {"aw": 0.5, "w": 0.5, "b": 0.5},
        {"aw": 0.0, "w": 0.0, "b": 0.9},
    ],
    ids=["both at once", "address first", "data first", "any order", "slow response"],
)
def test_address_and_data_come_in_any_order_and_back_to_back(stalls):
    dut = RegisterFile(REGISTERS)
    host = LiteHost(dut.bus)
    rng = random.Random(3)
    registers = sorted({register.name for register, _ in fields(Access.READ_WRITE)})
    writes, content = [], {name: REGISTERS[name].reset for name in registers}
    for _ in range(80):
        name, value = rng.choice([*registers, None]), rng.getrandbits(32)
        writes.append((REGISTERS[name].offset if name else 0x800, value, 0b1111))
        if name:
            register = REGISTERS[name]
            content[name] = value & sum(register.mask(field) for field in register.fields)

    async def main(ctx):
        responses, cycles = await host.write_all(ctx, writes, **stalls)
        assert responses == [SLVERR if address == 0x800 else OKAY for address, _, _ in writes]
        if not any(stalls.values()):
            assert cycles <= 2 * len(writes) + 2
        await ctx.tick().repeat(5)
        assert not ctx.get(dut.bus.bvalid)
        for name in registers:
            assert await host.read(ctx, REGISTERS[name].offset) == (content[name], OKAY)

    simulate(dut, main)


def test_hold_delays_writes_and_nothing_else():
    dut = RegisterFile(REGISTERS)
    host = LiteHost(dut.bus)
    control, count = REGISTERS["CONTROL"], REGISTERS["IMAGE_COUNT"]
    strobes, responses = [], []

    async def watch(ctx):
        while True:
            _, _, hold, start, response = await ctx.tick().sample(
                dut.hold, dut.control_start, dut.bus.bvalid
            )
            strobes.extend([hold] * start)
            responses.extend([hold] * response)

    async def main(ctx):
        bus = dut.bus
        for register, value in ((control, 1), (count, 7)):
            ctx.set(dut.hold, 1)
            for name, setting in (("awaddr", register.offset), ("wdata", value), ("wstrb", 15)):
                ctx.set(getattr(bus, name), setting)
            for name in ("awvalid", "wvalid", "bready"):
                ctx.set(getattr(bus, name), 1)
            await ctx.tick()
            for name in ("awvalid", "wvalid"):
                ctx.set(getattr(bus, name), 0)
            await ctx.tick().repeat(5)
            assert await host.read(ctx, count.offset) == (count.reset, OKAY)
            ctx.set(dut.hold, 0)
            await ctx.tick().repeat(3)
        assert await host.read(ctx, count.offset) == (7, OKAY)

    simulate(dut, main, watch)
    assert (strobes, responses) == ([0], [0, 0])


def test_a_read_every_third_cycle():
    dut = RegisterFile(REGISTERS)
    bus, register = dut.bus, REGISTERS["IMAGE_COUNT"]
    values = []

    async def main(ctx):
        ctx.set(bus.araddr, register.offset)
        ctx.set(bus.arvalid, 1)
        ctx.set(bus.rready, 1)
        for _ in range(30):
            _, _, valid, value = await ctx.tick().sample(bus.rvalid, bus.rdata)
            if valid:
                values.append(value)

    simulate(dut, main)
    assert values == [register.reset] * 10
