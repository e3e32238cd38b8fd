"""Random TRANSFERs, and a pure reference of the rows that they touch."""

from palquant.hw.transfer import memory_beats

#: Where the regions lie in the tests' memory.
REGIONS = {"image": 0x0000, "input": 0x4000, "output": 0x8000, "size": 0x4000}
REGION_NAMES = ("image", "input", "output")
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
    free = REGIONS["size"] // geometry.bus_bytes - span
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


def set_regions(ctx, regions):
    """Drive a Regions interface with REGIONS."""
    for name, value in REGIONS.items():
        ctx.set(getattr(regions, name), value)
