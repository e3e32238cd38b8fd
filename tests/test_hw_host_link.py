"""The host link against the device that the client is tested with, whatever is on the line."""

import itertools
import random

import numpy as np
import pytest
from amaranth import Cat, ClockDomain, Module
from amaranth.sim import Simulator
from combinational import combinational_paths
from simulation import simulate
from test_hw_serial import bits
from test_sw_link import Device, answer, memory, request

from palquant.hw import link
from palquant.hw.host_link import HostLink
from palquant.hw.link import Command, LinkStatus
from palquant.hw.request_buffer import RequestBuffer
from palquant.sw.link import FrameDecoder, LinkClient, checksum, encode_frame

DIVISOR = 4
TIMEOUT = 200  # cycles, five bytes
CYCLE = 1e-8  # seconds
BIT = DIVISOR * CYCLE
BYTE = 10 * BIT
END, ESC = link.END, link.ESC
READ, WRITE = Command.READ, Command.WRITE
OKAY, SLVERR, DECERR = 0, 2, 3


#: What a master has to keep, or for answers: nothing of it is looked at.
CHANNELS = {"aw": ("addr", "prot"), "w": ("data", "strb"), "b": (), "ar": ("addr", "prot"), "r": ()}


class Bus:
    """An AXI4-Lite subordinate with a memory, which checks the rules in every cycle.

    Parameters:
        dut: The master.
        memory: Byte address to word; anything else is an error.
        stall: Probability that a channel pauses for a cycle.
        eager: Whether ``ready`` may come before ``valid``.
    """

    def __init__(self, dut, memory, *, stall=0.0, eager=True, seed=0):
        self.bus, self.memory, self.stall, self.eager = dut.bus, memory, stall, eager
        self.random = random.Random(seed)
        self.accesses = []
        self.checked = 0
        self._before = {}

    async def process(self, ctx):
        bus, waiting = self.bus, {}
        names = [
            f"{channel}{signal}"
            for channel, payload in CHANNELS.items()
            for signal in ("valid", "ready", *payload)
        ]
        signals = [getattr(bus, name) for name in names]
        # Most cycles are the line's: one sample tells that nothing is offered, on either side.
        together, offers, position = Cat(*signals), 0, {}
        for name, signal in zip(names, signals, strict=True):
            position[name] = sum(map(len, signals[: len(position)])), (1 << len(signal)) - 1
            offers |= name.endswith("valid") << position[name][0]
        while True:
            _, _, value = await ctx.tick().sample(together)
            if not value & offers and not waiting:
                assert not any(self._before.values()), "an offer was withdrawn"
                continue
            seen = {name: value >> shift & mask for name, (shift, mask) in position.items()}
            self._check(seen, waiting)
            for channel, payload in (("aw", "addr"), ("w", "data"), ("ar", "addr")):
                valid = seen[f"{channel}valid"]
                if valid and seen[f"{channel}ready"]:
                    waiting[channel] = seen[channel + payload]
                    valid = 0
                ready = channel not in waiting and (valid or self.eager) and self._goes()
                ctx.set(getattr(bus, f"{channel}ready"), ready)
            if seen["bvalid"] and seen["bready"]:
                ctx.set(bus.bvalid, 0)
            elif not seen["bvalid"] and {"aw", "w"} <= set(waiting) and self._goes():
                ctx.set(bus.bresp, self._write(waiting.pop("aw"), waiting.pop("w")))
                ctx.set(bus.bvalid, 1)
            if seen["rvalid"] and seen["rready"]:
                ctx.set(bus.rvalid, 0)
                ctx.set(bus.rdata, self.random.getrandbits(32))
            elif not seen["rvalid"] and "ar" in waiting and self._goes():
                word, response = self._read(waiting.pop("ar"))
                ctx.set(bus.rdata, word)
                ctx.set(bus.rresp, response)
                ctx.set(bus.rvalid, 1)

    def _goes(self):
        return self.random.random() >= self.stall

    def _check(self, seen, waiting):
        """A master keeps what it offers until it is taken, one transaction at a time."""
        for channel in ("aw", "w", "ar"):
            offer = {name: value for name, value in seen.items()
                     if name.startswith(channel) and not name.endswith("ready")}  # fmt: skip
            before = self._before.get(channel)
            assert before is None or offer == before, f"{channel} changed before ready"
            open_offer = seen[f"{channel}valid"] and not seen[f"{channel}ready"]
            self._before[channel] = offer if open_offer else None
            assert not (seen[f"{channel}valid"] and channel in waiting), "two at a time"
            self.checked += 1
        assert not (seen["arvalid"] and (seen["awvalid"] or seen["wvalid"]))
        if seen["awvalid"] or seen["arvalid"]:
            assert seen["awaddr"] % 4 == seen["araddr"] % 4 == 0
        assert seen["wstrb"] == 0b1111
        assert seen["awprot"] == seen["arprot"] == 0

    def _write(self, address, word):
        self.accesses.append((WRITE, address, word))
        if address not in self.memory:
            return self.random.choice([SLVERR, DECERR])
        self.memory[address] = word
        return OKAY

    def _read(self, address):
        word = self.memory.get(address, self.random.getrandbits(32))
        self.accesses.append((READ, address, word))
        return word, OKAY if address in self.memory else self.random.choice([SLVERR, DECERR])


