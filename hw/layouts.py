"""The instruction tables as Amaranth layouts, and the interfaces between the machine's blocks.

Everything that two gateware files must agree on is here: the structures (made from the tables of
:mod:`palquant.hw.isa`) and one :class:`~amaranth.lib.wiring.Signature` for each interface, named
after what travels over it and written from its *initiator's* side.
"""

from __future__ import annotations

from amaranth import ShapeLike, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import DIGIT_BITS, PARAMETER_BITS, Geometry
from palquant.hw.registers import Activity

__all__ = [
    "ARRAY_CONTROL",
    "CONTROL",
    "MEMORY_BITS",
    "PARAMETER_CONTROL",
    "POOL_CONTROL",
    "READABLE",
    "Activity",
    "Configuration",
    "LoadWrite",
    "Pooled",
    "Result",
    "StoreRead",
    "WordRead",
    "WordWrite",
    "struct",
]


def struct(layout: isa.Layout, geometry: Geometry | None = None) -> data.StructLayout:
    """The fields of a table as an Amaranth layout.

    Parameters:
        layout: The table.
        geometry: The machine whose registers hold the fields, each as wide as it holds it. Without
            it, fields are as in memory, and ``data.View(struct(layout), word[:layout.used])`` is
            how the layout meets it; reserved bits above the last field are left out.
    """
    fields = layout.fields if geometry is None else [f.held(geometry) for f in layout.fields]
    return data.StructLayout(
        {item.name: (signed if item.signed else unsigned)(item.bits) for item in fields}
    )


CONTROL = struct(isa.CONTROL)
PARAMETER_CONTROL = struct(isa.PARAMETER_CONTROL)

#: Width of an ``isa.Memory``.
MEMORY_BITS = 3
#: Memories that STORE can read; the others only have a read port for the datapath.
READABLE = (isa.Memory.RESIDUAL, isa.Memory.OUTPUT)


#: What the array does with one pair of an activation word and a weight word.
ARRAY_CONTROL = data.StructLayout(
    {
        "valid": 1,  # there is a pair
        "clear": 1,  # the accumulators start from 0
        "shift": 1,  # or from 4 times what they hold; neither: from what they hold
        "count": 1,  # the activations add to S
        "emit": 1,  # the sums are complete then, a Result
        "tag": 1,  # tag, first, last, empty: of that Result
        "first": 1,
        "last": 1,
        "empty": 1,
    }
)

#: What the pooling unit does with one residual word.
POOL_CONTROL = data.StructLayout(
    {
        "valid": 1,  # there is a word
        "clear": 1,  # the window's first word
        "sum": 1,  # an isa.PoolOperation: add up, otherwise take the largest
        "emit": 1,  # the window's last word: a Pooled beat
        "tag": 1,  # tag, first, last: of that beat
        "first": 1,
        "last": 1,
    }
)


class _Interface(wiring.Signature):
    """A signature that is equal to others of its class with the same members."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.members == other.members


class LoadWrite(_Interface):
    """Bus beats into an on-chip memory.

    ``valid``, once high, stays high with the same payload until ``ready``. A beat is written in
    the cycle in which both are high and can be read in the next one.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``Out(1)``.
        ready: ``In(1)``, low where the post-processor writes to the same memory.
        memory: ``Out(3)``, an ``isa.Memory``.
        address: ``Out(address_bits)``, in bus beats.
        data: ``Out(bus_bits)``.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "memory": Out(MEMORY_BITS),
                "address": Out(geometry.address_bits),
                "data": Out(geometry.bus_bits),
            }
        )


