"""The emulator executes a memory image byte by byte: the instruction set's living definition.

It runs the program in order, one instruction at a time, which is one of the orders that the
tokens allow; it checks that every token an instruction takes has been given before. As in the
machine, the first image runs the whole program and each further one its body. A batch of images
runs at once where that makes no difference to what is defined: memories that hold activations have
a leading axis of images, weights and parameters do not.

What an image reads on chip that neither the prologue (the program up to its body) nor the image
itself has written is undefined: the emulator gives poison or what another image left, the machine
what the image before left.

What COMPUTE does stands in ``emulator_compute``; fetching, tokens, LOAD and STORE stand here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from palquant.errors import ExecutionError, InputError, InstructionError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Base, Memory, Opcode, memory_beats
from palquant.sw.accesses import Access, accesses
from palquant.sw.emulator_compute import ComputeUnit
from palquant.sw.header import read_header
from palquant.sw.intervals import LastAccesses
from palquant.sw.memories import Memories

Bytes = npt.NDArray[np.uint8]
#: Offset in the image, opcode and fields of each instruction.
Program = list[tuple[int, Opcode, dict[str, int]]]

#: Engine that executes an instruction, by the name that the token fields use.
ENGINES = {Opcode.LOAD: "load", Opcode.COMPUTE: "compute", Opcode.STORE: "store"}
LOADABLE = frozenset({Memory.WEIGHT, Memory.ACTIVATION, Memory.PARAMETER, Memory.RESIDUAL})
STORABLE = frozenset({Memory.RESIDUAL, Memory.OUTPUT})
#: Memories of which a batch has one, since all its images load the same constants.
SHARED = frozenset({Memory.WEIGHT, Memory.PARAMETER})


@dataclass
class Statistics:
    """What a run did over all its images, as the hardware counts it.

    Attributes:
        instructions: Executed instructions by opcode.
        beats_read: Bus beats loaded (the program itself not counted).
        beats_written: Bus beats stored.
        saturations: Values that affine or residual addition clipped.
    """

    instructions: dict[str, int] = field(default_factory=dict)
    beats_read: int = 0
    beats_written: int = 0
    saturations: int = 0


class Emulator:
    """Runs a memory image for a batch of images.

    Parameters:
        geometry: The machine.
        image: Bytes of the memory image.
        seed: Seed of the poison that on-chip memories and the output region start with.

    Raises:
        ImageError: The header's magic, version or geometry does not fit.
    """

    def __init__(self, geometry: Geometry, image: bytes, seed: int = 0) -> None:
        self.geometry = geometry
        self.image = np.frombuffer(image, np.uint8)
        self.seed = seed
        self.header = read_header(image, geometry)
        self.program = self._decode_program(self.header["program_offset"])
        self.body = self._decode_program(self.header["body_offset"])
        self.statistics = Statistics()

    def _decode_program(self, start: int) -> Program:
        """Instructions with their offsets, from ``start`` up to and including END."""
        image, offset = self.image.tobytes(), start
        program = []
        while True:
            try:
                opcode, fields, end = isa.decode(image, offset)
                isa.LAYOUTS[opcode].require_held(fields, self.geometry)
            except InstructionError as error:
                raise ExecutionError(f"instruction at offset {offset:#x}: {error}") from error
            program.append((offset, opcode, fields))
            if opcode is Opcode.END:
                return program
            offset = end

    def run(self, inputs: Bytes) -> Bytes:
        """Execute the program for each row of ``inputs``, as with one doorbell.

        The first image runs from ``program_offset``, each further one from ``body_offset``. Images
        run side by side if what comes before the body does nothing but load constants, which no
        instruction of the body overwrites, and if all weights and parameters come from the image;
        otherwise they run one after the other in the same memories. What an image reads that
        neither the prologue nor the image itself has written is undefined, and depends on that.

        Parameters:
            inputs: Input region of each image, uint8, shape (batch, input_bytes).

        Returns:
            Output region of each image, uint8, shape (batch, output_bytes).

        Raises:
            ExecutionError: Names the instruction's offset and what is wrong with it.
            InputError: The inputs are of another size than the header says.
        """
        expected = self.header["input_bytes"]
        if inputs.ndim != 2 or inputs.dtype != np.uint8 or inputs.shape[1] != expected:
            raise InputError(
                f"inputs must be uint8 of shape (images, {expected}), not {inputs.dtype} of shape "
                f"{inputs.shape}"
            )
        self.statistics = Statistics()
        rng = np.random.default_rng(self.seed + 1)
        size = (len(inputs), self.header["output_bytes"])
        outputs: Bytes = rng.integers(0, 256, size, dtype=np.uint8)
        if self._independent():
            memories = Memories(self.geometry, len(inputs), self.seed)
            prologue = self.program[: len(self.program) - len(self.body)]
            self._execute(prologue, memories, inputs, outputs, images=1)
            self._execute(self.body, memories, inputs, outputs, images=len(inputs))
        else:
            memories = Memories(self.geometry, 1, self.seed)
            for index in range(len(inputs)):
                here = slice(index, index + 1)
                program = self.body if index else self.program
                self._execute(program, memories, inputs[here], outputs[here], images=1)
        return outputs

    def _independent(self) -> bool:
        """Whether images find what the prologue wrote, and need nothing else that is not their own.

        Then they give the same outputs side by side as one after the other, but for reads of what
        neither the prologue nor the image itself has written.
        """
        rest = len(self.program) - len(self.body)
        if rest < 0 or self.program[rest:] != self.body:
            return False
        only_constants = all(
            opcode is Opcode.BARRIER
            or (
                opcode is Opcode.LOAD
                and fields["base"] == Base.IMAGE
                and not any(fields[f"signal_{engine}"] for engine in ENGINES.values())
            )
            for _, opcode, fields in self.program[:rest]
        )
        shared_differ = any(
            opcode is Opcode.LOAD and fields["memory"] in SHARED and fields["base"] != Base.IMAGE
            for _, opcode, fields in self.body
        )
        if not only_constants or shared_differ:
            return False
        brought = LastAccesses()
        try:
            brought.add(self._written(self.program[:rest]), 0)
            return brought.latest_conflict(self._written(self.body)) < 0
        except ValueError:  # a memory or base that does not exist: running it says where
            return False

    def _written(self, program: Program) -> list[Access]:
        """On-chip intervals that a program may write."""
        return [
            access
            for _, opcode, fields in program
            for access in accesses(opcode, fields, self.geometry)
            if access.write and isinstance(access.space, Memory)
        ]

    def _execute(
        self, program: Program, memories: Memories, inputs: Bytes, outputs: Bytes, *, images: int
    ) -> None:
        """Execute instructions in order for a batch, of which the machine would run ``images``."""
        self._images = images
        self._regions = {
            Base.IMAGE: np.broadcast_to(self.image, (len(inputs), self.image.size)),
            Base.INPUT: inputs,
            Base.OUTPUT: outputs,
        }
        compute = ComputeUnit(self.geometry, memories, self.statistics)
        self._tokens = {(a, b): 0 for a in ENGINES.values() for b in ENGINES.values() if a != b}
        for offset, opcode, fields in program:
            try:
                self._take_tokens(opcode, fields)
                if opcode is Opcode.COMPUTE:
                    compute.execute(fields)
                elif opcode in (Opcode.LOAD, Opcode.STORE):
                    self._transfer(memories, opcode, fields)
                self._give_tokens(opcode, fields)
            except (ExecutionError, InstructionError) as error:
                text = f"{opcode.name} at offset {offset:#x} (layer {fields['layer']}): {error}"
                raise ExecutionError(text) from error
            counts = self.statistics.instructions
            counts[opcode.name] = counts.get(opcode.name, 0) + images
        left = [f"{a} to {b}" for (a, b), count in self._tokens.items() if count]
        if left:
            raise ExecutionError(f"the program ends with tokens left over from {', '.join(left)}")

    def _take_tokens(self, opcode: Opcode, fields: dict[str, int]) -> None:
        mine = ENGINES.get(opcode)
        for other in ENGINES.values():
            if fields[f"wait_{other}"]:
                if mine is None or other == mine:
                    raise ExecutionError(f"waits for a token from {other}, which is illegal")
                if not self._tokens[other, mine]:
                    raise ExecutionError(f"waits for a token that {other} has not given")
                self._tokens[other, mine] -= 1

    def _give_tokens(self, opcode: Opcode, fields: dict[str, int]) -> None:
        mine = ENGINES.get(opcode)
        for other in ENGINES.values():
            if fields[f"signal_{other}"]:
                if mine is None or other == mine:
                    raise ExecutionError(f"signals {other}, which is illegal")
                self._tokens[mine, other] += 1

    def _transfer(self, memories: Memories, opcode: Opcode, f: dict[str, int]) -> None:
        """LOAD and STORE: rows of whole bus beats between DRAM and an on-chip memory."""
        try:
            memory, base = Memory(f["memory"]), Base(f["base"])
        except ValueError as error:
            raise ExecutionError(str(error)) from error
        legal = LOADABLE if opcode is Opcode.LOAD else STORABLE
        if memory not in legal:
            raise ExecutionError(f"{opcode.name} cannot use the {memory.name.lower()} memory")
        if not f["rows"] or not f["row_beats"]:
            raise ExecutionError("transfers no rows or no beats")
        if opcode is Opcode.STORE and base is not Base.OUTPUT:
            raise ExecutionError(f"stores relative to {base.name}, not OUTPUT")
        beat = self.geometry.bus_bytes
        if f["dram_offset"] % beat or f["dram_stride"] % beat:
            raise ExecutionError(f"DRAM addresses are not multiples of {beat} bytes")
        region = self._regions[base]
        length = f["row_beats"] * beat
        for row in range(f["rows"]):
            address = f["address"] + row * f["stride"]
            offset = f["dram_offset"] + row * f["dram_stride"]
            if address + f["row_beats"] > memory_beats(self.geometry, memory):
                raise ExecutionError(
                    f"beat {address + f['row_beats'] - 1} lies outside the {memory.name.lower()} "
                    f"memory of {memory_beats(self.geometry, memory)} beats"
                )
            if offset + length > region.shape[1]:
                raise ExecutionError(
                    f"byte {offset + length - 1:#x} lies outside the {base.name.lower()} region of "
                    f"{region.shape[1]:#x} bytes"
                )
            if opcode is Opcode.LOAD:
                memories.write_beats(memory, address, region[:, offset : offset + length])
            else:
                data = memories.read_beats(memory, address, f["row_beats"])
                region[:, offset : offset + length] = data
        if opcode is Opcode.LOAD:
            self.statistics.beats_read += self._images * f["rows"] * f["row_beats"]
        else:
            self.statistics.beats_written += self._images * f["rows"] * f["row_beats"]
