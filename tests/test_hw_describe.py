"""C header and JSON say what the tables say."""

import json
import subprocess
import sys

import pytest

from palquant.hw import isa
from palquant.hw.describe import c_header, geometry_json, instructions_json, registers_json
from palquant.hw.presets import PRESETS, geometry
from palquant.hw.registers import REGISTERS, Activity, ErrorCode, Stall
from palquant.sim.toolchain import find_toolchain


@pytest.mark.parametrize("name", PRESETS)
def test_header_agrees_with_the_table_in_freestanding_c11(name, tmp_path):
    g = geometry(name)
    (tmp_path / "palquant_registers.h").write_text(c_header(g))
    expected = {
        "EXPECTED_ID": isa.MAGIC,
        "EXPECTED_VERSION": isa.VERSION,
        "EXPECTED_GEOMETRY": g.identity,
        "WATCHDOG_LIMIT_VALUE_RESET": REGISTERS["WATCHDOG_LIMIT"].reset,
    }
    for register in REGISTERS.values():
        expected[f"{register.name}_OFFSET"] = register.offset
        for field, (_, shift) in register.fields.items():
            expected[f"{register.name}_{field.upper()}_SHIFT"] = shift
            expected[f"{register.name}_{field.upper()}_MASK"] = register.mask(field)
    for prefix, members in (("ERROR", ErrorCode), ("STALL", Stall), ("ACTIVITY", Activity)):
        expected |= {f"{prefix}_{member.name}": int(member) for member in members}
    source = '#include "palquant_registers.h"\n' * 2 + "".join(
        f'_Static_assert(PALQUANT_{name} == {value}u, "{name}");\n'
        for name, value in expected.items()
    )
    (tmp_path / "check.c").write_text(source)
    flags = ["-std=c11", "-ffreestanding", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [find_toolchain().compiler, "-x", "c", *flags, "-fsyntax-only", "check.c"],
        cwd=tmp_path,
        check=True,
    )


def test_registers_from_json_are_those_of_the_table():
    content = json.loads(registers_json())
    assert {r["name"]: r["offset"] for r in content["registers"]} == {
        r.name: r.offset for r in REGISTERS.values()
    }
    for entry in content["registers"]:
        register = REGISTERS[entry["name"]]
        word = 0
        for field in entry["fields"]:
            word |= field["reset"] << field["shift"]
            mask = ((1 << field["bits"]) - 1) << field["shift"]
            assert mask == register.mask(field["name"])
            assert field["values"] is None or field["values"] in content["enumerations"]
        assert word == register.reset
    codes = content["enumerations"]["ErrorCode"]
    assert {name: code["value"] for name, code in codes.items()} == {
        code.name: code.value for code in ErrorCode
    }


def test_instructions_can_be_packed_from_json():
    content = json.loads(instructions_json())
    assert {name: entry["value"] for name, entry in content["opcodes"].items()} == {
        opcode.name: opcode.value for opcode in isa.LAYOUTS
    }
    for opcode, table in isa.LAYOUTS.items():
        entry = content["opcodes"][opcode.name]
        layout = content["layouts"][entry["layout"]]
        values = {field.name: field.min + 1 for field in table.fields if field.bits > 1}
        values["opcode"] = int(opcode)
        word = 0
        for field in layout["fields"]:
            value = values.get(field["name"], 0) & ((1 << field["bits"]) - 1)
            word |= value << field["offset"]
        assert word.to_bytes(layout["bits"] // 8, "little") == table.encode(values)
    header = content["layouts"]["IMAGE_HEADER"]
    assert [field["name"] for field in header["fields"]] == list(isa.IMAGE_HEADER.offsets)


def test_geometry_from_json():
    content = json.loads(geometry_json(geometry("tiny")))
    assert content.pop("identity") == geometry("tiny").identity
    assert type(geometry("tiny"))(**content) == geometry("tiny")


def test_descriptions_need_no_amaranth():
    code = "import sys, palquant.hw.describe; sys.exit('amaranth' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
