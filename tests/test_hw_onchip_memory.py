# amaranth: UnusedElaboratable=no
"""The on-chip memory against an array of bytes, with both masters at random."""

import random

import pytest
from simulation import simulate

from palquant.errors import GeometryError
from palquant.hw.onchip_memory import OnChipMemory

ROWS = 32


async def handshake(ctx, valid, ready, rng, payload):
    """Offer a payload after some cycles, and wait until it is taken."""
    while rng.random() < 0.4:
        await ctx.tick()
    for signal, value in payload:
        ctx.set(signal, value)
    ctx.set(valid, 1)
    taken = 0
    while not taken:
        _, _, taken = await ctx.tick().sample(ready)
    ctx.set(valid, 0)


async def receive(ctx, valid, ready, rng, signals):
    """Wait for an answer; it must stay as it is until it is taken."""
    before = None
    while True:
        willing = int(rng.random() < 0.6)
        ctx.set(ready, willing)
        _, _, there, *values = await ctx.tick().sample(valid, *signals)
        if there:
            assert before in (None, values)
            before = values
            if willing:
                ctx.set(ready, 0)
                return values


def run(dut, reads, writes, host, seed):
    """Three masters at once, each with rows of its own; returns the answers of the first."""
    rng = random.Random(seed)
    content = bytearray(dut.init.ljust(dut.size, b"\0"))
    width = dut.data_bits // 8
    answers = []

    async def reader(ctx):
        bus = dut.read
        for number, (row, beats) in enumerate(reads):
            address = [(bus.araddr, row * width), (bus.arlen, beats - 1), (bus.arid, number % 2)]
            await handshake(ctx, bus.arvalid, bus.arready, rng, address)
            for k in range(beats):
                signals = (bus.rdata, bus.rresp, bus.rlast, bus.rid)
                values = await receive(ctx, bus.rvalid, bus.rready, rng, signals)
                answers.append((row + k, *values))
                assert values[2] == (k == beats - 1)
                assert values[3] == number % 2

    async def writer(ctx):
        bus = dut.write
        for number, (row, beats) in enumerate(writes):
            address = [
                (bus.awaddr, row * width),
                (bus.awlen, len(beats) - 1),
                (bus.awid, number % 2),
            ]
            await handshake(ctx, bus.awvalid, bus.awready, rng, address)
            for k, (data, strobe) in enumerate(beats):
                payload = [(bus.wdata, data), (bus.wstrb, strobe), (bus.wlast, k == len(beats) - 1)]
                await handshake(ctx, bus.wvalid, bus.wready, rng, payload)
                for byte in range(width):
                    place = (row + k) * width + byte
                    if strobe >> byte & 1 and place < dut.size:
                        content[place] = data >> 8 * byte & 0xFF
            response, identifier = await receive(
                ctx, bus.bvalid, bus.bready, rng, (bus.bresp, bus.bid)
            )
            assert response == (0 if row + len(beats) <= dut.rows else 3)
            assert identifier == number % 2

    async def person(ctx):
        bus = dut.host
        for address, data, strobe in host:
            inside = address < dut.size
            if data is None:
                await handshake(ctx, bus.arvalid, bus.arready, rng, [(bus.araddr, address)])
                found, response = await receive(
                    ctx, bus.rvalid, bus.rready, rng, (bus.rdata, bus.rresp)
                )
                assert response == (0 if inside else 3)
                if inside:
                    assert found == int.from_bytes(content[address : address + 4], "little")
                continue
            payload = [
                (bus.awaddr, address),
                (bus.wdata, data),
                (bus.wstrb, strobe),
                (bus.wvalid, 1),
            ]
            await handshake(ctx, bus.awvalid, bus.awready, rng, payload)
            ctx.set(bus.wvalid, 0)
            (response,) = await receive(ctx, bus.bvalid, bus.bready, rng, (bus.bresp,))
            assert response == (0 if inside else 3)
            for byte in range(4):
                if strobe >> byte & 1 and inside:
                    content[address + byte] = data >> 8 * byte & 0xFF

    finished = []

    def until_done(master):
        async def process(ctx):
            await master(ctx)
            finished.append(master)

        return process

    async def main(ctx):
        while len(finished) < 3:
            await ctx.tick()

    simulate(dut, main, *map(until_done, (reader, writer, person)))
    return answers, content


@pytest.mark.parametrize("bits", [32, 64, 128])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_three_masters(bits, large, seed):
    rng = random.Random(seed)
    width = bits // 8
    contents = b"" if large else bytes(rng.randrange(256) for _ in range(ROWS * width - 5))
    dut = OnChipMemory(bits, ROWS, contents, large=large)
    # The host has rows 0..7, the writer 8..15, and the reader sees what was there at power-on.
    reads = [(rng.randrange(16, ROWS), rng.randrange(1, 17)) for _ in range(20)]
    writes = [
        (8 + low, [(rng.getrandbits(bits), rng.getrandbits(width)) for _ in range(8 - low)])
        for low in (rng.randrange(8) for _ in range(20))
    ]
    host = [
        (
            4 * rng.randrange(2 * width) + (1 << rng.randrange(16, 31)) * (rng.random() < 0.1),
            rng.choice([None, rng.getrandbits(32)]),
            rng.getrandbits(4),
        )
        for _ in range(60)
    ]
    answers, content = run(dut, reads, writes, host, seed)
    padded = dut.init.ljust(dut.size, b"\0")
    for row, data, response, _, _ in answers:
        assert response == (0 if row < ROWS else 3)
        if row < ROWS:
            # Where all that the reader may see is 0, anything else is what another master left.
            assert data == int.from_bytes(padded[row * width : (row + 1) * width], "little")
    # What the writer wrote, the reader finds.
    check = [(8, 8)]
    final = OnChipMemory(bits, ROWS, bytes(content))
    found, _ = run(final, check, [], [], seed)
    assert [data for _, data, *_ in found] == [
        int.from_bytes(content[row * width : (row + 1) * width], "little") for row in range(8, 16)
    ]


