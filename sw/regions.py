"""Where a run's regions lie in memory, and the registers that say so."""

from __future__ import annotations

from dataclasses import dataclass

from palquant.errors import CapacityError
from palquant.hw.config import Geometry

__all__ = ["ALIGNMENT", "GUARD", "IMAGE_ADDRESS", "Regions"]

#: Where simulation puts the memory image on the bus, if the machine's addresses reach that far, and
#: otherwise at 0; input and output regions follow it.
IMAGE_ADDRESS = 0x4000_0000
#: Regions begin at multiples of this: a page, as an operating system would hand them out.
ALIGNMENT = 4096
#: Poison beyond the last region, so that a write beyond it is seen and not answered DECERR.
GUARD = 4096


@dataclass(frozen=True)
class Regions:
    """Where image, inputs and outputs lie in memory: byte addresses and bytes.

    Parameters:
        image: Address of the memory image.
        input: Address of the first image's input.
        output: Address of the first image's output.
        input_stride: Bytes from one input to the next.
        output_stride: Bytes from one output to the next.
        base: First address of the memory.
        size: Bytes of the memory.
    """

    image: int
    input: int
    output: int
    input_stride: int
    output_stride: int
    base: int
    size: int

    @classmethod
    def place(
        cls,
        geometry: Geometry,
        image_bytes: int,
        input_bytes: int,
        output_bytes: int,
        images: int,
        *,
        base: int | None = None,
        alignment: int = ALIGNMENT,
        guard: int = GUARD,
    ) -> Regions:
        """Regions one behind the other; strides are sizes rounded up to the bus width.

        Parameters:
            geometry: The machine.
            image_bytes: Size of the memory image.
            input_bytes: Size of one image's input.
            output_bytes: Size of one image's output.
            images: Images of a run.
            base: First address of the memory, where the memory image lies; where simulation puts
                it if not given.
            alignment: Regions begin at multiples of this many bytes.
            guard: Bytes of memory behind the last region.

        Raises:
            CapacityError: The machine's addresses do not reach the last region's end.
        """
        if base is None:
            base = IMAGE_ADDRESS if IMAGE_ADDRESS >> geometry.dram_bits == 0 else 0

        def up(value: int, unit: int) -> int:
            return value + -value % unit

        input_stride = up(input_bytes, geometry.bus_bytes)
        output_stride = up(output_bytes, geometry.bus_bytes)
        first_input = up(base + image_bytes, alignment)
        first_output = up(first_input + images * input_stride, alignment)
        last = first_output + images * output_stride
        if last > 1 << geometry.dram_bits:
            raise CapacityError(
                f"image, inputs and outputs end at address {last:#x}; addresses of geometry "
                f"{geometry.name} have {geometry.dram_bits} bits"
            )
        end = up(last, alignment) + guard
        return cls(
            image=base,
            input=first_input,
            output=first_output,
            input_stride=input_stride,
            output_stride=output_stride,
            base=base,
            size=end - base,
        )

    def settings(self, images: int) -> dict[str, int]:
        """Register values that tell the machine where things are."""
        return {
            "IMAGE_ADDRESS": self.image,
            "INPUT_ADDRESS": self.input,
            "OUTPUT_ADDRESS": self.output,
            "INPUT_STRIDE": self.input_stride,
            "OUTPUT_STRIDE": self.output_stride,
            "IMAGE_COUNT": images,
        }
