"""The module of the IP package: the accelerator with the names and polarities of Vivado.

Its ports are a table, made of the signatures in :mod:`palquant.hw.axi`. The Verilog here, the
IP-XACT description (:mod:`palquant.hw.ip_xact`) and the tests read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from amaranth import Shape
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from palquant.hw.axi import ADDRESS_BITS, ID_BITS, Lite, ReadChannels, WriteChannels
from palquant.hw.config import Geometry
from palquant.hw.core import Trace
from palquant.hw.generate import MODULE
from palquant.hw.registers import ADDRESS_BITS as REGISTER_ADDRESS_BITS
from palquant.hw.registers import REGISTER_BITS

#: Name of the Verilog module, and of the IP.
IP_MODULE = f"{MODULE}_ip"
#: Name of the clock, and of its interface.
CLOCK = "aclk"
#: Name of the reset, and of its interface.
RESET = "aresetn"
#: Name of the AXI4 master, as of its address space.
MANAGER = "M_AXI"
#: Name of the AXI4-Lite subordinate, as of its memory map.
SUBORDINATE = "S_AXI"

#: What AXI4 has and the accelerator has not, without ``ar`` or ``aw``: signal to width. All are 0:
#: no exclusive access, and no part in quality of service.
_CONSTANT_ZERO = {"lock": 1, "qos": 4}


@dataclass(frozen=True)
class Port:
    """A port of the IP.

    Parameters:
        name: Name.
        signal: What Vivado's definition of the interface calls it.
        output: Whether it is an output.
        bits: Width.
        core: Port of the accelerator that it is connected to; None for an output that is 0.
    """

    name: str
    signal: str
    output: bool
    bits: int
    core: str | None


@dataclass(frozen=True)
class Interface:
    """Ports that Vivado connects as one.

    Parameters:
        name: Name.
        library: Library of its definition at ``xilinx.com``: ``interface`` or ``signal``.
        definition: Name of its definition, of version 1.0.
        master: Whether it is a master, rather than a slave, of that definition.
        ports: Its ports.
        parameters: What Vivado is told about it.
    """

    name: str
    library: str
    definition: str
    master: bool
    ports: tuple[Port, ...]
    parameters: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def definition_name(self) -> str:
        """Vendor, library, name and version of the definition, as Vivado writes them."""
        return f"xilinx.com:{self.library}:{self.definition}:1.0"


def _signature_ports(name: str, core: str, signature: wiring.Signature) -> Iterator[Port]:
    for signal, member in signature.members.items():
        yield Port(
            f"{name.lower()}_{signal}",
            signal.upper(),
            member.flow is Out,
            Shape.cast(member.shape).width,
            f"{core}_{signal}",
        )


def _manager(geometry: Geometry) -> Interface:
    ports = [
        port
        for signature in (WriteChannels(geometry.bus_bits), ReadChannels(geometry.bus_bits))
        for port in _signature_ports(MANAGER, "m_axi", signature)
    ]
    for signal, bits in _CONSTANT_ZERO.items():
        for channel in ("aw", "ar"):
            name = f"{channel}{signal}"
            ports.append(Port(f"{MANAGER.lower()}_{name}", name.upper(), True, bits, None))
    return Interface(
        MANAGER,
        "interface",
        "aximm",
        True,
        tuple(ports),
        {
            "PROTOCOL": "AXI4",
            "DATA_WIDTH": geometry.bus_bits,
            "ADDR_WIDTH": ADDRESS_BITS,
            "ID_WIDTH": ID_BITS,
            "READ_WRITE_MODE": "READ_WRITE",
            "SUPPORTS_NARROW_BURST": 0,
            "MAX_BURST_LENGTH": geometry.burst_beats,
            "NUM_READ_OUTSTANDING": geometry.outstanding_bursts,
            "NUM_WRITE_OUTSTANDING": geometry.outstanding_bursts,
        },
    )


def _subordinate() -> Interface:
    return Interface(
        SUBORDINATE,
        "interface",
        "aximm",
        False,
        tuple(_signature_ports(SUBORDINATE, "s_axil", Lite(REGISTER_ADDRESS_BITS).flip())),
        {
            "PROTOCOL": "AXI4LITE",
            "DATA_WIDTH": REGISTER_BITS,
            "ADDR_WIDTH": REGISTER_ADDRESS_BITS,
            "READ_WRITE_MODE": "READ_WRITE",
        },
    )


def interfaces(geometry: Geometry) -> tuple[Interface, ...]:
    """All interfaces of the IP; every port belongs to one of them.

    What the accelerator has for profiling (``trace_*``) is no port.

    Parameters:
        geometry: Sizes of the machine.
    """
    return (
        Interface(
            CLOCK,
            "signal",
            "clock",
            False,
            (Port(CLOCK, "CLK", False, 1, "clk"),),
            {"ASSOCIATED_BUSIF": f"{MANAGER}:{SUBORDINATE}", "ASSOCIATED_RESET": RESET},
        ),
        Interface(
            RESET,
            "signal",
            "reset",
            False,
            (Port(RESET, "RST", False, 1, "rst"),),
            {"POLARITY": "ACTIVE_LOW"},
        ),
        _manager(geometry),
        _subordinate(),
        Interface(
            "irq",
            "signal",
            "interrupt",
            True,
            (Port("irq", "INTERRUPT", True, 1, "irq"),),
            {"SENSITIVITY": "LEVEL_HIGH"},
        ),
    )


def _range(bits: int) -> str:
    return f"[{bits - 1}:0] " if bits > 1 else ""


def _declaration(interface: Interface, port: Port) -> str:
    """A port with the attributes from which Vivado infers its interface."""
    attributes = {"X_INTERFACE_INFO": f"{interface.definition_name} {interface.name} {port.signal}"}
    if port is interface.ports[0]:  # one port of an interface speaks for all
        attributes["X_INTERFACE_MODE"] = "master" if interface.master else "slave"
        attributes["X_INTERFACE_PARAMETER"] = ", ".join(
            [f"XIL_INTERFACENAME {interface.name}"]
            + [f"{name} {value}" for name, value in interface.parameters.items()]
        )
    lines = [f'  (* {name} = "{value}" *)' for name, value in attributes.items()]
    direction = "output" if port.output else "input"
    return "\n".join([*lines, f"  {direction} wire {_range(port.bits)}{port.name}"])


def wrapper_verilog(geometry: Geometry) -> str:
    """Verilog of module ``palquant_ip`` around module ``palquant``.

    Parameters:
        geometry: Sizes of the machine.
    """
    declarations: list[str] = []
    constants: list[str] = []
    unused: list[str] = []
    connections: dict[str, str] = {}
    for interface in interfaces(geometry):
        # Without a register: the host may write in the first cycle after the reset, and
        # ``s_axi_awready`` is high then.
        inverted = interface.parameters.get("POLARITY") == "ACTIVE_LOW"
        for port in interface.ports:
            declarations.append(_declaration(interface, port))
            if port.core is None:
                constants.append(f"  assign {port.name} = {port.bits}'d0;")
            else:
                connections[port.core] = f"~{port.name}" if inverted else port.name
    for signal, member in Trace().members.items():
        name = f"trace_{signal}"
        unused.append(f"  wire {_range(Shape.cast(member.shape).width)}{name};")
        connections[name] = name
    instance = ",\n".join(f"    .{core}({value})" for core, value in connections.items())
    return "\n".join(
        [
            f"// The accelerator {MODULE}, geometry {geometry.name}, for Vivado. Generated.",
            f"module {IP_MODULE} (",
            ",\n".join(declarations),
            ");",
            *constants,
            "",
            "  // For profiling in simulation.",
            *unused,
            "",
            f"  {MODULE} accelerator (",
            instance,
            "  );",
            "endmodule",
            "",
        ]
    )
