"""Layouts are bit for bit the instruction tables, and signatures compare by content."""

import dataclasses
import random

import pytest
from amaranth import signed, unsigned
from amaranth.lib import wiring

from palquant.hw import isa, layouts
from palquant.hw.presets import geometry

PAIRS = [
    (isa.CONTROL, layouts.CONTROL),
    (isa.TRANSFER, layouts.struct(isa.TRANSFER)),
    (isa.COMPUTE, layouts.struct(isa.COMPUTE, geometry("kilomac"))),
    (isa.PARAMETER_CONTROL, layouts.PARAMETER_CONTROL),
    (isa.IMAGE_HEADER, layouts.struct(isa.IMAGE_HEADER)),
]


@pytest.mark.parametrize(("table", "layout"), PAIRS, ids=lambda item: getattr(item, "name", None))
def test_layout_packs_like_the_table(table, layout):
    assert layout.size == table.used
    rng = random.Random(table.name)
    corners = [{f.name: f.min for f in table.fields}, {f.name: f.max for f in table.fields}]
    for values in corners + [
        {f.name: rng.randint(f.min, f.max) for f in table.fields} for _ in range(20)
    ]:
        expected = int.from_bytes(table.encode(values), "little")
        assert layout.const(values).as_bits() == expected
        constant = layout.from_bits(expected)
        assert {name: constant[name] for name in values} == values


def test_field_is_found_at_its_offset():
    for table, layout in PAIRS:
        for name, offset in table.offsets.items():
            assert layout[name].offset == offset


def test_memory_and_opcode_fit_their_fields():
    assert max(isa.Memory) < 1 << layouts.MEMORY_BITS
    assert max(isa.Opcode) < 1 << isa.HEADER[0].bits


def test_activity_starts_idle_and_fits_the_trace_port():
    assert layouts.Activity(0) is layouts.Activity.DEPENDENCY
    assert len(layouts.Activity) == 9


def test_signatures_compare_by_members():
    tiny, kilomac = geometry("tiny"), geometry("kilomac")
    for make in (layouts.LoadWrite, layouts.StoreRead, layouts.Result, layouts.Pooled):
        assert make(tiny) == make(tiny)
        assert make(tiny) != make(kilomac)
    assert layouts.LoadWrite(tiny) != layouts.StoreRead(tiny)
    assert layouts.WordWrite.digits(tiny) == layouts.WordWrite(tiny, 8, 2)
    assert layouts.WordWrite.residuals(kilomac) == layouts.WordWrite(kilomac, 16, 16)
    assert layouts.WordWrite.parameters(kilomac) == layouts.WordWrite(kilomac, 16, 32)
    assert layouts.WordRead(tiny, 4) != layouts.WordRead(tiny, 5)
    assert layouts.Configuration(tiny) == layouts.Configuration(kilomac)
    narrow = dataclasses.replace(tiny, address_bits=13)
    for make in (layouts.LoadWrite, layouts.StoreRead, layouts.Configuration):
        assert make(tiny) != make(narrow)


def test_fields_are_as_wide_as_the_machine_holds_them():
    narrow = dataclasses.replace(geometry("tiny"), address_bits=13, dram_bits=18, extent_bits=6)
    compute, transfer = (layouts.struct(table, narrow) for table in (isa.COMPUTE, isa.TRANSFER))
    assert compute["input_origin"].shape == unsigned(13)
    assert compute["input_pixel_step"].shape == unsigned(13)
    assert compute["first_row"].shape == signed(7)
    assert compute["kernel_rows"].shape == unsigned(6)
    assert compute["steps"].shape == unsigned(6)
    assert transfer["dram_offset"].shape == unsigned(18)
    assert transfer["row_beats"].shape == unsigned(13)


def test_signatures_make_interfaces():
    interface = wiring.flipped(layouts.Result(geometry("tiny")).create())
    assert len(interface.sums.as_value()) == 8 * 30
