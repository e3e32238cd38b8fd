"""Writes the digits of a beat's codes, one word a cycle into either memory that takes codes.

For each group that lanes are scattered over (one, if they are not), the activation memory and the
output buffer each take the digits of code tensor 1, then those of code tensor 2, of the tensors
that go there. With several groups only the group's own lanes are enabled: this is how a channel
shuffle is written. A word of ``tin`` lanes takes ``lanes`` channels a beat, at their place.
"""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from palquant.hw import isa
from palquant.hw.addresses import AddressGenerator, Advance
from palquant.hw.banks import ConfigurationBanks
from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.delay import beat_line, delay_line
from palquant.hw.layouts import PARAMETER_CONTROL, Configuration, WordWrite
from palquant.hw.parameters import SlotRead
from palquant.hw.quantize import CODE_BITS

__all__ = ["CodeWriter", "lanes_of_group"]

_MEMORIES = ("activation", "output")
_FIELDS = (
    "raw",
    "scatter_groups",
    "first_lane",
    *(name for name in isa.COMPUTE.offsets if name.startswith(("code1_", "code2_"))),
)


def lanes_of_group(
    geometry: Geometry, scatter_groups: Value, group: Value, lane_groups: Any
) -> Value:
    """A mask of the lanes that are written for ``group``: all, if lanes are not scattered."""
    if not geometry.scatter:
        return Const(-1, geometry.lanes)
    together = scatter_groups == 1
    return Cat(together | (lane_group == group) for lane_group in lane_groups)


