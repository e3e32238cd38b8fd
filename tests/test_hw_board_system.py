# amaranth: UnusedElaboratable=no
"""The switch between a board's memory and its accelerator's registers."""

import random

import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped
from simulation import simulate

from palquant.hw.axi import ADDRESS_BITS, Lite
from palquant.hw.board_system import LiteSwitch
from palquant.hw.onchip_memory import OnChipMemory

HIGH = 0x8000_0000


class Switched(wiring.Component):
    """Two memories behind a switch."""

    def __init__(self):
        super().__init__({"bus": Out(Lite(ADDRESS_BITS)).flip()})
        self.memories = [OnChipMemory(32, 16), OnChipMemory(64, 16)]

    def elaborate(self, platform):
        m = Module()
        m.submodules.switch = switch = LiteSwitch()
        m.submodules.low, m.submodules.high = self.memories
        connect(m, flipped(self.bus), switch.master)
        connect(m, switch.low, self.memories[0].host)
        # The other memory is at HIGH: it does not see the bit that chose it.
        outer, inner = switch.high, self.memories[1].host
        for name, member in outer.signature.members.items():
            source, target = getattr(outer, name), getattr(inner, name)
            if member.flow is not Out:
                source, target = target, source
            value = source[: ADDRESS_BITS - 1] if name.endswith("addr") else source
            m.d.comb += target.eq(value)
        return m


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_every_access_reaches_its_side(seed, late):
    """Data come some cycles after their address, or with it."""
    rng = random.Random(seed)
    dut = Switched()
    expected = {}

    async def take(ctx, valid, ready):
        ctx.set(valid, 1)
        taken = 0
        while not taken:
            _, _, taken = await ctx.tick().sample(ready)
        ctx.set(valid, 0)

    async def answer(ctx, valid, ready, *values):
        ctx.set(ready, 1)
        there = 0
        while not there:
            _, _, there, *found = await ctx.tick().sample(valid, *values)
        ctx.set(ready, 0)
        return found

    async def main(ctx):
        bus = dut.bus
        for _ in range(80):
            address = rng.choice([0, HIGH]) + 4 * rng.randrange(16)
            if rng.random() < 0.5:
                data = rng.getrandbits(32)
                ctx.set(bus.awaddr, address)
                ctx.set(bus.wdata, data)
                ctx.set(bus.wstrb, 15)
                if late:
                    ctx.set(bus.awvalid, 1)
                    await ctx.tick().repeat(rng.randrange(1, late + 1))
                ctx.set(bus.wvalid, 1)
                await take(ctx, bus.awvalid, bus.awready)
                ctx.set(bus.wvalid, 0)
                assert await answer(ctx, bus.bvalid, bus.bready, bus.bresp) == [0]
                expected[address] = data
            else:
                ctx.set(bus.araddr, address)
                await take(ctx, bus.arvalid, bus.arready)
                found = await answer(ctx, bus.rvalid, bus.rready, bus.rdata, bus.rresp)
                assert found == [expected.get(address, 0), 0]
        assert {address & HIGH for address in expected} == {0, HIGH}
        ctx.set(bus.araddr, 0x4000_0000)
        await take(ctx, bus.arvalid, bus.arready)
        _, response = await answer(ctx, bus.rvalid, bus.rready, bus.rdata, bus.rresp)
        assert response == 3

    simulate(dut, main)
