"""A run begins, ends, fails and is cleaned up in the order that the supervisor promises."""

import itertools

import pytest
from simulation import plain, simulate

from palquant.hw.presets import geometry
from palquant.hw.registers import ErrorCode
from palquant.hw.supervisor import SOURCES, Supervisor

STATUS = ("running", "halt", "busy", "done", "error", "resetting")


class Bench:
    def __init__(self):
        self.dut = Supervisor(geometry("tiny"))
        self.strobes = []

    def run(self, main):
        simulate(self.dut, main, self._watch)

    async def _watch(self, ctx):
        names = ("clear", "go", "ended", "failed")
        while True:
            _, _, *values = await ctx.tick().sample(*(getattr(self.dut, name) for name in names))
            self.strobes += [name for name, value in zip(names, values, strict=True) if value]

    async def strobe(self, ctx, name, **report):
        signal = getattr(self.dut, name)
        if report:
            ctx.set(signal.code, report["code"])
            ctx.set(signal.offset, report["offset"])
            signal = signal.valid
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)
        await ctx.tick().repeat(3)

    def status(self, ctx):
        return {name for name in STATUS if ctx.get(getattr(self.dut, name))}


def test_run_that_ends_well_can_be_followed_by_another():
    bench = Bench()

    async def main(ctx):
        ctx.set(bench.dut.quiet, 1)
        await ctx.tick()
        assert bench.status(ctx) == set()
        for _ in range(2):
            await bench.strobe(ctx, "start")
            assert bench.status(ctx) == {"running", "busy"}
            await bench.strobe(ctx, "start")  # has no effect
            await bench.strobe(ctx, "finished")
            assert bench.status(ctx) == {"done"}

    bench.run(main)
    assert bench.strobes == ["clear", "go", "ended"] * 2


async def cycles(ctx, dut, count):
    """Which of the one-bit outputs are high in each of the next cycles."""
    names = (*STATUS, "clear", "starting", "go", "ended", "failed")
    seen = []
    for _ in range(count):
        _, _, *values = await ctx.tick().sample(*(getattr(dut, name) for name in names))
        seen.append({name for name, value in zip(names, values, strict=True) if value})
    return seen


@pytest.mark.parametrize("failing", [False, True])
def test_beginning_and_end_cycle_by_cycle(failing):
    dut = Supervisor(geometry("tiny"))

    async def main(ctx):
        ctx.set(dut.quiet, 1)
        for before in (set(), set() if failing else {"done"}):
            ctx.set(dut.start, 1)
            assert await cycles(ctx, dut, 1) == [before]
            ctx.set(dut.start, 0)
            assert await cycles(ctx, dut, 5) == [
                {"busy", "starting", "clear"},
                {"busy", "starting"},
                {"busy", "starting", "go", "running"},
                {"busy", "running"},
                {"busy", "running"},
            ]
            end = dut.report_load.valid if failing else dut.finished
            ctx.set(end, 1)
            assert await cycles(ctx, dut, 1) == [{"busy", "running"}]
            ctx.set(end, 0)
            if not failing:
                assert await cycles(ctx, dut, 3) == [{"busy"}, {"busy", "ended"}, {"done"}]
                continue
            ends = [{"busy"}, {"busy", "halt", "failed"}, {"halt", "error"}]
            assert await cycles(ctx, dut, 3) == ends
            ctx.set(dut.reset, 1)
            await ctx.tick()
            ctx.set(dut.reset, 0)
            resetting = {"busy", "halt", "error", "resetting"}
            assert await cycles(ctx, dut, 3) == [resetting | {"clear"}, resetting, set()]

    simulate(dut, main)


