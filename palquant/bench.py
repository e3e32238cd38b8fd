"""The benchmarks behind ``palquant bench``: what they measure, and how they report it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palquant import accuracy, area, cost_fit, golden, sim
from palquant.benchmark import Case, layer_reports, measure, peak_memory_mib
from palquant.errors import ConfigurationError, MismatchError
from palquant.files import make_folder, write_json
from palquant.hw.config import Geometry
from palquant.hw.presets import geometry
from palquant.sim.build import cache_folder, digest, package_sources
from palquant.sim.bus import LATENCY
from palquant.sim.machine import build_simulator
from palquant.tables import table
from palquant.workloads import Workload

Report = dict[str, Any]

#: Cycles of a turn, where a bare C++ loop over the same model runs beside the simulation: what else
#: the machine does slows both alike.
REPLAY_TURN = 100_000
#: Groups and bits of the networks that are set against each other; the first is the counterpart.
CONTENDERS = ((1, 4), (1, 2), (2, 2), (3, 2), (4, 2))
#: Bits of the stem's weights; the activations have 8.
STEMS = (8, 4, 2)
#: Heights and widths of the images that growth is measured with, up to ``--size``.
SIZES = (64, 128, 224)
WEIGHTS = (
    "weights are random with the statistics of trained ones; quantiser ranges are calibrated on "
    "synthetic images"
)


def resnet18(options: Namespace) -> Report:
    """PalQuant's ResNet-18, one image, every value of every layer compared."""
    machine = geometry(options.geometry)
    workload = Workload(size=options.size, base_width=options.base_width, seed=options.seed)
    case = Case(workload, progress=not options.quiet)
    measured = measure(case, case.compile(machine), replay=REPLAY_TURN)
    narrow = dataclasses.replace(
        machine, name=f"{machine.name}-{machine.bus_bits // 2}", bus_bits=machine.bus_bits // 2
    )
    other = measure(case, case.compile(narrow))
    layers = layer_reports(measured)
    profile, result = measured.profile, measured.result
    report: Report = {
        "network": workload.network,
        "weights": WEIGHTS,
        "geometry": machine.name,
        "size": workload.size,
        "memory_latency": LATENCY,
        "cycles": profile.cycles,
        "quantized_cycles": profile.quantized_cycles,
        "utilization": profile.utilization,
        "quantized_utilization": profile.quantized_utilization,
        "values_compared": measured.values_compared,
        "mismatches": measured.mismatches,
        "predicted_cycles": measured.prediction.profile.cycles,
        "simulation_s": result.seconds,
        "build_s": measured.build_seconds,
        "cycles_per_s": result.cycles_per_second,
        "cpp_cycles_per_s": result.cycles / result.bare_seconds,
        "peak_memory_mib": peak_memory_mib(),
        "compile_s": measured.compiled.seconds,
        "reference_s": case.reference_seconds,
        "layers": layers,
        "half_bus": {
            "bus_bits": narrow.bus_bits,
            "cycles": other.profile.cycles,
            "quantized_cycles": other.profile.quantized_cycles,
            "utilization": other.profile.utilization,
            "quantized_utilization": other.profile.quantized_utilization,
            "values_compared": other.values_compared,
            "mismatches": other.mismatches,
        },
    }
    headings = ["layer", "MACs", "passes", "cycles", "predicted", "utilization", "stalls"]
    rows = [
        [layer["name"], layer["macs"], layer["passes"], layer["cycles"],
         layer["predicted_cycles"], layer["utilization"],
         ", ".join(f"{cause} {cycles}" for cause, cycles in layer["stalls"].items())]
        for layer in layers
    ]  # fmt: skip
    print(table(headings, rows))
    print(
        f"\n{workload.network} at {workload.size}x{workload.size} on {machine.name} "
        f"({machine.bus_bits}-bit bus, {LATENCY} cycles of latency); {WEIGHTS}.\n"
        f"{measured.values_compared:,} values compared, {measured.mismatches} mismatches\n"
        f"{profile.cycles:,} cycles, utilization {profile.utilization:.3f}; quantised layers "
        f"{profile.quantized_cycles:,}, {profile.quantized_utilization:.3f}\n"
        f"with a {narrow.bus_bits}-bit bus {other.profile.cycles:,} cycles, "
        f"{other.profile.utilization:.3f}; quantised layers "
        f"{other.profile.quantized_cycles:,}, {other.profile.quantized_utilization:.3f}\n"
        f"simulated in {result.seconds:.1f} s, {result.cycles_per_second:,.0f} cycles/s "
        f"(the model alone {report['cpp_cycles_per_s']:,.0f}), compiled in "
        f"{measured.compiled.seconds:.1f} s; building the simulator took "
        f"{measured.build_seconds:.0f} s, once"
    )
    return _checked(report, [measured.first_mismatch, other.first_mismatch])


def speedup(options: Namespace) -> Report:
    """Cycles of PalQuant's networks against the 4-bit counterpart, with the same bits in the stem.

    Groups have a stem each, as released, or share one.
    """
    machine = geometry(options.geometry)
    rows: list[Report] = []
    counterparts: dict[int, Report] = {}  # by the stem's bits; a single group shares with nobody
    for shared in (False, True):
        for (groups, bits), stem_bits in itertools.product(CONTENDERS, STEMS):
            if shared and groups == 1:
                continue
            workload = Workload(
                groups=groups,
                bits=bits,
                stem_bits=stem_bits,
                shared_stem=shared,
                size=options.size,
                base_width=options.base_width,
                seed=options.seed,
            )
            row = _row(workload, machine, options)
            base = counterparts.setdefault(stem_bits, row)
            row["speedup_network"] = base["cycles"] / row["cycles"]
            row["speedup_quantized"] = base["quantized_cycles"] / row["quantized_cycles"]
            rows.append(row)
    columns = [
        "network", "stem", "cycles", "quantized_cycles", "quantized_utilization", "mismatches",
        "speedup_network", "speedup_quantized",
    ]  # fmt: skip
    print(table(columns, [[row[name] for name in columns] for row in rows]))
    print(f"\n{machine.name}, {options.size}x{options.size}; {WEIGHTS}.")
    return _checked({"geometry": machine.name, "size": options.size, "rows": rows}, _first(rows))


