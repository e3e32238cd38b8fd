"""Layouts are bit for bit the instruction tables, and signatures compare by content."""

import random

import pytest
from amaranth.lib import wiring

from palquant.hw import isa, layouts
from palquant.hw.config import geometry

PAIRS = [
    (isa.CONTROL, layouts.CONTROL),
    (isa.TRANSFER, layouts.TRANSFER),
    (isa.COMPUTE, layouts.COMPUTE),
    (isa.PARAMETER_CONTROL, layouts.PARAMETER_CONTROL),
    (isa.IMAGE_HEADER, layouts.IMAGE_HEADER),
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
    assert layouts.WordWrite.digits(tiny) == layouts.WordWrite(8, 2)
    assert layouts.WordWrite.residuals(kilomac) == layouts.WordWrite(16, 16)
    assert layouts.WordWrite.parameters(kilomac) == layouts.WordWrite(16, 32)
    assert layouts.WordRead(4) != layouts.WordRead(5)
    assert layouts.Configuration() == layouts.Configuration()


def test_signatures_make_interfaces():
    interface = wiring.flipped(layouts.Result(geometry("tiny")).create())
    assert len(interface.sums.as_value()) == 8 * 30