async def send(ctx, dut, data, *, rng=None, stop=1):
    """Bytes onto the line, with random pauses of up to two bytes if there is ``rng``."""
    for byte in data:
        for bit in [*bits(byte)[:9], stop]:
            ctx.set(dut.rx, bit)
            await ctx.delay(BIT)
        ctx.set(dut.rx, 1)
        if rng is not None and rng.random() < 0.1:
            await ctx.delay(rng.uniform(0.1, 2) * BYTE)


def listen(line, received):
    """Process that appends the bytes on a line."""

    async def process(ctx):
        while True:
            await ctx.negedge(line)
            await ctx.delay(BIT / 2)
            found = 0
            for bit in range(10):
                found |= ctx.get(line) << bit
                if bit < 9:
                    await ctx.delay(BIT)
            assert found & 1 == 0
            assert found >> 9 == 1, "no stop bit"
            received.append(found >> 1 & 0xFF)

    return process


def run(scenario, *, content=None, words=64, **bus_settings):
    """Run ``scenario(ctx, dut, exchange)`` on a link with a memory behind it.

    ``await exchange(data, answers)`` sends bytes and returns the payloads of so many answers. More
    than those, or none where one was expected, are noticed in the next exchange or at the end.
    """
    dut = HostLink(DIVISOR, TIMEOUT)
    bus = Bus(dut, memory(words) if content is None else content, **bus_settings)
    received, decoder = [], FrameDecoder()

    async def main(ctx):
        rng = random.Random(5)

        async def exchange(data, answers=1):
            found = []
            await send(ctx, dut, data, rng=rng)
            for _ in range(400):
                found += decoder.feed(bytes(received))
                received.clear()
                if len(found) >= answers:
                    break
                await ctx.delay(BYTE)
            return found

        await exchange([END], 0)
        await scenario(ctx, dut, exchange)
        await ctx.delay(2 * TIMEOUT * CYCLE)
        assert not received

    simulate(dut, main, bus.process, testbenches=[listen(dut.tx, received)])
    assert bus.checked or not bus.accesses
    return bus


@pytest.mark.parametrize(("stall", "eager"), [(0.0, True), (0.5, True), (0.9, False)])
def test_requests_are_answered_as_by_the_reference(stall, eager):
    rng = random.Random(f"{stall}{eager}")
    device = Device(memory(64))

    async def scenario(ctx, dut, exchange):
        for tag in range(7):
            first, count = rng.randrange(70), rng.choice([0, 1, 2, 5])
            words = [rng.choice([rng.getrandbits(32), 0xC0DBDCDD]) for _ in range(count)]
            payload = rng.choice([
                request(WRITE, tag, 0x1000 + 4 * first, words),
                request(READ, tag, 0x1000 + 4 * first, count=count),
            ])  # fmt: skip
            frame = encode_frame(payload)
            assert await exchange(frame) == device.feed(frame)

    bus = run(scenario, stall=stall, eager=eager)
    assert bus.memory == device.memory
    assert device.written


