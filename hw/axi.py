"""AXI4: signatures, the split of rows into bursts, and two readers sharing one read port.

Names and rules are those of the AMBA AXI4 specification (ARM IHI 0022): a source never waits for
``ready`` before it raises ``valid``, and keeps ``valid`` and its payload until ``ready``; a burst
never crosses a 4 KiB border.
"""

from __future__ import annotations

import enum

from amaranth import Cat, Const, Module, Mux, ShapeLike, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.layouts import MEMORY_BITS

#: Bits of a byte address.
ADDRESS_BITS = isa.DRAM_BITS
#: Bits of a transaction identifier.
ID_BITS = 1
#: Bits of a burst length, stored as beats - 1.
LENGTH_BITS = 8

_INCREMENTING = 0b01  # AxBURST
_MODIFIABLE_BUFFERABLE = 0b0011  # AxCACHE: what interconnects want to see to widen or merge
_DATA_SECURE_UNPRIVILEGED = 0b000  # AxPROT


class ReadSource(enum.IntEnum):
    """Who reads: the transaction's identifier."""

    FETCH = 0
    LOAD = 1


#: A burst on its way to an address channel.
ADDRESS = data.StructLayout({"address": ADDRESS_BITS, "length": LENGTH_BITS})

#: A row of beats: contiguous in DRAM from byte ``address``, and on chip from beat ``local`` of
#: ``memory``. ``last`` marks an instruction's last row.
ROW = data.StructLayout(
    {
        "address": ADDRESS_BITS,
        "beats": 16,
        "memory": MEMORY_BITS,
        "local": isa.ADDRESS_BITS,
        "last": 1,
    }
)

#: A burst of ``length`` + 1 beats, and where they lie on chip. ``last`` marks an instruction's
#: last burst.
BURST = data.StructLayout(
    {
        "address": ADDRESS_BITS,
        "length": LENGTH_BITS,
        "memory": MEMORY_BITS,
        "local": isa.ADDRESS_BITS,
        "last": 1,
    }
)


def read_beat(geometry: Geometry) -> data.StructLayout:
    """A beat that was read: ``data``, and ``error`` where the response was not OKAY."""
    return data.StructLayout({"data": geometry.bus_bits, "error": 1})


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


class RegisterSlice(wiring.Component):
    """Passes a stream on at full rate, with registers in ``valid``, payload and ``ready``.

    Parameters:
        shape: Shape of the payload.

    Members:
        i: ``In(stream.Signature(shape))``.
        o: ``Out(stream.Signature(shape))``, one cycle later.
    """

    LATENCY = 1

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})
        self._shape = shape

    @property
    def shape(self) -> ShapeLike:
        """Shape of the payload."""
        return self._shape

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spare = Signal(self._shape)
        spare_valid = Signal()
        m.d.comb += self.i.ready.eq(~spare_valid)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += spare_valid.eq(0)
            with m.If(spare_valid):
                m.d.sync += [self.o.payload.eq(spare), self.o.valid.eq(1)]
            with m.Else():
                m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(self.i.valid)]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [spare.eq(self.i.payload), spare_valid.eq(1)]
        return m


