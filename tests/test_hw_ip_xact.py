"""The IP's description is well-formed, in the order of its schema, and says what the Verilog is."""

import itertools
import xml.etree.ElementTree as ET

import pytest
from vivado import spirit

from palquant.hw.carry_chain import Technology
from palquant.hw.ip_wrapper import interfaces
from palquant.hw.ip_xact import NAME_SPACES, access, component_xml, families, ip_version
from palquant.hw.presets import geometry
from palquant.hw.registers import REGISTERS, Access

TINY = geometry("tiny")

#: Element -> what may stand in it, in the order that the schema of IEEE 1685-2009 prescribes.
ORDER = {
    "component": "vendor library name version busInterfaces channels remapStates addressSpaces "
    "memoryMaps model componentGenerators choices fileSets whiteboxElements cpus "
    "otherClockDrivers description parameters vendorExtensions",
    "busInterface": "name displayName description busType abstractionType master slave "
    "connectionRequired portMaps bitsInLane bitSteering endianness parameters vendorExtensions",
    "portMap": "logicalPort physicalPort",
    "addressSpace": "name displayName description range width segments addressUnitBits "
    "executableImage localMemoryMap parameters vendorExtensions",
    "memoryMap": "name displayName description addressBlock memoryRemap addressUnitBits "
    "vendorExtensions",
    "addressBlock": "name displayName description baseAddress typeIdentifier range width usage "
    "volatile access parameters register vendorExtensions",
    "register": "name displayName description dim addressOffset typeIdentifier size volatile "
    "access reset field alternateRegisters parameters vendorExtensions",
    "reset": "value mask",
    "field": "name displayName description bitOffset typeIdentifier bitWidth volatile access "
    "enumeratedValues modifiedWriteValue writeValueConstraint readAction testable parameters "
    "vendorExtensions",
    "enumeratedValue": "name displayName description value vendorExtensions",
    "model": "views ports modelParameters",
    "view": "name displayName description envIdentifier hierarchyRef language modelName "
    "defaultFileBuilder fileSetRef constraintSetRef whiteboxElementRefs parameters "
    "vendorExtensions",
    "port": "name displayName description wire access vendorExtensions",
    "wire": "direction vector wireTypeDefs driver constraintSets",
    "vector": "left right",
    "wireTypeDef": "typeName typeDefinition viewNameRef",
    "fileSet": "name displayName description group file defaultFileBuilder dependency function "
    "vendorExtensions",
    "file": "name fileType userFileType isIncludeFile logicalName exportedName buildCommand "
    "dependency define imageType description vendorExtensions",
    "parameter": "name displayName description value vendorExtensions",
}
#: Elements that hold any number of one other.
LISTS = {"busInterfaces", "portMaps", "parameters", "addressSpaces", "memoryMaps", "views",
         "ports", "fileSets", "enumeratedValues", "wireTypeDefs"}  # fmt: skip
#: Elements that hold one other.
SINGLE = {"master", "slave", "logicalPort", "physicalPort", "fileSetRef"}
_SPIRIT, _XILINX = (f"{{{NAME_SPACES[name]}}}" for name in ("spirit", "xilinx"))


def describe(machine=TINY, technology=Technology.XILINX7):
    return component_xml(
        machine, version="1.2.3", technology=technology, sources=("a.v", "b.v"),
        constraints="c.xdc", dialogue="d.tcl",
    )  # fmt: skip


@pytest.fixture(scope="module")
def root():
    return ET.fromstring(describe())


def check_order(element):
    """Refuse an element whose children the schema does not allow, or not in this order."""
    name, children = element.tag.removeprefix(_SPIRIT), list(element)
    names = [child.tag.removeprefix(_SPIRIT) for child in children]
    if name == "vendorExtensions":
        assert all(child.tag.startswith(_XILINX) for child in children)
        return
    if name in ORDER:
        order = ORDER[name].split()
        places = [order.index(child) for child in names]
        assert places == sorted(places), (name, names)
    elif name in LISTS:
        assert set(names) <= {name[:-1]}, (name, names)
        assert names
    elif name in SINGLE:
        assert len(names) <= 1
    else:
        assert not names, f"{name} has no order here"
    for child in children:
        check_order(child)


def texts(elements, path):
    return [element.findtext(spirit(path)) for element in elements]


@pytest.mark.parametrize("name", ["tiny", "ulx3s", "kilomac"])
def test_elements_are_in_the_order_of_the_schema(name):
    check_order(ET.fromstring(describe(geometry(name))))


def test_another_order_is_noticed(root):
    copy = ET.fromstring(ET.tostring(root))
    field = copy.find(spirit("memoryMaps/memoryMap/addressBlock/register/field"))
    first = field[0]
    field.remove(first)
    field.append(first)
    with pytest.raises(AssertionError, match="field"):
        check_order(copy)


def test_name_and_version(root):
    found = [root.findtext(spirit(key)) for key in ("vendor", "library", "name", "version")]
    assert found == ["palquant.org", "accelerator", "palquant_ip", "1.2"]
    assert root.find(f".//{_XILINX}coreRevision").text == "3"
    assert ip_version("0.1.0") == ("0.1", "0")


