"""The register map is dense, does not overlap, and its registers encode and decode."""

import random
import subprocess
import sys

import pytest

from palquant.errors import InputError
from palquant.hw.isa import Base
from palquant.hw.registers import (
    ADDRESS_BITS,
    COUNTERS,
    REGISTER_BITS,
    REGISTERS,
    Access,
    Activity,
    ErrorCode,
    Field,
    RegisterMap,
    Stall,
)


def test_registers_follow_one_another():
    assert [r.offset for r in REGISTERS.values()] == [4 * i for i in range(len(REGISTERS))]
    assert max(r.offset for r in REGISTERS.values()) < 1 << ADDRESS_BITS


def test_fields_do_not_overlap():
    for register in REGISTERS.values():
        taken = 0
        for name in register.fields:
            assert not taken & register.mask(name)
            taken |= register.mask(name)
        assert taken < 1 << REGISTER_BITS


def test_enumerations_fit_their_fields():
    checked = 0
    for register in REGISTERS.values():
        for field, _ in register.fields.values():
            if field.values is not None:
                assert max(field.values) < 1 << field.bits
                assert all(member.doc.endswith(".") for member in field.values)
                checked += 1
    assert checked == 5


@pytest.mark.parametrize("name", REGISTERS)
def test_decode_inverts_encode(name):
    register = REGISTERS[name]
    rng = random.Random(name)
    for _ in range(20):
        values = {f.name: rng.getrandbits(f.bits) for f, _ in register.fields.values()}
        assert register.decode(register.encode(**values)) == values


def test_value_or_field_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"STATUS has no field 'ready'"):
        REGISTERS["STATUS"].encode(ready=1)
    with pytest.raises(InputError, match=r"STATUS.code is 16, outside 0\.\.15"):
        REGISTERS["STATUS"].encode(code=16)


def test_each_activity_has_a_counter_of_two_registers():
    assert {a.name for a in Activity} < set(COUNTERS)
    for name in COUNTERS:
        low, high = REGISTERS[f"{name}_LOW"], REGISTERS[f"{name}_HIGH"]
        assert high.offset == low.offset + 4


def test_idle_and_no_error_are_zero():
    assert (ErrorCode(0), Stall(0)) == (ErrorCode.NONE, Stall.IDLE)


def test_builder_refuses_what_does_not_fit():
    table = RegisterMap()
    table.add_whole("A", Access.READ_ONLY, "One.")
    with pytest.raises(ValueError, match=r"^Register A is added twice$"):
        table.add_whole("A", Access.READ_ONLY, "Two.")
    half = Field("half", 20, Access.READ_ONLY, "Too wide.")
    with pytest.raises(ValueError, match=r"^Register B has two fields called half$"):
        table.add("B", "Twice.", half, half)
    with pytest.raises(ValueError, match=r"^Fields of register B take 40 bits of 32$"):
        table.add("B", "Wide.", half, Field("other", 20, Access.READ_ONLY, "Too wide."))
    for index in range((1 << ADDRESS_BITS) // 4 - 1):
        table.add_whole(f"R{index}", Access.READ_ONLY, "Filler.")
    with pytest.raises(ValueError, match=r"beyond the map's 4096 bytes$"):
        table.add_whole("LAST", Access.READ_ONLY, "One too many.")


def test_table_needs_no_amaranth():
    code = "import sys, palquant.hw.registers; sys.exit('amaranth' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_address_error_names_all_that_is_bounded():
    for region in [base.name.lower() for base in Base] + ["on-chip memory"]:
        assert region in ErrorCode.ADDRESS.doc
