"""The register map: one table that gateware, drivers, the C header and the documentation read.

A register is 32 bits wide and names its fields; fields pack from bit 0 upwards, registers follow
one another in table order, and nobody numbers either by hand. This file needs no Amaranth.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from palquant.errors import InputError
from palquant.hw import isa

#: Bits of a register, and of the AXI4-Lite data bus.
REGISTER_BITS = 32
#: Bits of the AXI4-Lite address: a 4 KiB page, the smallest that address editors map.
ADDRESS_BITS = 12
#: Where the map lies on the bus of a board's host link; the board's memory is at 0.
LINK_ADDRESS = 0x8000_0000
#: Width of a performance counter, which takes two registers: a week at 400 MHz.
COUNTER_BITS = 48
#: Cycles without progress after which the watchdog reports an error, unless told otherwise.
WATCHDOG_RESET = 1 << 20


class Documented(enum.IntEnum):
    """An enumeration whose members carry a one-line description, ``doc``."""

    doc: str

    def __new__(cls, value: int, doc: str = "") -> Self:
        """Make the member; an enumeration finds it by ``value`` alone."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member


class ErrorCode(Documented):
    """Why a run ended early: field ``code`` of STATUS."""

    NONE = 0, "No error."
    MAGIC = 1, "The image does not start with the magic word."
    VERSION = 2, "The image has another version."
    GEOMETRY = 3, "The image is built for another geometry."
    OPCODE = 4, "Unknown or illegal instruction, or reserved bits that are set."
    ADDRESS = (
        5,
        "Misaligned, beyond image, input, output or on-chip memory, or a memory or base that the "
        "engine cannot use.",
    )
    READ_RESPONSE = 6, "The memory answered a read with an error, with a wrong RLAST, or unasked."
    WRITE_RESPONSE = 7, "The memory answered a write with an error, with a wrong BID, or unasked."
    WATCHDOG = 8, "No progress for WATCHDOG_LIMIT cycles; STALL says what everyone waited for."
    OVERRUN = 9, "A result reached the post-processor before it had finished the one before."
    TOKEN_OVERFLOW = 10, "More tokens were given than a token counter can hold."


class Stall(Documented):
    """What a unit waits for: the fields of STALL."""

    IDLE = 0, "Nothing to do."
    RUNNING = 1, "Nothing: it works."
    LOAD = 2, "A token from the load engine; the fetch unit: room in its queue."
    COMPUTE = 3, "A token from the compute engine; the fetch unit: room in its queue."
    STORE = 4, "A token from the store engine; the fetch unit: room in its queue."
    ADDRESS = 5, "The memory, to accept an address."
    DATA = 6, "The memory, to send or to accept data."
    RESPONSE = 7, "The memory, to acknowledge a write."
    MEMORY = 8, "An on-chip memory's port."
    DRAIN = 9, "Instructions that started earlier, to complete."


class Activity(Documented):
    """What the compute engine spent a cycle on: exactly one of these, every cycle.

    The compute engine itself knows ARRAY, POOL, OUTPUT (pacing), MERGE and DRAIN; where it has no
    instruction it says DEPENDENCY, and whoever holds the next instruction back for lack of a token
    says instead which token it is (WEIGHTS, ACTIVATIONS, PARAMETERS or OUTPUT).
    """

    DEPENDENCY = 0, "No COMPUTE to run, or one is being set up."
    ARRAY = 1, "An activation word and a weight word went to the array."
    POOL = 2, "A residual word went to the pooling unit."
    WEIGHTS = 3, "The next COMPUTE waits for a load of weights."
    ACTIVATIONS = 4, "The next COMPUTE waits for a load of activations or residuals."
    PARAMETERS = 5, "The next COMPUTE waits for a load of parameters."
    OUTPUT = 6, "Waits for a store, or for the post-processor where lanes are not scattered."
    MERGE = 7, "Waits for the post-processor, which scatters lanes over groups."
    DRAIN = 8, "Waits for earlier COMPUTEs to complete."


#: Performance counters and what they count, from the doorbell to the end of the run. There is one
#: for each activity, and these add up to CYCLES.
COUNTERS: dict[str, str] = {
    "CYCLES": "Clock cycles.",
    **{activity.name: f"Cycles: {activity.doc}" for activity in Activity},
    "READ_BEATS": "Bus beats that LOADs read.",
    "FETCH_BEATS": "Bus beats that the fetch unit read: headers and instructions.",
    "WRITE_BEATS": "Bus beats that STOREs wrote.",
    "SATURATIONS": "Values that the affine step or the residual addition clipped.",
}


