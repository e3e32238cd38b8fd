"""The register map and the instruction set for readers that are not Python: C header and JSON.

This file needs no Amaranth.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.registers import REGISTERS, Activity, ErrorCode, Stall

#: Enumerations of register fields, by their names in the C header.
_REGISTER_ENUMS: dict[str, type[enum.IntEnum]] = {
    "error": ErrorCode,
    "stall": Stall,
    "activity": Activity,
}
#: Enumerations of instruction fields.
_INSTRUCTION_ENUMS: tuple[type[enum.IntEnum], ...] = (
    isa.Opcode,
    isa.Memory,
    isa.Base,
    isa.Cause,
    isa.Source,
    isa.PoolOperation,
)


def c_header(geometry: Geometry) -> str:
    """Offsets, masks, shifts and codes of the register map, in freestanding C11.

    For a register ``R`` with a field ``F``: ``PALQUANT_R_OFFSET`` in bytes, and
    ``PALQUANT_R_F_SHIFT`` and ``PALQUANT_R_F_MASK`` (the mask in place). A field that is all of
    its register is called ``VALUE``.
    """
    lines = [
        f"/* Register map of the palquant accelerator, geometry {geometry.name}. Generated. */",
        "#ifndef PALQUANT_REGISTERS_H",
        "#define PALQUANT_REGISTERS_H",
        "",
        "#include <stdint.h>",
        "",
        "/* What the identification registers hold. */",
        f"#define PALQUANT_EXPECTED_ID UINT32_C({isa.MAGIC:#010x})",
        f"#define PALQUANT_EXPECTED_VERSION UINT32_C({isa.VERSION})",
        f"#define PALQUANT_EXPECTED_GEOMETRY UINT32_C({geometry.identity:#010x})",
        "",
    ]
    for register in REGISTERS.values():
        prefix = f"PALQUANT_{register.name}"
        lines.append(f"/* {register.doc} */")
        lines.append(f"#define {prefix}_OFFSET UINT32_C({register.offset:#04x})")
        for name, (field, shift) in register.fields.items():
            item = f"{prefix}_{name.upper()}"
            lines.append(f"/* {field.access.value}: {field.doc} */")
            lines.append(f"#define {item}_SHIFT {shift}")
            lines.append(f"#define {item}_MASK UINT32_C({register.mask(name):#010x})")
            if field.reset:
                lines.append(f"#define {item}_RESET UINT32_C({field.reset:#x})")
        lines.append("")
    for name, members in _REGISTER_ENUMS.items():
        lines.append(f"enum palquant_{name} {{")
        for member in members:
            doc = getattr(member, "doc", "")
            lines.append(f"    PALQUANT_{name.upper()}_{member.name} = {int(member)}, /* {doc} */")
        lines += ["};", ""]
    lines += ["#endif", ""]
    return "\n".join(lines)


def registers_json() -> str:
    """The register map as JSON: registers in order, and the enumerations their fields use."""
    return _dump(
        {
            "registers": [
                {
                    "name": register.name,
                    "offset": register.offset,
                    "doc": register.doc,
                    "fields": [
                        {
                            "name": field.name,
                            "shift": shift,
                            "bits": field.bits,
                            "access": field.access.value,
                            "reset": field.reset,
                            "values": field.values.__name__ if field.values else None,
                            "doc": field.doc,
                        }
                        for field, shift in register.fields.values()
                    ],
                }
                for register in REGISTERS.values()
            ],
            "enumerations": {
                members.__name__: {
                    member.name: {"value": int(member), "doc": getattr(member, "doc", "")}
                    for member in members
                }
                for members in _REGISTER_ENUMS.values()
            },
        }
    )


def instructions_json() -> str:
    """The instruction set and the image header as JSON: layouts, and what their fields hold."""
    layouts = {
        layout.name: layout for layout in (isa.IMAGE_HEADER, *isa.LAYOUTS.values())
    }  # LOAD and STORE share one, as do BARRIER and END
    return _dump(
        {
            "version": isa.VERSION,
            "magic": isa.MAGIC,
            "unit_bytes": isa.UNIT_BYTES,
            "opcodes": {
                opcode.name: {"value": int(opcode), "layout": layout.name}
                for opcode, layout in isa.LAYOUTS.items()
            },
            "layouts": {name: _layout(layout) for name, layout in layouts.items()},
            "parameter_control": _layout(isa.PARAMETER_CONTROL),
            "enumerations": {
                members.__name__: {member.name: int(member) for member in members}
                for members in _INSTRUCTION_ENUMS
            },
        }
    )


def geometry_json(geometry: Geometry) -> str:
    """All sizes of a machine, and its identity."""
    return _dump({**dataclasses.asdict(geometry), "identity": geometry.identity})


def _layout(layout: isa.Layout) -> dict[str, Any]:
    return {
        "bits": layout.size,
        "fields": [
            {
                "name": field.name,
                "offset": layout.offsets[field.name],
                "bits": field.bits,
                "signed": field.signed,
                "doc": field.doc,
            }
            for field in layout.fields
        ],
    }


def _dump(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
