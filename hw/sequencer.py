"""The sequencer: takes COMPUTEs and issues one word a cycle to the array or the pooling unit."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from palquant.hw import isa
from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.isa import PoolOperation, Source
from palquant.hw.layouts import ARRAY_CONTROL, POOL_CONTROL, Configuration, struct
from palquant.hw.loops import LoopNest
from palquant.hw.registers import Activity
from palquant.hw.walk import WindowWalk

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Runs the loops of one COMPUTE after the other.

    Nothing behind the sequencer can wait, so it paces: the word that completes a result is issued
    no sooner than the post-processor can take that result, ``steps`` cycles for each beat of the
    one before. Between two instructions lies one cycle of set-up.

    Two instructions at most are under way, one that issues words and one whose results are in the
    post-processor; a third is not taken. The second waits for the first to complete if it asks for
    it (``drain``), or if one uses the array and the other pooling, since the two differ in latency.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        instruction: ``In(stream.Signature(struct(isa.COMPUTE, geometry)))``.
        complete: ``In(1)``, strobe: the oldest instruction under way has completed.
        configuration: ``Out(Configuration(geometry))``, in the cycle after ``instruction`` was
            taken and before its first word.
        array: ``Out(ARRAY_CONTROL)``.
        pool: ``Out(POOL_CONTROL)``; never valid along with ``array``.
        address: ``Out(address_bits)``, activation word for ``array``, residual word for ``pool``.
            This and what follows come along with either's ``valid``.
        weight_address: ``Out(address_bits)``, weight word.
        padding: ``Out(1)``, the tap lies outside the input: ``address`` is not to be read.
        pad_word: ``Out(2 * tin)``, what the array sees instead.
        activity: ``Out(Activity)``, what the cycle before went to; a word counts when it appears.
        busy: ``Out(1)``, an instruction is under way.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "instruction": In(stream.Signature(struct(isa.COMPUTE, geometry))),
                "complete": In(1),
                "configuration": Out(Configuration(geometry)),
                "array": Out(ARRAY_CONTROL),
                "pool": Out(POOL_CONTROL),
                "address": Out(geometry.address_bits),
                "weight_address": Out(geometry.address_bits),
                "padding": Out(1),
                "pad_word": Out(geometry.activation_bits_per_word),
                "activity": Out(Activity),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Accept, set up, issue."""
        m = Module()
        m.submodules.loops = loops = LoopNest(self.geometry)
        m.submodules.walk = walk = WindowWalk(self.geometry)
        f = self.instruction.payload  # which stays where instructions do not overlap
        if self.geometry.overlap:
            f = Signal(struct(isa.COMPUTE, self.geometry), reset_less=True)
        tag = Signal()
        pooling = Signal()
        load = Signal()
        issue = Signal()
        m.d.comb += [
            pooling.eq(f.source == Source.POOL),
            loops.fields.eq(f),
            loops.load.eq(load),
            loops.step.eq(issue),
            walk.fields.eq(f),
            walk.load.eq(load),
            walk.step.eq(issue),
            walk.entry.eq(loops.entry),
            walk.first_weight_digit.eq(loops.first_weight_digit),
            walk.first_activation_digit.eq(loops.first_activation_digit),
            self.address.eq(walk.address),
            self.weight_address.eq(walk.weight_address),
            self.configuration.fields.eq(f),
            self.configuration.tag.eq(tag),
        ]
        paced = self._elaborate_pace(m, f, pooling, issue & loops.emit)
        # Where beats settle, their sums stay in the array until they are gone.
        ready = paced if self.geometry.settles else ~loops.emit | paced
        self._elaborate_states(m, f, tag, load, issue, ready=ready, loops=loops)
        self._elaborate_controls(m, f, tag, pooling, load, issue, loops)
        self._elaborate_padding(m, f, load, issue, loops, walk)
        return m

    def _elaborate_pace(self, m: Module, f: Signal, pooling: Signal, emits: Signal) -> Signal:
        """Whether a word that completes a result may be issued."""
        beats = self.geometry.beats
        pace = Signal(len(f.steps) + beats.bit_length() - 1)
        left = Signal.like(pace)
        paced = Signal(init=1)
        m.d.comb += pace.eq(Mux(pooling, f.steps, f.steps << (beats.bit_length() - 1)))
        with m.If(emits):
            m.d.sync += [left.eq(pace - 1), paced.eq(pace <= 1)]
        with m.Elif(~paced):
            m.d.sync += [left.eq(left - 1), paced.eq(left == 1)]
        return paced

    def _elaborate_states(
        self,
        m: Module,
        f: Signal,
        tag: Signal,
        load: Signal,
        issue: Signal,
        ready: Signal,
        loops: LoopNest,
    ) -> None:
        """Idle, setting up, running; and how many instructions are under way."""
        under_way = Signal(range(3))
        setting_up, running = Signal(), Signal()
        fresh = Signal()  # the first cycle of a set-up
        drains = Signal(reset_less=True)
        waits = Signal()
        leaves = Signal()
        taken = Signal()
        m.d.comb += [
            issue.eq(running & ready),
            leaves.eq(issue & loops.finish),
            # With one under way before this one, there is room for none behind it. Nor is one
            # taken in the cycle of another's last word, which is known late.
            self.instruction.ready.eq((under_way < 2) & ~setting_up & ~running),
            taken.eq(self.instruction.valid & self.instruction.ready),
            waits.eq(drains & (under_way == 2)),
            load.eq(setting_up & ~waits),
            self.configuration.valid.eq(fresh),
            self.busy.eq(under_way != 0),
        ]
        m.d.sync += [under_way.eq(under_way + taken - self.complete), fresh.eq(taken)]
        with m.If(load):
            m.d.sync += [setting_up.eq(0), running.eq(1)]
        with m.If(leaves):
            m.d.sync += running.eq(0)
        following = self.instruction.payload
        last_source = f.source
        if self.geometry.overlap:
            last_source = Signal.like(f.source, reset_less=True)
            with m.If(taken):
                m.d.sync += last_source.eq(following.source)
            # Whether an instruction comes is known late, and this register is wide.
            with m.If(self.instruction.ready):
                m.d.sync += f.eq(following)
        with m.If(taken):
            m.d.sync += [
                tag.eq(~tag),
                setting_up.eq(1),
                drains.eq(following.drain | (following.source != last_source)),
            ]

        # A cycle late: nothing of this may lengthen the way to what decides on a word.
        issued, ran, draining = Signal(), Signal(), Signal()
        m.d.sync += [
            issued.eq(issue),
            ran.eq(running),
            draining.eq(Mux(setting_up, waits, self.instruction.valid & ~taken)),
        ]
        with m.If(issued):
            m.d.comb += self.activity.eq(
                Mux(f.source == Source.POOL, Activity.POOL, Activity.ARRAY)
            )
        with m.Elif(ran):
            m.d.comb += self.activity.eq(Mux(f.scatter_groups > 1, Activity.MERGE, Activity.OUTPUT))
        with m.Else():
            m.d.comb += self.activity.eq(Mux(draining, Activity.DRAIN, Activity.DEPENDENCY))

    def _elaborate_controls(
        self,
        m: Module,
        f: Signal,
        tag: Signal,
        pooling: Signal,
        load: Signal,
        issue: Signal,
        loops: LoopNest,
    ) -> None:
        """What array and pooling unit do with the word whose address comes along."""
        entry = loops.entry
        first_result = Signal(reset_less=True)
        with m.If(load):
            m.d.sync += first_result.eq(1)
        with m.Elif(issue & loops.emit):
            m.d.sync += first_result.eq(0)
        result_begins = entry.start | entry.output_chunk | entry.output_row | entry.output_column
        pass_begins = entry.weight_pass | entry.activation_pass
        m.d.sync += [
            self.array.valid.eq(issue & ~pooling),
            self.array.clear.eq(result_begins & ~f.accumulate),
            self.array.shift.eq(Mux(result_begins, f.accumulate & f.shift_first, pass_begins)),
            self.array.count.eq(loops.first_plane),
            self.array.emit.eq(loops.emit),
            self.array.tag.eq(tag),
            self.array.first.eq(first_result),
            self.array.last.eq(loops.finish),
            self.array.empty.eq(f.hold),
            self.pool.valid.eq(issue & pooling),
            self.pool.clear.eq(result_begins | pass_begins),
            self.pool.sum.eq(f.pool_operation == PoolOperation.SUM),
            self.pool.emit.eq(loops.emit),
            self.pool.tag.eq(tag),
            self.pool.first.eq(first_result),
            self.pool.last.eq(loops.finish),
        ]

    def _elaborate_padding(
        self, m: Module, f: Signal, load: Signal, issue: Signal, loops: LoopNest, walk: WindowWalk
    ) -> None:
        """Whether the word is padding, and what padding looks like.

        This happens in the cycle after a word was issued, when the next instruction may be in
        ``f`` already; so the fields that are needed are copied with the set-up.
        """
        g = self.geometry
        width = g.activation_bits_per_word
        rows, columns = f.input_rows, f.input_columns
        if g.overlap:
            rows, columns = Signal.like(rows), Signal.like(columns)
            with m.If(load):
                m.d.sync += [rows.eq(f.input_rows), columns.eq(f.input_columns)]
        lanes = Signal(width)
        last_chunk = Signal()
        digit = Signal(DIGIT_BITS)
        unused = Signal(range(g.tin + 1))
        m.d.comb += unused.eq(g.tin - f.last_lanes)
        with m.If(load):
            m.d.sync += lanes.eq(Const((1 << width) - 1, width) >> Cat(Const(0, 1), unused))
        with m.If(issue):
            m.d.sync += [
                last_chunk.eq(loops.last_chunk),
                digit.eq(f.pad_code.word_select(loops.digit, DIGIT_BITS)),
            ]
        low_bits = Const(int("01" * g.tin, 2), width)
        m.d.comb += [
            # As unsigned numbers, negative coordinates are large.
            self.padding.eq(
                (walk.row.as_unsigned() >= rows) | (walk.column.as_unsigned() >= columns)
            ),
            self.pad_word.eq(
                (Mux(digit[0], low_bits, 0) | Mux(digit[1], low_bits << 1, 0))
                & Mux(last_chunk, lanes, (1 << width) - 1)
            ),
        ]
