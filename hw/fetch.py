"""The fetch unit: checks an image's header, streams its program into the queues, counts images."""

from __future__ import annotations

from amaranth import Module, Signal, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from palquant.hw import isa
from palquant.hw.axi import read_beat, request
from palquant.hw.config import Geometry
from palquant.hw.decode import DecodedBeats
from palquant.hw.header import HeaderReader
from palquant.hw.isa import Opcode
from palquant.hw.prefetch import Prefetch
from palquant.hw.queues import QueueWrite
from palquant.hw.registers import ErrorCode, Stall
from palquant.hw.tokens import Engine
from palquant.hw.transfer import Fault, Regions


class Settings(wiring.Signature):
    """What the host says about a run.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        image_address: ``Out(dram_bits)``.
        input_address: ``Out(dram_bits)``, of the first image.
        output_address: ``Out(dram_bits)``, of the first image.
        input_stride: ``Out(dram_bits)``.
        output_stride: ``Out(dram_bits)``.
        image_count: ``Out(count_bits)``.
    """

    def __init__(self, geometry: Geometry) -> None:
        places = ("image_address", "input_address", "output_address")
        strides = ("input_stride", "output_stride")
        super().__init__(
            {
                **dict.fromkeys(places, Out(geometry.dram_bits)),
                **dict.fromkeys(strides, Out(geometry.dram_bits if geometry.repeats else 0)),
                "image_count": Out(geometry.count_bits),
            }
        )


