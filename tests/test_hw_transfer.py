"""The walk over a transfer's rows: every row, every check at its corner."""

import dataclasses
import random

import pytest
from simulation import plain, simulate, sink, source, until
from transfers import REGION_BYTES, REGIONS, random_transfer, rows, set_regions

from palquant.hw.isa import Base, Memory, memory_beats
from palquant.hw.presets import geometry
from palquant.hw.registers import ErrorCode
from palquant.hw.transfer import LOADABLE, STORABLE, RowWalker

G = geometry("tiny")
BEAT = G.bus_bytes
LEGAL = {
    "memory": Memory.WEIGHT,
    "base": Base.IMAGE,
    "address": 3,
    "stride": 4,
    "rows": 2,
    "row_beats": 4,
    "dram_offset": 64,
    "dram_stride": 32,
}
DEPTH = memory_beats(G, Memory.WEIGHT)


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_rows_equal_reference(stall):
    rng = random.Random(3)
    transfers = [random_transfer(rng, G, LOADABLE, tuple(Base)) for _ in range(20)]
    expected = [
        {
            "address": address,
            "beats": beats,
            "memory": transfer["memory"],
            "local": local,
            "last": int(index == transfer["rows"] - 1),
        }
        for transfer in transfers
        for index, (address, local, beats) in enumerate(rows(transfer))
    ]
    dut = RowWalker(G, LOADABLE, tuple(Base))
    received = []

    async def main(ctx):
        set_regions(ctx, dut.regions)
        await until(lambda: len(received) == len(expected))(ctx)
        assert not ctx.get(dut.fault.valid)

    simulate(dut, main, source(dut.instruction, transfers), sink(dut.rows, received, stall=stall))
    assert [payload for _, payload in received] == expected


def test_one_row_a_cycle():
    dut = RowWalker(G, LOADABLE, tuple(Base))
    received = []

    async def main(ctx):
        set_regions(ctx, dut.regions)
        await until(lambda: len(received) == 50)(ctx)

    transfer = {**LEGAL, "rows": 50, "row_beats": 1}
    simulate(dut, main, source(dut.instruction, [transfer]), sink(dut.rows, received))
    first = received[0][0]
    assert first == RowWalker.LATENCY
    assert [cycle for cycle, _ in received] == list(range(first, first + 50))


LIMITS = {
    "nothing": {},
    "last beat of the memory": {"address": DEPTH - 8},
    "last byte of the image": {"dram_offset": REGION_BYTES - 64},
    "last byte of the input": {"base": Base.INPUT, "dram_offset": REGION_BYTES - 64},
    "last byte of the output": {"base": Base.OUTPUT, "dram_offset": REGION_BYTES - 64},
    "one row, unused strides": {"rows": 1, "stride": (1 << 20) - 1, "dram_stride": 0xFFFFFFF8},
    "last byte of the address space": {
        "base": Base.OUTPUT,
        "dram_offset": (1 << 32) - REGIONS["output"] - 64,
        "output_bytes": (1 << 32) - REGIONS["output"],
    },
    "largest region": {
        "base": Base.OUTPUT,
        "output": 0,
        "dram_offset": (1 << 32) - 128,
        "output_bytes": (1 << 32) - BEAT,
        "dram_stride": 64 - BEAT,
    },
}


@pytest.mark.parametrize("change", LIMITS.values(), ids=LIMITS)
def test_legal_corner(change):
    assert verdict({**LEGAL, **change}) is None


#: An output region that reaches beyond the address space.
FAR = {"base": Base.OUTPUT, "output_bytes": (1 << 32) - 1}

FAULTS = {
    "no rows": ({"rows": 0}, ErrorCode.OPCODE, 0),
    "no beats": ({"row_beats": 0}, ErrorCode.OPCODE, 0),
    "base that does not exist": ({"base": 3}, ErrorCode.ADDRESS, 0),
    "memory that does not exist": ({"memory": 7}, ErrorCode.ADDRESS, 0),
    "memory of another engine": ({"memory": Memory.OUTPUT}, ErrorCode.ADDRESS, 0),
    "misaligned offset": ({"dram_offset": BEAT // 2}, ErrorCode.ADDRESS, 0),
    "misaligned stride": ({"dram_stride": BEAT + 1}, ErrorCode.ADDRESS, 0),
    "beat behind the memory": ({"address": DEPTH - 7}, ErrorCode.ADDRESS, 1),
    "wrapped around on chip": ({"stride": (1 << 20) - 1}, ErrorCode.ADDRESS, 1),
    "byte behind the image": (
        {"dram_offset": REGION_BYTES - 64 + BEAT},
        ErrorCode.ADDRESS,
        1,
    ),
    "byte behind the input": (
        {"base": Base.INPUT, "dram_offset": REGION_BYTES - 64 + BEAT},
        ErrorCode.ADDRESS,
        1,
    ),
    "byte behind the output": (
        {"base": Base.OUTPUT, "dram_offset": REGION_BYTES - 64 + BEAT},
        ErrorCode.ADDRESS,
        1,
    ),
    "no input": ({"base": Base.INPUT, "input_bytes": 0}, ErrorCode.ADDRESS, 0),
    "wrapped around in the image": ({"dram_stride": 0xFFFFFFE0}, ErrorCode.ADDRESS, 1),
    "wrapped around in DRAM": (
        {**FAR, "dram_offset": (1 << 32) - REGIONS["output"] - 64 + BEAT},
        ErrorCode.ADDRESS,
        1,
    ),
    "address that wraps": (
        {**FAR, "dram_offset": (1 << 32) - REGIONS["output"]},
        ErrorCode.ADDRESS,
        0,
    ),
}


@pytest.mark.parametrize(("change", "code", "good_rows"), FAULTS.values(), ids=FAULTS)
def test_fault(change, code, good_rows):
    assert verdict({**LEGAL, **change}) == (code, good_rows)


def test_engines_use_the_memories_that_they_reach():
    for memories_, bases in ((LOADABLE, tuple(Base)), (STORABLE, (Base.OUTPUT,))):
        for memory in Memory:
            for base in Base:
                transfer = {**LEGAL, "memory": memory, "base": base, "address": 0}
                legal = memory in memories_ and base in bases
                result = verdict(transfer, memories_, bases)
                assert result == (None if legal else (ErrorCode.ADDRESS, 0))


def test_without_checks_only_regions_beyond_the_address_space_are_no_fault():
    unchecked = dataclasses.replace(G, checks=False)
    for name, (change, code, good_rows) in FAULTS.items():
        wraps = name in ("wrapped around in DRAM", "address that wraps")
        expected = None if wraps else (code, good_rows)
        assert verdict({**LEGAL, **change}, g=unchecked) == expected, name


def verdict(transfer, memories_=LOADABLE, bases=tuple(Base), g=G):
    """Fault code and rows before it, or None; the transfer behind it must not come through."""
    dut = RowWalker(g, memories_, bases)
    received = []
    result = []
    following = {**LEGAL, "memory": memories_[0], "base": bases[0]}
    regions = {name: value for name, value in transfer.items() if name in REGIONS}
    transfer = {name: value for name, value in transfer.items() if name in LEGAL}

    async def main(ctx):
        set_regions(ctx, dut.regions, **regions)
        await ctx.tick().repeat(30)
        if ctx.get(dut.fault.valid):
            assert ctx.get(dut.fault.newest)
            result.append((ErrorCode(plain(ctx.get(dut.fault.code))), len(received)))
        else:
            assert len(received) == transfer["rows"] + following["rows"]

    simulate(dut, main, source(dut.instruction, [transfer, following]), sink(dut.rows, received))
    return result[0] if result else None
