"""AXI4: signatures, and the split of rows into bursts.

Names and rules are those of the AMBA AXI4 specification (ARM IHI 0022): a source never waits for
``ready`` before it raises ``valid``, and keeps ``valid`` and its payload until ``ready``; a burst
never crosses a 4 KiB border.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.layouts import MEMORY_BITS, struct

#: Bits of a byte address.
ADDRESS_BITS = isa.DRAM_BITS
#: Bits of a transaction identifier.
ID_BITS = 1
#: Bits of a burst length, stored as beats - 1.
LENGTH_BITS = 8

_INCREMENTING = 0b01  # AxBURST
_MODIFIABLE_BUFFERABLE = 0b0011  # AxCACHE: what interconnects want to see to widen or merge
_DATA_SECURE_UNPRIVILEGED = 0b000  # AxPROT


def request(geometry: Geometry) -> data.StructLayout:
    """A burst on its way to an address channel: its first byte, and its beats - 1."""
    return data.StructLayout({"address": geometry.dram_bits, "length": LENGTH_BITS})


def row_layout(geometry: Geometry) -> data.StructLayout:
    """A row of ``beats``, contiguous in DRAM from byte ``address``.

    On chip it begins at beat ``local`` of ``memory``. ``last`` marks an instruction's last row.
    """
    return data.StructLayout(
        {
            "address": geometry.dram_bits,
            "beats": struct(isa.TRANSFER, geometry)["row_beats"].shape,
            "memory": MEMORY_BITS,
            "local": geometry.address_bits,
            "last": 1,
        }
    )


def burst_layout(geometry: Geometry) -> data.StructLayout:
    """A burst of ``length`` + 1 beats, and where they lie on chip.

    ``last`` marks an instruction's last burst.
    """
    return data.StructLayout(
        {
            "address": geometry.dram_bits,
            "length": LENGTH_BITS,
            "memory": MEMORY_BITS,
            "local": geometry.address_bits,
            "last": 1,
        }
    )


def read_beat(geometry: Geometry) -> data.StructLayout:
    """A beat that was read: ``data``, ``last`` as the memory said, ``error`` if it refused."""
    return data.StructLayout({"data": geometry.bus_bits, "last": 1, "error": 1})


def _address_channel(prefix: str) -> dict[str, wiring.Member]:
    widths = {"id": ID_BITS, "addr": ADDRESS_BITS, "len": LENGTH_BITS, "size": 3, "burst": 2}
    members = {name: Out(bits) for name, bits in {**widths, "cache": 4, "prot": 3}.items()}
    members |= {"valid": Out(1), "ready": In(1)}
    return {prefix + name: member for name, member in members.items()}


class ReadChannels(wiring.Signature):
    """AR and R of a master whose data bus has ``data_bits``."""

    def __init__(self, data_bits: int) -> None:
        super().__init__(
            {
                **_address_channel("ar"),
                "rid": In(ID_BITS),
                "rdata": In(data_bits),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class WriteChannels(wiring.Signature):
    """AW, W and B of a master whose data bus has ``data_bits``."""

    def __init__(self, data_bits: int) -> None:
        super().__init__(
            {
                **_address_channel("aw"),
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(ID_BITS),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


class Lite(wiring.Signature):
    """AXI4-Lite with 32-bit data, seen from the host.

    Parameters:
        address_bits: Width of the byte addresses.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


def address_constants(geometry: Geometry) -> dict[str, int]:
    """What never changes on an address channel: signal, without ``ar`` or ``aw``, to value."""
    return {
        "size": geometry.bus_bytes.bit_length() - 1,
        "burst": _INCREMENTING,
        "cache": _MODIFIABLE_BUFFERABLE,
        "prot": _DATA_SECURE_UNPRIVILEGED,
    }


class BurstSplitter(wiring.Component):
    """Cuts rows into bursts, one burst a cycle, and a cycle between two rows.

    That cycle keeps what takes bursts from reaching, within a cycle, what makes rows.

    Bursts end where an address is a multiple of the longest burst's size. That size is a power of
    two of at most 4 KiB, so no burst crosses a 4 KiB border and one comparison finds each length.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        i: ``In(stream.Signature(row_layout(geometry)))``, addresses multiples of the bus width, at
            least one beat.
        o: ``Out(stream.Signature(burst_layout(geometry)))``, the first burst one cycle after its
            row.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(row_layout(geometry))),
                "o": Out(stream.Signature(burst_layout(geometry))),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """The row at hand, shortened by each burst."""
        m = Module()
        byte_bits = self._geometry.bus_bytes.bit_length() - 1
        burst_beats = self._geometry.burst_beats
        beat_bits = burst_beats.bit_length() - 1

        # What remains of the row, the length of its next burst, and whether that is its last.
        row = Signal(row_layout(self._geometry))
        active = Signal()
        beats = Signal(range(1, burst_beats + 1))
        final = Signal()
        beat = row.address[byte_bits:]
        m.d.comb += [
            self.o.valid.eq(active),
            self.o.payload.address.eq(row.address),
            self.o.payload.length.eq(beats - 1),
            self.o.payload.memory.eq(row.memory),
            self.o.payload.local.eq(row.local),
            self.o.payload.last.eq(row.last & final),
            self.i.ready.eq(~active),
        ]

        def begin(domain: Any, address: Value, left: Value) -> None:
            """A burst at a beat's address, of what is left of the row."""
            space = Signal(range(1, burst_beats + 1))
            m.d.comb += space.eq(burst_beats - address[:beat_bits])
            domain += [beats.eq(Mux(left <= space, left, space)), final.eq(left <= space)]

        ahead = self._geometry.overlap
        if not ahead:
            begin(m.d.comb, beat, row.beats)
        with m.If(self.i.ready):
            m.d.sync += [row.eq(self.i.payload), active.eq(self.i.valid)]
            if ahead:
                begin(m.d.sync, self.i.payload.address[byte_bits:], self.i.payload.beats)
        with m.Elif(self.o.ready & final):
            m.d.sync += active.eq(0)
        with m.Elif(self.o.ready):
            left = Signal.like(row.beats)
            m.d.comb += left.eq(row.beats - beats)
            m.d.sync += [
                row.address.eq(Cat(Const(0, byte_bits + beat_bits), beat[beat_bits:] + 1)),
                row.beats.eq(left),
                row.local.eq(row.local + beats),
            ]
            if ahead:  # it begins at a multiple of the longest burst's size
                begin(m.d.sync, Const(0, beat_bits), left)
        return m
