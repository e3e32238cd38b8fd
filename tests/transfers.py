"""Random TRANSFERs, and a pure reference of the rows that they touch."""

from palquant.hw.isa import memory_beats

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
