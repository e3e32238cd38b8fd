"""The post-processor: from the array's results to words in the on-chip memories.

::

    result --+                                  residual memory
             +-> beats -> correction -> affine <-----+
    pooled --+                            |
                                          +-> quantize 1, 2 -> code writer -> activation, output
                                          +-> residual writer -> residual memory

Nothing in it ever waits: a beat that enters leaves after a fixed number of cycles, and the
sequencer spaces results so that the memories' write ports keep up. All that depends on the
instruction is looked up in banks by the tag that travels with the beat, so that the next
instruction's results can follow the last one's at once.
"""

from __future__ import annotations

from amaranth import Cat, Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from palquant.errors import GeometryError
from palquant.hw.addresses import AddressGenerator
from palquant.hw.affine import CONTROLS, Affine
from palquant.hw.banks import ConfigurationBanks
from palquant.hw.beats import BeatSequencer
from palquant.hw.code_writer import CodeWriter
from palquant.hw.config import Geometry
from palquant.hw.correction import Correction
from palquant.hw.delay import delay_line
from palquant.hw.layouts import Configuration, LoadWrite, Pooled, Result, WordRead, WordWrite
from palquant.hw.parameters import ParameterMemory
from palquant.hw.quantize import Quantize
from palquant.hw.residual_writer import ResidualWriter
from palquant.hw.threshold_search import TENSOR_CYCLES

__all__ = ["PostProcessor"]

# When each block takes a beat, in cycles after the result. Blocks whose data comes later than the
# beat itself start early by their VALUE_DELAY.
_CORRECTION = BeatSequencer.LATENCY
_AFFINE = _CORRECTION + Correction.LATENCY - Affine.VALUE_DELAY
_AFFINE_END = _AFFINE + Affine.LATENCY
_RESIDUAL = _AFFINE + Affine.RESIDUAL_DELAY
_QUANTIZE = _AFFINE_END - Quantize.VALUE_DELAY
#: When the codes of all tensors are there.
_QUANTIZE_END = _QUANTIZE + Quantize.LATENCY + TENSOR_CYCLES
_RESIDUAL_WRITER = _AFFINE_END - ResidualWriter.VALUE_DELAY
_CODE_WRITER = _QUANTIZE_END - CodeWriter.VALUE_DELAY


