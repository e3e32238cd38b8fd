"""The IP package in IP-XACT (IEEE 1685-2009), in the dialect that Vivado writes and reads.

The standard's schema prescribes the order of all elements.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from palquant.hw.axi import ADDRESS_BITS
from palquant.hw.carry_chain import Technology
from palquant.hw.config import Geometry
from palquant.hw.ip_wrapper import IP_MODULE, MANAGER, SUBORDINATE, Interface, Port, interfaces
from palquant.hw.registers import ADDRESS_BITS as REGISTER_ADDRESS_BITS
from palquant.hw.registers import REGISTER_BITS, REGISTERS, Access, Field, Register

#: Prefix of an element's name -> its name space.
NAME_SPACES = {
    "spirit": "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009",
    "xilinx": "http://www.xilinx.com",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
}
#: Who the IP is from, as Vivado's catalog names it.
VENDOR = "palquant.org"
#: The part of that vendor's catalog that it is in.
LIBRARY = "accelerator"
#: What it is called for people.
DISPLAY_NAME = "palquant accelerator"
#: What it is, in one line.
DESCRIPTION = "Accelerator for 2-bit neural networks (PalQuant)"
#: Name of the registers' address block: the one that Vivado gives to a block of registers.
ADDRESS_BLOCK = "reg0"
#: Families with the cells that the array is made of, and those that need the portable array.
SERIES_7, LATER_FAMILIES = (
    ("artix7", "kintex7", "spartan7", "virtex7", "zynq"),
    ("kintexu", "kintexuplus", "virtexu", "virtexuplus", "zynquplus"),
)
#: IP-XACT's names of what the host may do.
ACCESS = {
    Access.READ_ONLY: "read-only",
    Access.READ_WRITE: "read-write",
    Access.WRITE_ONLY: "write-only",
    Access.WRITE_ONE_TO_CLEAR: "read-write",
}
_SETTABLE = (Access.READ_WRITE, Access.WRITE_ONE_TO_CLEAR)


def ip_version(version: str) -> tuple[str, str]:
    """Version and revision of the IP, from the package's version of three numbers.

    Vivado's versions have two numbers.
    """
    major, minor, patch = version.split(".")[:3]
    return f"{major}.{minor}", patch


def identifier(version: str) -> str:
    """Vendor, library, name and version, as Tcl scripts name the IP."""
    return f"{VENDOR}:{LIBRARY}:{IP_MODULE}:{ip_version(version)[0]}"


def families(technology: Technology | None) -> tuple[str, ...]:
    """FPGA families that the IP is for, as Vivado calls them.

    Parameters:
        technology: What the array is made of; None for adders that any tool understands.
    """
    return SERIES_7 if technology is Technology.XILINX7 else (*SERIES_7, *LATER_FAMILIES)


def access(register: Register) -> str:
    """What the host may do with a register as a whole, in IP-XACT's words."""
    found = {ACCESS[item.access] for item, _ in register.fields.values()}
    return found.pop() if len(found) == 1 else "read-write"


def _qualified(name: str) -> str:
    prefix, _, local = name.rpartition(":")
    return f"{{{NAME_SPACES[prefix or 'spirit']}}}{local}"


def _add(
    parent: ET.Element, name: str, text: str | int | None = None, /, **attributes: str | int
) -> ET.Element:
    """Append an element of name space ``spirit``, unless the name has another prefix."""
    element = ET.SubElement(parent, _qualified(name))
    if text is not None:
        element.text = str(text)
    prefix = name.rpartition(":")[0] or "spirit"
    for key, value in attributes.items():
        element.set(_qualified(f"{prefix}:{key}"), str(value))
    return element


def _definition(parent: ET.Element, name: str, interface: Interface, suffix: str) -> None:
    _add(
        parent,
        name,
        vendor="xilinx.com",
        library=interface.library,
        name=interface.definition + suffix,
        version="1.0",
    )