class CodeWriter(wiring.Component):
    """Writes up to ``code_tensors`` tensors to the activation memory and the output buffer.

    Takes ``scatter_groups`` times as many cycles for a beat as its busier memory takes words; it
    is an overrun if the next beat comes before. Codes must not change meanwhile.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        configuration: ``In(Configuration(geometry))``.
        valid: ``In(1)``, a beat starts.
        tag: ``In(1)``, its configuration bank.
        advance: ``In(Advance)``, how it follows the beat before.
        slot: ``In(range(parameter_slots))``, its parameter slot.
        codes: ``In(8).array(code_tensors, lanes)``, its codes for each tensor, ``VALUE_DELAY``
            cycles later.
        group: ``Out(SlotRead)``, the group of each lane.
        activation: ``Out(WordWrite.digits(geometry))``, first ``LATENCY`` cycles after ``valid``.
        output: ``Out(WordWrite.digits(geometry))``, likewise.
        overrun: ``Out(1)``, strobe: a beat came before the last one was written.
    """

    #: Cycles from ``valid`` to ``codes``.
    VALUE_DELAY = AddressGenerator.LATENCY
    #: Cycles from ``valid`` to the first word on the write ports.
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
                "codes": In(CODE_BITS).array(geometry.code_tensors, geometry.lanes),
                "group": Out(SlotRead(geometry, PARAMETER_CONTROL["group"].shape)),
                "activation": Out(WordWrite.digits(geometry)),
                "output": Out(WordWrite.digits(geometry)),
                "overrun": Out(1),
            }
        )

    @property
    def _tensors(self) -> range:
        return range(1, self.geometry.code_tensors + 1)

    def elaborate(self, platform: object) -> Module:
        """Places and addresses first, then the memory steps."""
        m = Module()
        banks = ConfigurationBanks(self.geometry, m, self.configuration, _FIELDS)
        valid = delay_line(m, self.valid, self.VALUE_DELAY, name="valid", reset=True)
        slot = delay_line(m, self.slot, 1, name="slot")
        m.d.comb += [self.group.enable.eq(valid[1]), self.group.slot.eq(slot[1])]

        fields = banks.select(self.tag)
        lane, beat_words, chunk_words = self._lane_position(m, fields["first_lane"])
        starts = []
        for number in self._tensors:
            m.submodules[f"address{number}"] = generator = AddressGenerator(self.geometry)
            digits = _digits(fields[f"code{number}_bits"])
            m.d.comb += [
                generator.valid.eq(self.valid),
                generator.advance.eq(self.advance),
                generator.row_stride.eq(fields[f"code{number}_row_stride"]),
                generator.pixel_stride.eq(fields[f"code{number}_pixel_stride"]),
                generator.beat_step.eq(Mux(beat_words, digits, 0)),
                generator.chunk_step.eq(digits * chunk_words),
            ]
            starts.append(generator.address)

        # What belongs to the beat that is being written stays until the next one comes. Its
        # settings are looked up in the cycle before, since much depends on them.
        tag = beat_line(m, self.tag, valid[:-2], name="tag")[-1]
        found = banks.select(tag)
        for number in self._tensors:
            bits = found[f"code{number}_bits"]
            found[f"code{number}_digits"] = _digits(bits)
            for memory in _MEMORIES:
                goes = (bits != 0) & found[f"code{number}_to_{memory}"] & ~found["raw"]
                found[f"code{number}_to_{memory}"] = goes
        settings: dict[str, Value] = {}
        if not self.geometry.overlap:
            settings = found  # which stay as they are
        with m.If(valid[-2]):
            for name, value in found.items() if self.geometry.overlap else ():
                settings[name] = Signal(len(value), name=f"now_{name}", reset_less=True)
                m.d.sync += settings[name].eq(value)
        places = beat_line(m, lane, valid[:-1], name="places")[-1]
        self._write(m, valid[-1], settings, places, starts)
        return m

    def _lane_position(self, m: Module, first_lane: Value) -> tuple[Signal, Signal, Signal]:
        """Where in its word a beat goes, and how many words further it is.

        Returns:
            A one-hot place in the word; words to advance if the pixel stays; words to advance if
            the chunk changes.
        """
        g = self.geometry
        places, beats = g.tin // g.lanes, g.tout // g.lanes
        bits = exact_log2(places)
        place = Signal(bits, reset_less=True)  # of this beat
        chunk_place = Signal(bits, reset_less=True)  # of its chunk's first beat
        now = Signal(bits)
        beat_words = Signal()
        chunk_words = Signal(range(beats // places + 2))
        next_chunk = Signal(bits + 1)
        m.d.comb += [
            Cat(now, beat_words).eq(place + 1),
            next_chunk.eq(chunk_place + beats % places),
            chunk_words.eq(beats // places + next_chunk[bits]),
        ]
        with m.Switch(self.advance):
            with m.Case(Advance.FIRST):
                m.d.comb += now.eq(first_lane >> exact_log2(g.lanes))
            with m.Case(Advance.COLUMN, Advance.ROW):
                m.d.comb += now.eq(chunk_place)
            with m.Case(Advance.CHUNK):
                m.d.comb += now.eq(next_chunk)
        with m.If(self.valid):
            m.d.sync += place.eq(now)
            with m.If(self.advance != Advance.BEAT):
                m.d.sync += chunk_place.eq(now)
        hot = Signal(places)
        m.d.comb += hot.eq(1 << now)
        return hot, beat_words, chunk_words

    def _write(
        self, m: Module, valid: Value, fields: dict[str, Value], places: Value, starts: list[Value]
    ) -> None:
        """The memory steps of one beat after the other."""
        group_bits = PARAMETER_CONTROL["group"].shape.width
        busy = Signal()
        opens = Signal()  # the first step of another group
        group = Signal(group_bits, reset_less=True)
        now_group = Signal(group_bits)
        works = Signal()
        begins = Signal()
        group_done = Signal()
        beat_done = Signal()
        m.d.comb += [works.eq(valid | busy), begins.eq(valid | opens)]
        if self.geometry.scatter:
            m.d.comb += [
                now_group.eq(Mux(valid, 0, group)),
                beat_done.eq(group_done & (now_group + 1 == fields["scatter_groups"])),
            ]
        else:
            m.d.comb += beat_done.eq(group_done)
        m.d.sync += self.overrun.eq(valid & busy)
        with m.If(works):
            m.d.sync += [
                busy.eq(~beat_done),
                opens.eq(group_done & ~beat_done),
                group.eq(now_group + group_done),
            ]

        positions = []  # of each tensor's first digit in the present group
        for number, start in zip(self._tensors, starts, strict=True):
            later = Signal(self.geometry.address_bits, name=f"later_{number}", reset_less=True)
            position = Signal(self.geometry.address_bits, name=f"position_{number}")
            m.d.comb += position.eq(Mux(now_group == 0, start, later))
            with m.If(works & group_done):
                m.d.sync += later.eq(position + fields[f"code{number}_group_stride"])
            positions.append(position)

        lanes = Signal(self.geometry.lanes)
        m.d.comb += lanes.eq(
            lanes_of_group(self.geometry, fields["scatter_groups"], now_group, self.group.data)
        )
        done = []
        for memory in _MEMORIES:
            port = getattr(self, memory)
            goes = Signal(len(self._tensors), name=f"goes_to_{memory}")
            m.d.comb += goes.eq(
                Cat(fields[f"code{number}_to_{memory}"] for number in self._tensors)
            )
            bases = [fields[f"code{number}_{memory}_address"] for number in self._tensors]
            digits = [fields[f"code{number}_digits"] for number in self._tensors]
            second, digit, live, ends = self._items(m, memory, works, begins, goes, digits)
            done.append(ends)

            start = Mux(second, positions[-1], positions[0])
            base = Mux(second, bases[-1], bases[0])
            m.d.sync += port.enable.eq(works & live)
            layout = data.ArrayLayout(DIGIT_BITS, len(lanes))
            word = Signal(layout, name=f"{memory}_word", reset_less=True)
            m.d.comb += port.data.eq(Cat(*[word.as_value()] * len(places)))
            with m.If(works & live):
                m.d.sync += port.address.eq(
                    Mux(digit == 0, start, port.address) + Mux(digit == 0, base, 1)
                )
                m.d.sync += port.mask.eq(
                    Cat(place.replicate(len(lanes)) & lanes for place in places)
                )
                for lane in range(len(lanes)):
                    codes = Cat(codes[lane] for codes in self.codes)
                    m.d.sync += word[lane].eq(codes.word_select(Cat(digit, second), DIGIT_BITS))
        m.d.comb += group_done.eq(Cat(done).all())

    def _items(
        self,
        m: Module,
        memory: str,
        works: Value,
        begins: Value,
        goes: Value,
        digits: list[Value],
    ) -> tuple[Signal, Signal, Signal, Signal]:
        """Which digit of which tensor is written to a memory in this step.

        Returns:
            Whether it is tensor 2; the digit; whether there is one; whether none follows.
        """
        second = Signal(name=f"{memory}_second", reset_less=True)
        digit = Signal(2, name=f"{memory}_digit", reset_less=True)
        live = Signal(name=f"{memory}_live", reset_less=True)
        now_second = Signal(name=f"{memory}_now_second")
        now_digit = Signal(2, name=f"{memory}_now_digit")
        now_live = Signal(name=f"{memory}_now_live")
        ends_tensor = Signal(name=f"{memory}_ends_tensor")
        done = Signal(name=f"{memory}_done")
        m.d.comb += [
            now_second.eq(Mux(begins, ~goes[0], second) if len(goes) > 1 else 0),
            now_digit.eq(Mux(begins, 0, digit)),
            now_live.eq(Mux(begins, goes.any(), live)),
            ends_tensor.eq(now_digit + 1 == Mux(now_second, digits[-1], digits[0])),
            done.eq(~now_live | ends_tensor & (now_second | ~goes[1:].any())),
        ]
        with m.If(works):
            m.d.sync += live.eq(~done)
            m.d.sync += second.eq(now_second | ends_tensor)
            m.d.sync += digit.eq(Mux(ends_tensor, 0, now_digit + 1))
        return now_second, now_digit, now_live, done


def _digits(bits: Value) -> Value:
    """Base-4 digits of a code of ``bits`` bits: ``isa.digits`` in gates."""
    return (bits + 1)[1:4]
