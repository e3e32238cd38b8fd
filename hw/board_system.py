"""What a board's FPGA holds: the accelerator, its memory, and a link to the host."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from palquant.hw.axi import ADDRESS_BITS, Lite
from palquant.hw.carry_chain import Technology
from palquant.hw.compute import ComputeEngine
from palquant.hw.config import Geometry
from palquant.hw.host_link import HostLink
from palquant.hw.onchip_memory import OnChipMemory
from palquant.hw.top import TRACE_IDLE, Accelerator, connect_ports

__all__ = ["BoardSystem", "LiteSwitch"]


class LiteSwitch(wiring.Component):
    """Leads an AXI4-Lite master to one of two subordinates, by the top bit of the address.

    That bit is the one that ``registers.LINK_ADDRESS`` sets.

    The master has one transaction under way at a time, as the host link has; then answers come
    back without anything to remember.

    Members:
        master: ``In(Lite(32))``.
        low: ``Out(Lite(32))``, for addresses below 2^31.
        high: ``Out(Lite(32))``, for the others.
    """

    def __init__(self) -> None:
        port = Lite(ADDRESS_BITS)
        super().__init__({"master": In(port), "low": Out(port), "high": Out(port)})

    def elaborate(self, platform: object) -> Module:
        """Requests to one side, answers from whichever has one."""
        m = Module()
        master = self.master
        top = ADDRESS_BITS - 1
        # Data may come after its address, when only this still knows where that went; data that
        # comes before waits.
        side, address_gone = Signal(), Signal()
        write_side = Mux(master.awvalid, master.awaddr[top], side)
        with m.If(master.awvalid & master.awready):
            m.d.sync += [side.eq(master.awaddr[top]), address_gone.eq(1)]
        with m.If(master.bvalid & master.bready):
            m.d.sync += address_gone.eq(0)
        for port, number in ((self.low, 0), (self.high, 1)):
            m.d.comb += [
                port.awaddr.eq(master.awaddr),
                port.awprot.eq(master.awprot),
                port.awvalid.eq(master.awvalid & (master.awaddr[top] == number)),
                port.wdata.eq(master.wdata),
                port.wstrb.eq(master.wstrb),
                port.wvalid.eq(
                    master.wvalid & (master.awvalid | address_gone) & (write_side == number)
                ),
                port.bready.eq(master.bready),
                port.araddr.eq(master.araddr),
                port.arprot.eq(master.arprot),
                port.arvalid.eq(master.arvalid & (master.araddr[top] == number)),
                port.rready.eq(master.rready),
            ]
            with m.If(port.awvalid):
                m.d.comb += master.awready.eq(port.awready)
            with m.If(port.wvalid):
                m.d.comb += master.wready.eq(port.wready)
            with m.If(port.arvalid):
                m.d.comb += master.arready.eq(port.arready)
            with m.If(port.bvalid):
                m.d.comb += [master.bvalid.eq(1), master.bresp.eq(port.bresp)]
            with m.If(port.rvalid):
                m.d.comb += [
                    master.rvalid.eq(1),
                    master.rresp.eq(port.rresp),
                    master.rdata.eq(port.rdata),
                ]
        return m


class BoardSystem(wiring.Component):
    """Accelerator, on-chip memory and host link, behind a serial port.

    Parameters:
        geometry: Sizes of the accelerator.
        rows: Rows of the memory, each as wide as the accelerator's bus.
        divisor: Clock cycles of one bit on the serial line.
        timeout: Clock cycles after which a frame that is not complete is dropped.
        contents: What the memory holds at power-on.
        technology: What the array is made of; None for logic that any tool understands.
        large: Whether the memory is iCE40's single-port RAM.

    Members:
        rx: ``In(1)``, serial line from the host.
        tx: ``Out(1)``, serial line to the host.
        busy: ``Out(1)``. A run is under way.
        irq: ``Out(1)``, the accelerator's interrupt.
    """

    def __init__(
        self,
        geometry: Geometry,
        rows: int,
        divisor: int,
        timeout: int,
        contents: bytes = b"",
        *,
        technology: Technology | None = None,
        large: bool = False,
    ) -> None:
        self._geometry = geometry
        self._memory = OnChipMemory(geometry.bus_bits, rows, contents, large=large)
        self._link = HostLink(divisor, timeout)
        self._technology = technology
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "busy": Out(1), "irq": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Two masters, two subordinates."""
        m = Module()
        g = self._geometry
        m.submodules.accelerator = accelerator = Accelerator(g, ComputeEngine(g, self._technology))
        m.submodules.memory = memory = self._memory
        m.submodules.link = link = self._link
        m.submodules.switch = switch = LiteSwitch()
        connect(m, link.bus, switch.master)
        connect(m, switch.low, memory.host)
        connect_ports(m, accelerator, "m_axi_", memory.read)
        connect_ports(m, accelerator, "m_axi_", memory.write)
        connect_ports(m, accelerator, "s_axil_", switch.high)
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            self.irq.eq(accelerator.irq),
            self.busy.eq(accelerator.trace_activity != TRACE_IDLE),
        ]
        return m