def _add_interface(parent: ET.Element, interface: Interface) -> None:
    element = _add(parent, "busInterface")
    _add(element, "name", interface.name)
    _definition(element, "busType", interface, "")
    _definition(element, "abstractionType", interface, "_rtl")
    mode = _add(element, "master" if interface.master else "slave")
    if interface.name == MANAGER:
        _add(mode, "addressSpaceRef", addressSpaceRef=MANAGER)
    elif interface.name == SUBORDINATE:
        _add(mode, "memoryMapRef", memoryMapRef=SUBORDINATE)
    maps = _add(element, "portMaps")
    for port in interface.ports:
        entry = _add(maps, "portMap")
        _add(_add(entry, "logicalPort"), "name", port.signal)
        _add(_add(entry, "physicalPort"), "name", port.name)
    parameters = _add(element, "parameters")
    for name, value in interface.parameters.items():
        parameter = _add(parameters, "parameter")
        _add(parameter, "name", name)
        place = f"BUSIFPARAM_VALUE.{interface.name.upper()}.{name}"
        _add(parameter, "value", value, id=place)


def _add_address_space(parent: ET.Element) -> None:
    space = _add(parent, "addressSpace")
    _add(space, "name", MANAGER)
    _add(space, "range", 1 << ADDRESS_BITS, format="long")
    _add(space, "width", ADDRESS_BITS, format="long")


def _add_field(parent: ET.Element, field: Field, shift: int) -> None:
    element = _add(parent, "field")
    _add(element, "name", field.name)
    _add(element, "description", field.doc)
    _add(element, "bitOffset", shift)
    _add(element, "bitWidth", field.bits)
    _add(element, "access", ACCESS[field.access])
    if field.values is not None:
        values = _add(element, "enumeratedValues")
        for member in field.values:
            value = _add(values, "enumeratedValue")
            _add(value, "name", member.name)
            _add(value, "description", member.doc)
            _add(value, "value", int(member))
    if field.access is Access.WRITE_ONE_TO_CLEAR:
        _add(element, "modifiedWriteValue", "oneToClear")


def _add_register(parent: ET.Element, register: Register) -> None:
    element = _add(parent, "register")
    _add(element, "name", register.name)
    _add(element, "description", register.doc)
    _add(element, "addressOffset", f"{register.offset:#x}")
    _add(element, "size", REGISTER_BITS)
    _add(element, "access", access(register))
    # The table knows what a field holds after a reset if it keeps what the host writes.
    mask = sum(
        register.mask(name)
        for name, (item, _) in register.fields.items()
        if item.access in _SETTABLE
    )
    if mask:
        reset = _add(element, "reset")
        _add(reset, "value", f"{register.reset:#x}")
        _add(reset, "mask", f"{mask:#x}")
    for item, shift in register.fields.values():
        _add_field(element, item, shift)


def _add_memory_map(parent: ET.Element) -> None:
    memory_map = _add(parent, "memoryMap")
    _add(memory_map, "name", SUBORDINATE)
    block = _add(memory_map, "addressBlock")
    _add(block, "name", ADDRESS_BLOCK)
    _add(block, "baseAddress", "0x0", format="long")
    _add(block, "range", 1 << REGISTER_ADDRESS_BITS, format="long")
    _add(block, "width", REGISTER_BITS, format="long")
    _add(block, "usage", "register")
    for register in REGISTERS.values():
        _add_register(block, register)


def _add_port(parent: ET.Element, port: Port) -> None:
    element = _add(parent, "port")
    _add(element, "name", port.name)
    wire = _add(element, "wire")
    _add(wire, "direction", "out" if port.output else "in")
    if port.bits > 1:
        vector = _add(wire, "vector")
        _add(vector, "left", port.bits - 1, format="long")
        _add(vector, "right", 0, format="long")
    definition = _add(_add(wire, "wireTypeDefs"), "wireTypeDef")
    _add(definition, "typeName", "wire")
    for view in ("xilinx_anylanguagesynthesis", "xilinx_anylanguagebehavioralsimulation"):
        _add(definition, "viewNameRef", view)


