"""What LOAD and STORE share: regions of DRAM, faults, and the walk over a transfer's rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.axi import row_layout
from palquant.hw.config import Geometry
from palquant.hw.isa import Base, Memory, memory_beats
from palquant.hw.layouts import READABLE, struct
from palquant.hw.registers import ErrorCode

#: Memories that LOAD can write.
LOADABLE = (Memory.WEIGHT, Memory.ACTIVATION, Memory.PARAMETER, Memory.RESIDUAL)
#: Memories that STORE can read.
STORABLE = READABLE


class Regions(wiring.Signature):
    """Where things lie in DRAM; constant while anything is under way.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        image: ``Out(dram_bits)``, byte address of the memory image.
        input: ``Out(dram_bits)``, byte address of the current image's input.
        output: ``Out(dram_bits)``, byte address of the current image's output.
        image_bytes: ``Out(dram_bits)``, size of the memory image.
        input_bytes: ``Out(dram_bits)``, size of one image's input.
        output_bytes: ``Out(dram_bits)``, size of one image's output.
    """

    def __init__(self, geometry: Geometry) -> None:
        names = ("image", "input", "output")
        super().__init__(
            {name + suffix: Out(geometry.dram_bits) for suffix in ("", "_bytes") for name in names}
        )


class Fault(wiring.Signature):
    """An error that ends the run.

    Members:
        valid: ``Out(1)``, high for one cycle or more. The first cycle counts.
        code: ``Out(ErrorCode)``.
        newest: ``Out(1)``. The instruction at fault is the one that the engine took last;
            otherwise it is the oldest that is not complete.
    """

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "code": Out(ErrorCode), "newest": Out(1)})


class RowWalker(wiring.Component):
    """Turns a TRANSFER into its rows, and checks each of them.

    Up to one row a cycle. A row that is misaligned, leaves its region of DRAM or the on-chip
    memory, or wraps around either address space is a fault, as is a transfer of nothing, or one
    between regions and memories that this engine does not connect. Without checks, only a region
    that leaves the address space makes rows wrap around it. After a fault nothing more comes out.
    The next instruction is taken when all rows of the one before are checked, so a fault concerns
    the newest instruction.

    Parameters:
        geometry: Sizes of the machine.
        memories: On-chip memories that the engine may use.
        bases: DRAM regions that the engine may use.

    Members:
        instruction: ``In(stream.Signature(struct(isa.TRANSFER, geometry)))``.
        regions: ``In(Regions(geometry))``.
        rows: ``Out(stream.Signature(row_layout(geometry)))``.
        fault: ``Out(Fault())``, until reset.
        busy: ``Out(1)``. An instruction is being walked.
    """

    #: From an instruction's acceptance to its first row.
    LATENCY = 3

    def __init__(
        self, geometry: Geometry, memories: Collection[Memory], bases: Collection[Base]
    ) -> None:
        super().__init__(
            {
                "instruction": In(stream.Signature(struct(isa.TRANSFER, geometry))),
                "regions": In(Regions(geometry)),
                "rows": Out(stream.Signature(row_layout(geometry))),
                "fault": Out(Fault()),
                "busy": Out(1),
            }
        )
        self._geometry = geometry
        self._memories = tuple(memories)
        self._bases = tuple(bases)

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    @property
    def memories(self) -> tuple[Memory, ...]:
        """On-chip memories that the engine may use."""
        return self._memories

    @property
    def bases(self) -> tuple[Base, ...]:
        """DRAM regions that the engine may use."""
        return self._bases

    def elaborate(self, platform: object) -> Module:
        """Three stages: where the row lies, where it ends, whether that is allowed.

        Where nothing moves, there is one row of one instruction at a time, and they are one stage.
        """
        m = Module()
        g = self._geometry
        byte_bits = g.bus_bytes.bit_length() - 1
        dram_bits, address_bits = g.dram_bits, g.address_bits

        # First stage: the row's offsets. Their top bit says that they wrapped around.
        transfer = self.instruction.payload  # which stays where instructions do not overlap
        if g.overlap:
            transfer = Signal(struct(isa.TRANSFER, g))
        active = Signal()
        left = Signal.like(transfer.rows)
        offset: Any = transfer.dram_offset
        local: Any = transfer.address
        # Otherwise there is one row, all of it in the instruction: nothing is kept in registers.
        moves = g.strided or g.overlap
        if moves:
            offset, local = Signal(dram_bits + 1), Signal(address_bits + 1)

        # Second stage: the row's ends.
        placed = Signal()
        row = Signal(row_layout(self._geometry))
        start = Signal(dram_bits + 1)
        region_end = Signal(dram_bits + 2)
        local_end = Signal(address_bits + 2)
        region_bytes = Signal(dram_bits)
        illegal = Signal()
        unusable = Signal()

        out_free = ~self.rows.valid | self.rows.ready
        placed_free = ~placed | out_free
        stopped = self.fault.valid
        m.d.comb += [
            self.instruction.ready.eq(~active & ~placed & ~stopped),
            self.busy.eq(active | placed | self.rows.valid),
            self.fault.newest.eq(1),
        ]
        # Another base than those is a fault, whatever its region.
        region = self._of_base(transfer.base, "")
        size = self._of_base(transfer.base, "_bytes")
        row_bytes = transfer.row_beats << byte_bits
        placing = [
            placed.eq(active),
            row.beats.eq(transfer.row_beats),
            row.memory.eq(transfer.memory),
            row.local.eq(local),
            row.last.eq((left == 1) if moves else 1),
            start.eq(region + offset),
            region_end.eq(offset + row_bytes),
            local_end.eq(local + transfer.row_beats),
            region_bytes.eq(size),
            illegal.eq((transfer.rows == 0) | (transfer.row_beats == 0)),
            unusable.eq(
                ~self._one_of(transfer.memory, self._memories)
                | ~self._one_of(transfer.base, self._bases)
                | transfer.dram_stride[:byte_bits].any()
            ),
        ]
        if moves:
            with m.If(placed_free & ~stopped):
                m.d.sync += [*placing, left.eq(left - 1)]
                if g.strided:
                    m.d.sync += [
                        offset.eq(offset + transfer.dram_stride),
                        local.eq(local + transfer.stride),
                    ]
                with m.If(active & (left <= 1)):
                    m.d.sync += active.eq(0)
        else:
            m.d.comb += placing
        with m.If(self.instruction.ready & self.instruction.valid):
            taken = self.instruction.payload
            m.d.sync += active.eq(1)
            if g.overlap:
                m.d.sync += transfer.eq(taken)
            if moves:
                m.d.sync += [
                    left.eq(taken.rows),
                    offset.eq(taken.dram_offset),
                    local.eq(taken.address),
                ]

        # Third stage: the verdict.
        limit = Signal(range(max(self._limits().values()) + 1))
        with m.Switch(row.memory):
            for memory, beats in self._limits().items():
                with m.Case(memory):
                    m.d.comb += limit.eq(beats)
        outside = Signal()
        wraps = Signal()
        last_byte = Signal(dram_bits + 1)
        if g.checks:  # a row that lies inside its region wraps around if its region does
            m.d.comb += [
                last_byte.eq(start[:dram_bits] + (row.beats << byte_bits) - 1),
                wraps.eq(start[dram_bits] | last_byte[dram_bits]),
            ]
        m.d.comb += outside.eq(
            unusable
            | start[:byte_bits].any()
            | wraps
            | (region_end > region_bytes)
            | (local_end > limit)
        )
        good = [
            self.rows.valid.eq(placed & ~illegal & ~outside),
            self.rows.payload.eq(row),
            self.rows.payload.address.eq(start),
        ]
        bad = [
            self.fault.valid.eq(placed & (illegal | outside)),
            self.fault.code.eq(Mux(illegal, ErrorCode.OPCODE, ErrorCode.ADDRESS)),
        ]
        if moves:
            with m.If(out_free & ~stopped):
                m.d.sync += [*good, *bad]
            with m.Elif(self.rows.ready):
                m.d.sync += self.rows.valid.eq(0)
        else:
            m.d.comb += good
            with m.If(~stopped):
                m.d.sync += bad
            with m.If(self.rows.valid & self.rows.ready):
                m.d.sync += active.eq(0)
        return m

    def _of_base(self, base: Value, suffix: str) -> Value:
        """Start or size of the region that a base names."""
        first, *others = (
            (member, getattr(self.regions, member.name.lower() + suffix)) for member in self._bases
        )
        value: Value = first[1]
        for member, candidate in others:
            value = Mux(base == member, candidate, value)
        return value

    def _limits(self) -> dict[Memory, int]:
        return {memory: memory_beats(self._geometry, memory) for memory in self._memories}

    @staticmethod
    def _one_of(value: Value, members: Collection[int]) -> Value:
        return Cat(value == member for member in members).any()
