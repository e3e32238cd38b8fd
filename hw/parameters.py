"""The parameter memory: what affine, quantisers and writers need to know about each channel.

LOAD writes it as slots of 32 rows, each row one 32-bit value for every lane; ``isa`` lists the
rows. Each row's fields go to memories of their own, which the stages of the post-processor read
at the times that suit them; rows and bits that no stage uses are dropped. Where beats come one at a
time, the fields of a control row share a memory, which is read with the scale.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from palquant.hw import isa
from palquant.hw.config import PARAMETER_BITS, PARAMETER_ROWS, Geometry
from palquant.hw.layouts import PARAMETER_CONTROL, LoadWrite

__all__ = ["ParameterMemory", "SlotRead", "ThresholdRead", "ThresholdReads"]


class _Read(wiring.Signature):
    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.members == other.members


class SlotRead(_Read):
    """Reads one field of a slot, for every lane.

    Parameters:
        geometry: Sizes of the machine.
        shape: Shape of the field.

    Members:
        enable: ``Out(1)``.
        slot: ``Out(range(parameter_slots))``.
        data: ``In(shape).array(lanes)``, in the cycle after ``enable`` and until the next.
    """

    def __init__(self, geometry: Geometry, shape: ShapeLike) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "slot": Out(range(geometry.parameter_slots)),
                "data": In(shape).array(geometry.lanes),
            }
        )


class ThresholdRead(_Read):
    """Reads a slot's thresholds beyond the first, each lane at its own place of the search tree.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        enable: ``Out(1)``. Of all tensors, one at a time.
        slot: ``Out(range(parameter_slots))``.
        position: ``Out(threshold_levels).array(lanes)``, from 2: ``2^level`` plus the ``level``
            bits of the code that are known.
        data: ``In(signed(threshold_bits)).array(lanes)``, in the cycle after ``enable`` and
            until the next, of any tensor.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "slot": Out(range(geometry.parameter_slots)),
                "position": Out(geometry.threshold_levels).array(geometry.lanes),
                "data": In(signed(geometry.threshold_bits)).array(geometry.lanes),
            }
        )


class ThresholdReads(_Read):
    """The read ports for one code tensor's thresholds.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        first: ``Out(SlotRead)`` of position 1 of the search tree.
        deeper: ``Out(ThresholdRead(geometry))``, only where codes have more than one bit.
    """

    def __init__(self, geometry: Geometry) -> None:
        ports = {"first": Out(SlotRead(geometry, signed(geometry.threshold_bits)))}
        if geometry.threshold_levels > 1:
            ports["deeper"] = Out(ThresholdRead(geometry))
        super().__init__(ports)


