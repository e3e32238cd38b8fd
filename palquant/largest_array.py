"""The largest array that fits a device, and what it can do at its peak."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from palquant.candidates import shares
from palquant.cost_model import CostModel
from palquant.cost_parts import ARRAY, array_levels
from palquant.errors import ConfigurationError
from palquant.hw.config import Geometry
from palquant.hw.fpga import Area
from palquant.hw.layouts import ARRAY_CONTROL
from palquant.hw.place_and_route import Device
from palquant.hw.presets import PRESETS

__all__ = ["LargestArray", "largest_array"]

#: Longest side that a geometry allows.
_LONGEST = 128
#: Largest share of a resource with which routing has a chance.
_FULLEST = 0.9
#: Operations of a multiply-accumulate.
_OPERATIONS = 2


@dataclass(frozen=True)
class LargestArray:
    """An array between shift registers, as it is placed and routed by itself.

    Parameters:
        geometry: Its sizes.
        area: What it takes as predicted, the shift registers included.
        fmax_mhz: Its clock frequency as predicted; None where the model has no clock.
    """

    geometry: Geometry
    area: Area
    fmax_mhz: float | None

    @property
    def tops(self) -> float | None:
        """Peak of 2-bit operations a second, in units of 10^12; multiply and add are two."""
        if self.fmax_mhz is None:
            return None
        return _OPERATIONS * self.geometry.peak_macs * self.fmax_mhz * 1e6 / 1e12


def wrapped_area(model: CostModel, geometry: Geometry) -> Area:
    """An array with a register for each bit that goes in or comes out."""
    g = geometry
    inputs = g.weight_bits_per_word + g.activation_bits_per_word + ARRAY_CONTROL.size
    outputs = g.tout * g.accumulator_bits + g.activation_sum_bits
    area = model.array_area(g)
    # What comes out is either caught or shifted: a table for each bit.
    return Area(area.lut + outputs, area.ff + inputs + outputs, area.bram, area.dsp)


def largest_array(model: CostModel, device: Device) -> LargestArray:
    """The array with the most multipliers that can be placed and routed.

    Of those with as many, the one with the fewest levels of logic between registers, and of these
    the one with the fewest look-up tables.

    Raises:
        ConfigurationError: None fits.
    """
    found = []
    sides = [1 << k for k in range(3, _LONGEST.bit_length())]
    for tin, tout in itertools.product(sides, sides):
        base = dataclasses.replace(
            PRESETS["kilomac"], name=f"{tin}x{tout}", tin=tin, tout=tout, lanes=min(tin, tout, 16)
        )
        for registers in range(1, array_levels(base)[0]):
            geometry = dataclasses.replace(base, array_registers=registers)
            levels, registered = array_levels(geometry)
            area = wrapped_area(model, geometry)
            if max(shares(area, device).values()) <= _FULLEST:
                between = math.ceil(levels / registered)
                found.append((geometry.peak_macs, -between, -area.lut, geometry, area))
    if not found:
        raise ConfigurationError(f"no array fits {device.name}")
    *_, geometry, area = max(found, key=lambda item: item[:3])
    mhz = model.array_fmax_mhz(geometry) if model.clock.get(ARRAY) else None
    return LargestArray(geometry, area, mhz)