class PostProcessor(wiring.Component):
    """Finishes results: correction, affine, ReLU, residual, quantisers, and all writes.

    The order of operations is that of ``docs/numerics.md``, section 4. An instruction's last
    result is followed by ``complete`` after :meth:`completion_cycles`; all its words are in the
    memories then.

    Parameters:
        geometry: Sizes of the machine.

    Raises:
        GeometryError: ``beat_cycles`` are more than 1, and fewer than a beat takes.

    Members:
        configuration: ``In(Configuration(geometry))``, at least a cycle before the first result.
        result: ``In(Result(geometry))``, from the array.
        pooled: ``In(Pooled(geometry))``, from the pooling unit, never along with a result.
        parameter_write: ``In(LoadWrite(geometry))``, beats of ``Memory.PARAMETER``; others are
            ignored. Always ready.
        residual_read: ``Out(WordRead(ArrayLayout(signed(residual_bits), lanes)))``.
        activation_write: ``Out(WordWrite.digits(geometry))``.
        output_write: ``Out(WordWrite.digits(geometry))``.
        residual_write: ``Out(WordWrite.residuals(geometry))``.
        complete: ``Out(1)``, strobe: an instruction's last word is in memory.
        overrun: ``Out(1)``, strobe: a result came before its predecessor's writes allowed it.
        saturated: ``Out(range(2 * lanes + 1))``, saturations that changed the value of a valid
            lane, to be added up over all cycles.
    """

    #: Cycles from a result to the first word of its first beat on the write ports of the
    #: activation memory and the output buffer; residuals are earlier.
    LATENCY = _CODE_WRITER + CodeWriter.LATENCY

    def __init__(self, geometry: Geometry) -> None:
        if 1 < geometry.beat_cycles < self.LATENCY:
            raise GeometryError(
                f"{geometry.name}: beat_cycles are 1, or at least the {self.LATENCY} cycles that a "
                f"beat takes, not {geometry.beat_cycles}"
            )
        self.geometry = geometry
        super().__init__(
            {
                "configuration": In(Configuration(geometry)),
                "result": In(Result(geometry)),
                "pooled": In(Pooled(geometry)),
                "parameter_write": In(LoadWrite(geometry)),
                "residual_read": Out(
                    WordRead(
                        geometry,
                        data.ArrayLayout(signed(geometry.residual_bits), geometry.lanes),
                    )
                ),
                "activation_write": Out(WordWrite.digits(geometry)),
                "output_write": Out(WordWrite.digits(geometry)),
                "residual_write": Out(WordWrite.residuals(geometry)),
                "complete": Out(1),
                "overrun": Out(1),
                "saturated": Out(range(2 * geometry.lanes + 1)),
            }
        )

    @classmethod
    def completion_cycles(cls, steps: int, beats: int) -> int:
        """Cycles from an instruction's last result to its ``complete``.

        Parameters:
            steps: Memory steps of a beat, at least ``isa.beat_steps``.
            beats: Beats of a result: ``geometry.beats`` for the array, 1 for a pooled beat. An
                empty result completes like one with a single beat of a single step.
        """
        return cls.LATENCY + steps * beats

    def elaborate(self, platform: object) -> Module:
        """Connect the blocks, and hand each its beats at the right age."""
        m = Module()
        g = self.geometry
        m.submodules.beats = beats = BeatSequencer(g)
        m.submodules.correction = correction = Correction(g)
        m.submodules.parameters = parameters = ParameterMemory(g)
        m.submodules.affine = affine = Affine(g)
        quantizers = [Quantize(g) for _ in range(g.code_tensors)]
        for number, quantize in enumerate(quantizers, start=1):
            m.submodules[f"quantize{number}"] = quantize
        m.submodules.code_writer = code_writer = CodeWriter(g)
        m.submodules.residual_writer = residual_writer = ResidualWriter(g)
        m.submodules.residual_address = residual_address = AddressGenerator(g)

        connect(m, flipped(self.result), beats.result)
        connect(m, flipped(self.pooled), beats.pooled)
        connect(m, flipped(self.parameter_write), parameters.write)
        for block in (beats, correction, code_writer, residual_writer):
            connect(m, flipped(self.configuration), block.configuration)
        connect(m, affine.scale, parameters.scale)
        connect(m, affine.offset, parameters.offset)
        connect(m, affine.shift, parameters.shift)
        connect(m, affine.lane_valid, parameters.valid)
        for tensor, quantize in enumerate(quantizers):
            connect(m, quantize.negate, parameters.negate[tensor])
            connect(m, quantize.thresholds, parameters.thresholds[tensor])
        connect(m, code_writer.group, parameters.code_group)
        connect(m, residual_writer.group, parameters.residual_group)
        connect(m, code_writer.activation, flipped(self.activation_write))
        connect(m, code_writer.output, flipped(self.output_write))
        connect(m, residual_writer.residual, flipped(self.residual_write))

        # The beat's description by its age, in cycles since the result.
        ages = _CODE_WRITER - BeatSequencer.LATENCY
        early = [None] * BeatSequencer.LATENCY
        valid = early + delay_line(m, beats.beat.valid, ages, name="valid", reset=True)
        stays = g.settles
        tag = early + delay_line(m, beats.beat.tag, ages, name="tag", stays=stays)
        advance = early + delay_line(m, beats.beat.advance, ages, name="advance", stays=stays)
        slot = early + delay_line(m, beats.beat.slot, ages, name="slot", stays=stays)
        complete = delay_line(
            m,
            beats.beat.finish,
            self.LATENCY + 1 - BeatSequencer.LATENCY,
            name="finish",
            reset=True,
        )
        m.d.comb += self.complete.eq(complete[-1])
        overruns = [beats.overrun, code_writer.overrun, residual_writer.overrun]
        overruns += [quantize.overrun for quantize in quantizers]
        m.d.comb += self.saturated.eq(affine.saturated)

        banks = ConfigurationBanks(
            self.geometry,
            m,
            self.configuration,
            (
                *CONTROLS.members,
                *(f"code{number}_bits" for number in range(1, g.code_tensors + 1)),
                "residual_in_address",
                "residual_in_row_stride",
                "residual_in_pixel_stride",
            ),
        )

        m.d.comb += [
            correction.valid.eq(valid[_CORRECTION]),
            correction.tag.eq(tag[_CORRECTION]),
            correction.activation_sum.eq(beats.activation_sum),
            affine.valid.eq(valid[_AFFINE]),
            affine.slot.eq(slot[_AFFINE]),
        ]
        controls = banks.select(tag[_AFFINE], *CONTROLS.members)
        m.d.comb += [affine.controls[name].eq(value) for name, value in controls.items()]

        age = _RESIDUAL - g.read_cycles - AddressGenerator.LATENCY
        fields = banks.select(tag[age])
        reads = delay_line(
            m,
            valid[age] & fields["residual"],
            AddressGenerator.LATENCY,
            name="residual_read",
            reset=True,
        )
        m.d.comb += [
            residual_address.valid.eq(valid[age]),
            residual_address.advance.eq(advance[age]),
            residual_address.base.eq(fields["residual_in_address"]),
            residual_address.row_stride.eq(fields["residual_in_row_stride"]),
            residual_address.pixel_stride.eq(fields["residual_in_pixel_stride"]),
            residual_address.beat_step.eq(1),
            residual_address.chunk_step.eq(g.beats),
            self.residual_read.enable.eq(reads[-1]),
            self.residual_read.address.eq(residual_address.address),
        ]

        # The values stay until the next beat's, which comes later if there is a second tensor.
        for number, quantize in enumerate(quantizers, start=1):
            name = f"code{number}_bits"
            age = _QUANTIZE + (number - 1) * TENSOR_CYCLES
            m.d.comb += [
                quantize.valid.eq(valid[age]),
                quantize.slot.eq(slot[age]),
                quantize.bits.eq(banks.select(tag[age], name)[name]),
                quantize.used.eq(affine.used),
            ]
        if g.code_tensors > 1 and g.threshold_levels > 1:
            # A second tensor's values are gone, or its thresholds read along with the first's.
            second = quantizers[1]
            overruns += [
                second.valid & valid[_QUANTIZE] & (second.bits != 0),
                Cat(quantize.thresholds.deeper.enable for quantize in quantizers).all(),
            ]
        m.d.sync += self.overrun.eq(Cat(overruns).any())
        for writer, start in ((code_writer, _CODE_WRITER), (residual_writer, _RESIDUAL_WRITER)):
            m.d.comb += [
                writer.valid.eq(valid[start]),
                writer.tag.eq(tag[start]),
                writer.advance.eq(advance[start]),
                writer.slot.eq(slot[start]),
            ]

        for lane in range(g.lanes):
            m.d.comb += [
                correction.products[lane].eq(beats.products[lane]),
                affine.values[lane].eq(correction.values[lane]),
                affine.residuals[lane].eq(self.residual_read.data[lane]),
                residual_writer.values[lane].eq(affine.results[lane]),
            ]
            for number, (codes, quantize) in enumerate(
                zip(code_writer.codes, quantizers, strict=True)
            ):
                m.d.comb += quantize.values[lane].eq(affine.results[lane])
                behind = 0 if g.settles else (1 - number) * TENSOR_CYCLES
                made = delay_line(m, quantize.codes[lane], behind, name=f"codes{number}_{lane}")
                m.d.comb += codes[lane].eq(made[-1])
        return m
