"""What a machine takes on an FPGA at least: refuses what can never fit, without synthesis."""

from __future__ import annotations

import math

from palquant.hw import isa
from palquant.hw.bit_heap import plan_sum
from palquant.hw.carry_chain import Technology
from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.fpga import Area

__all__ = ["BLOCK_RAM_BITS", "least_area", "unit_positions"]

#: Bits of a block RAM, by family.
BLOCK_RAM_BITS = {"ecp5": 18 * 1024, "ice40": 4 * 1024}


def unit_positions(geometry: Geometry, technology: Technology) -> int:
    """Carry-chain positions of a dot-product unit, its accumulator included."""
    weights = tuple(
        i + j for _ in range(geometry.tin) for i in range(DIGIT_BITS) for j in range(DIGIT_BITS)
    )
    return plan_sum(weights, technology.rows).slots + geometry.accumulator_bits


def least_area(
    geometry: Geometry, family: str, technology: Technology | None, memory_bits: int = 0
) -> Area:
    """A lower bound of the area of an accelerator.

    Look-up tables are those of the array, block RAM holds the memories of the instruction set's
    LOAD and STORE, every bit of it used; the parameter memory may be made of anything.

    Parameters:
        geometry: Sizes of the machine.
        family: Name of the FPGA family, one of :data:`BLOCK_RAM_BITS`.
        technology: What the array is made of.
        memory_bits: Bits of other memory in block RAM.
    """
    # Where synthesis is left alone, products may go into multiplier blocks.
    lut = 0 if technology is None else geometry.tout * unit_positions(geometry, technology)
    bits = memory_bits + geometry.bus_bits * sum(
        isa.memory_beats(geometry, memory)
        for memory in isa.Memory
        if memory is not isa.Memory.PARAMETER
    )
    return Area(lut=lut, ff=0, bram=math.ceil(bits / BLOCK_RAM_BITS[family]), dsp=0)