class Access(enum.Enum):
    """What the host may do with a field."""

    READ_ONLY = "ro"
    READ_WRITE = "rw"
    WRITE_ONLY = "wo"  #: reads as 0; writing 1 triggers
    WRITE_ONE_TO_CLEAR = "w1c"  #: set by the machine; writing 1 clears


@dataclass(frozen=True)
class Field:
    """One field of a register.

    Parameters:
        name: Name, unique in its register.
        bits: Width.
        access: What the host may do with it.
        doc: Meaning and unit.
        reset: Value after a hardware reset.
        values: The enumeration whose members the field holds, where it holds one.
    """

    name: str
    bits: int
    access: Access
    doc: str
    reset: int = 0
    values: type[Documented] | None = None


@dataclass(frozen=True)
class Register:
    """One register with its place in the map.

    Parameters:
        name: Name, unique in the map.
        offset: Byte offset in the map.
        doc: Meaning.
        fields: Name to (field, position of its lowest bit).
    """

    name: str
    offset: int
    doc: str
    fields: Mapping[str, tuple[Field, int]]

    def mask(self, field: str) -> int:
        """Bits of the register that the field takes."""
        item, shift = self.fields[field]
        return ((1 << item.bits) - 1) << shift

    def encode(self, **values: int) -> int:
        """The register's value with these fields; fields that are not named are 0.

        Raises:
            InputError: A field does not exist, or its value does not fit.
        """
        word = 0
        for name, value in values.items():
            if name not in self.fields:
                raise InputError(f"register {self.name} has no field {name!r}")
            item, shift = self.fields[name]
            if not 0 <= value < 1 << item.bits:
                raise InputError(
                    f"{self.name}.{name} is {value}, outside 0..{(1 << item.bits) - 1}"
                )
            word |= value << shift
        return word

    def decode(self, word: int) -> dict[str, int]:
        """Field values of a register value; the inverse of :meth:`encode`."""
        return {
            name: (word >> shift) & ((1 << item.bits) - 1)
            for name, (item, shift) in self.fields.items()
        }

    @property
    def reset(self) -> int:
        """Value after a hardware reset, as far as the table knows it."""
        return self.encode(**{name: item.reset for name, (item, _) in self.fields.items()})


class RegisterMap(Mapping[str, Register]):
    """Registers by name, in the order in which they were added."""

    def __init__(self) -> None:
        self._registers: dict[str, Register] = {}

    def add(self, name: str, doc: str, *fields: Field) -> None:
        """Append a register behind the last one.

        Raises:
            ValueError: The name is taken, fields share a name, or do not fit.
        """
        if name in self._registers:
            raise ValueError(f"Register {name} is added twice")
        placed: dict[str, tuple[Field, int]] = {}
        shift = 0
        for item in fields:
            if item.name in placed:
                raise ValueError(f"Register {name} has two fields called {item.name}")
            placed[item.name] = (item, shift)
            shift += item.bits
        if shift > REGISTER_BITS:
            raise ValueError(f"Fields of register {name} take {shift} bits of {REGISTER_BITS}")
        offset = len(self._registers) * REGISTER_BITS // 8
        if offset >= 1 << ADDRESS_BITS:
            raise ValueError(f"Register {name} lies beyond the map's {1 << ADDRESS_BITS} bytes")
        self._registers[name] = Register(name, offset, doc, placed)

    def add_whole(
        self, name: str, access: Access, doc: str, *, bits: int = REGISTER_BITS, reset: int = 0
    ) -> None:
        """Append a register that is one field, called ``value``."""
        self.add(name, doc, Field("value", bits, access, doc, reset))

    def __getitem__(self, name: str) -> Register:
        return self._registers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._registers)

    def __len__(self) -> int:
        return len(self._registers)