def test_the_longest_requests_and_an_address_that_carries():
    base, words = 0xBFFFFF80, link.MAX_WORDS
    content = memory(words, base)
    values = [random.Random(1).getrandbits(32) for _ in range(words)]

    async def scenario(ctx, dut, exchange):
        frame = encode_frame(request(WRITE, 1, base, values))
        assert await exchange(frame) == [answer(LinkStatus.OK, 1)]
        frame = encode_frame(request(READ, 2, base, count=words))
        assert await exchange(frame) == [answer(LinkStatus.OK, 2, values)]

    bus = run(scenario, content=content)
    assert bus.memory == {base + 4 * k: value for k, value in enumerate(values)}


def junk(rng):
    """Noise of every kind: bytes, not all of which make up whole frames."""
    good = encode_frame(request(WRITE, 200, 0x1000, [rng.getrandbits(32)]))
    flipped = bytearray(good)
    flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    cut = rng.randrange(1, len(good) - 1)
    whole = request(WRITE, 201, 0x1000, [1, 2])
    return [
        rng.randbytes(rng.randrange(1, 30)),
        bytes(flipped),
        good[:cut],
        good[:cut] + bytes([END]),
        good[cut:],
        encode_frame(request(rng.choice([0, 3, 129, 0x12]), 9, 0x1000)),
        encode_frame(whole[: rng.randrange(len(whole))]),
        encode_frame(whole + rng.randbytes(rng.randrange(1, 4))),
        encode_frame(request(WRITE, 3, 0x1000, [1], count=rng.choice([0, 2, 65, 129]))),
        encode_frame(request(READ, 4, 0x1000, count=rng.choice([62, 63, 64, 192, 255]))),
        encode_frame(request(READ, 5, 0x1000 + rng.randrange(1, 4), count=1)),
        encode_frame(request(WRITE, 6, 0x1000 + rng.randrange(1, 4), [1])),
        bytes([END]) * rng.randrange(1, 20),
        bytes([ESC, rng.randrange(256), END]),
        bytes([7, ESC, END]),
    ]


@pytest.mark.parametrize("part", range(3))
def test_noise_is_answered_and_what_follows_is_executed(part):
    rng = random.Random(part)
    device = Device(memory(64))
    statuses = set()

    async def scenario(ctx, dut, exchange):
        for tag, noise in enumerate(junk(rng)[part::3], 1):
            expected = device.feed(noise) + device.pause()
            found = await exchange(noise, min(len(expected), 1))
            # Of frames that end while an answer is under way, only the first is answered.
            await ctx.delay(30 * BYTE * (len(expected) > 1))
            found += await exchange(b"", 0)
            assert found[:1] == expected[:1]
            assert len(found) <= len(expected)
            statuses.update(payload[0] for payload in found)
            frame = encode_frame(request(WRITE, tag, 0x1000 + 4 * tag, [rng.getrandbits(32)]))
            assert await exchange(frame) == device.feed(frame)
            frame = encode_frame(request(READ, tag, 0x1000, count=3))
            assert await exchange(frame) == device.feed(frame)

    bus = run(scenario, stall=0.2)
    assert bus.memory == device.memory
    assert len(statuses) >= 2


def test_a_request_right_behind_noise_is_executed():
    async def scenario(ctx, dut, exchange):
        good = encode_frame(request(READ, 1, 0x1004, count=1))
        expected = answer(LinkStatus.OK, 1, [memory(64)[0x1004]])
        for noise, status in (
            (b"\x00", LinkStatus.CHECKSUM),
            (bytes(2), LinkStatus.LENGTH),
            (bytes([ESC]), LinkStatus.TRUNCATED),
            (bytes([ESC, 1, 2, 3]), LinkStatus.TRUNCATED),
            (bytes(256), LinkStatus.LENGTH),
        ):
            assert await exchange(noise + good, 2) == [answer(status), expected]

    run(scenario)


