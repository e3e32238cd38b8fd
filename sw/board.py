"""Runs a memory image on a board, over its host link."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from palquant.errors import CapacityError, ExecutionError
from palquant.hw import isa
from palquant.hw.link import WORD_BYTES
from palquant.hw.registers import IDENTIFICATION, LINK_ADDRESS, REGISTERS, ErrorCode
from palquant.sw.image import MemoryImage
from palquant.sw.link import LinkClient
from palquant.sw.regions import Regions

__all__ = ["BoardDriver", "place"]

Bytes = npt.NDArray[np.uint8]

#: Seconds that an image may take on a board, unless told otherwise.
PATIENCE = 60.0


def place(image: MemoryImage, memory_bytes: int) -> Regions:
    """Where image, an input and an output lie in a board's memory.

    Raises:
        CapacityError: They do not fit.
    """
    regions = Regions.place(
        image.geometry,
        len(image.data),
        image.input_bytes,
        image.output_bytes,
        1,
        base=0,
        alignment=image.geometry.bus_bytes,
        guard=0,
    )
    if regions.size > memory_bytes:
        raise CapacityError(
            f"image, input and output take {regions.size:,} bytes, the board's memory has "
            f"{memory_bytes:,}; an image compiled with --result-only takes less"
        )
    return regions


class BoardDriver:
    """One board and one memory image.

    Parameters:
        client: The link to the board.
        image: What to run.
        memory_bytes: Size of the board's memory.
        patience_s: Seconds that an image may take.

    Raises:
        CapacityError: The image, an input and an output do not fit into the board's memory.
    """

    def __init__(
        self,
        client: LinkClient,
        image: MemoryImage,
        memory_bytes: int,
        *,
        patience_s: float = PATIENCE,
    ) -> None:
        self.image = image
        self.patience_s = patience_s
        self.regions = place(image, memory_bytes)
        self._client = client

    def identify(self) -> None:
        """Make sure that the accelerator is there and idle, and the one that the image is made for.

        Raises:
            ExecutionError: It is not; or the board does not answer.
        """
        expected = {**IDENTIFICATION, "GEOMETRY": self.image.geometry.identity}
        for name, value in expected.items():
            found = self._read_register(name)
            if found != value:
                raise ExecutionError(
                    f"board: register {name} is {found:#010x}, expected {value:#010x} of "
                    f"{self.image.geometry.name}; is another bitstream loaded?"
                )
        self.reset()

    def reset(self) -> None:
        """End what the accelerator is doing, whoever began it, and clear its error.

        Raises:
            ExecutionError: It does not end, or the board does not answer.
        """
        self._write_register("CONTROL", REGISTERS["CONTROL"].encode(reset=1))
        deadline = time.monotonic() + self.patience_s
        while True:
            status = REGISTERS["STATUS"].decode(self._read_register("STATUS"))
            if not (status["busy"] or status["resetting"]):
                return
            if time.monotonic() > deadline:
                raise ExecutionError("the board's accelerator does not end its reset")

    def holds_image(self) -> bool:
        """Whether the memory begins with the image's header, whose checksum is of all the rest."""
        header = self._client.read(self.regions.image, isa.HEADER_BYTES // WORD_BYTES)
        return header.tobytes() == self.image.data[: isa.HEADER_BYTES]

    def load(self, progress: Callable[[int], object] | None = None) -> None:
        """Write the image.

        The header comes last, so that a load that was interrupted is not taken for the image.

        Parameters:
            progress: Called with the bytes that are written so far.
        """
        start = isa.HEADER_BYTES
        header, body = self.image.data[:start], self.image.data[start:]
        self._write(self.regions.image, bytes(start))
        self._write(self.regions.image + start, body, progress)
        self._write(self.regions.image, header)

    def run(self, inputs: Bytes) -> Bytes:
        """Run one image.

        Parameters:
            inputs: Its input region, uint8, shape (input_bytes,).

        Returns:
            Its output region, uint8, shape (output_bytes,).

        Raises:
            ExecutionError: The board does not answer, or the accelerator reported an error.
        """
        self._write(self.regions.input, inputs.tobytes())
        for name, value in self.regions.settings(1).items():
            self._write_register(name, value)
        self._write_register("CONTROL", REGISTERS["CONTROL"].encode(start=1))
        deadline = time.monotonic() + self.patience_s
        while True:
            status = REGISTERS["STATUS"].decode(self._read_register("STATUS"))
            if status["error"]:
                code = ErrorCode(status["code"])
                self.reset()
                raise ExecutionError(f"the board's accelerator stopped: {code.name}: {code.doc}")
            if status["done"] and not status["busy"]:
                break
            if time.monotonic() > deadline:
                self.reset()
                raise ExecutionError(
                    f"the board's accelerator is not done after {self.patience_s:g} s"
                )
        size = self.image.output_bytes
        words = self._client.read(self.regions.output, -(-size // WORD_BYTES))
        return np.frombuffer(words.tobytes(), np.uint8)[:size]

    def cycles(self) -> int:
        """Cycles of the last run; 0 where the accelerator has no counters."""
        return self._read_register("CYCLES_LOW") | self._read_register("CYCLES_HIGH") << 32

    def _write(
        self, address: int, data: bytes, progress: Callable[[int], object] | None = None
    ) -> None:
        padded = data + bytes(-len(data) % WORD_BYTES)
        self._client.write(address, np.frombuffer(padded, "<u4"), progress)

    def _read_register(self, name: str) -> int:
        return int(self._client.read(LINK_ADDRESS + REGISTERS[name].offset, 1)[0])

    def _write_register(self, name: str, value: int) -> None:
        self._client.write(LINK_ADDRESS + REGISTERS[name].offset, [value])