def test_writes_are_seen_and_stop_at_the_end():
    dut = OnChipMemory(32, ROWS)
    writes = [(ROWS - 2, [(k + 1, 15) for k in range(4)])]
    _, content = run(dut, [], writes, [(4 * (ROWS + 1), 7, 15)], 0)
    answers, _ = run_after(dut, writes, [(0, 2), (ROWS - 2, 2)])
    assert [data for _, data, *_ in answers] == [0, 0, 1, 2]
    assert content[:8] == bytes(8)


def run_after(dut, writes, reads):
    """Writes first, reads when all of them are done, in one simulation."""
    fresh = OnChipMemory(dut.data_bits, dut.rows)
    done = []

    async def main(ctx):
        for row, beats in writes:
            bus = fresh.write
            rng = random.Random(1)
            await handshake(ctx, bus.awvalid, bus.awready, rng, [(bus.awaddr, row * 4)])
            for k, (data, strobe) in enumerate(beats):
                payload = [(bus.wdata, data), (bus.wstrb, strobe), (bus.wlast, k == len(beats) - 1)]
                await handshake(ctx, bus.wvalid, bus.wready, rng, payload)
            await receive(ctx, bus.bvalid, bus.bready, rng, (bus.bresp,))
        bus = fresh.read
        for row, beats in reads:
            payload = [(bus.araddr, row * 4), (bus.arlen, beats - 1)]
            await handshake(ctx, bus.arvalid, bus.arready, rng, payload)
            for k in range(beats):
                values = await receive(ctx, bus.rvalid, bus.rready, rng, (bus.rdata, bus.rresp))
                done.append((row + k, *values))

    async def wait(ctx):
        while len(done) < sum(beats for _, beats in reads):
            await ctx.tick()

    simulate(fresh, wait, main)
    return done, None


def test_a_beat_every_cycle():
    """Full bursts run at the bus's speed when nobody else wants the memory."""
    dut = OnChipMemory(64, ROWS)
    cycles = []

    async def main(ctx):
        bus = dut.read
        ctx.set(bus.rready, 1)
        ctx.set(bus.arlen, 15)
        ctx.set(bus.arvalid, 1)
        await ctx.tick()
        ctx.set(bus.arvalid, 0)
        for k in range(20):
            if ctx.get(bus.rvalid):
                cycles.append(k)
            await ctx.tick()

    simulate(dut, main)
    assert cycles == list(range(cycles[0], cycles[0] + 16))


@pytest.mark.parametrize(
    ("rows", "init", "large", "text"),
    [
        (24, b"", False, "rows must be a power of two, not 24"),
        (ROWS, bytes(129), False, "contents of 129 bytes do not fit into 128 bytes"),
        (ROWS, b"a", True, "has no initial contents"),
    ],
)
def test_refusals(rows, init, large, text):
    with pytest.raises(GeometryError, match=text):
        OnChipMemory(32, rows, init, large=large)


def test_what_large_memory_read_waits_in_it():
    """Nothing is written or read before the host takes its word, or the accelerator its beat."""
    dut = OnChipMemory(32, ROWS, large=True)

    async def main(ctx):
        read, write, host = dut.read, dut.write, dut.host
        for valid in (write.awvalid, write.wvalid, host.arvalid):
            ctx.set(valid, 1)
        await until_high(ctx, host.rvalid)
        ctx.set(host.awvalid, 1)
        ctx.set(host.wvalid, 1)
        assert not ctx.get(host.awready)
        ctx.set(read.arvalid, 1)
        await ctx.tick().repeat(3)
        for ready in (write.wready, read.rvalid, host.awready, host.wready, host.arready):
            assert not ctx.get(ready)
        ctx.set(host.arvalid, 0)
        ctx.set(host.rready, 1)
        assert ctx.get(write.wready)
        ctx.set(write.wvalid, 0)
        await until_high(ctx, read.rvalid)
        ctx.set(host.rready, 0)
        ctx.set(write.wvalid, 1)
        await ctx.tick().repeat(3)
        for ready in (write.wready, host.awready, host.wready):
            assert not ctx.get(ready)
        ctx.set(read.rready, 1)
        assert ctx.get(write.wready)

    simulate(dut, main)


async def until_high(ctx, signal):
    """Wait; fails after as many cycles as nothing here can take."""
    for _ in range(20):
        if ctx.get(signal):
            return
        await ctx.tick()
    raise AssertionError("never high")