def test_every_port_is_mapped_once_and_declared_as_in_the_table(root):
    expected = {port.name: port for item in interfaces(TINY) for port in item.ports}
    buses = root.findall(spirit("busInterfaces/busInterface"))
    mapped = list(
        itertools.chain(
            *(texts(bus.findall(spirit("portMaps/portMap")), "physicalPort/name") for bus in buses)
        )
    )
    assert sorted(mapped) == sorted(expected)
    declared = root.findall(spirit("model/ports/port"))
    assert sorted(texts(declared, "name")) == sorted(expected)
    for port in declared:
        item = expected[port.findtext(spirit("name"))]
        assert port.findtext(spirit("wire/direction")) == ("out" if item.output else "in")
        left = port.findtext(spirit("wire/vector/left"))
        assert int(left or 0) + 1 == item.bits
        assert (left is None) == (item.bits == 1)


def test_interfaces_have_vivados_definitions(root):
    found = {}
    for bus in root.findall(spirit("busInterfaces/busInterface")):
        kinds = []
        for tag in ("busType", "abstractionType"):
            definition = bus.find(spirit(tag))
            keys = ("vendor", "library", "name", "version")
            kinds.append(":".join(definition.get(spirit(key)) for key in keys))
        mode = "master" if bus.find(spirit("master")) is not None else "slave"
        found[bus.findtext(spirit("name"))] = (*kinds, mode)
    axi = ("xilinx.com:interface:aximm:1.0", "xilinx.com:interface:aximm_rtl:1.0")
    signal = {
        name: (f"xilinx.com:signal:{name}:1.0", f"xilinx.com:signal:{name}_rtl:1.0")
        for name in ("clock", "reset", "interrupt")
    }
    assert found == {
        "aclk": (*signal["clock"], "slave"),
        "aresetn": (*signal["reset"], "slave"),
        "irq": (*signal["interrupt"], "master"),
        "M_AXI": (*axi, "master"),
        "S_AXI": (*axi, "slave"),
    }
    for bus, item in zip(
        root.findall(spirit("busInterfaces/busInterface")), interfaces(TINY), strict=True
    ):
        parameters = bus.findall(spirit("parameters/parameter"))
        values = dict(zip(texts(parameters, "name"), texts(parameters, "value"), strict=True))
        assert values == {key: str(value) for key, value in item.parameters.items()}


def test_address_space_and_memory_map_are_referred_to(root):
    (space,) = root.findall(spirit("addressSpaces/addressSpace"))
    (memory,) = root.findall(spirit("memoryMaps/memoryMap"))
    assert space.findtext(spirit("range")) == str(4 << 30)
    assert memory.findtext(spirit("addressBlock/range")) == str(4 << 10)
    for path, target in (
        ("master/addressSpaceRef", space.findtext(spirit("name"))),
        ("slave/memoryMapRef", memory.findtext(spirit("name"))),
    ):
        (reference,) = root.findall(spirit(f"busInterfaces/busInterface/{path}"))
        assert reference.get(spirit(path.rpartition("/")[2])) == target


def test_registers_are_those_of_the_table(root):
    found = root.findall(spirit("memoryMaps/memoryMap/addressBlock/register"))
    assert texts(found, "name") == list(REGISTERS)
    for element, register in zip(found, REGISTERS.values(), strict=True):
        assert int(element.findtext(spirit("addressOffset")), 0) == register.offset
        assert element.findtext(spirit("size")) == "32"
        assert element.findtext(spirit("access")) == access(register)
        assert element.findtext(spirit("description")) == register.doc
        fields = element.findall(spirit("field"))
        assert texts(fields, "name") == list(register.fields)
        for entry, (item, shift) in zip(fields, register.fields.values(), strict=True):
            assert entry.findtext(spirit("bitOffset")) == str(shift)
            assert entry.findtext(spirit("bitWidth")) == str(item.bits)
            clears = entry.findtext(spirit("modifiedWriteValue")) == "oneToClear"
            assert clears == (item.access is Access.WRITE_ONE_TO_CLEAR)
            values = entry.findall(spirit("enumeratedValues/enumeratedValue"))
            assert texts(values, "name") == [member.name for member in item.values or ()]
    assert access(REGISTERS["CONTROL"]) == "write-only"
    assert access(REGISTERS["INTERRUPT_STATUS"]) == "read-write"
    resets = {
        element.findtext(spirit("name")): int(element.findtext(spirit("reset/value")), 0)
        for element in found
        if element.find(spirit("reset")) is not None
    }
    assert resets["IMAGE_COUNT"] == 1
    assert "ID" not in resets


def test_views_name_file_sets_that_exist(root):
    sets = {
        item.findtext(spirit("name")): texts(item.findall(spirit("file")), "name")
        for item in root.findall(spirit("fileSets/fileSet"))
    }
    views = root.findall(spirit("model/views/view"))
    assert sorted(texts(views, "fileSetRef/localName")) == sorted(sets)
    assert sorted(sets.values()) == [["a.v", "b.v"], ["a.v", "b.v", "c.xdc"], ["d.tcl"]]
    tags = {
        file.findtext(spirit("name")): [item.text for item in file.findall(spirit("userFileType"))]
        for file in root.findall(spirit("fileSets/fileSet/file"))
    }
    assert tags["c.xdc"] == ["xdc", "USED_IN_out_of_context"]


def test_families_are_those_that_have_the_cells(root):
    supported = [item.text for item in root.iter(f"{_XILINX}family")]
    assert supported == list(families(Technology.XILINX7))
    assert "zynq" in supported
    assert "zynquplus" not in supported
    portable = ET.fromstring(describe(technology=None))
    assert "zynquplus" in [item.text for item in portable.iter(f"{_XILINX}family")]