class ParameterMemory(wiring.Component):
    """Slots of parameters, with a write port for bus beats and a read port for each user.

    A beat that is taken in one cycle can be read from two cycles later. What a port reads while
    its slot is being written is undefined.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        write: ``In(LoadWrite(geometry))``, bus beats of ``Memory.PARAMETER``; beats of other
            memories are ignored. Always ready.
        scale: ``In(SlotRead)`` of M.
        offset: ``In(SlotRead)`` of B.
        shift: ``In(SlotRead)`` of Sh.
        valid: ``In(SlotRead)``, whether the lane holds a channel.
        negate: ``In(SlotRead).array(code_tensors)``, whether -v is compared, for each code tensor.
        code_group: ``In(SlotRead)``, the group that a lane's codes are scattered to.
        residual_group: ``In(SlotRead)``, the same once more, for the writer of residuals.
        thresholds: ``In(ThresholdReads(geometry)).array(code_tensors)``, likewise.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        group = PARAMETER_CONTROL["group"].shape
        super().__init__(
            {
                "write": In(LoadWrite(g)),
                "scale": In(SlotRead(g, signed(g.scale_bits))),
                "offset": In(SlotRead(g, signed(g.offset_bits))),
                "shift": In(SlotRead(g, PARAMETER_CONTROL["shift"].shape)),
                "valid": In(SlotRead(g, unsigned(1))),
                "negate": In(SlotRead(g, unsigned(1))).array(g.code_tensors),
                "code_group": In(SlotRead(g, group)),
                "residual_group": In(SlotRead(g, group)),
                "thresholds": In(ThresholdReads(g)).array(g.code_tensors),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A register for the beat, and a memory for each field and threshold."""
        m = Module()
        g = self.geometry
        address_bits = [
            exact_log2(g.parameter_bits_per_row // g.bus_bits),
            exact_log2(PARAMETER_ROWS),
            len(self.scale.slot),
        ]

        # The beat, one cycle late where it has many memories to reach.
        enable = Signal()
        part, row, slot = (Signal(bits, reset_less=True) for bits in address_bits)
        beat = Signal(g.bus_bits, reset_less=True)
        m.d.comb += self.write.ready.eq(1)
        arrives = [
            enable.eq(self.write.valid & (self.write.memory == isa.Memory.PARAMETER)),
            Cat(part, row, slot).eq(self.write.address),
            beat.eq(self.write.data),
        ]
        if g.settles:
            m.d.comb += arrives
        else:
            m.d.sync += arrives

        # The lanes of a beat are written together; they are as many in every part of a row.
        per_beat = g.bus_bits // PARAMETER_BITS
        words = [beat.word_select(lane, PARAMETER_BITS) for lane in range(per_beat)]
        control = [data.View(PARAMETER_CONTROL, word[: PARAMETER_CONTROL.size]) for word in words]
        # What is read of the control row: name, field, port.
        users = [
            ("scale", "scale", self.scale),
            ("shift", "shift", self.shift),
            ("valid", "valid", self.valid),
            *((f"negate{n}", f"negate{n}", port) for n, port in enumerate(self.negate, start=1)),
            ("code_group", "group", self.code_group),
            ("residual_group", "group", self.residual_group),
        ]
        fields = [("offset", self.offset, isa.ROW_OFFSET, words)]
        if not g.settles:
            fields += [
                (name, port, isa.ROW_CONTROL, [word[field] for word in control])
                for name, field, port in users
            ]
        for number in range(g.lanes // per_beat):
            hit = Signal(name=f"hit_{number}")
            m.d.comb += hit.eq(enable & (part == number))
            lanes = slice(number * per_beat, (number + 1) * per_beat)
            for name, read, field_row, values in fields:
                here = hit & (row == field_row)
                self._field(m, f"{name}_{number}", read, lanes, here, slot, values)
            if g.settles:
                here = hit & (row == isa.ROW_CONTROL)
                self._control(m, f"control_{number}", users, lanes, here, slot, control)
            for tensor, reads in enumerate(self.thresholds):
                here = hit & (row == isa.THRESHOLD_ROWS[tensor][1])
                self._field(m, f"threshold{tensor}_{number}", reads.first, lanes, here, slot, words)
            if g.threshold_levels > 1:
                self._deeper(m, f"thresholds_{number}", lanes, hit, row, slot, words)
        return m

    def _field(
        self,
        m: Module,
        name: str,
        read: Any,
        lanes: slice,
        hit: Value,
        slot: Signal,
        values: list[Any],
    ) -> None:
        """A memory whose lanes are all read at the same place: a word for each slot."""
        shape = data.ArrayLayout(read.data[0].shape(), len(values))
        m.submodules[name] = memory = Memory(
            shape=shape, depth=self.geometry.parameter_slots, init=[]
        )
        write = memory.write_port()
        m.d.comb += [write.addr.eq(slot), write.en.eq(hit)]
        m.d.comb += [write.data[lane].eq(value) for lane, value in enumerate(values)]
        port = memory.read_port()
        m.d.comb += [port.addr.eq(read.slot), port.en.eq(read.enable)]
        m.d.comb += [word.eq(port.data[lane]) for lane, word in enumerate(read.data[lanes])]

    def _control(
        self,
        m: Module,
        name: str,
        users: list[Any],
        lanes: slice,
        hit: Value,
        slot: Signal,
        values: list[Any],
    ) -> None:
        """One memory for the fields of the control row, which are read with the first of them."""
        kept = {field: port.data[0].shape() for _, field, port in users}
        shape = data.ArrayLayout(data.StructLayout(kept), len(values))
        m.submodules[name] = memory = Memory(
            shape=shape, depth=self.geometry.parameter_slots, init=[]
        )
        write = memory.write_port()
        m.d.comb += [write.addr.eq(slot), write.en.eq(hit)]
        for field in kept:
            m.d.comb += [write.data[k][field].eq(value[field]) for k, value in enumerate(values)]
        port = memory.read_port()
        m.d.comb += [port.addr.eq(self.scale.slot), port.en.eq(self.scale.enable)]
        for _, field, read in users:
            m.d.comb += [word.eq(port.data[k][field]) for k, word in enumerate(read.data[lanes])]

    def _deeper(
        self,
        m: Module,
        name: str,
        lanes: slice,
        hit: Value,
        row: Value,
        slot: Signal,
        values: list[Any],
    ) -> None:
        """A memory for each lane, since each lane reads another of a slot's thresholds."""
        g = self.geometry
        place = Signal(g.threshold_levels, name=f"{name}_place")
        which = Signal(range(g.code_tensors), name=f"{name}_tensor")
        here = Signal(name=f"{name}_hit")
        with m.Switch(row):
            for tensor in range(g.code_tensors):
                for position in range(2, 1 << g.threshold_levels):
                    with m.Case(isa.THRESHOLD_ROWS[tensor][position]):
                        m.d.comb += [here.eq(hit), place.eq(position), which.eq(tensor)]
        ports = [reads.deeper for reads in self.thresholds]
        enable = Cat(port.enable for port in ports).any()
        for lane, value in zip(range(lanes.start, lanes.stop), values, strict=True):
            m.submodules[f"{name}_{lane - lanes.start}"] = memory = Memory(
                shape=signed(g.threshold_bits),
                depth=g.parameter_slots * g.code_tensors << g.threshold_levels,
                init=[],
            )
            write = memory.write_port()
            m.d.comb += [
                write.addr.eq(Cat(place, which, slot)),
                write.en.eq(here),
                write.data.eq(value),
            ]
            read = memory.read_port()
            m.d.comb += read.en.eq(enable)
            for tensor, port in enumerate(ports):
                with m.If(port.enable):
                    number = Const(tensor, len(which))
                    m.d.comb += read.addr.eq(Cat(port.position[lane], number, port.slot))
                m.d.comb += port.data[lane].eq(read.data)