class StoreRead(_Interface):
    """Bus beats out of an on-chip memory.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``Out(1)``.
        ready: ``In(1)``, low where the datapath reads the same memory, but for beats that follow
            another of the same row.
        memory: ``Out(3)``, one of :data:`READABLE`; others are never ready.
        address: ``Out(address_bits)``, in bus beats.
        follows: ``Out(1)``. The beat stands behind the one that was taken last.
        data: ``In(bus_bits)``, valid ``read_cycles`` after ``valid & ready`` and only then.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "memory": Out(MEMORY_BITS),
                "address": Out(geometry.address_bits),
                "follows": Out(1),
                "data": In(geometry.bus_bits),
            }
        )


class WordRead(_Interface):
    """One word of a memory, requested without waiting.

    Parameters:
        geometry: Sizes of the machine.
        shape: Shape of a word.

    Members:
        enable: ``Out(1)``.
        address: ``Out(address_bits)``, in words.
        data: ``In(shape)``, valid ``read_cycles`` after ``enable`` and only then.
    """

    def __init__(self, geometry: Geometry, shape: ShapeLike) -> None:
        super().__init__(
            {"enable": Out(1), "address": Out(geometry.address_bits), "data": In(shape)},
        )


class WordWrite(_Interface):
    """Lanes of one word of a memory, written without waiting.

    Parameters:
        geometry: Sizes of the machine.
        lanes: Lanes of a word.
        lane_bits: Bits of a lane.

    Members:
        enable: ``Out(1)``.
        address: ``Out(address_bits)``, in words.
        mask: ``Out(lanes)``, the lanes to write.
        data: ``Out(ArrayLayout(lane_bits, lanes))``.
    """

    def __init__(self, geometry: Geometry, lanes: int, lane_bits: int) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "address": Out(geometry.address_bits),
                "mask": Out(lanes),
                "data": Out(data.ArrayLayout(unsigned(lane_bits), lanes)),
            }
        )

    @classmethod
    def digits(cls, geometry: Geometry) -> WordWrite:
        """Port to the activation memory or output buffer: a mask bit for each digit."""
        return cls(geometry, geometry.tin, DIGIT_BITS)

    @classmethod
    def residuals(cls, geometry: Geometry) -> WordWrite:
        """Port to the residual memory: a mask bit for each residual."""
        return cls(geometry, geometry.lanes, geometry.residual_bits)

    @classmethod
    def parameters(cls, geometry: Geometry) -> WordWrite:
        """Port to the parameter memory: a mask bit for each lane's parameter."""
        return cls(geometry, geometry.lanes, PARAMETER_BITS)


class Configuration(_Interface):
    """An instruction on its way into one of the post-processor's two configuration banks.

    Written before the first result of the instruction; the bank's previous instruction has
    completed by then.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``Out(1)``, strobe.
        tag: ``Out(1)``, the bank.
        fields: ``Out(struct(isa.COMPUTE, geometry))``, the whole instruction, of which each block
            keeps what it needs.
    """

    def __init__(self, geometry: Geometry) -> None:
        fields = struct(isa.COMPUTE, geometry)
        super().__init__({"valid": Out(1), "tag": Out(1), "fields": Out(fields)})


class Result(_Interface):
    """The array's results for one output pixel and output chunk.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``Out(1)``, strobe.
        tag: ``Out(1)``, configuration bank.
        first: ``Out(1)``, the instruction's first result.
        last: ``Out(1)``, the instruction's last result; it completes with it.
        empty: ``Out(1)``, the instruction emits nothing (``hold``) and only completes: its single
            result, which is both ``first`` and ``last``, is not to be written.
        sums: ``Out(ArrayLayout(accumulator_bits, tout))``, P of each unit, from the cycle
            after ``valid`` to that of the next one.
        activation_sum: ``Out(activation_sum_bits)``, S; likewise.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "tag": Out(1),
                "first": Out(1),
                "last": Out(1),
                "empty": Out(1),
                "sums": Out(data.ArrayLayout(unsigned(geometry.accumulator_bits), geometry.tout)),
                "activation_sum": Out(geometry.activation_sum_bits),
            }
        )


class Pooled(_Interface):
    """One beat of reduced residual words: ``lanes`` channels of one output pixel.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        valid: ``Out(1)``, strobe.
        tag: ``Out(1)``, configuration bank.
        first: ``Out(1)``, the instruction's first beat.
        last: ``Out(1)``, the instruction's last beat; it completes with it.
        values: ``Out(ArrayLayout(signed(value_bits), lanes))``, from the cycle after
            ``valid`` to that of the next one.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "tag": Out(1),
                "first": Out(1),
                "last": Out(1),
                "values": Out(data.ArrayLayout(signed(geometry.value_bits), geometry.lanes)),
            }
        )
