"""The compute engine: memories, sequencer, array, pooling unit and post-processor.

::

    instructions -> sequencer --+-> operand fetch -> array --+-> post-processor -+
                                |     |        |             |      |            |
                                |  activation  weight        |   residual    activation,
                                |  memory      memory        |   memory      output, residual
                                +-> pooling unit ------------+               memory
                                      |
                                   residual memory

LOAD writes to all memories but the output buffer, STORE reads residual memory and output buffer,
both where the datapath leaves a port free.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from palquant.hw import isa
from palquant.hw.array import MacArray
from palquant.hw.buffers import Scratchpad
from palquant.hw.carry_chain import Technology
from palquant.hw.chained_array import ChainedMacArray
from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line
from palquant.hw.isa import Memory
from palquant.hw.layouts import READABLE, LoadWrite, StoreRead, struct
from palquant.hw.operands import OperandFetch
from palquant.hw.pool import PoolingUnit
from palquant.hw.post import PostProcessor
from palquant.hw.registers import Activity
from palquant.hw.sequencer import Sequencer

__all__ = ["ComputeEngine"]


class ComputeEngine(wiring.Component):
    """Executes COMPUTEs in order; what they do is defined by ``sw.emulator_compute``.

    Parameters:
        geometry: Sizes of the machine.
        technology: FPGA family whose carry chains the array is made of, or None for one that any
            tool understands.

    Attributes:
        memories: The memories by name, for backdoor access to their ``storage`` in simulation.
        array_latency: Cycles from the issue of an array result's last word (the cycle before the
            one in which ``activity`` counts it) to the post-processor's input.
        pool_latency: The same for a pooled beat.

    Members:
        instruction: ``In(stream.Signature(struct(isa.COMPUTE, geometry)))``. Taken when it
            starts, or when it begins to wait for earlier ones (``drain``).
        complete: ``Out(1)``, strobe, once for each instruction, in order: its last word is in the
            memories.
        busy: ``Out(1)``, an instruction was taken that is not complete.
        load_write: ``In(LoadWrite(geometry))``; never ready for the output buffer.
        store_read: ``In(StoreRead(geometry))``; only ready for residual memory and output buffer.
        activity: ``Out(Activity)``, what the cycle before went to, as far as the engine knows.
        overrun: ``Out(1)``, strobe: a result or a residual word was lost. Does not happen with
            instructions whose ``steps`` are right and which do not add residuals to pooled values.
        saturated: ``Out(range(2 * lanes + 1))``, values clipped in this cycle.
    """

    def __init__(self, geometry: Geometry, technology: Technology | None = None) -> None:
        self.geometry = geometry
        self._array: MacArray | ChainedMacArray
        if technology is None:
            self._array = MacArray(geometry)
        else:
            self._array = ChainedMacArray(geometry, technology)
        self.memories: dict[Memory, Scratchpad] = {
            memory: Scratchpad(geometry, memory) for memory in Memory if memory != Memory.PARAMETER
        }
        # The sequencer's words come a cycle after their issue.
        self.array_latency = 1 + OperandFetch.REGISTERS + geometry.read_cycles + self._array.latency
        self.pool_latency = 1 + PoolingUnit.REGISTERS + geometry.read_cycles
        super().__init__(
            {
                "instruction": In(stream.Signature(struct(isa.COMPUTE, geometry))),
                "complete": Out(1),
                "busy": Out(1),
                "load_write": In(LoadWrite(geometry)),
                "store_read": In(StoreRead(geometry)),
                "activity": Out(Activity),
                "overrun": Out(1),
                "saturated": Out(range(2 * geometry.lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connect the blocks; decide who gets the residual memory's read port."""
        m = Module()
        g = self.geometry
        m.submodules.sequencer = sequencer = Sequencer(g)
        m.submodules.operands = operands = OperandFetch(g)
        m.submodules.array = array = self._array
        m.submodules.pool = pool = PoolingUnit(g)
        m.submodules.post = post = PostProcessor(g)
        for memory, pad in self.memories.items():
            m.submodules[f"{memory.name.lower()}_memory"] = pad

        connect(m, flipped(self.instruction), sequencer.instruction)
        connect(m, sequencer.configuration, post.configuration)
        connect(m, array.result, post.result)
        connect(m, pool.pooled, post.pooled)
        connect(m, operands.activation_read, self.memories[Memory.ACTIVATION].read)
        connect(m, operands.weight_read, self.memories[Memory.WEIGHT].read)
        connect(m, post.activation_write, self.memories[Memory.ACTIVATION].write)
        connect(m, post.output_write, self.memories[Memory.OUTPUT].write)
        connect(m, post.residual_write, self.memories[Memory.RESIDUAL].write)
        m.d.comb += [
            sequencer.complete.eq(post.complete),
            operands.control.eq(sequencer.array),
            operands.address.eq(sequencer.address),
            operands.weight_address.eq(sequencer.weight_address),
            operands.padding.eq(sequencer.padding),
            operands.pad_word.eq(sequencer.pad_word),
            array.control.eq(operands.array_control),
            array.activation.eq(operands.activation),
            array.weights.eq(operands.weights),
            pool.control.eq(sequencer.pool),
            pool.address.eq(sequencer.address),
            pool.padding.eq(sequencer.padding),
            self.complete.eq(post.complete),
            self.busy.eq(sequencer.busy),
            self.activity.eq(sequencer.activity),
            self.saturated.eq(post.saturated),
        ]
        clash = self._elaborate_residual_read(m, pool, post)
        m.d.comb += self.overrun.eq(post.overrun | clash)
        self._elaborate_load(m, post)
        self._elaborate_store(m)
        return m

    def _elaborate_residual_read(self, m: Module, pool: PoolingUnit, post: PostProcessor) -> Signal:
        """One port for pooling and for residual addition; returns whether both want it."""
        read = self.memories[Memory.RESIDUAL].read
        clash = Signal()
        m.d.comb += [
            read.enable.eq(pool.read.enable | post.residual_read.enable),
            read.address.eq(
                Mux(post.residual_read.enable, post.residual_read.address, pool.read.address)
            ),
            pool.read.data.eq(read.data),
            post.residual_read.data.eq(read.data),
            clash.eq(pool.read.enable & post.residual_read.enable),
        ]
        return clash

    def _elaborate_load(self, m: Module, post: PostProcessor) -> None:
        """Each memory picks the beats that are meant for it."""
        targets = [pad.load for pad in self.memories.values() if hasattr(pad, "load")]
        for target in (*targets, post.parameter_write):
            m.d.comb += [
                target.valid.eq(self.load_write.valid),
                target.memory.eq(self.load_write.memory),
                target.address.eq(self.load_write.address),
                target.data.eq(self.load_write.data),
            ]
        to_parameters = self.load_write.memory == Memory.PARAMETER
        m.d.comb += self.load_write.ready.eq(
            reduce(or_, (target.ready for target in targets), to_parameters)
        )

    def _elaborate_store(self, m: Module) -> None:
        """Each memory answers what it was asked; the data come ``read_cycles`` later."""
        request = self.store_read
        cycles = self.geometry.read_cycles
        asked = delay_line(m, request.memory, cycles, name="asked", reset=True)[-1]
        sources = {memory: self.memories[memory].store for memory in READABLE}
        for memory, source in sources.items():
            m.d.comb += [
                source.valid.eq(request.valid),
                source.memory.eq(request.memory),
                source.address.eq(request.address),
                source.follows.eq(request.follows),
            ]
            with m.If(asked == memory):
                m.d.comb += request.data.eq(source.data)
        m.d.comb += request.ready.eq(reduce(or_, (source.ready for source in sources.values())))
