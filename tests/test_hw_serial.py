"""The serial line: bits at their time, bytes as they were, and what is no byte."""

import random

import pytest
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from combinational import combinational_paths
from simulation import simulate, source, until

from palquant.hw.serial import SerialReceiver, SerialTransmitter


def bits(byte):
    """A byte as it is on the line: a start bit, the lowest bit first, a stop bit."""
    return [0, *(byte >> k & 1 for k in range(8)), 1]


def runs(data, divisor, *, drift=0.0, pause=lambda: 0):
    """Levels of a line and how many cycles they last, for bytes with ``pause()`` cycles between.

    Parameters:
        drift: How much longer than ``divisor`` the sender's bits are, as a fraction.
    """
    for byte in data:
        edges = [round(k * divisor * (1 + drift)) for k in range(11)]
        yield from (
            (bit, end - begin)
            for bit, begin, end in zip(bits(byte), edges, edges[1:], strict=False)
        )
        yield 1, pause()


async def drive(ctx, line, levels):
    """Put levels on a line."""
    for level, cycles in levels:
        ctx.set(line, level)
        if cycles:
            await ctx.tick().repeat(cycles)


def listen(line, divisor, received):
    """Process that appends the bytes on a line; every bit must last ``divisor`` cycles."""

    async def process(ctx):
        level = 1
        while True:
            while level:
                _, _, level = await ctx.tick().sample(line)
            found = []
            for bit in range(10):
                for cycle in range(divisor):
                    if cycle == 0:
                        found.append(level)
                    assert level == found[-1], f"bit {bit} changes in its cycle {cycle}"
                    if (bit, cycle) != (9, divisor - 1):
                        _, _, level = await ctx.tick().sample(line)
            assert found[0] == 0
            assert found[9] == 1, "no stop bit"
            received.append(sum(bit << k for k, bit in enumerate(found[1:9])))

    return process


def receive(dut, levels):
    """What a receiver makes of a line: bytes, and None for each error."""
    received = []

    async def watch(ctx):
        while True:
            _, _, valid, payload, error = await ctx.tick().sample(
                dut.o.valid, dut.o.payload, dut.error
            )
            assert not (valid and error)
            received.extend([payload] * valid + [None] * error)

    async def main(ctx):
        await ctx.tick().repeat(5)
        await drive(ctx, dut.rx, [*levels, (1, 3 * dut.divisor)])

    simulate(dut, main, watch)
    return received


@pytest.mark.parametrize("divisor", [4, 5, 7, 12])
def test_bytes_arrive_back_to_back(divisor):
    data = [0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80, *random.Random(divisor).randbytes(20)]
    assert receive(SerialReceiver(divisor), runs(data, divisor)) == data


@pytest.mark.parametrize("drift", [-0.03, 0.03])
def test_the_other_clock_may_be_off_and_pauses_are_of_any_length(drift):
    rng = random.Random(1)
    data = list(rng.randbytes(30))
    levels = runs(data, 16, drift=drift, pause=lambda: rng.choice([0, 0, rng.randrange(60)]))
    assert receive(SerialReceiver(16), levels) == data


@pytest.mark.parametrize("divisor", [4, 9, 12])
def test_a_glitch_shorter_than_half_a_bit_is_no_start_bit(divisor):
    glitches = [
        level
        for cycles in range(1, (divisor + 1) // 2)
        for level in ((0, cycles), (1, 2 * divisor))
    ]
    assert len(glitches) >= 2
    assert receive(SerialReceiver(divisor), [*glitches, *runs([0x5A], divisor)]) == [0x5A]


def test_a_byte_without_stop_bit_is_an_error_once_however_long():
    divisor = 8
    spoilt = [*list(runs([0x35], divisor))[:9], (0, divisor)]
    levels = [*runs([1], divisor), *spoilt, (1, divisor), *runs([2], divisor)]
    assert receive(SerialReceiver(divisor), levels) == [1, None, 2]
    levels = [*runs([1], divisor), (0, 50 * divisor), (1, divisor), *runs([2], divisor)]
    assert receive(SerialReceiver(divisor), levels) == [1, None, 2]


@pytest.mark.parametrize("divisor", [4, 5, 12])
@pytest.mark.parametrize("stall", [0.0, 0.99])
def test_bytes_are_sent(divisor, stall):
    dut = SerialTransmitter(divisor)
    data = [0x00, 0xFF, 0x55, *random.Random(divisor).randbytes(10)]
    received, cycles = [], []

    async def count(ctx):
        async for _ in ctx.tick():
            cycles.append(1)

    simulate(
        dut,
        until(lambda: len(received) == len(data)),
        source(dut.i, data, stall=stall),
        listen(dut.tx, divisor, received),
        count,
    )
    assert received == data
    if not stall:
        assert len(cycles) <= 10 * divisor * len(data) + 5


class _Loop(wiring.Component):
    """A transmitter, its line, a receiver."""

    def __init__(self, divisor):
        self.transmitter, self.receiver = SerialTransmitter(divisor), SerialReceiver(divisor)
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(self.receiver.o.signature),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.transmitter, m.submodules.receiver = self.transmitter, self.receiver
        connect(m, flipped(self.i), self.transmitter.i)
        connect(m, self.receiver.o, flipped(self.o))
        m.d.comb += self.receiver.rx.eq(self.transmitter.tx)
        return m


def test_what_is_sent_is_received():
    dut = _Loop(4)
    data, received = list(random.Random(2).randbytes(40)), []

    async def watch(ctx):
        while True:
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            received.extend([payload] * valid)

    simulate(
        dut,
        until(lambda: len(received) == len(data)),
        source(dut.i, data, stall=0.5),
        watch,
    )
    assert received == data


def test_the_line_is_a_register():
    assert not combinational_paths(SerialTransmitter(4))


@pytest.mark.parametrize("block", [SerialReceiver, SerialTransmitter])
def test_bits_are_long_enough(block):
    assert block(4).divisor == 4
    with pytest.raises(ValueError, match="A bit takes at least 4 cycles, not 3"):
        block(3)
