"""Writes a beat's results to the residual memory, one word a cycle.

A word for each group that lanes are scattered over (one, if they are not), with the group's lanes
enabled; or, where the results are raw 32-bit numbers, a word for each plane of them.
"""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from palquant.hw.addresses import AddressGenerator, Advance
from palquant.hw.affine import result_bits
from palquant.hw.banks import ConfigurationBanks
from palquant.hw.code_writer import lanes_of_group
from palquant.hw.config import Geometry
from palquant.hw.delay import beat_line, delay_line
from palquant.hw.layouts import PARAMETER_CONTROL, Configuration, WordWrite
from palquant.hw.parameters import SlotRead

__all__ = ["ResidualWriter"]

_FIELDS = (
    "raw",
    "scatter_groups",
    "residual_out",
    "residual_out_address",
    "residual_out_row_stride",
    "residual_out_pixel_stride",
    "residual_out_group_stride",
)


class ResidualWriter(wiring.Component):
    """Writes residuals, or the planes of raw results.

    Takes ``scatter_groups`` cycles for a beat, or the number of planes if it is raw; it is an
    overrun if the next beat comes before. Values must not change meanwhile.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        configuration: ``In(Configuration(geometry))``.
        valid: ``In(1)``, a beat starts.
        tag: ``In(1)``, its configuration bank.
        advance: ``In(Advance)``, how it follows the beat before.
        slot: ``In(range(parameter_slots))``, its parameter slot.
        values: ``In(signed(result_bits)).array(lanes)``, its results, ``VALUE_DELAY`` cycles
            later.
        group: ``Out(SlotRead)``, the group of each lane.
        residual: ``Out(WordWrite.residuals(geometry))``, first ``LATENCY`` cycles after ``valid``.
        overrun: ``Out(1)``, strobe: a beat came before the last one was written.
    """

    #: Cycles from ``valid`` to ``values``.
    VALUE_DELAY = AddressGenerator.LATENCY
    #: Cycles from ``valid`` to the first word on the write port.
    LATENCY = VALUE_DELAY + 1

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "configuration": In(Configuration(geometry)),
                "valid": In(1),
                "tag": In(1),
                "advance": In(Advance),
                "slot": In(range(geometry.parameter_slots)),
                "values": In(signed(result_bits(geometry))).array(geometry.lanes),
                "group": Out(SlotRead(geometry, PARAMETER_CONTROL["group"].shape)),
                "residual": Out(WordWrite.residuals(geometry)),
                "overrun": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The address of the beat first, then its memory steps."""
        m = Module()
        g = self.geometry
        banks = ConfigurationBanks(self.geometry, m, self.configuration, _FIELDS)
        valid = delay_line(m, self.valid, self.VALUE_DELAY, name="valid", reset=True)
        slot = delay_line(m, self.slot, 1, name="slot")
        m.d.comb += [self.group.enable.eq(valid[1]), self.group.slot.eq(slot[1])]

        fields = banks.select(self.tag)
        m.submodules.address = generator = AddressGenerator(g)
        words = Mux(fields["raw"], g.raw_planes, 1)
        m.d.comb += [
            generator.valid.eq(self.valid),
            generator.advance.eq(self.advance),
            generator.base.eq(fields["residual_out_address"]),
            generator.row_stride.eq(fields["residual_out_row_stride"]),
            generator.pixel_stride.eq(fields["residual_out_pixel_stride"]),
            generator.beat_step.eq(words),
            generator.chunk_step.eq(words * g.beats),
        ]

        # What belongs to the beat that is being written stays until the next one comes. Its
        # settings are looked up in the cycle before, since they reach all lanes.
        fields = banks.select(beat_line(m, self.tag, valid[:-2], name="tag")[-1])
        if g.overlap:
            fields = {
                name: beat_line(m, value, valid[-2:-1], name=f"now_{name}")[-1]
                for name, value in fields.items()
            }

        begins = valid[-1]
        busy = Signal()
        step = Signal(range(max(8, g.raw_planes)), reset_less=True)
        now = Signal.like(step)
        done = Signal()
        works = Signal()
        groups = fields["scatter_groups"] if g.scatter else 1
        steps = Mux(fields["raw"], g.raw_planes, groups)
        m.d.comb += [
            works.eq((begins | busy) & fields["residual_out"]),
            now.eq(Mux(begins, 0, step)),
            done.eq(now + 1 == steps),
        ]
        m.d.sync += self.overrun.eq(begins & busy)
        m.d.sync += self.residual.enable.eq(works)
        shape = data.ArrayLayout(signed(g.residual_bits), g.lanes)
        words = Signal(shape, name="words", reset_less=True)
        m.d.comb += self.residual.data.eq(words)
        with m.If(works):
            m.d.sync += [busy.eq(~done), step.eq(now + 1)]
            further = Mux(fields["raw"], 1, fields["residual_out_group_stride"])
            m.d.sync += self.residual.address.eq(
                Mux(begins, generator.address, self.residual.address) + Mux(begins, 0, further)
            )
            lanes = lanes_of_group(self.geometry, fields["scatter_groups"], now, self.group.data)
            m.d.sync += self.residual.mask.eq(lanes)
            extended = [Signal(signed(32), name=f"raw_{lane}") for lane in range(g.lanes)]
            for lane, value in enumerate(self.values):
                m.d.comb += extended[lane].eq(value)
                plane = Mux(fields["raw"], now, 0)[: exact_log2(g.raw_planes)]
                m.d.sync += words[lane].eq(extended[lane].word_select(plane, g.residual_bits))
        return m