@pytest.mark.parametrize("end", ["finished", "report_load"])
@pytest.mark.parametrize("delay", [0, 1, 2])
def test_reset_at_the_end_of_a_run_leaves_no_event(end, delay):
    bench = Bench()

    async def main(ctx):
        dut = bench.dut
        ctx.set(dut.quiet, 1)
        await bench.strobe(ctx, "start")
        await ctx.tick()
        signal = dut.finished if end == "finished" else dut.report_load.valid
        ctx.set(signal, 1)
        ctx.set(dut.reset, delay == 0)
        await ctx.tick()
        ctx.set(signal, 0)
        for cycle in (1, 2):
            ctx.set(dut.reset, delay == cycle)
            await ctx.tick()
        ctx.set(dut.reset, 0)
        await ctx.tick().repeat(4)
        assert bench.status(ctx) == set()

    bench.run(main)
    assert bench.strobes == ["clear", "go", "clear"]


@pytest.mark.parametrize("source", SOURCES)
def test_error_halts_until_reset(source):
    bench = Bench()

    async def main(ctx):
        dut = bench.dut
        await bench.strobe(ctx, "start")
        await bench.strobe(ctx, f"report_{source}", code=ErrorCode.ADDRESS, offset=0x1234)
        assert bench.status(ctx) == {"halt", "busy", "error"}
        other = next(name for name in SOURCES if name != source)
        await bench.strobe(ctx, f"report_{other}", code=ErrorCode.MAGIC, offset=0)
        await bench.strobe(ctx, "finished")
        await bench.strobe(ctx, "start")
        ctx.set(dut.quiet, 1)
        await ctx.tick()
        assert bench.status(ctx) == {"halt", "error"}
        assert plain(ctx.get(dut.code)) == ErrorCode.ADDRESS
        assert ctx.get(dut.offset) == 0x1234
        await bench.strobe(ctx, "reset")
        assert bench.status(ctx) == set()
        assert plain(ctx.get(dut.code)) == ErrorCode.NONE
        await bench.strobe(ctx, "start")
        assert bench.status(ctx) == {"running", "busy"}

    bench.run(main)
    assert bench.strobes == ["clear", "go", "failed", "clear", "clear", "go"]


def test_reset_waits_for_the_bus():
    bench = Bench()

    async def main(ctx):
        await bench.strobe(ctx, "start")
        await bench.strobe(ctx, "reset")
        await ctx.tick().repeat(20)
        assert bench.status(ctx) == {"halt", "busy", "resetting"}
        assert bench.strobes == ["clear", "go"]
        ctx.set(bench.dut.quiet, 1)
        await ctx.tick().repeat(3)
        assert bench.status(ctx) == set()

    bench.run(main)
    assert bench.strobes == ["clear", "go", "clear"]


@pytest.mark.parametrize("delay", [0, 1, 2, 3])
def test_reset_counts_whenever_it_comes(delay):
    bench = Bench()

    async def main(ctx):
        ctx.set(bench.dut.quiet, 1)
        ctx.set(bench.dut.start, 1)
        ctx.set(bench.dut.reset, delay == 0)
        await ctx.tick()
        ctx.set(bench.dut.start, 0)
        ctx.set(bench.dut.reset, 0)
        for cycle in range(1, delay + 1):
            ctx.set(bench.dut.reset, cycle == delay)
            await ctx.tick()
        ctx.set(bench.dut.reset, 0)
        await ctx.tick().repeat(4)
        assert bench.status(ctx) == set()
        assert bench.strobes[-1] == "clear"

    bench.run(main)


def test_first_named_of_simultaneous_errors_counts():
    for first, second in itertools.combinations(SOURCES, 2):
        bench = Bench()

        async def main(ctx, first=first, second=second, bench=bench):
            dut = bench.dut
            await bench.strobe(ctx, "start")
            for name, offset in ((first, 1), (second, 2)):
                report = getattr(dut, f"report_{name}")
                ctx.set(report.valid, 1)
                ctx.set(report.code, ErrorCode.OPCODE if offset == 1 else ErrorCode.WATCHDOG)
                ctx.set(report.offset, offset)
            await ctx.tick().repeat(3)
            assert (plain(ctx.get(dut.code)), ctx.get(dut.offset)) == (ErrorCode.OPCODE, 1)

        bench.run(main)
