"""Measures one network on one machine: compiled, simulated in RTL, every value compared."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.golden.reference import run as run_reference
from palquant.hw.config import Geometry
from palquant.progress import progress_bar
from palquant.sim.build import build_seconds
from palquant.sim.bus import LATENCY, Bus
from palquant.sim.driver import SimulationResult, Simulator
from palquant.sim.predict import Prediction, predict
from palquant.sim.run import LayerProfile, Profile, run_rtl
from palquant.sim.scoreboard import compare_outputs
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Kind
from palquant.sw.image import MemoryImage
from palquant.sw.normalize import input_values
from palquant.workloads import Workload, workload_graph

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Compiled:
    """A network compiled for a machine.

    Parameters:
        image: The memory image.
        seconds: Wall time of the compiler.
    """

    image: MemoryImage
    seconds: float


class Case:
    """One network and one image for it, made ready once for all machines that run it.

    Parameters:
        workload: The network.
        progress: Show on standard error what is being done.

    Attributes:
        graph: Its integer graph.
        images: The image, uint8 of shape (1, C, H, W).
        reference_seconds: Wall time of the integer reference, once ``values`` were asked for.
    """

    def __init__(self, workload: Workload, *, progress: bool = True) -> None:
        self.workload = workload
        self.progress = progress
        self.reference_seconds = 0.0
        self._say("making the network")
        self.graph = workload_graph(workload)
        self.images = workload.images()

    @cached_property
    def values(self) -> dict[str, IntArray]:
        """Every tensor, as the integer reference computes it."""
        self._say("integer reference")
        began = time.monotonic()
        found = run_reference(self.graph, input_values(self.images, self.graph))
        self.reference_seconds = time.monotonic() - began
        return found

    def compile(self, machine: Geometry, *, keep_all: bool = True) -> Compiled:
        """Compile it.

        Parameters:
            machine: The machine.
            keep_all: Store every tensor, so that each can be compared; otherwise the result and
                what does not fit on chip.

        Raises:
            CapacityError: The network cannot be tiled for the machine.
        """
        self._say(f"compiling for {machine.name}")
        began = time.monotonic()
        image = compile_graph(self.graph, machine, keep_all)
        return Compiled(image, time.monotonic() - began)

    def _say(self, text: str) -> None:
        if self.progress:
            name = (
                f"{self.workload.network}, stem {self.workload.stem}, {self.workload.size} pixels"
            )
            print(f"{name}: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Measurement:
    """One network's run.

    Parameters:
        case: The network.
        compiled: What it was compiled to.
        result: The simulation.
        profile: Its cycles by layer.
        prediction: What the cycle model says of them.
        values_compared: Values of all tensors of the manifest.
        mismatches: Those that differ from the reference.
        first_mismatch: The first of them in words, empty if there is none.
        build_seconds: Wall time of the simulator's build.
    """

    case: Case
    compiled: Compiled
    result: SimulationResult
    profile: Profile
    prediction: Prediction
    values_compared: int
    mismatches: int
    first_mismatch: str
    build_seconds: float


def measure(case: Case, compiled: Compiled, *, replay: int | None = None) -> Measurement:
    """Run one image in RTL, and compare every tensor that is stored with the reference.

    Parameters:
        case: The network.
        compiled: Its program for some machine.
        replay: By turns of so many cycles, also time a bare loop over the same model.
    """
    image = compiled.image
    simulator = Simulator(image.geometry)
    prediction = predict(image, Bus(latency=LATENCY))
    with progress_bar(
        total=prediction.profile.cycles,
        unit="cycle",
        unit_scale=True,
        desc="RTL",
        shown=case.progress,
    ) as bar:

        def follow(cycle: int, layer: int) -> None:
            bar.set_postfix_str(image.layers[layer].name, refresh=False)
            bar.update(cycle - bar.n)

        result, cycles = run_rtl(
            image,
            case.images,
            simulator=simulator,
            bus=Bus(latency=LATENCY),
            replay=replay,
            progress=follow,
        )
        follow(cycles.cycles, len(image.layers) - 1)
    compared = compare_outputs(image, result.outputs, case.values)
    return Measurement(
        case=case,
        compiled=compiled,
        result=result,
        profile=cycles,
        prediction=prediction,
        values_compared=sum(item.values for item in compared),
        mismatches=sum(item.mismatches for item in compared),
        first_mismatch=next((item.describe() for item in compared if item.mismatches), ""),
        build_seconds=build_seconds(simulator.executable),
    )


def layer_reports(measurement: Measurement) -> list[dict[str, Any]]:
    """What a report says of each layer; ``histogram`` counts the codes that it reads, by value."""
    found = []
    rows = zip(
        measurement.compiled.image.layers, measurement.profile.layers,
        measurement.prediction.profile.layers, strict=True,
    )  # fmt: skip
    for record, layer, predicted in rows:
        found.append(
            {
                "name": record.name,
                "macs": record.macs,
                "passes": record.passes,
                "cycles": layer.cycles,
                "predicted_cycles": predicted.cycles,
                "utilization": layer.utilization,
                "stalls": stalls(layer),
                "histogram": _histogram(measurement, record.name),
            }
        )
    return found


def stalls(layer: LayerProfile) -> dict[str, int]:
    """Cycles in which neither array nor pooling worked, by cause."""
    return {
        name.lower(): cycles
        for name, cycles in layer.activity.items()
        if name not in ("ARRAY", "POOL") and cycles
    }


def _histogram(measurement: Measurement, name: str) -> list[int]:
    graph = measurement.case.graph
    source = graph[name].inputs[0]
    kind = graph.types[source]
    if kind.kind is not Kind.CODES:
        return []
    codes = measurement.case.values[source].ravel()
    counts: list[int] = np.bincount(codes, minlength=1 << kind.bits).tolist()
    return counts


def peak_memory_mib() -> float:
    """Largest resident set of this process and, added, of the largest of its children."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + child) / 1024
