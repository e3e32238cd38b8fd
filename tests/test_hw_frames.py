"""Frames: what the encoder sends is what the client expects, and what the decoder takes in."""

import random

import pytest
from amaranth.lib.crc.catalog import CRC16_IBM_SDLC
from simulation import simulate, sink, source, until

from palquant.hw import link
from palquant.hw.frames import Checksum, FrameDecoder, FrameEncoder
from palquant.sw.link import checksum, encode_frame

END, ESC = link.END, link.ESC
SPECIAL = [END, ESC, link.ESC_END, link.ESC_ESC]
TIMEOUT = 25


def payload(rng, size):
    """Random bytes, of which many are special."""
    return bytes(rng.choice([rng.randrange(256), rng.choice(SPECIAL)]) for _ in range(size))


def reference(items):
    """What a decoder reports for a list of bytes, "damaged" and "pause".

    Returns:
        Frames that ended, checksum included, and None for each one that was given up.
    """
    found, frame, state, escaped = [], bytearray(), "idle", False
    for item in items:
        legal = not escaped or item in (link.ESC_END, link.ESC_ESC)
        if item == "pause" and state != "frame":
            continue
        if item in ("pause", "damaged") or not legal:
            if state != "dropped":
                found.append(None)
            state = "dropped"
        if item == END:
            if state == "frame" and legal:
                found.append(bytes(frame))
            frame.clear()
            state, escaped = "idle", False
        elif item not in ("pause", "damaged"):
            state = "dropped" if state == "dropped" else "frame"
            if not escaped and item == ESC:
                escaped = True
                continue
            if escaped:
                item = END if item == link.ESC_END else ESC
            escaped = False
            frame.append(item)
    return found


def decode(items, *, pause=lambda: 0, timeout=TIMEOUT):
    """The same from the gateware, and whether each frame that ended was intact."""
    dut = FrameDecoder(timeout)
    found, intact, frame = [], [], bytearray()

    async def watch(ctx):
        while True:
            _, _, write, byte, end, is_intact, broken, boundary = await ctx.tick().sample(
                dut.write, dut.byte, dut.end, dut.intact, dut.broken, dut.boundary
            )
            assert write + boundary + end <= 1 + (boundary and end)
            if write:
                frame.append(byte)
            if end:
                found.append(bytes(frame))
                intact.append(is_intact)
            if broken:
                found.append(None)
            if boundary:
                frame.clear()

    async def main(ctx):
        for item in items:
            if item == "pause":
                await ctx.tick().repeat(timeout + 2)
                continue
            strobe = dut.damaged if item == "damaged" else dut.i.valid
            if item != "damaged":
                ctx.set(dut.i.payload, item)
            ctx.set(strobe, 1)
            await ctx.tick()
            ctx.set(strobe, 0)
            if cycles := pause():
                await ctx.tick().repeat(cycles)
        await ctx.tick()

    simulate(dut, main, watch)
    return found, intact


@pytest.mark.parametrize("seed", range(3))
def test_the_checksum_is_the_one_of_the_catalogue(seed):
    dut, rng = Checksum(), random.Random(seed)
    data = rng.randbytes(30)
    expected = CRC16_IBM_SDLC(8).compute(data)
    assert checksum(data) == expected
    sent = []

    async def main(ctx):
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        for byte in data:
            ctx.set(dut.byte, byte)
            ctx.set(dut.enable, 1)
            await ctx.tick()
            ctx.set(dut.enable, 0)
            assert not ctx.get(dut.intact)
            await ctx.tick().repeat(rng.randrange(1, 3))
        sent.append(ctx.get(dut.value))
        ctx.set(dut.byte, rng.randrange(256))
        ctx.set(dut.enable, 1)
        ctx.set(dut.shift, 1)
        await ctx.tick()
        sent.append(ctx.get(dut.value))

    simulate(dut, main)
    assert sent == list(expected.to_bytes(2, "little"))


def test_the_residue_is_that_of_the_catalogue():
    parameters = CRC16_IBM_SDLC(8)
    assert parameters.residue() == link.CHECKSUM_RESIDUE ^ link.CHECKSUM_ONES
    assert checksum(b"123456789" + (0x906E).to_bytes(2, "little")) == link.CHECKSUM_RESIDUE