def test_lengths_at_the_limits():
    """Of a frame as it lies in the buffer, with any checksum."""
    dut, rng = RequestBuffer(), random.Random(7)
    found, expected = [], []

    async def main(ctx):
        sizes = (1, 2, 6, 7, 8, 9, 10, 13, 17, 252, 253, 254, 255, 256, 257, 519)
        for size, command, address in itertools.product(sizes, (READ, WRITE, 7), (0, 0x1001)):
            words = max(0, size - 9) // 4 % 256 if command == WRITE else rng.choice([0, 1, 61])
            payload = request(command, 1, address, count=words)
            payload = (payload + rng.randbytes(600))[: max(size - 2, 0)]
            frame = payload + checksum(payload).to_bytes(2, "little")
            frame = frame[:size]
            await pulse(ctx, dut.restart)
            for byte in frame:
                ctx.set(dut.byte, byte)
                await pulse(ctx, dut.write)
            found.append((size, command, words, ctx.get(dut.status)))
            assert ctx.get(dut.too_long) == (size > link.FRAME_BYTES)
            if size > 1:
                status = Device({4 * k: 0 for k in range(64)}).execute(frame)[0]
                expected.append((size, command, words, status))
            else:
                expected.append((size, command, words, LinkStatus.LENGTH))

    async def pulse(ctx, strobe):
        ctx.set(strobe, 1)
        await ctx.tick()
        ctx.set(strobe, 0)
        await ctx.tick()

    simulate(dut, main)
    assert found == expected
    assert {status for *_, status in found} == {
        LinkStatus.OK, LinkStatus.ADDRESS, LinkStatus.COMMAND, LinkStatus.LENGTH
    }  # fmt: skip


def test_a_repeated_write_is_executed_once_whatever_came_between():
    device = Device(memory(64))

    async def scenario(ctx, dut, exchange):
        write = encode_frame(request(WRITE, 1, 0x1000, [5, 6]))
        done = [answer(LinkStatus.OK, 1)]
        spoilt = write[:9] + bytes([write[9] ^ 1]) + write[10:]
        assert await exchange(write) == device.feed(write) == done
        misaligned = encode_frame(request(WRITE, 1, 0x1002, [5]))
        unknown = encode_frame(request(7, 2, 0x1000))
        for between in (b"", spoilt, write[:8], b"\x01\x02\x03", misaligned, unknown, spoilt):
            expected = device.feed(between) + device.pause()
            assert await exchange(between, len(expected)) == expected
            assert await exchange(write) == device.feed(write) == done
        # Another tag, other words or another address are another WRITE.
        for tag, address, words in (
            (2, 0x1000, [5, 6]), (2, 0x1000, [5, 7]), (2, 0x1004, [5, 7]), (1, 0x1000, [5, 6])
        ):  # fmt: skip
            other = encode_frame(request(WRITE, tag, address, words))
            for _ in range(2):
                assert await exchange(other) == [answer(LinkStatus.OK, tag)]
        # A READ in between makes it new.
        assert await exchange(encode_frame(request(READ, 9, 0)))
        assert await exchange(other) == done

    bus = run(scenario)
    assert bus.accesses == [
        (WRITE, address, word)
        for start, words in ((0x1000, [5, 6]), (0x1000, [5, 6]), (0x1000, [5, 7]),
                             (0x1004, [5, 7]), (0x1000, [5, 6]), (0x1000, [5, 6]))
        for address, word in zip((start, start + 4), words, strict=True)
    ]  # fmt: skip


def test_the_bus_refuses_and_a_repetition_is_told_the_same():
    async def scenario(ctx, dut, exchange):
        read = encode_frame(request(READ, 1, 0x1008, count=8))
        assert await exchange(read) == [answer(LinkStatus.BUS, 1)]
        write = encode_frame(request(WRITE, 2, 0x1008, [1, 2, 3, 4]))
        for _ in range(3):
            assert await exchange(write) == [answer(LinkStatus.BUS, 2)]
        read = encode_frame(request(READ, 3, 0x1008, count=2))
        for _ in range(2):  # a READ is executed as often as it is asked for
            assert await exchange(read) == [answer(LinkStatus.OK, 3, [1, 2])]

    bus = run(scenario, words=4, stall=0.5)
    words = [0x1008, 0x100C, 0x1010]
    assert [address for _, address, _ in bus.accesses] == [*words, *words, *words[:2], *words[:2]]


