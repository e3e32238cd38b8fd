# amaranth: UnusedElaboratable=no
"""Memories as one string of bits, accessed as words and as beats, with both arbitrations."""

import random

import pytest
from post_bench import small_geometry
from simulation import simulate

from palquant.hw.buffers import Scratchpad
from palquant.hw.isa import Memory
from palquant.hw.presets import geometry

GEOMETRIES = [
    # words narrower than a beat, as wide, wider
    small_geometry("narrow", tin=4, tout=16, lanes=4, bus_bits=64),
    small_geometry("equal", tin=16, tout=16, lanes=2, bus_bits=32),
    small_geometry("wide", tin=64, tout=4, lanes=4, bus_bits=32, residual_bits=8),
    small_geometry("word by word", tin=16, tout=16, lanes=4, bus_bits=64, narrow_rows=True),
]
MEMORIES = [Memory.WEIGHT, Memory.ACTIVATION, Memory.RESIDUAL, Memory.OUTPUT]


class Bits:
    """A memory as an integer."""

    def __init__(self, size):
        self.size, self.value = size, 0

    def get(self, index, width):
        return self.value >> index * width & (1 << width) - 1

    def put(self, index, width, data, mask):
        """Write the bits of ``mask`` of a part."""
        shift = index * width
        self.value = self.value & ~(mask << shift) | (data & mask) << shift


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: g.name)
def test_random_traffic(g, memory):
    rng = random.Random(f"{g.name} {memory}")
    dut = Scratchpad(g, memory)
    bits = Bits(dut.words * dut.word_bits)
    beats = bits.size // g.bus_bits
    has = {name: hasattr(dut, name) for name in ("read", "write", "load", "store")}
    lanes = dut.word_bits // dut.lane_bits
    # A small range of addresses, so that parts of one row meet.
    near_words = [rng.randrange(dut.words) & ~7 | k for k in range(8) for _ in range(2)]
    near_words = [word % dut.words for word in near_words]
    names = ("read", "write", "load", "store", "load waits", "store waits", "kept", "changed")
    counts = dict.fromkeys(names, 0)
    per_row = max(dut.row_bits // g.bus_bits, 1)
    parts = max(g.bus_bits // dut.row_bits, 1)  # cycles in which a beat is loaded

    async def main(ctx):
        # What was promised, by how soon it is due.
        promises = [{} for _ in range(g.read_cycles)]
        offered, part, moved = None, 0, False  # by LOAD, and not taken yet
        kept = None  # row that was read last for a store, where that makes a difference
        address_of_store = 0
        for _ in range(400):
            for name, value in promises.pop(0).items():
                assert ctx.get(getattr(dut, name).data) == value
            promised = {}
            promises.append(promised)
            changes = []
            writing = has["write"] and rng.random() < 0.5
            if has["write"]:
                address = rng.choice(near_words)
                mask, data = rng.getrandbits(lanes), rng.getrandbits(dut.word_bits)
                ctx.set(dut.write.enable, writing)
                ctx.set(dut.write.address, address)
                ctx.set(dut.write.mask, mask)
                ctx.set(dut.write.data.as_value(), data)
                if writing:
                    spread = sum(
                        ((1 << dut.lane_bits) - 1) << k * dut.lane_bits
                        for k in range(lanes)
                        if mask >> k & 1
                    )
                    changes.append((address, dut.word_bits, data, spread))
                    counts["write"] += 1
            if has["load"]:
                if offered is None:
                    address = rng.choice(near_words) * dut.word_bits // g.bus_bits
                    address = min(address + rng.randrange(2), beats - 1)
                    valid, data = rng.random() < 0.7, rng.getrandbits(g.bus_bits)
                    target = rng.choice([memory, memory, Memory.PARAMETER])
                    part = 0
                elif rng.random() < 0.1:
                    valid, part = False, 0  # LOAD is halted
                else:
                    valid, target, address, data, part = *offered, part + moved
                ctx.set(dut.load.valid, valid)
                ctx.set(dut.load.memory, target)
                ctx.set(dut.load.address, address)
                ctx.set(dut.load.data, data)
                ready = ctx.get(dut.load.ready)
                moved = not writing
                if valid or parts == 1:
                    assert ready == (target == memory and moved and part == parts - 1)
                wanted = valid and target == memory
                counts["load waits"] += wanted and writing
                offered = (valid, target, address, data) if wanted and not ready else None
                if wanted and moved:
                    width = g.bus_bits // parts
                    value = data >> part * width & (1 << width) - 1
                    changes.append((address * parts + part, width, value, (1 << width) - 1))
                    counts["load"] += ready
            reading = has["read"] and rng.random() < 0.5
            if has["read"]:
                address = rng.choice(near_words)
                ctx.set(dut.read.enable, reading)
                ctx.set(dut.read.address, address)
                if reading:
                    promised["read"] = bits.get(address, dut.word_bits)
                    counts["read"] += 1
            if has["store"]:
                address_of_store += 1
                if rng.random() < 0.3 or address_of_store >= beats:
                    address_of_store = rng.choice(near_words) * dut.word_bits // g.bus_bits
                address = address_of_store
                valid, target = rng.random() < 0.7, rng.choice([memory, memory, Memory.WEIGHT])
                ctx.set(dut.store.valid, valid)
                ctx.set(dut.store.memory, target)
                ctx.set(dut.store.address, address)
                ready = ctx.get(dut.store.ready)
                row, position = divmod(address, per_row)
                known = kept == row and position > 0
                assert ready == (target == memory and (known or not reading))
                counts["store waits"] += valid and target == memory and not ready
                if valid and ready:
                    promised["store"] = bits.get(address, g.bus_bits)
                    counts["store"] += 1
                    counts["kept"] += known
                    kept = row if has["read"] else None
            for index, width, data, mask in changes:
                bits.put(index, width, data, mask)
                if mask and index * width // dut.row_bits == kept:
                    counts["changed"] += 1
                    kept = None
            await ctx.tick()
        for name in ("write", "load"):
            if has[name]:
                port = getattr(dut, name)
                ctx.set(port.enable if name == "write" else port.valid, 0)
        await ctx.tick().repeat(g.read_cycles - 1)
        for row in range(bits.size // dut.row_bits):
            assert ctx.get(dut.storage[row]) == bits.get(row, dut.row_bits)

    simulate(dut, main)
    for name, there in has.items():
        assert (counts[name] > 50) == there
    assert (counts["load waits"] > 0) == (has["load"] and has["write"])
    assert (counts["store waits"] > 0) == (has["store"] and has["read"])
    keeps = has["store"] and has["read"] and per_row > 1
    assert (counts["kept"] > 0) == keeps
    assert (counts["changed"] > 0) == (has["store"] and has["read"])


def test_depths_of_presets():
    for name in ("tiny", "kilomac"):
        g = geometry(name)
        pad = Scratchpad(g, Memory.ACTIVATION)
        assert pad.row_bits == g.activation_bits_per_row
        assert pad.storage.depth * g.activation_words_per_row == g.activation_words
        assert Scratchpad(g, Memory.WEIGHT).storage.depth == g.weight_words


def test_parameters_are_elsewhere():
    with pytest.raises(ValueError, match="must be one of WEIGHT, ACTIVATION, RESIDUAL, OUTPUT"):
        Scratchpad(geometry("tiny"), Memory.PARAMETER)
