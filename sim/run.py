"""Runs a compiled network on a back-end, and says what each layer took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.hw.registers import Activity
from palquant.hw.top import TRACE_IDLE
from palquant.sim.bus import Bus
from palquant.sim.driver import SimulationResult, Simulator
from palquant.sim.execute import Progress
from palquant.sw.emulator import Emulator
from palquant.sw.image import MemoryImage
from palquant.sw.normalize import input_values

Bytes = npt.NDArray[np.uint8]

#: Images that the emulator holds in memory at once.
EMULATOR_BATCH = 64


@dataclass(frozen=True)
class LayerProfile:
    """Where one layer's cycles went, in one doorbell's run over ``images`` images.

    Parameters:
        name: The layer.
        quantized: Whether it is one of the low-precision layers.
        cycles: Cycles that belong to it, all images together.
        ideal_cycles: Multiply-accumulates times digit passes, divided by the array's peak.
        activity: Cycles by activity name.
        first: First cycle, counted from the doorbell.
        last: Last cycle.
    """

    name: str
    quantized: bool
    cycles: int
    ideal_cycles: float
    activity: Mapping[str, int]
    first: int
    last: int

    @property
    def utilization(self) -> float:
        """Share of the array's peak that the layer reaches, 0 to 1."""
        return self.ideal_cycles / self.cycles if self.cycles else 0.0


@dataclass(frozen=True)
class Profile:
    """A run's cycles.

    Parameters:
        images: Images of the run.
        cycles: Cycles from doorbell to interrupt.
        layers: One profile for each layer, by index.
    """

    images: int
    cycles: int
    layers: list[LayerProfile]

    @property
    def quantized_cycles(self) -> int:
        """Cycles of the low-precision layers."""
        return sum(layer.cycles for layer in self.layers if layer.quantized)

    @property
    def utilization(self) -> float:
        """Share of the array's peak over the whole run."""
        return sum(layer.ideal_cycles for layer in self.layers) / self.cycles

    @property
    def quantized_utilization(self) -> float:
        """Share of the array's peak over the cycles of the low-precision layers."""
        ideal = sum(layer.ideal_cycles for layer in self.layers if layer.quantized)
        return ideal / self.quantized_cycles if self.quantized_cycles else 0.0

    @property
    def activity(self) -> dict[str, int]:
        """Cycles by activity over all layers; ``OUTSIDE`` is the rest, and all add up to cycles."""
        total: dict[str, int] = {}
        for layer in self.layers:
            for name, cycles in layer.activity.items():
                total[name] = total.get(name, 0) + cycles
        total["OUTSIDE"] = self.cycles - sum(total.values())
        return total


def profile(image: MemoryImage, result: SimulationResult) -> Profile:
    """Cycles by layer and activity of a simulation.

    The few cycles between the doorbell's bus handshake and the run's first cycle, and between its
    last and the interrupt, belong to no layer; they are in :attr:`Profile.cycles` alone.
    """
    images = len(result.outputs)
    active = [item for item in result.activity if item.activity != TRACE_IDLE]
    layers = []
    for index, record in enumerate(image.layers):
        parts = [item for item in active if item.layer == index]
        layers.append(
            LayerProfile(
                name=record.name,
                quantized=record.quantized,
                cycles=sum(item.cycles for item in parts),
                ideal_cycles=record.macs * record.passes * images / image.geometry.peak_macs,
                activity={Activity(item.activity).name: item.cycles for item in parts},
                first=min((item.first for item in parts), default=0),
                last=max((item.last for item in parts), default=0),
            )
        )
    return Profile(images, result.cycles, layers)


def run_emulator(image: MemoryImage, images: npt.NDArray[Any], seed: int = 0) -> Bytes:
    """Output regions of a batch, from the emulator.

    Parameters:
        image: The compiled network.
        images: float32 or uint8, shape (N, C, H, W).
        seed: Seed of the poison in its memories.
    """
    codes = input_values(images, image.graph)
    emulator = Emulator(image.geometry, image.data, seed)
    batches = [codes[at : at + EMULATOR_BATCH] for at in range(0, len(codes), EMULATOR_BATCH)]
    outputs = [emulator.run(image.pack_input(batch)) for batch in batches]
    return np.concatenate(outputs)


def run_rtl(
    image: MemoryImage,
    images: npt.NDArray[Any],
    *,
    simulator: Simulator | None = None,
    bus: Bus | None = None,
    waves: Path | None = None,
    timeline: bool = False,
    replay: int | None = None,
    progress: Progress | None = None,
) -> tuple[SimulationResult, Profile]:
    """One doorbell for a batch in RTL.

    Parameters:
        image: The compiled network.
        images: float32 or uint8, shape (N, C, H, W).
        simulator: A build of the machine; found or made if None.
        bus: How the memory behaves.
        waves: File for waveforms (FST).
        timeline: Record what each engine did when.
        replay: By turns of so many cycles, also time a bare loop over the same model.
        progress: Called about once a second with (cycles, layer).

    Raises:
        ExecutionError: The machine reported an error or hung.
        ToolError: The simulation could not be built or run.
    """
    if simulator is None:
        simulator = Simulator(image.geometry, waves=waves is not None)
    regions = image.pack_input(input_values(images, image.graph))
    result = simulator.run(
        image.data,
        regions,
        image.output_bytes,
        bus=bus,
        waves=waves,
        timeline=timeline,
        replay=replay,
        progress=progress,
    )
    return result, profile(image, result)