def growth(options: Namespace) -> Report:
    """Cycles and wall time of ResNet-18 for images of several sizes."""
    machine = geometry(options.geometry)
    sizes = [size for size in SIZES if size < options.size] + [options.size]
    workloads = [
        Workload(size=size, base_width=options.base_width, seed=options.seed) for size in sizes
    ]
    for workload in workloads:  # what does not fit is refused before anything runs
        Case(workload, progress=False).compile(machine, keep_all=True)
    rows = []
    for workload in workloads:
        row = _row(workload, machine, options)
        row["cycles_per_kmac"] = row["cycles"] / row["macs"] * 1000
        row["simulation_ns_per_mac"] = row["simulation_s"] / row["macs"] * 1e9
        rows.append(row)
    columns = [
        "size", "macs", "cycles", "cycles_per_kmac", "quantized_utilization", "simulation_s",
        "simulation_ns_per_mac", "mismatches",
    ]  # fmt: skip
    print(table(columns, [[row[name] for name in columns] for row in rows]))
    return _checked({"geometry": machine.name, "rows": rows}, _first(rows))


def _row(workload: Workload, machine: Geometry, options: Namespace) -> Report:
    """One network's figures, measured now or in an earlier run of exactly the same thing.

    Two runs: one that stores every tensor, to compare each; and one that stores the result and what
    does not fit on chip, whose cycles count.
    """
    case = Case(workload, progress=not options.quiet)
    programs = [case.compile(machine, keep_all=keep_all) for keep_all in (True, False)]
    simulator = build_simulator(machine)
    parts = [repr(workload), simulator.parent.name, str(LATENCY)]
    # What is compared with, and how, counts as much as what runs.
    contents = [
        *(program.image.data for program in programs),
        *(part.encode() for part in parts),
        *package_sources(golden, sim),
        Path(__file__).read_bytes(),
    ]
    path = cache_folder() / f"{digest(contents)}.json"
    if path.is_file() and not options.fresh:
        row: Report = json.loads(path.read_text())
        return row
    traced, measured = (measure(case, program) for program in programs)
    profile = measured.profile
    row = {
        "network": workload.network,
        "groups": workload.groups,
        "weight_bits": workload.bits,
        "activation_bits": workload.bits,
        "stem": workload.stem,
        "size": workload.size,
        "macs": sum(layer.macs for layer in measured.compiled.image.layers),
        "cycles": profile.cycles,
        "quantized_cycles": profile.quantized_cycles,
        "utilization": profile.utilization,
        "quantized_utilization": profile.quantized_utilization,
        "cycles_storing_all": traced.profile.cycles,
        "values_compared": traced.values_compared + measured.values_compared,
        "mismatches": traced.mismatches + measured.mismatches,
        "first_mismatch": traced.first_mismatch or measured.first_mismatch,
        "simulation_s": measured.result.seconds,
    }
    write_json(path, row)
    return row


def _first(rows: list[Report]) -> list[str]:
    return [row["first_mismatch"] for row in rows]


def _checked(report: Report, first_mismatches: list[str]) -> Report:
    """The report; a benchmark with a wrong value fails."""
    for text in first_mismatches:
        if text:
            raise MismatchError(f"RTL: {text}", report)
    return report


#: Benchmarks by name.
BENCHMARKS: dict[str, Callable[[Namespace], Report]] = {
    "resnet18": resnet18,
    "speedup": speedup,
    "growth": growth,
    "accuracy": accuracy.accuracy,
    "area": area.area,
    "cost": cost_fit.cost,
}
#: Options of benchmarks in RTL, and their defaults; every other benchmark has its own.
OPTIONS = {"geometry": "kilomac", "size": 224, "base_width": 64}
OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "accuracy": accuracy.OPTIONS,
    "area": area.OPTIONS,
    "cost": cost_fit.OPTIONS,
}


def _complete(options: Namespace) -> None:
    """Give options their defaults.

    Raises:
        ConfigurationError: One is given that the benchmark does not have.
    """
    own = OTHER_OPTIONS.get(options.benchmark, OPTIONS)
    for name in sorted({*OPTIONS, *(name for others in OTHER_OPTIONS.values() for name in others)}):
        if getattr(options, name) is None:
            setattr(options, name, own.get(name))
        elif name not in own:
            raise ConfigurationError(
                f"bench {options.benchmark}: --{name.replace('_', '-')} is not an option of this "
                "benchmark"
            )


def run(options: Namespace) -> Report:
    """Run the benchmark that the options name, and draw its report if they name a file for it."""
    from palquant.plots import check_plot, draw  # matplotlib takes a second to load

    _complete(options)
    if options.plot is not None:
        check_plot(options.plot)
        make_folder(options.plot.parent)  # what cannot be written is refused before the work
    report = BENCHMARKS[options.benchmark](options)
    if options.plot is not None:
        draw(options.benchmark, report, options.plot)
    return report
