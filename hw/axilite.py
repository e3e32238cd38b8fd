"""The register file: the register map's fields behind an AXI4-Lite port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.axi import Lite
from palquant.hw.registers import ADDRESS_BITS, Access, Field, Register, RegisterMap

_OKAY, _SLVERR = 0b00, 0b10


def field_name(register: Register, field: Field) -> str:
    """Name of a field's signal: ``status_busy``, or ``image_address`` if it is the register."""
    name = register.name.lower()
    return name if field.name == "value" else f"{name}_{field.name}"


def _members(
    registers: RegisterMap, held: Mapping[str, int]
) -> Iterator[tuple[str, wiring.Member]]:
    for register in registers.values():
        for field, _ in register.fields.values():
            name = field_name(register, field)
            match field.access:
                case Access.READ_ONLY:
                    yield name, In(field.bits)
                case Access.READ_WRITE:
                    bits = min(held.get(name, field.bits), field.bits)
                    yield name, Out(bits, init=min(field.reset, (1 << bits) - 1))
                case Access.WRITE_ONLY:
                    yield name, Out(field.bits)
                case Access.WRITE_ONE_TO_CLEAR:
                    yield name, Out(field.bits)
                    yield f"{name}_set", In(field.bits)


class RegisterFile(wiring.Component):
    """Registers that the host reads and writes.

    An access to an address without a register, and a write to a register that has nothing to
    write, is answered with SLVERR and does nothing. Byte strobes are honoured.

    Every output of the bus is a register, or a function of registers alone. Address and data of a
    write may come in any order: each waits for the other in a register of its own. A write is done
    one cycle after the later of the two was taken, if the response before it is gone by then; its
    response is there in the cycle after. So there can be a write every second cycle, and a read
    every third.

    Parameters:
        registers: The map.
        held: Bits that are held of fields that can be written, by the name of their signal; all of
            them if it is not named. The others read as 0, and what is written there is lost.

    Members:
        bus: ``In(Lite(12))``.
        hold: ``In(1)``. No write is done while it is high.
        Each read-only field: ``In``, sampled in the cycle after a read address is taken.
        Each read-write field: ``Out``, from the cycle after the write was done, in which its
            response is there.
        Each write-only field: ``Out``, the bits written, in the cycle in which the write is done;
            0 otherwise.
        Each write-one-to-clear field: ``Out``, and ``In`` with ``_set`` at the end of its name,
            whose bits set the field's bits. Set wins over clear.
    """

    def __init__(
        self, registers: RegisterMap, held: Mapping[str, int] = {}, *, registered: bool = True
    ) -> None:
        super().__init__(
            {"bus": In(Lite(ADDRESS_BITS)), "hold": In(1), **dict(_members(registers, held))}
        )
        self._registers = registers
        self._registered = registered

    @property
    def registers(self) -> RegisterMap:
        """The map."""
        return self._registers

    def elaborate(self, platform: object) -> Module:
        """Writes here, reads below."""
        m = Module()
        bus = self.bus
        self._read(m)

        address = Signal.like(bus.awaddr[2:])
        data = Signal.like(bus.wdata)
        strobe = Signal.like(bus.wstrb)
        has_address = Signal()
        has_data = Signal()
        write = Signal()
        m.d.comb += [
            bus.awready.eq(~has_address),
            bus.wready.eq(~has_data),
            write.eq(has_address & has_data & ~bus.bvalid & ~self.hold),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [has_address.eq(1), address.eq(bus.awaddr[2:])]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [has_data.eq(1), data.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(write):
            m.d.sync += [
                has_address.eq(0),
                has_data.eq(0),
                bus.bvalid.eq(1),
                bus.bresp.eq(_SLVERR),
            ]
        mask = Cat(bit.replicate(8) for bit in strobe)
        ones = data & mask

        for register in self._registers.values():
            chosen = Signal(name=f"chosen_{register.name.lower()}")
            if self._registered:  # before the data may be there
                with m.If(bus.awvalid & bus.awready):
                    m.d.sync += chosen.eq(bus.awaddr[2:] == register.offset >> 2)
            else:
                m.d.comb += chosen.eq(address == register.offset >> 2)
            hit = Signal(name=f"write_{register.name.lower()}")
            m.d.comb += hit.eq(write & chosen)
            for field, shift in register.fields.values():
                name = field_name(register, field)
                signal = getattr(self, name)
                bits = slice(shift, shift + len(signal))
                match field.access:
                    case Access.READ_ONLY:
                        continue
                    case Access.READ_WRITE:
                        with m.If(hit):
                            m.d.sync += signal.eq((signal & ~mask[bits]) | ones[bits])
                    case Access.WRITE_ONLY:
                        m.d.comb += signal.eq(ones[bits] & hit.replicate(len(signal)))
                    case Access.WRITE_ONE_TO_CLEAR:
                        kept = signal & ~(ones[bits] & hit.replicate(len(signal)))
                        m.d.sync += signal.eq(kept | getattr(self, f"{name}_set"))
                with m.If(hit):
                    m.d.sync += bus.bresp.eq(_OKAY)
        return m

    def _read(self, m: Module) -> None:
        """A cycle to find whose address it is, another for its value, or one for both."""
        bus = self.bus
        domain = m.d.sync if self._registered else m.d.comb
        taken = Signal()
        m.d.comb += bus.arready.eq(~bus.rvalid & ~(taken if self._registered else 0))
        domain += taken.eq(bus.arvalid & bus.arready)
        values, hits = [], []
        for register in self._registers.values():
            value = Signal.like(bus.rdata, name=f"value_{register.name.lower()}")
            for field, shift in register.fields.values():
                if field.access is not Access.WRITE_ONLY:
                    part = value[shift : shift + field.bits]
                    m.d.comb += part.eq(getattr(self, field_name(register, field)))
            hit = Signal(name=f"read_{register.name.lower()}")
            domain += hit.eq(bus.araddr[2:] == register.offset >> 2)
            values.append(value & hit.replicate(len(value)))
            hits.append(hit)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(taken):
            m.d.sync += [
                bus.rvalid.eq(1),
                bus.rdata.eq(reduce(or_, values)),
                bus.rresp.eq(Mux(Cat(hits).any(), _OKAY, _SLVERR)),
            ]