@pytest.mark.parametrize(("pause_in", "pause_out"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.6)])
def test_frames_are_sent_with_checksum_and_escapes(pause_in, pause_out):
    dut, rng = FrameEncoder(), random.Random(1)
    payloads = [b"", bytes(SPECIAL), *(payload(rng, rng.randrange(20)) for _ in range(25))]
    # One whose checksum has to be escaped, in each of its bytes.
    candidates = [bytes([a, b]) for a in range(64) for b in range(64)]
    for place in range(2):
        for special in (END, ESC):
            payloads.append(next(
                c for c in candidates if checksum(c).to_bytes(2, "little")[place] == special
            ))  # fmt: skip
    items = [
        item
        for data in payloads
        for item in [*({"byte": byte, "end": 0} for byte in data), {"byte": 0, "end": 1}]
    ]
    expected = b"".join(map(encode_frame, payloads))
    received = []
    simulate(
        dut,
        until(lambda: len(received) == len(expected)),
        source(dut.i, items, stall=pause_in),
        sink(dut.o, received, stall=pause_out),
    )
    assert bytes(byte for _, byte in received) == expected


def test_frames_are_taken_in_and_damage_is_noticed():
    rng = random.Random(2)
    items, expected = [], []
    for _ in range(40):
        data = payload(rng, rng.randrange(1, 20))
        frame = bytearray(encode_frame(data))
        good = rng.random() < 0.5
        if not good:
            frame[rng.randrange(1, len(frame) - 1)] ^= 1 << rng.randrange(8)
        items += [*frame, *[END] * rng.randrange(3)]
        expected.append(good)
    found, intact = decode(items, pause=lambda: rng.randrange(4))
    assert found == reference(items)
    assert intact == [
        checksum(frame) == link.CHECKSUM_RESIDUE for frame in found if frame is not None
    ]
    assert sum(intact) == sum(expected)


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_reported_once_a_frame(seed):
    rng = random.Random(seed)
    choices = [*SPECIAL, END, 1, 2, 0x41, "pause", "damaged"]
    items = [END, *(rng.choice(choices) for _ in range(400)), END]
    found, _ = decode(items, pause=lambda: rng.randrange(3))
    assert found == reference(items)
    assert None in found
    assert any(found)


@pytest.mark.parametrize("timeout", [1, 2, 40])
def test_a_pause_is_an_error_from_the_timeout_on(timeout):
    dut, cycles = FrameDecoder(timeout), []

    async def main(ctx):
        async def send(byte):
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)

        await ctx.tick().repeat(3 * timeout)
        await send(1)
        for _ in range(timeout - 1):
            await ctx.tick()
        assert not ctx.get(dut.broken)
        await send(2)
        while not ctx.get(dut.broken):
            cycles.append(1)
            await ctx.tick()
        await ctx.tick()
        for _ in range(3 * timeout):
            assert not ctx.get(dut.broken)
            await ctx.tick()

    simulate(dut, main)
    assert len(cycles) == timeout


def test_what_comes_while_busy_is_dropped_as_a_whole_frame():
    dut = FrameDecoder(1000)
    reported = []

    async def watch(ctx):
        while True:
            _, _, write, end, broken = await ctx.tick().sample(dut.write, dut.end, dut.broken)
            if write or end or broken:
                reported.append((write, end, broken))

    async def main(ctx):
        async def send(*data):
            ctx.set(dut.i.valid, 1)
            for byte in data:
                ctx.set(dut.i.payload, byte)
                await ctx.tick()
            ctx.set(dut.i.valid, 0)

        ctx.set(dut.busy, 1)
        await send(1, END, 2, ESC, 3, END, 4)
        ctx.set(dut.busy, 0)
        await send(5, ESC, ESC, END)
        assert not reported
        await send(6, END)
        await ctx.tick()

    simulate(dut, main, watch)
    assert reported == [(1, 0, 0), (0, 1, 0)]


def test_a_timeout_is_positive():
    assert FrameDecoder(7).timeout == 7
    with pytest.raises(ValueError, match="A timeout is at least 1 cycle, not 0"):
        FrameDecoder(0)
