"""Measures one network on one machine: compiled, simulated in RTL, every value compared."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm  # type: ignore[import-untyped]

from palquant.commands import LATENCY
from palquant.golden.reference import run as run_reference
from palquant.hw.config import Geometry
from palquant.sim.build import build_seconds
from palquant.sim.driver import SimulationResult, Simulator
from palquant.sim.execute import Bus
from palquant.sim.predict import Prediction, predict
from palquant.sim.run import LayerProfile, Profile, run_rtl
from palquant.sim.scoreboard import compare_outputs
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Kind
from palquant.sw.image import MemoryImage
from palquant.sw.normalize import to_codes
from palquant.workloads import Workload, workload_graph

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measurement:
    """One network's run.

    Parameters:
        workload: The network.
        image: What it was compiled to.
        result: The simulation.
        profile: Its cycles by layer.
        prediction: What the cycle model says of them.
        values: The integer reference's tensors.
        values_compared: Values of all tensors of the manifest, once for each image.
        mismatches: Those that differ from the reference.
        first_mismatch: The first of them in words, empty if there is none.
        build_seconds: Wall time of the simulator's build.
        compile_seconds: Wall time of the compiler.
        reference_seconds: Wall time of the integer reference.
    """

    workload: Workload
    image: MemoryImage
    result: SimulationResult
    profile: Profile
    prediction: Prediction
    values: dict[str, IntArray]
    values_compared: int
    mismatches: int
    first_mismatch: str
    build_seconds: float
    compile_seconds: float
    reference_seconds: float


def measure(
    workload: Workload,
    machine: Geometry,
    *,
    keep_all: bool = True,
    replay: int | None = None,
    progress: bool = True,
) -> Measurement:
    """Compile a network, run one image in RTL, and compare every tensor with the reference.

    Parameters:
        workload: The network.
        machine: The machine.
        keep_all: Store every tensor, so that each is compared; otherwise the result and what does
            not fit on chip.
        replay: Time that many cycles again, with the driver and without.
        progress: Show on standard error what is being done.

    Raises:
        CapacityError: The network cannot be tiled for the machine.
    """

    def say(text: str) -> None:
        if progress:
            print(f"{workload.network}, stem {workload.stem}, {workload.size} pixels: {text}",
                  file=sys.stderr, flush=True)  # fmt: skip

    say("making the network")
    graph = workload_graph(workload)
    images = workload.images()
    say("compiling")
    began = time.monotonic()
    image = compile_graph(graph, machine, keep_all)
    compile_seconds = time.monotonic() - began
    say("integer reference")
    began = time.monotonic()
    values = run_reference(graph, to_codes(images, graph.input))
    reference_seconds = time.monotonic() - began
    simulator = Simulator(machine)
    prediction = predict(image, Bus(latency=LATENCY))
    expected = prediction.profile.cycles
    with tqdm(
        total=expected, unit="cycle", unit_scale=True, desc="RTL", disable=not progress
    ) as bar:

        def follow(cycle: int, layer: int) -> None:
            bar.set_postfix_str(image.layers[layer].name, refresh=False)
            bar.update(cycle - bar.n)

        result, cycles = run_rtl(
            image,
            images,
            simulator=simulator,
            bus=Bus(latency=LATENCY),
            replay=replay,
            progress=follow,
        )
        follow(cycles.cycles, len(image.layers) - 1)
    compared = compare_outputs(image, result.outputs, values)
    return Measurement(
        workload=workload,
        image=image,
        result=result,
        profile=cycles,
        prediction=prediction,
        values=values,
        values_compared=sum(item.values for item in compared),
        mismatches=sum(item.mismatches for item in compared),
        first_mismatch=next((item.describe() for item in compared if item.mismatches), ""),
        build_seconds=build_seconds(simulator.executable),
        compile_seconds=compile_seconds,
        reference_seconds=reference_seconds,
    )


def layer_reports(measurement: Measurement) -> list[dict[str, Any]]:
    """What a report says of each layer; ``histogram`` counts the codes that it reads, by value."""
    found = []
    rows = zip(
        measurement.image.layers, measurement.profile.layers, measurement.prediction.profile.layers,
        strict=True,
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
    graph = measurement.image.graph
    source = graph[name].inputs[0]
    kind = graph.types[source]
    if kind.kind is not Kind.CODES:
        return []
    codes = measurement.values[source].ravel()
    counts: list[int] = np.bincount(codes, minlength=1 << kind.bits).tolist()
    return counts


def peak_memory_mib() -> float:
    """Largest resident set of this process and, added, of the largest of its children."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + child) / 1024