def test_a_damaged_byte_spoils_its_frame():
    async def scenario(ctx, dut, exchange):
        frame = encode_frame(request(WRITE, 1, 0x1000, [1]))
        for place in (1, 5, len(frame) - 2):
            await send(ctx, dut, frame[:place])
            await send(ctx, dut, [frame[place]], stop=0)
            assert await exchange(frame[place + 1 :]) == [answer(LinkStatus.TRUNCATED)]
        assert await exchange(frame) == [answer(LinkStatus.OK, 1)]

    assert len(run(scenario).accesses) == 1


def test_what_arrives_during_execution_is_dropped_whole():
    async def scenario(ctx, dut, exchange):
        first = encode_frame(request(READ, 1, 0x1000, count=3))
        second = encode_frame(request(WRITE, 2, 0x1000, [9]))
        expected = [answer(LinkStatus.OK, 1, [memory(64)[0x1000 + 4 * k] for k in range(3)])]
        assert await exchange(first + second) == expected
        # Begun during the answer, over behind it.
        await send(ctx, dut, first)
        await ctx.delay(8 * BYTE)
        assert await exchange(second) == expected
        assert await exchange(second) == [answer(LinkStatus.OK, 2)]

    assert [access for access in run(scenario).accesses if access[0] == WRITE] == [
        (WRITE, 0x1000, 9)
    ]


class Simulation:
    """A transport to the gateware: time passes while the client waits."""

    def __init__(self, words, *, stall):
        dut = HostLink(DIVISOR, TIMEOUT)
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.dut = dut
        self.bus = Bus(dut, memory(words), stall=stall, eager=False)
        self.received, self._lines = [], []
        self._simulator = Simulator(m)
        self._simulator.add_clock(1e-8)

        async def line(ctx):
            while True:
                if self._lines:
                    await send(ctx, dut, self._lines.pop(0))
                await ctx.delay(BIT)

        self._simulator.add_process(self.bus.process)
        self._simulator.add_testbench(listen(dut.tx, self.received), background=True)
        self._simulator.add_testbench(line, background=True)

    def write(self, data):
        self._lines.append(data)

    def read(self, maximum, timeout_s):
        for _ in range(40_000):
            if self.received:
                break
            self._simulator.advance()
        data = bytes(self.received[:maximum])
        del self.received[:maximum]
        return data


def test_the_client_reads_and_writes_through_the_gateware():
    line = Simulation(100, stall=0.3)
    client = LinkClient(line, timeout_s=1e6)
    values = np.random.default_rng(1).integers(0, 1 << 32, link.MAX_WORDS + 5, np.uint32)
    steps = []
    client.write(0x1010, values, steps.append)
    np.testing.assert_array_equal(client.read(0x1010, len(values), steps.append), values)
    assert steps == [4 * link.MAX_WORDS, 4 * len(values)] * 2
    assert line.bus.memory[0x1010] == values[0]
    # A damaged request is repeated, and a damaged session goes on.
    line.write(encode_frame(request(WRITE, 7, 0x1000, [1]))[:-3])
    client.write(0x1000, [0xDB])
    assert list(client.read(0x1000, 1)) == [0xDB]


def test_every_output_is_a_function_of_registers():
    assert not combinational_paths(HostLink(DIVISOR, TIMEOUT))


def test_settings_are_checked():
    dut = HostLink(12, 1000)
    assert (dut.divisor, dut.timeout) == (12, 1000)
    with pytest.raises(ValueError, match="at least 4 cycles"):
        HostLink(3, 1000)
    with pytest.raises(ValueError, match="at least 1 cycle"):
        HostLink(4, 0)
