"""Random TRANSFERs, and a pure reference of the rows that they touch."""

from amaranth import Module
from simulation import plain, simulate, source

from palquant.hw.isa import memory_beats
from palquant.hw.registers import ErrorCode

#: Where the regions lie in the tests' memory.
REGION_NAMES = ("image", "input", "output")
REGION_BYTES = 0x4000
REGIONS = {name: index * REGION_BYTES for index, name in enumerate(REGION_NAMES)} | {
    f"{name}_bytes": REGION_BYTES for name in REGION_NAMES
}
DRAM_BYTES = 0xC000


def rows(transfer):
    """Reference: (byte address, on-chip beat, beats) of each row."""
    base = REGIONS[REGION_NAMES[transfer["base"]]]
    return [
        (
            base + transfer["dram_offset"] + row * transfer["dram_stride"],
            transfer["address"] + row * transfer["stride"],
            transfer["row_beats"],
        )
        for row in range(transfer["rows"])
    ]


def random_transfer(rng, geometry, memories, bases, *, max_rows=4, max_beats=40):
    """A legal one inside regions and memories."""
    memory = rng.choice(memories)
    depth = memory_beats(geometry, memory)
    count = rng.randint(1, max_rows)
    beats = rng.randint(1, max_beats)
    stride = rng.randint(beats, beats + 5)
    dram_stride = rng.randint(beats, beats + 9)
    span = (count - 1) * dram_stride + beats
    free = REGION_BYTES // geometry.bus_bytes - span
    return {
        "memory": memory,
        "base": rng.choice(bases),
        "address": rng.choice([0, depth - (count - 1) * stride - beats]),
        "stride": stride,
        "rows": count,
        "row_beats": beats,
        "dram_offset": rng.choice([0, free, rng.randint(0, free)]) * geometry.bus_bytes,
        "dram_stride": dram_stride * geometry.bus_bytes,
    }


def set_regions(ctx, regions, **changes):
    """Drive a Regions interface with REGIONS, or with what differs from them."""
    for name, value in (REGIONS | changes).items():
        ctx.set(getattr(regions, name), value)


def one_row(memory, base, beats, **change):
    """A TRANSFER of one row from the start of a region, or what differs from that."""
    return {
        "memory": memory,
        "base": base,
        "address": 0,
        "stride": beats,
        "rows": 1,
        "row_beats": beats,
        "dram_offset": 0,
        "dram_stride": 0,
        **change,
    }


class EngineBench:
    """What the benches of load and store engine share.

    A subclass sets ``engine``, ``memory`` and ``transfers``, and may add to :meth:`wire` and
    :meth:`background`.
    """

    def wire(self, m):
        m.submodules.engine = self.engine

    def background(self):
        """Processes that run beside the test."""
        return [self.memory.run, source(self.engine.instruction, self.transfers)]

    def run(self, main, *background):
        m = Module()
        self.wire(m)

        async def whole(ctx):
            set_regions(ctx, self.engine.regions)
            await main(ctx)

        simulate(m, whole, *self.background(), *background)

    def faults(self, progress, cycles=300):
        """Run for some cycles; (code, whether it is the newest's, ``progress()``) of each fault."""
        fault = self.engine.fault
        seen = []

        async def main(ctx):
            for _ in range(cycles):
                _, _, valid, code, newest = await ctx.tick().sample(
                    fault.valid, fault.code, fault.newest
                )
                if valid:
                    seen.append((ErrorCode(plain(code)), newest, progress()))
            assert not ctx.get(self.engine.outstanding)

        self.run(main)
        return seen

    def stalls(self, cycles):
        """(reason at the start, reason after some cycles) of waiting."""
        reasons = []

        async def main(ctx):
            reasons.append(plain(ctx.get(self.engine.stall)))
            await ctx.tick().repeat(cycles)
            reasons.append(plain(ctx.get(self.engine.stall)))

        self.run(main)
        return tuple(reasons)
