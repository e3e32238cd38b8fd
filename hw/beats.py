"""Results become beats: ``lanes`` channels of one output pixel, spaced as their writes need.

A beat is the unit of all that follows: it takes one cycle of each stage of the post-processor, one
parameter slot, and ``steps`` cycles of the memories' write ports.
"""

from __future__ import annotations

from amaranth import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.addresses import Advance
from palquant.hw.banks import ConfigurationBanks
from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line, lane_stage
from palquant.hw.layouts import Configuration, Pooled, Result

__all__ = ["BeatSequencer", "beat_layout"]


def beat_layout(geometry: Geometry) -> data.StructLayout:
    """What travels with a beat: where it belongs, and what its stages need to look up.

    ``valid`` marks a beat. ``finish``, a strobe of its own, marks the last memory step of an
    instruction's last beat; an instruction without results has only that.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "finish": 1,
            "tag": 1,
            "advance": Advance,
            "slot": range(geometry.parameter_slots),
        }
    )


class BeatSequencer(wiring.Component):
    """Cuts the array's results into beats, lets pooled beats pass, and finds each one's place.

    A result's beats start in the cycle of its ``valid`` and follow each other every ``steps``
    cycles; so the next result, or the next pooled beat, may come when ``steps`` cycles have
    passed since the start of the last beat, and not before.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        configuration: ``In(Configuration(geometry))``.
        result: ``In(Result(geometry))``.
        pooled: ``In(Pooled(geometry))``, never in the same cycle as a result.
        beat: ``Out(beat_layout(geometry))``, ``LATENCY`` cycles later.
        products: ``Out(signed(value_bits)).array(lanes)``, P or pooled values, in the cycle after
            the beat and until the next beat's.
        activation_sum: ``Out(activation_sum_bits)``, S, likewise.
        overrun: ``Out(1)``, strobe: a result or pooled beat came too early.
    """

    #: Cycles from a result to its first beat.
    LATENCY = 1

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "configuration": In(Configuration(geometry)),
                "result": In(Result(geometry)),
                "pooled": In(Pooled(geometry)),
                "beat": Out(beat_layout(geometry)),
                "products": Out(signed(geometry.value_bits)).array(geometry.lanes),
                "activation_sum": Out(geometry.activation_sum_bits),
                "overrun": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """When a beat starts, where it belongs, and what it carries."""
        m = Module()
        g = self.geometry
        banks = ConfigurationBanks(
            self.geometry,
            m,
            self.configuration,
            ("steps", "parameter_slot", "output_rows", "output_columns"),
        )
        result, pooled = self.result, self.pooled

        # When: the cycles until the next beat may start, and the beats still to cut.
        waiting = Signal.like(self.configuration.fields.steps)
        left = Signal(range(g.beats))
        last = Signal(reset_less=True)  # the beats still to cut are an instruction's last
        tag = Signal(reset_less=True)

        arrives = Signal()
        starts = Signal()
        continues = Signal()
        issues = Signal()
        now_tag = Signal()
        now_last = Signal()
        m.d.comb += [
            arrives.eq(result.valid | pooled.valid),
            starts.eq(result.valid & ~result.empty | pooled.valid),
            continues.eq((left != 0) & (waiting == 0)),
            issues.eq(starts | continues),
            now_tag.eq(
                Mux(result.valid, result.tag, Mux(pooled.valid, pooled.tag, tag)),
            ),
            now_last.eq(
                Mux(
                    starts,
                    Mux(pooled.valid, pooled.last, result.last & (g.beats == 1)),
                    last & (left == 1),
                )
            ),
        ]
        fields = banks.select(now_tag)
        with m.If(starts):
            m.d.sync += left.eq(Mux(pooled.valid, 0, g.beats - 1))
            m.d.sync += last.eq(Mux(pooled.valid, pooled.last, result.last))
            m.d.sync += tag.eq(now_tag)
        with m.Elif(continues):
            m.d.sync += left.eq(left - 1)
        with m.If(issues):
            m.d.sync += waiting.eq(fields["steps"] - 1)
        with m.Elif(waiting != 0):
            m.d.sync += waiting.eq(waiting - 1)
        m.d.sync += self.overrun.eq(arrives & ((left != 0) | (waiting != 0)))

        # Where: the loop over chunk, row, column and beat, and the parameter slot.
        first = Signal()
        index = Signal(range(g.beats), reset_less=True)
        now_index = Signal(range(g.beats))
        extents = self.configuration.fields
        columns = Signal.like(extents.output_columns, reset_less=True)  # left in the row
        rows = Signal.like(extents.output_rows, reset_less=True)  # left in the chunk
        advance = Signal(Advance)
        m.d.comb += first.eq(Mux(pooled.valid, pooled.first, result.first) & starts)
        m.d.comb += now_index.eq(Mux(first, 0, index))
        with m.If(first):
            m.d.comb += advance.eq(Advance.FIRST)
        with m.Elif(now_index != 0):
            m.d.comb += advance.eq(Advance.BEAT)
        with m.Elif(columns != 1):
            m.d.comb += advance.eq(Advance.COLUMN)
        with m.Elif(rows != 1):
            m.d.comb += advance.eq(Advance.ROW)
        with m.Else():
            m.d.comb += advance.eq(Advance.CHUNK)

        slot = Signal(range(g.parameter_slots), reset_less=True)  # of this beat
        chunk_slot = Signal(range(g.parameter_slots), reset_less=True)  # of its chunk's first
        with m.If(issues):
            if g.beats > 1:
                m.d.sync += index.eq(now_index + 1)
            with m.Switch(advance):
                with m.Case(Advance.FIRST):
                    m.d.sync += slot.eq(fields["parameter_slot"])
                    m.d.sync += chunk_slot.eq(fields["parameter_slot"])
                    m.d.sync += [columns.eq(fields["output_columns"])]
                    m.d.sync += [rows.eq(fields["output_rows"])]
                with m.Case(Advance.BEAT):
                    m.d.sync += slot.eq(slot + 1)
                with m.Case(Advance.COLUMN):
                    m.d.sync += slot.eq(chunk_slot)
                    m.d.sync += columns.eq(columns - 1)
                with m.Case(Advance.ROW):
                    m.d.sync += slot.eq(chunk_slot)
                    m.d.sync += [columns.eq(fields["output_columns"]), rows.eq(rows - 1)]
                with m.Case(Advance.CHUNK):
                    m.d.sync += [slot.eq(slot + 1), chunk_slot.eq(slot + 1)]
                    m.d.sync += [columns.eq(fields["output_columns"])]
                    m.d.sync += [rows.eq(fields["output_rows"])]

        # What: the beat's channels.
        valid = Signal()
        finish = Signal()
        beat_tag = Signal(reset_less=True)
        beat_advance = Signal(Advance, reset_less=True)
        m.d.sync += valid.eq(issues)
        lines = {"issued": [issues, valid]}
        for name, value in (("from_pool", pooled.valid), ("place", now_index)):
            lines[name] = delay_line(m, value, 1, name=name)
        issued, from_pool, place = (
            lane_stage(m, line, 1, g.lanes, name, together=g.settles)
            for name, line in lines.items()
        )
        m.d.sync += finish.eq(
            result.valid & result.empty
            | Mux(
                issues,
                now_last & (fields["steps"] == 1),
                last & (left == 0) & (waiting == 1),
            )
        )
        with m.If(issues):
            m.d.sync += [beat_tag.eq(now_tag), beat_advance.eq(advance)]
        for lane, port in enumerate(self.products):
            product = Signal.like(port, name=f"product_{lane}", reset_less=True)
            sums = Array(result.sums[beat * g.lanes + lane] for beat in range(g.beats))
            array_sum = sums[place[lane]] if g.beats > 1 else sums[0]
            with m.If(issued[lane]):
                m.d.sync += product.eq(Mux(from_pool[lane], pooled.values[lane], array_sum))
            m.d.comb += port.eq(product)
        with m.If(valid):
            m.d.sync += self.activation_sum.eq(result.activation_sum)
        m.d.comb += [
            self.beat.valid.eq(valid),
            self.beat.finish.eq(finish),
            self.beat.tag.eq(beat_tag),
            self.beat.advance.eq(beat_advance),
            self.beat.slot.eq(slot),
        ]
        return m
