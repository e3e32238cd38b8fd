"""Pairs of words reach the array together, padding included."""

import random

from post_bench import small_geometry
from simulation import simulate

from palquant.hw.operands import OperandFetch

GEOMETRY = small_geometry("operands")


def test_words_meet_their_control():
    rng = random.Random(0)
    dut = OperandFetch(GEOMETRY)
    widths = (GEOMETRY.activation_bits_per_word, GEOMETRY.weight_bits_per_word)
    activations, weights = ([rng.getrandbits(bits) for _ in range(64)] for bits in widths)
    seen, expected = [], []

    async def main(ctx):
        answers = [(0, 0)] * GEOMETRY.read_cycles
        for k in range(200):
            valid = k < 190 and rng.random() < 0.8
            control = {"valid": valid, "tag": rng.randrange(2), "emit": rng.randrange(2)}
            address, weight, padding = rng.randrange(64), rng.randrange(64), rng.randrange(2)
            pad_word = rng.getrandbits(widths[0])
            ctx.set(dut.control, control)
            ctx.set(dut.address, address)
            ctx.set(dut.weight_address, weight)
            ctx.set(dut.padding, padding)
            ctx.set(dut.pad_word, pad_word)
            activation, weight_word = answers.pop(0)
            ctx.set(dut.activation_read.data, activation)
            ctx.set(dut.weight_read.data, weight_word)
            if valid:
                word = pad_word if padding else activations[address]
                expected.append((k + dut.latency, control["tag"], control["emit"], word,
                                 weights[weight]))  # fmt: skip
            out = ctx.get(dut.array_control)
            if out.valid:
                seen.append((k, out.tag, out.emit, ctx.get(dut.activation), ctx.get(dut.weights)))
            assert ctx.get(dut.activation_read.enable) == valid
            # Data is there for one cycle only, and nothing without a request.
            ports = zip(
                (dut.activation_read, dut.weight_read), (activations, weights), widths, strict=True
            )
            answers.append(
                tuple(
                    memory[ctx.get(port.address)] if ctx.get(port.enable) else rng.getrandbits(bits)
                    for port, memory, bits in ports
                )
            )
            await ctx.tick()

    simulate(dut, main)
    assert seen == expected
    assert len(seen) > 100
