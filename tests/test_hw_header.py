"""The header is judged like the emulator judges it, whatever the bus width."""

import dataclasses

import pytest
from simulation import plain, simulate

from palquant.hw import isa
from palquant.hw.header import HeaderReader
from palquant.hw.presets import geometry
from palquant.hw.registers import ErrorCode

KILOMAC = geometry("kilomac")
FIELDS = {
    "magic": isa.MAGIC,
    "version": isa.VERSION,
    "geometry": None,
    "program_offset": 0x123456,
    "body_offset": 0x89ABCDE0,
    "image_bytes": 0xFEDCBA98,
    "crc": 0xDEADBEEF,
    "input_bytes": 0x13579BDF,
    "output_bytes": 0xECA86420,
}


def read(g, failing=None, **change):
    """(verdict, fields) after a header of another image, and this one."""
    dut = HeaderReader(g)
    fields = {**FIELDS, "geometry": g.identity, **change}
    result = []

    async def main(ctx):
        for content in (b"\xff" * isa.HEADER_BYTES, isa.IMAGE_HEADER.encode(fields)):
            for index in range(isa.HEADER_BYTES // g.bus_bytes):
                beat = content[index * g.bus_bytes : (index + 1) * g.bus_bytes]
                ctx.set(dut.beat.data, int.from_bytes(beat, "little"))
                ctx.set(dut.beat.error, index == failing)
                ctx.set(dut.index, index)
                ctx.set(dut.enable, 1)
                await ctx.tick()
        result.append(ErrorCode(plain(ctx.get(dut.verdict))))
        result.append(plain(ctx.get(dut.fields)))

    simulate(dut, main)
    verdict, found = result
    kept = ("program_offset", "body_offset", "image_bytes", "input_bytes", "output_bytes")
    assert found == {name: fields[name] % (1 << g.dram_bits) for name in kept}
    return verdict


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
def test_verdict(bits):
    g = dataclasses.replace(KILOMAC, bus_bits=bits)
    assert read(g) is ErrorCode.NONE
    assert read(g, magic=isa.MAGIC ^ 0x01000000) is ErrorCode.MAGIC
    assert read(g, version=isa.VERSION ^ 0x8000) is ErrorCode.VERSION
    assert read(g, geometry=g.identity ^ 0x80000000) is ErrorCode.GEOMETRY
    assert read(g, magic=0, version=0, geometry=0) is ErrorCode.MAGIC
    narrow = dataclasses.replace(g, dram_bits=18)
    small = dict.fromkeys(("program_offset", "body_offset", "image_bytes"), (1 << 18) - 1)
    small |= {"input_bytes": 0, "output_bytes": 1}
    assert read(narrow, geometry=narrow.identity, **small) is ErrorCode.NONE
    for name in small:
        large = small | {name: 1 << 18}
        assert read(narrow, geometry=narrow.identity, **large) is ErrorCode.ADDRESS
    for index in range(isa.HEADER_BYTES // g.bus_bytes):
        assert read(g, failing=index) is ErrorCode.READ_RESPONSE
