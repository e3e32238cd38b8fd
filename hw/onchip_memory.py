"""Memory in an FPGA's own block RAM, where a board's accelerator finds its image and its data."""

from __future__ import annotations

from typing import Any

from amaranth import Array, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from palquant.errors import GeometryError
from palquant.hw.axi import ADDRESS_BITS, Lite, ReadChannels, WriteChannels

__all__ = ["OnChipMemory"]

_OKAY, _DECERR = 0b00, 0b11
#: Bits of a word that the host reads or writes.
_HOST_BITS = 32


class OnChipMemory(wiring.Component):
    """An AXI4 subordinate for the accelerator and an AXI4-Lite one for the host, over one RAM.

    The RAM has one port, as iCE40's large RAM does, and does one thing in a cycle: a beat that the
    accelerator writes, else one that it reads, else what the host wants. Bursts are incrementing
    and as wide as the bus, as the accelerator's are. Beats outside the memory are answered with
    DECERR and do nothing, and so are the host's accesses.

    Parameters:
        data_bits: Width of the AXI4 data bus, and of the RAM: 32, 64, 128 or 256.
        rows: Rows of the RAM, a power of two.
        init: What the RAM holds at power-on, from byte 0 on.
        large: Ask for iCE40's single-port RAM of 256 kbit, which cannot hold anything at power-on.
            What it has read waits in it: nothing else is served until whoever asked takes that.

    Members:
        read: ``In(ReadChannels(data_bits))``.
        write: ``In(WriteChannels(data_bits))``.
        host: ``In(Lite(32))``.

    Raises:
        GeometryError: The contents do not fit, or are for a RAM that cannot have any.
    """

    def __init__(
        self, data_bits: int, rows: int, init: bytes = b"", *, large: bool = False
    ) -> None:
        if rows < 2 or rows & (rows - 1):
            raise GeometryError(f"on-chip memory: rows must be a power of two, not {rows}")
        size = rows * data_bits // 8
        if len(init) > size:
            raise GeometryError(
                f"on-chip memory: contents of {len(init)} bytes do not fit into {size} bytes"
            )
        if init and large:
            raise GeometryError("on-chip memory: single-port RAM of iCE40 has no initial contents")
        self.data_bits = data_bits
        self.rows = rows
        self.init = bytes(init)
        self.large = large
        super().__init__(
            {
                "read": In(ReadChannels(data_bits)),
                "write": In(WriteChannels(data_bits)),
                "host": In(Lite(ADDRESS_BITS)),
            }
        )

    @property
    def size(self) -> int:
        """Bytes."""
        return self.rows * self.data_bits // 8

    def elaborate(self, platform: object) -> Module:
        """One address for whoever is served, whose strobes say whether it writes."""
        m = Module()
        width = self.data_bits // 8
        contents = self.init.ljust(-(-len(self.init) // width) * width, b"\0")
        m.submodules.ram = ram = Memory(
            shape=unsigned(self.data_bits),
            depth=self.rows,
            init=[
                int.from_bytes(contents[k : k + width], "little")
                for k in range(0, len(contents), width)
            ],
            attrs={"ram_style": "huge"} if self.large else {},
        )
        row = Signal(range(self.rows))
        strobe = Signal(width)
        enable = Signal()
        writer = ram.write_port(granularity=8)
        # A port of one address cannot read and write in a cycle.
        reader = ram.read_port()
        data = Signal(self.data_bits)
        m.d.comb += [
            writer.addr.eq(row),
            writer.data.eq(data),
            writer.en.eq(strobe),
            reader.addr.eq(row),
            reader.en.eq(enable & ~strobe.any()),
        ]
        writing = self._write(m, row, strobe, data)
        reading = self._read(m, row, enable, reader.data, writing)
        self._serve_host(m, row, strobe, enable, data, reader.data, writing | reading)
        return m

    def _place(self, address: Value) -> tuple[Value, Value]:
        """The row of a byte address, and whether there is one."""
        low = (self.data_bits // 8).bit_length() - 1
        bits = (self.rows - 1).bit_length()
        return address[low : low + bits], ~address[low + bits :].any()

    def _waits(self, bus: Any) -> Value:
        """Whether what was read for a bus must stay in the RAM."""
        return bus.rvalid & ~bus.rready if self.large else Const(0, 1)

    def _write(self, m: Module, row: Signal, strobe: Signal, data: Signal) -> Value:
        """Takes a burst's beats as they come; returns whether one is written in this cycle."""
        bus = self.write
        active, inside = Signal(), Signal(name="write_inside")
        at = Signal.like(row, name="write_row")
        m.d.comb += [
            bus.awready.eq(~active & ~bus.bvalid),
            bus.wready.eq(active & ~self._waits(self.read) & ~self._waits(self.host)),
        ]
        place, exists = self._place(bus.awaddr)
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [active.eq(1), at.eq(place), inside.eq(exists), bus.bid.eq(bus.awid)]
            m.d.sync += bus.bresp.eq(Mux(exists, _OKAY, _DECERR))
        beat = Signal(name="write_beat")
        m.d.comb += beat.eq(bus.wvalid & bus.wready)
        with m.If(beat):
            m.d.comb += [row.eq(at), data.eq(bus.wdata)]
            m.d.comb += strobe.eq(bus.wstrb & inside.replicate(len(strobe)))
            m.d.sync += at.eq(at + 1)
            with m.If(at == self.rows - 1):  # what follows lies behind the last row
                m.d.sync += inside.eq(0)
                with m.If(~bus.wlast):
                    m.d.sync += bus.bresp.eq(_DECERR)
            with m.If(bus.wlast):
                m.d.sync += [active.eq(0), bus.bvalid.eq(1)]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        return beat

    def _read(self, m: Module, row: Signal, enable: Signal, data: Value, writing: Value) -> Value:
        """Reads a beat whenever the one before it is gone.

        Returns:
            Whether a burst is under way: the host has to wait.
        """
        bus = self.read
        active, inside = Signal(), Signal(name="read_inside")
        at = Signal.like(row, name="read_row")
        left = Signal.like(bus.arlen)
        identifier = Signal.like(bus.arid)
        good = Signal()
        # What the RAM read is there for one cycle: a write in that cycle may change it.
        fresh = Signal()
        kept = Signal.like(bus.rdata)
        m.d.sync += fresh.eq(0)
        with m.If(fresh):
            m.d.sync += kept.eq(data)
        m.d.comb += [
            bus.arready.eq(~active),
            bus.rdata.eq(data if self.large else Mux(fresh, data, kept)),
            bus.rresp.eq(Mux(good, _OKAY, _DECERR)),
        ]
        place, exists = self._place(bus.araddr)
        beat = Signal(name="read_beat")
        free = ~writing & ~self._waits(self.host)
        m.d.comb += beat.eq(active & free & (~bus.rvalid | bus.rready))
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(beat):
            m.d.comb += [row.eq(at), enable.eq(1)]
            m.d.sync += [
                fresh.eq(1),
                bus.rvalid.eq(1),
                bus.rlast.eq(left == 0),
                good.eq(inside),
                bus.rid.eq(identifier),
                at.eq(at + 1),
                left.eq(left - 1),
                active.eq(left != 0),
            ]
            with m.If(at == self.rows - 1):
                m.d.sync += inside.eq(0)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [active.eq(1), at.eq(place), inside.eq(exists), left.eq(bus.arlen)]
            m.d.sync += identifier.eq(bus.arid)
        return active | bus.rvalid

    def _serve_host(
        self,
        m: Module,
        row: Signal,
        strobe: Signal,
        enable: Signal,
        data: Signal,
        answer: Value,
        taken: Value,
    ) -> None:
        """One access of the host's at a time, in a cycle that the accelerator leaves."""
        bus = self.host
        parts = self.data_bits // _HOST_BITS
        low = _HOST_BITS // 8
        position = (self.data_bits // 8).bit_length() - 1

        def part(address: Value) -> Value:
            return address[low.bit_length() - 1 : position]

        write = bus.awvalid & bus.wvalid & ~bus.bvalid
        read = bus.arvalid & ~bus.rvalid
        asked = Signal()  # the RAM is reading the host's word
        if not self.large:
            m.d.sync += asked.eq(0)
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(~taken & ~asked & ~self._waits(bus)):
            with m.If(write):
                place, exists = self._place(bus.awaddr)
                m.d.comb += [row.eq(place), data.eq(bus.wdata.replicate(parts))]
                m.d.comb += [bus.awready.eq(1), bus.wready.eq(1)]
                with m.If(exists):
                    here = bus.wstrb << (part(bus.awaddr) << 2) if parts > 1 else bus.wstrb
                    m.d.comb += strobe.eq(here)
                m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(Mux(exists, _OKAY, _DECERR))]
            with m.Elif(read):
                place, exists = self._place(bus.araddr)
                m.d.comb += [row.eq(place), enable.eq(1), bus.arready.eq(1)]
                m.d.sync += bus.rresp.eq(Mux(exists, _OKAY, _DECERR))
                m.d.sync += (bus.rvalid if self.large else asked).eq(1)
        which = Signal(range(parts)) if parts > 1 else None
        if which is not None:
            with m.If(bus.arvalid & bus.arready):
                m.d.sync += which.eq(part(bus.araddr))
        words = [answer.word_select(k, _HOST_BITS) for k in range(parts)]
        word = words[0] if which is None else Array(words)[which]
        if self.large:
            m.d.comb += bus.rdata.eq(word)
        else:
            with m.If(asked):
                m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(word)]
