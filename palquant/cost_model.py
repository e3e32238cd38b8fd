"""Area and clock of machines that were never synthesised: what a geometry takes on the ECP5.

    model = CostModel.load()
    area, mhz = model.area(geometry), model.fmax_mhz(geometry)

The machine is the sum of its parts (:mod:`palquant.cost_parts`), and each part a sum of physical
features with fitted coefficients. Block RAM is not fitted but computed, memory by memory
(:mod:`palquant.hw.memory_shapes`). Coefficients and the measurements that they come from lie in
``cost_model.json``; :mod:`palquant.cost_fit` makes that file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palquant.cost_parts import ARRAY, PARTS, REST, Features, array_levels, rest_features
from palquant.errors import ConfigurationError, in_words
from palquant.hw.config import Geometry
from palquant.hw.fpga import Area
from palquant.hw.memory_shapes import block_rams

#: The model that comes with the package.
DATA = Path(__file__).with_name("cost_model.json")
#: The feature that is 1 of every machine.
ALWAYS = "always"
#: What is fitted.
RESOURCES = ("lut", "ff", "dsp")

Coefficients = Mapping[str, float]


def evaluate(coefficients: Coefficients, features: Features) -> float:
    """A sum of features, each with its coefficient, and the constant."""
    return sum(
        value * (1 if name == ALWAYS else features[name]) for name, value in coefficients.items()
    )


def array_clock_features(geometry: Geometry) -> Features:
    """What the shortest period of an array depends on: logic between registers, and size."""
    levels, registers = array_levels(geometry)
    return {
        "levels between registers": math.ceil(levels / registers),
        "doublings of MACs": math.log2(geometry.peak_macs),
    }


def whole_clock_features(lut: float) -> Features:
    """What the shortest period of everything but the array depends on: how far apart things are."""
    return {"doublings of LUTs": math.log2(max(lut, 1))}


@dataclass(frozen=True)
class CostModel:
    """Coefficients.

    Parameters:
        parts: Part -> resource -> coefficient of each feature, in cells.
        clock: Coefficients of periods in nanoseconds, of the array and of everything else; what
            was never routed has none.
    """

    parts: Mapping[str, Mapping[str, Coefficients]]
    clock: Mapping[str, Coefficients]

    @classmethod
    def load(cls, path: Path = DATA) -> CostModel:
        """The model of a file that ``palquant bench cost`` wrote.

        Raises:
            ConfigurationError: There is no such file, or it is of something else.
        """
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            model = cls(found["parts"], found["clock"])
            names = {part.name for part in PARTS} | {REST}
            if set(model.parts) != names:
                raise KeyError(*sorted(set(model.parts) ^ names)[:1])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path}: no cost model ({in_words(error)}); palquant bench cost makes one"
            ) from None
        return model

    def part(self, name: str, features: Features) -> Area:
        """One part, without its block RAM."""
        found = {
            resource: max(0, round(evaluate(self.parts[name][resource], features)))
            for resource in RESOURCES
        }
        return Area(bram=0, **found)

    def breakdown(self, geometry: Geometry) -> dict[str, Area]:
        """What each part takes, without block RAM; parts that exist twice count twice."""
        found = {}
        for part in PARTS:
            area = self.part(part.name, part.features(geometry))
            found[part.name] = Area(
                part.count * area.lut, part.count * area.ff, 0, part.count * area.dsp
            )
        found[REST] = self.part(REST, rest_features(geometry))
        return found

    def area(self, geometry: Geometry) -> Area:
        """The whole accelerator."""
        parts = self.breakdown(geometry).values()
        return Area(
            lut=sum(part.lut for part in parts),
            ff=sum(part.ff for part in parts),
            bram=block_rams(geometry),
            dsp=sum(part.dsp for part in parts),
        )

    def array_area(self, geometry: Geometry) -> Area:
        """The array alone."""
        (part,) = (part for part in PARTS if part.name == ARRAY)
        return self.part(ARRAY, part.features(geometry))

    def array_fmax_mhz(self, geometry: Geometry) -> float:
        """Clock frequency of the array alone.

        Raises:
            ConfigurationError: The model has no clock.
        """
        return 1000 / self._period(ARRAY, array_clock_features(geometry))

    def fmax_mhz(self, geometry: Geometry, area: Area | None = None) -> float:
        """Clock frequency of the whole accelerator: that of its slower half.

        Parameters:
            geometry: Its sizes.
            area: What it takes, if that is known already.

        Raises:
            ConfigurationError: The model has no clock.
        """
        rest = self._period(REST, whole_clock_features((area or self.area(geometry)).lut))
        return 1000 / max(rest, self._period(ARRAY, array_clock_features(geometry)))

    def _period(self, name: str, features: Features) -> float:
        if not self.clock.get(name):
            raise ConfigurationError(
                "the cost model has no clock, since nothing was routed for it; --clock gives one"
            )
        return evaluate(self.clock[name], features)
