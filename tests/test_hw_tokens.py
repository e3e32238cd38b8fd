"""Tokens are counted exactly, and instructions start when theirs are there, not before."""

import random
from collections import Counter, deque

import pytest
from simulation import plain, simulate, sink, source, until

from palquant.hw import isa
from palquant.hw.presets import geometry
from palquant.hw.registers import Stall
from palquant.hw.tokens import Dispatcher, Engine, TokenCounters

PAIRS = [(a, b) for a in Engine for b in Engine if a is not b]
TINY = geometry("tiny")
LIMIT = (1 << TINY.token_bits) - 1


@pytest.mark.parametrize("bias", [0.3, 0.5, 0.9])
def test_counters_equal_reference(bias):
    dut = TokenCounters(TINY)
    rng = random.Random(bias)
    counts = Counter()
    full = Counter()

    async def main(ctx):
        for _ in range(900):
            give, take = Counter(), Counter()
            for a, b in PAIRS:
                assert ctx.get(dut.available[b][a]) == (counts[a, b] > 0)
                give[a, b] = rng.random() < bias
                take[a, b] = counts[a, b] > 0 and rng.random() < 0.4
                if counts[a, b] == LIMIT and not take[a, b]:
                    full[a] += give[a, b]
                    assert not give[a, b] or bias > 0.5
            for a, b in PAIRS:
                ctx.set(dut.give[a][b], give[a, b])
                ctx.set(dut.take[b][a], take[a, b])
            for a in Engine:
                spilt = [
                    give[a, b] and not take[a, b] and counts[a, b] == LIMIT
                    for b in Engine
                    if b is not a
                ]
                assert ctx.get(dut.overflow[a]) == any(spilt)
            await ctx.tick()
            for pair in PAIRS:
                counts[pair] = (counts[pair] + give[pair] - take[pair]) % (LIMIT + 1)

    simulate(dut, main)
    assert bool(sum(full.values())) is (bias > 0.5)


class EngineModel:
    """Takes instructions and completes them in order, each after a random time."""

    def __init__(self, dut, seed):
        self.dut, self.random = dut, random.Random(seed)
        self.started, self.given, self.offsets = [], [], []
        self.running = deque()

    async def run(self, ctx):
        dut = self.dut
        while True:
            ctx.set(dut.queue_offset, 1000 + len(self.started))
            may_take = len(self.running) < dut.in_flight + 1  # the dispatcher has to limit it
            ctx.set(dut.instruction.ready, may_take and self.random.random() < 0.5)
            done = bool(self.running) and self.random.random() < 0.2
            ctx.set(dut.complete, done)
            if done:
                self.given.append(ctx.get(dut.give))
                self.offsets.append((ctx.get(dut.oldest), ctx.get(dut.oldest_layer)))
            else:
                assert ctx.get(dut.give) == 0
            _, _, valid, ready, payload, take, available = await ctx.tick().sample(
                dut.instruction.valid, dut.instruction.ready, dut.instruction.payload,
                dut.take, dut.available,
            )  # fmt: skip
            if done:
                self.running.popleft()
            if valid and ready:
                fields = plain(payload)
                waits = sum(fields[f"wait_{e.name.lower()}"] << e for e in Engine)
                assert take == waits
                assert not waits & ~available
                self.started.append(fields)
                self.running.append(fields)
                assert len(self.running) <= dut.in_flight
            else:
                assert take == 0


@pytest.mark.parametrize("engine", Engine, ids=lambda e: e.name)
def test_dispatcher_starts_in_order_with_all_tokens(engine):
    dut = Dispatcher(TINY, engine, isa.TRANSFER, in_flight=3)
    rng = random.Random(engine)
    instructions = []
    for number in range(60):
        tokens = {
            f"{kind}_{e.name.lower()}": rng.random() < 0.4
            for kind in ("wait", "signal")
            for e in Engine
            if e is not engine
        }
        instructions.append({"layer": number, "address": rng.getrandbits(20), **tokens})
    model = EngineModel(dut, engine)

    async def tokens(ctx):
        available = 0
        while True:
            available |= rng.getrandbits(3) & rng.getrandbits(3)
            ctx.set(dut.available, available)
            _, _, take = await ctx.tick().sample(dut.take)
            available &= ~take

    simulate(
        dut,
        until(lambda: len(model.given) == len(instructions)),
        source(dut.queue, instructions),
        tokens,
        testbenches=[model.run],
    )
    assert [fields["layer"] for fields in model.started] == list(range(60))
    for fields, instruction, given in zip(model.started, instructions, model.given, strict=True):
        assert {name: fields[name] for name in instruction} == instruction
        assert given == sum(instruction.get(f"signal_{e.name.lower()}", 0) << e for e in Engine)
    assert model.offsets == [(1000 + number, number) for number in range(60)]


def test_waits_names_the_missing_token():
    dut = Dispatcher(TINY, Engine.COMPUTE, isa.COMPUTE, in_flight=2)

    async def main(ctx):
        assert ctx.get(dut.idle)
        assert not ctx.get(dut.pending)
        assert plain(ctx.get(dut.waits)) == Stall.IDLE
        ctx.set(dut.queue.valid, 1)
        ctx.set(dut.queue.payload.wait_load, 1)
        ctx.set(dut.queue.payload.wait_store, 1)
        assert not ctx.get(dut.idle)
        assert ctx.get(dut.pending)
        assert ctx.get(dut.missing) == 1 << Engine.LOAD | 1 << Engine.STORE
        assert plain(ctx.get(dut.waits)) == Stall.LOAD
        ctx.set(dut.available, 1 << Engine.LOAD)
        assert plain(ctx.get(dut.waits)) == Stall.STORE
        ctx.set(dut.available, 0b111)
        assert plain(ctx.get(dut.waits)) == Stall.IDLE
        assert not ctx.get(dut.instruction.valid)  # a cycle later
        await ctx.tick()
        assert ctx.get(dut.instruction.valid)
        ctx.set(dut.halt, 1)
        assert not ctx.get(dut.instruction.valid)

    simulate(dut, main)


def test_in_flight_is_limited_and_idle_means_complete():
    dut = Dispatcher(TINY, Engine.STORE, isa.TRANSFER, in_flight=2)
    received = []

    async def main(ctx):
        await ctx.tick().repeat(10)
        assert len(received) == 2
        for number in range(1, 5):
            assert not ctx.get(dut.idle)
            assert ctx.get(dut.oldest_layer) == number - 1
            assert ctx.get(dut.newest_layer) == min(number, 3)
            ctx.set(dut.complete, 1)
            await ctx.tick()
            ctx.set(dut.complete, 0)
            await ctx.tick().repeat(5)
            assert len(received) == min(number + 2, 4)
        assert ctx.get(dut.idle)

    instructions = [{"layer": number} for number in range(4)]
    simulate(dut, main, source(dut.queue, instructions), sink(dut.instruction, received))
