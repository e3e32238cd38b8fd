"""The accelerator as a whole: the Verilog module ``palquant``."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from palquant.hw import isa
from palquant.hw.axi import Lite, ReadChannels, WriteChannels
from palquant.hw.axilite import RegisterFile
from palquant.hw.compute import ComputeEngine
from palquant.hw.config import Geometry
from palquant.hw.core import Core
from palquant.hw.registers import ADDRESS_BITS, COUNTERS, REGISTER_BITS, REGISTERS
from palquant.hw.supervisor import SOURCES, Supervisor
from palquant.hw.tokens import LAYER_BITS

#: What ``trace_activity`` says while no run is under way.
TRACE_IDLE = 15
_TRACE_BITS = 4


def _ports(prefix: str, signature: wiring.Signature) -> dict[str, wiring.Member]:
    return {prefix + name: member for name, member in signature.members.items()}


def held_bits(geometry: Geometry) -> dict[str, int]:
    """Bits that the machine holds of its settings, by register."""
    addresses = ("image_address", "input_address", "output_address")
    strides = ("input_stride", "output_stride")
    return {
        **dict.fromkeys(addresses, geometry.dram_bits),
        **dict.fromkeys(strides, geometry.dram_bits if geometry.repeats else 0),
        "image_count": geometry.count_bits,
        "watchdog_limit": geometry.watchdog_bits,
    }


def connect_ports(
    m: Module, component: wiring.Component, prefix: str, interface: wiring.PureInterface
) -> None:
    """Connect ports that are named one by one to an interface: its outputs drive ports."""
    for name, member in interface.signature.members.items():
        port, signal = getattr(component, prefix + name), getattr(interface, name)
        if member.flow is Out:
            m.d.comb += port.eq(signal)
        else:
            m.d.comb += signal.eq(port)


class Accelerator(wiring.Component):
    """The machine with its buses.

    Parameters:
        geometry: Sizes.
        compute: The compute engine; made from the geometry if not given.

    Members:
        m_axi_*: AXI4 master, to DRAM.
        s_axil_*: AXI4-Lite subordinate, for the host: ``registers.REGISTERS``.
        irq: ``Out(1)``, high as long as an enabled event is pending.
        trace_layer: ``Out(12)``, layer of the COMPUTE that runs or is waited for. This and the
            rest of the trace is of the cycle before.
        trace_activity: ``Out(4)``, ``registers.Activity``, or ``TRACE_IDLE`` outside of runs.
        trace_load_busy: ``Out(1)``.
        trace_load_layer: ``Out(12)``, layer of the LOAD under way.
        trace_store_busy: ``Out(1)``.
        trace_store_layer: ``Out(12)``, layer of the STORE under way.
    """

    def __init__(self, geometry: Geometry, compute: wiring.Component | None = None) -> None:
        super().__init__(
            {
                **_ports("m_axi_", ReadChannels(geometry.bus_bits)),
                **_ports("m_axi_", WriteChannels(geometry.bus_bits)),
                **_ports("s_axil_", Lite(ADDRESS_BITS).flip()),
                "irq": Out(1),
                "trace_layer": Out(LAYER_BITS),
                "trace_activity": Out(_TRACE_BITS),
                "trace_load_busy": Out(1),
                "trace_load_layer": Out(LAYER_BITS),
                "trace_store_busy": Out(1),
                "trace_store_layer": Out(LAYER_BITS),
            }
        )
        self._geometry = geometry
        self._compute = ComputeEngine(geometry) if compute is None else compute

    @property
    def geometry(self) -> Geometry:
        """Sizes."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """Registers and supervisor around a core."""
        m = Module()
        m.submodules.registers = registers = RegisterFile(
            REGISTERS, held_bits(self._geometry), registered=self._geometry.overlap
        )
        m.submodules.supervisor = supervisor = Supervisor(self._geometry)
        core = Core(self._geometry, self._compute)
        m.submodules.core = core

        connect_ports(m, self, "s_axil_", registers.bus)
        connect_ports(m, self, "m_axi_", core.read)
        connect_ports(m, self, "m_axi_", core.write)
        self._control(m, registers, supervisor, core)
        self._identify(m, registers)

        for name in core.trace.signature.members:
            m.d.comb += getattr(self, f"trace_{name}").eq(getattr(core.trace, name))
        with m.If(~core.traced):
            m.d.comb += self.trace_activity.eq(TRACE_IDLE)
        for name in COUNTERS:
            value = core.counters[name]
            m.d.comb += [
                getattr(registers, f"{name.lower()}_low").eq(value[:REGISTER_BITS]),
                getattr(registers, f"{name.lower()}_high").eq(value[REGISTER_BITS:]),
            ]
        return m

    def _control(
        self, m: Module, registers: RegisterFile, supervisor: Supervisor, core: Core
    ) -> None:
        m.d.comb += [
            supervisor.start.eq(registers.control_start),
            supervisor.reset.eq(registers.control_reset),
            registers.hold.eq(supervisor.starting),
            supervisor.finished.eq(core.finished),
            supervisor.quiet.eq(core.quiet),
            core.go.eq(supervisor.go),
            core.clear.eq(supervisor.clear),
            core.running.eq(supervisor.running),
            core.halt.eq(supervisor.halt),
            core.watchdog_limit.eq(registers.watchdog_limit),
            registers.status_busy.eq(supervisor.busy),
            registers.status_done.eq(supervisor.done),
            registers.status_error.eq(supervisor.error),
            registers.status_resetting.eq(supervisor.resetting),
            registers.status_code.eq(supervisor.code),
            registers.error_address.eq(supervisor.offset),
            registers.images_done.eq(core.images_done),
            registers.interrupt_status_done_set.eq(supervisor.ended),
            registers.interrupt_status_error_set.eq(supervisor.failed),
            self.irq.eq(
                registers.interrupt_status_done & registers.interrupt_enable_done
                | registers.interrupt_status_error & registers.interrupt_enable_error
            ),
        ]
        for name in core.settings.signature.members:
            m.d.comb += getattr(core.settings, name).eq(getattr(registers, name))
        for name in SOURCES:
            wiring.connect(
                m, getattr(core, f"report_{name}"), getattr(supervisor, f"report_{name}")
            )
        # The last look before an error ends the run stays.
        for name in REGISTERS["STALL"].fields if self._geometry.diagnosis else ():
            signal = getattr(registers, f"stall_{name}")
            with m.If(~supervisor.halt):
                m.d.sync += signal.eq(core.stall[name])

    def _identify(self, m: Module, registers: RegisterFile) -> None:
        geometry = self._geometry
        values: Mapping[str, int] = {
            "id": isa.MAGIC,
            "version": isa.VERSION,
            "geometry": geometry.identity,
            "capability_tin": geometry.tin,
            "capability_tout": geometry.tout,
            "capability_lanes": geometry.lanes,
            "capability_bus_bytes": geometry.bus_bytes,
            "capability_counters": geometry.counters,
        }
        for name, number in values.items():
            m.d.comb += getattr(registers, name).eq(number)