class BurstSplitter(wiring.Component):
    """Cuts rows into bursts, one burst a cycle.

    Bursts end where an address is a multiple of the longest burst's size. That size is a power of
    two of at most 4 KiB, so no burst crosses a 4 KiB border and one comparison finds each length.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        i: ``In(stream.Signature(ROW))``, addresses multiples of the bus width, at least one beat.
        o: ``Out(stream.Signature(BURST))``, the first burst one cycle after its row.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__({"i": In(stream.Signature(ROW)), "o": Out(stream.Signature(BURST))})
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        m = Module()
        byte_bits = self._geometry.bus_bytes.bit_length() - 1
        burst_beats = self._geometry.burst_beats
        beat_bits = burst_beats.bit_length() - 1

        row = Signal(ROW)
        active = Signal()
        beat = row.address[byte_bits:]
        space = Signal(range(1, burst_beats + 1))
        beats = Signal.like(space)
        final = Signal()
        m.d.comb += [
            space.eq(burst_beats - beat[:beat_bits]),
            final.eq(row.beats <= space),
            beats.eq(Mux(final, row.beats, space)),
            self.o.valid.eq(active),
            self.o.payload.address.eq(row.address),
            self.o.payload.length.eq(beats - 1),
            self.o.payload.memory.eq(row.memory),
            self.o.payload.local.eq(row.local),
            self.o.payload.last.eq(row.last & final),
            self.i.ready.eq(~active | (self.o.ready & final)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [row.eq(self.i.payload), active.eq(self.i.valid)]
        with m.Elif(self.o.ready):
            m.d.sync += [
                row.address.eq(Cat(Const(0, byte_bits + beat_bits), beat[beat_bits:] + 1)),
                row.beats.eq(row.beats - space),
                row.local.eq(row.local + space),
            ]
        return m


class ReadArbiter(wiring.Component):
    """Lets the fetch unit and the load engine share the read channels.

    Each uses its own identifier (:class:`ReadSource`), so the memory may answer them in any order.
    Whoever asks for a burst must be able to take all of its beats, sooner or later, without the
    other's help. The fetch unit asks rarely and goes first.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        fetch: ``In(stream.Signature(ADDRESS))``.
        load: ``In(stream.Signature(ADDRESS))``.
        halt: ``In(1)``. No further burst is taken while it is high.
        fetch_data: ``Out(stream.Signature(read_beat(geometry)))``.
        load_data: ``Out(stream.Signature(read_beat(geometry)))``.
        fetch_waits: ``Out(1)``. An address of the fetch unit waits for the memory.
        load_waits: ``Out(1)``. An address of the load engine waits for the memory.
        bus: ``Out(ReadChannels(bus_bits))``.
    """

    #: From a burst's acceptance to ARVALID.
    ADDRESS_LATENCY = 1
    #: From RVALID to the reader.
    DATA_LATENCY = RegisterSlice.LATENCY

    def __init__(self, geometry: Geometry) -> None:
        beat = read_beat(geometry)
        super().__init__(
            {
                "fetch": In(stream.Signature(ADDRESS)),
                "load": In(stream.Signature(ADDRESS)),
                "halt": In(1),
                "fetch_data": Out(stream.Signature(beat)),
                "load_data": Out(stream.Signature(beat)),
                "fetch_waits": Out(1),
                "load_waits": Out(1),
                "bus": Out(ReadChannels(geometry.bus_bits)),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        for name, value in address_constants(self._geometry).items():
            m.d.comb += getattr(bus, "ar" + name).eq(value)

        free = Signal()
        m.d.comb += [
            free.eq((~bus.arvalid | bus.arready) & ~self.halt),
            self.fetch.ready.eq(free),
            self.load.ready.eq(free & ~self.fetch.valid),
            self.fetch_waits.eq(bus.arvalid & ~bus.arready & (bus.arid == ReadSource.FETCH)),
            self.load_waits.eq(bus.arvalid & ~bus.arready & (bus.arid == ReadSource.LOAD)),
        ]
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.If(free):
            chosen = Mux(self.fetch.valid, self.fetch.payload, self.load.payload)
            burst = data.View(ADDRESS, chosen)
            m.d.sync += [
                bus.arvalid.eq(self.fetch.valid | self.load.valid),
                bus.araddr.eq(burst.address),
                bus.arlen.eq(burst.length),
                bus.arid.eq(Mux(self.fetch.valid, ReadSource.FETCH, ReadSource.LOAD)),
            ]

        received = data.StructLayout({"id": ID_BITS, "beat": read_beat(self._geometry)})
        m.submodules.slice = slice_ = RegisterSlice(received)
        m.d.comb += [
            slice_.i.valid.eq(bus.rvalid),
            bus.rready.eq(slice_.i.ready),
            slice_.i.payload.id.eq(bus.rid),
            slice_.i.payload.beat.data.eq(bus.rdata),
            slice_.i.payload.beat.error.eq(bus.rresp[1]),
            self.fetch_data.payload.eq(slice_.o.payload.beat),
            self.load_data.payload.eq(slice_.o.payload.beat),
        ]
        with m.If(slice_.o.payload.id == ReadSource.FETCH):
            m.d.comb += [
                self.fetch_data.valid.eq(slice_.o.valid),
                slice_.o.ready.eq(self.fetch_data.ready),
            ]
        with m.Else():
            m.d.comb += [
                self.load_data.valid.eq(slice_.o.valid),
                slice_.o.ready.eq(self.load_data.ready),
            ]
        return m