def _build() -> RegisterMap:
    ro, rw = Access.READ_ONLY, Access.READ_WRITE
    wo, w1c = Access.WRITE_ONLY, Access.WRITE_ONE_TO_CLEAR
    table = RegisterMap()
    table.add_whole("ID", ro, "The magic word of memory images, isa.MAGIC.")
    table.add_whole("VERSION", ro, "Version of instruction set, image and registers, isa.VERSION.")
    table.add_whole("GEOMETRY", ro, "Geometry.identity: images must be built for it.")
    table.add(
        "CAPABILITY",
        "Sizes of the machine.",
        Field("tin", 8, ro, "Input lanes."),
        Field("tout", 8, ro, "Dot-product units."),
        Field("lanes", 8, ro, "Post-processor lanes."),
        Field("bus_bytes", 7, ro, "Bytes of one bus beat."),
        Field("counters", 1, ro, "Performance counters exist; otherwise they read as 0."),
    )
    table.add(
        "CONTROL",
        "The doorbell.",
        Field(
            "start",
            1,
            wo,
            "Run the image IMAGE_COUNT times, with the settings as they are when this is written. "
            "Ignored while busy or in error.",
        ),
        Field(
            "reset",
            1,
            wo,
            "Stop; when the memory has answered all that is outstanding, clear everything but the "
            "settings and INTERRUPT_STATUS. Where it never does, only the reset line helps.",
        ),
    )
    table.add(
        "STATUS",
        "What the machine is doing. From the response to a doorbell on, it is the new run's.",
        Field("busy", 1, ro, "A run or a reset is under way, or bus transfers are outstanding."),
        Field("done", 1, ro, "The run has ended without an error."),
        Field("error", 1, ro, "The run has ended with an error; only CONTROL.reset clears it."),
        Field("resetting", 1, ro, "A reset waits for the memory to answer what is outstanding."),
        Field("code", 4, ro, "Why.", values=ErrorCode),
    )
    table.add_whole(
        "ERROR_ADDRESS",
        ro,
        "Byte offset in the image of the instruction at fault. Watchdog, or an answer unasked: the "
        "oldest instruction that is not complete.",
    )
    table.add(
        "STALL",
        "What each unit waits for; at an error, what it waited for then.",
        Field("fetch", 4, ro, "Fetch unit.", values=Stall),
        Field("load", 4, ro, "Load engine.", values=Stall),
        Field("compute", 4, ro, "Compute engine.", values=Stall),
        Field("store", 4, ro, "Store engine.", values=Stall),
    )
    table.add(
        "INTERRUPT_ENABLE",
        "Events that raise the interrupt line.",
        Field("done", 1, rw, "End of a run without an error."),
        Field("error", 1, rw, "Error."),
    )
    table.add(
        "INTERRUPT_STATUS",
        "Events since they were cleared by writing here, which CONTROL.reset does not do.",
        Field("done", 1, w1c, "A run has ended without an error."),
        Field("error", 1, w1c, "A run has ended with an error."),
    )
    bus = "A multiple of the bus width. Taken at the doorbell."
    table.add_whole("IMAGE_ADDRESS", rw, f"Byte address of the memory image. {bus}")
    table.add_whole("INPUT_ADDRESS", rw, f"Byte address of the first image's input. {bus}")
    table.add_whole("OUTPUT_ADDRESS", rw, f"Byte address of the first image's output. {bus}")
    table.add_whole("INPUT_STRIDE", rw, f"Bytes from one image's input to the next's. {bus}")
    table.add_whole("OUTPUT_STRIDE", rw, f"Bytes from one image's output to the next's. {bus}")
    table.add_whole("IMAGE_COUNT", rw, "Images to run. Taken at the doorbell.", reset=1)
    table.add_whole("IMAGES_DONE", ro, "Images complete, their outputs in memory.")
    table.add_whole(
        "WATCHDOG_LIMIT",
        rw,
        "Cycles without a bus handshake, a word issued or an instruction completed after which "
        "the run ends with an error; 0: never. Taken at once, in a run as well.",
        reset=WATCHDOG_RESET,
    )
    for name, doc in COUNTERS.items():
        table.add_whole(f"{name}_LOW", ro, f"{doc} Bits 31..0. Final once the run has ended.")
        high = COUNTER_BITS - REGISTER_BITS
        table.add_whole(
            f"{name}_HIGH", ro, f"{doc} Bits {COUNTER_BITS - 1}..{REGISTER_BITS}.", bits=high
        )
    return table


#: The map, by register name.
REGISTERS = _build()

#: What the identification registers of every machine hold.
IDENTIFICATION = {"ID": isa.MAGIC, "VERSION": isa.VERSION}