class FetchUnit(wiring.Component):
    """Runs a program as often as there are images.

    Reads the header, then instructions from ``program_offset`` on, in order, each into its
    engine's queue; a full queue holds up all that follows. BARRIER waits until all engines are
    idle. END does the same and then moves input and output on by their strides and begins again at
    ``body_offset``, which is prefetched meanwhile.

    Illegal and with that a fault: an unknown opcode, reserved bits that are set, tokens from or to
    the engine itself, tokens on BARRIER or END, an instruction that is not inside the image.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        start: ``In(1)``, strobe. ``settings`` are taken in this cycle.
        settings: ``In(Settings(geometry))``.
        regions: ``Out(Regions(geometry))``.
        address: ``Out(stream.Signature(request(geometry)))``, to the read arbiter.
        address_waits: ``In(1)``. An address sent waits for the memory.
        data: ``In(stream.Signature(read_beat(geometry)))``.
        queue_load: ``Out(QueueWrite(geometry))``.
        queue_compute: ``Out(QueueWrite(geometry))``.
        queue_store: ``Out(QueueWrite(geometry))``.
        engines_idle: ``In(1)``. Queues are empty and all instructions complete.
        outstanding: ``Out(1)``. Bursts that were asked for are not answered.
        done: ``Out(1)``, strobe: all images are complete.
        images_done: ``Out(count_bits)``.
        fault: ``Out(Fault())``, until reset.
        offset: ``Out(dram_bits)``, image offset of the instruction that is being fetched; without
            diagnosis, of the stretch that is being read.
        stall: ``Out(Stall)``.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "start": In(1),
                "settings": In(Settings(geometry)),
                "regions": Out(Regions(geometry)),
                "address": Out(stream.Signature(request(geometry))),
                "address_waits": In(1),
                "data": In(stream.Signature(read_beat(geometry))),
                "queue_load": Out(QueueWrite(geometry)),
                "queue_compute": Out(QueueWrite(geometry)),
                "queue_store": Out(QueueWrite(geometry)),
                "engines_idle": In(1),
                "outstanding": Out(1),
                "done": Out(1),
                "images_done": Out(geometry.count_bits),
                "fault": Out(Fault()),
                "offset": Out(geometry.dram_bits),
                "stall": Out(Stall),
            }
        )
        self._geometry = geometry

    @property
    def geometry(self) -> Geometry:
        """Sizes of the machine."""
        return self._geometry

    def elaborate(self, platform: object) -> Module:
        """A state for each step from doorbell to done."""
        m = Module()
        byte_bits = self._geometry.bus_bytes.bit_length() - 1
        dram_bits = self._geometry.dram_bits
        header_beats = 8 * isa.HEADER_BYTES // self._geometry.bus_bits
        regions = self.regions

        m.submodules.prefetch = prefetch = Prefetch(self._geometry)
        m.submodules.header = header = HeaderReader(self._geometry)
        m.submodules.decoded = decoded = DecodedBeats(self._geometry)
        connect(m, prefetch.address, flipped(self.address))
        connect(m, flipped(self.data), prefetch.data)
        connect(m, prefetch.o, decoded.i)

        beat = decoded.o
        m.d.comb += [
            self.outstanding.eq(prefetch.outstanding),
            prefetch.released.eq(decoded.released),
            decoded.flush.eq(prefetch.flush),
            header.clear.eq(self.start),
            header.beat.eq(beat.payload),
            regions.image_bytes.eq(header.fields.image_bytes),
            regions.input_bytes.eq(header.fields.input_bytes),
            regions.output_bytes.eq(header.fields.output_bytes),
            header.index.eq(decoded.index),
        ]

        # All queues see the beat; the decoder says whose it is.
        room = Signal(len(Engine))
        write = Signal()
        for engine in Engine:
            queue = getattr(self, f"queue_{engine.name.lower()}")
            m.d.comb += [
                room[engine].eq(queue.room),
                queue.enable.eq(write & decoded.engines[engine]),
                queue.commit.eq(write & decoded.engines[engine] & decoded.last),
                queue.beat.eq(decoded.index),
                queue.data.eq(beat.payload.data),
            ]
            if self._geometry.diagnosis:
                m.d.comb += queue.offset.eq(self.offset)
        blocked = (decoded.engines & ~room).any()

        # The stretch of the image that is read next: from ``offset`` to the image's end.
        start = Signal(dram_bits + 1)
        end = Signal(dram_bits + 1)
        length = Signal(dram_bits)
        before_end = Signal()
        m.d.comb += [prefetch.start.eq(start), prefetch.beats.eq(length[byte_bits:])]
        stretch = [
            start.eq(regions.image + self.offset),
            end.eq(regions.image + regions.image_bytes),
            length.eq(regions.image_bytes - self.offset),
            before_end.eq(self.offset < regions.image_bytes),
        ]
        if not self._geometry.overlap:
            m.d.comb += stretch

        repeats = self._geometry.repeats
        input_stride = Signal.like(self.settings.input_stride)
        output_stride = Signal.like(self.settings.output_stride)
        places = [
            regions.image.eq(self.settings.image_address),
            regions.input.eq(self.settings.input_address),
            regions.output.eq(self.settings.output_address),
        ]
        if not repeats:
            m.d.comb += places
        images_left = Signal.like(self.settings.image_count)
        no_image, last_image = Signal(), Signal()  # long before they count
        early = m.d.sync if self._geometry.overlap else m.d.comb
        early += no_image.eq(images_left == 0)
        early += last_image.eq((images_left == 1) if repeats else 1)
        engines_idle = Signal()  # nothing is written into queues where it counts
        early += engines_idle.eq(self.engines_idle)
        checked = Signal()  # the header was read
        ending = Signal()  # END was read, its image is not counted yet
        m.d.comb += decoded.instructions.eq(checked)

        def fail(code: ValueLike) -> None:
            m.d.sync += [self.fault.valid.eq(1), self.fault.code.eq(code)]
            m.next = "FAULT"

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                if repeats:
                    m.d.sync += places
                m.d.sync += [
                    input_stride.eq(self.settings.input_stride),
                    output_stride.eq(self.settings.output_stride),
                    images_left.eq(self.settings.image_count),
                    self.images_done.eq(0),
                    self.offset.eq(0),
                    checked.eq(0),
                    ending.eq(0),
                ]
                m.next = "LOCATE"

            with m.State("LOCATE"):
                m.d.comb += [self.stall.eq(Stall.RUNNING), decoded.restart.eq(1)]
                if self._geometry.overlap:
                    m.d.sync += stretch
                m.next = "BEGIN"

            with m.State("BEGIN"):
                m.d.comb += self.stall.eq(Stall.RUNNING)
                aligned = ~start[:byte_bits].any()
                reachable = (end <= 1 << dram_bits) if self._geometry.checks else 1
                with m.If(before_end & aligned & reachable):
                    m.d.comb += prefetch.go.eq(1)
                    with m.If(~checked):
                        m.next = "HEADER"
                    with m.Elif(ending):
                        m.next = "WAIT"
                    with m.Else():
                        m.next = "RUN"
                with m.Else():
                    fail(ErrorCode.ADDRESS)

            with m.State("HEADER"):
                m.d.comb += [beat.ready.eq(1), header.enable.eq(beat.valid)]
                with m.If(self.address_waits):
                    m.d.comb += self.stall.eq(Stall.ADDRESS)
                with m.Else():
                    m.d.comb += self.stall.eq(Stall.DATA)
                with m.If(beat.valid & (decoded.index == header_beats - 1)):
                    m.next = "JUDGE"

            with m.State("JUDGE"):
                m.d.comb += self.stall.eq(Stall.RUNNING)
                m.d.sync += [
                    checked.eq(1),
                    self.offset.eq(header.fields.program_offset),
                ]
                with m.If(header.verdict != ErrorCode.NONE):
                    m.d.sync += self.offset.eq(0)
                    fail(header.verdict)
                with m.Elif(no_image):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.next = "LOCATE"

            with m.State("RUN"):
                with m.If(prefetch.exhausted):
                    fail(ErrorCode.ADDRESS)
                with m.Elif(~beat.valid):
                    with m.If(self.address_waits):
                        m.d.comb += self.stall.eq(Stall.ADDRESS)
                    with m.Else():
                        m.d.comb += self.stall.eq(Stall.DATA)
                with m.Elif(beat.payload.error):
                    fail(ErrorCode.READ_RESPONSE)
                with m.Elif(decoded.illegal):
                    fail(ErrorCode.OPCODE)
                with m.Elif(blocked):
                    for engine in Engine:
                        with m.If(decoded.engines[engine]):
                            m.d.comb += self.stall.eq(Stall[engine.name])
                with m.Else():
                    m.d.comb += [
                        beat.ready.eq(1),
                        write.eq(1),
                        self.stall.eq(Stall.RUNNING),
                    ]
                    with m.If(decoded.last):
                        if self._geometry.diagnosis:
                            size = (decoded.index + 1) * self._geometry.bus_bytes
                            m.d.sync += self.offset.eq(self.offset + size)
                        with m.Switch(decoded.opcode):
                            with m.Case(Opcode.BARRIER):
                                m.next = "WAIT"
                            with m.Case(Opcode.END):
                                m.next = "FLUSH"

            # END: what was read ahead behind it is not what comes next.
            with m.State("FLUSH"):
                m.d.comb += [prefetch.flush.eq(1), self.stall.eq(Stall.DATA)]
                m.d.sync += ending.eq(1)
                with m.If(prefetch.empty):
                    m.next = "WAIT"
                    if repeats:
                        with m.If(~last_image):
                            m.d.sync += self.offset.eq(header.fields.body_offset)
                            m.next = "LOCATE"

            with m.State("WAIT"):
                m.d.comb += self.stall.eq(Stall.DRAIN)
                with m.If(engines_idle):
                    m.next = "RUN"
                    with m.If(ending):
                        m.d.sync += [
                            ending.eq(0),
                            images_left.eq(images_left - 1),
                            self.images_done.eq(self.images_done + 1),
                        ]
                        if repeats:
                            m.d.sync += [
                                regions.input.eq(regions.input + input_stride),
                                regions.output.eq(regions.output + output_stride),
                            ]
                        with m.If(last_image):
                            m.d.comb += self.done.eq(1)
                            m.next = "IDLE"

            with m.State("FAULT"):
                pass
        return m