def _add_model(parent: ET.Element, ports: Sequence[Port]) -> None:
    model = _add(parent, "model")
    views = _add(model, "views")
    for name, environment in (
        ("xilinx_anylanguagesynthesis", "synthesis"),
        ("xilinx_anylanguagebehavioralsimulation", "simulation"),
        ("xilinx_xpgui", "xgui.ui"),
    ):
        view = _add(views, "view")
        _add(view, "name", name)
        _add(view, "envIdentifier", f":vivado.xilinx.com:{environment}")
        if environment != "xgui.ui":
            _add(view, "language", "Verilog")
            _add(view, "modelName", IP_MODULE)
        _add(_add(view, "fileSetRef"), "localName", f"{name}_view_fileset")
    place = _add(model, "ports")
    for port in ports:
        _add_port(place, port)


def _add_file_set(parent: ET.Element, view: str, files: Mapping[str, Sequence[str]]) -> None:
    element = _add(parent, "fileSet")
    _add(element, "name", f"{view}_view_fileset")
    for name, types in files.items():
        file = _add(element, "file")
        _add(file, "name", name)
        for item in types:
            standard = item in ("verilogSource", "tclSource")
            _add(file, "fileType" if standard else "userFileType", item)


def _add_extensions(
    parent: ET.Element, version: str, technology: Technology | None, title: str
) -> None:
    core = _add(_add(parent, "vendorExtensions"), "xilinx:coreExtensions")
    supported = _add(core, "xilinx:supportedFamilies")
    for family in families(technology):
        _add(supported, "xilinx:family", family, lifeCycle="Beta")
    _add(_add(core, "xilinx:taxonomies"), "xilinx:taxonomy", "/UserIP")
    _add(core, "xilinx:displayName", title)
    _add(core, "xilinx:vendorDisplayName", "palquant")
    _add(core, "xilinx:coreRevision", ip_version(version)[1])


def component_xml(
    geometry: Geometry,
    *,
    version: str,
    technology: Technology | None,
    sources: Sequence[str],
    constraints: str,
    dialogue: str,
) -> str:
    """The text of ``component.xml``.

    Parameters:
        geometry: Sizes of the machine.
        version: The package's version, of three numbers.
        technology: What the array is made of; None for adders that any tool understands.
        sources: Names of the Verilog files, the top module's last.
        constraints: Name of the constraints for synthesis out of context.
        dialogue: Name of the Tcl file with the dialogue for its parameters, of which it has none.
    """
    for prefix, space in NAME_SPACES.items():
        ET.register_namespace(prefix, space)
    title = f"{DISPLAY_NAME}, geometry {geometry.name}"
    root = ET.Element(_qualified("component"))
    _add(root, "vendor", VENDOR)
    _add(root, "library", LIBRARY)
    _add(root, "name", IP_MODULE)
    _add(root, "version", ip_version(version)[0])
    parts = interfaces(geometry)
    buses = _add(root, "busInterfaces")
    for interface in parts:
        _add_interface(buses, interface)
    _add_address_space(_add(root, "addressSpaces"))
    _add_memory_map(_add(root, "memoryMaps"))
    _add_model(root, [port for interface in parts for port in interface.ports])
    verilog = dict.fromkeys(sources, ("verilogSource",))
    sets = _add(root, "fileSets")
    _add_file_set(
        sets,
        "xilinx_anylanguagesynthesis",
        # Inside a design the clock is somebody else's to define.
        {**verilog, constraints: ("xdc", "USED_IN_out_of_context")},
    )
    _add_file_set(sets, "xilinx_anylanguagebehavioralsimulation", verilog)
    _add_file_set(sets, "xilinx_xpgui", {dialogue: ("tclSource", "XGUI_VERSION_2")})
    _add(root, "description", f"{DESCRIPTION}, geometry {geometry.name}")
    parameter = _add(_add(root, "parameters"), "parameter")
    _add(parameter, "name", "Component_Name")
    name = f"{IP_MODULE}_v{ip_version(version)[0].replace('.', '_')}"
    _add(parameter, "value", name, resolve="user", id="PARAM_VALUE.Component_Name", order=1)
    _add_extensions(root, version, technology, title)
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'
