"""The commands ``import`` and ``export``: networks of other tools, and ours for them."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from palquant.errors import InputError
from palquant.inputs import read_images
from palquant.tables import count, table

Report = dict[str, Any]

#: What a QONNX file's name ends with.
QONNX_SUFFIX = ".onnx"


def import_model(options: Namespace) -> Report:
    """Make a model file of a QONNX file or of a released checkpoint."""
    from palquant.sw.model import load_model, save_model

    images = read_images(options.calibration) if options.calibration else None
    if options.file.suffix == QONNX_SUFFIX:
        graph, report = _import_qonnx(options, images)
    else:
        graph, report = _import_released(options, images)
    save_model(graph, options.output)
    load_model(options.output)  # what is read back later is what was written now
    print(f"model      {options.output}, {count(len(graph.nodes), 'node')}")
    return report


def _import_qonnx(options: Namespace, images: npt.NDArray[Any] | None) -> tuple[Any, Report]:
    from palquant.sw.qonnx_import import read_qonnx

    for name in ("arch", "groups", "stem"):
        if getattr(options, name) is not None:
            raise InputError(f"{options.file}: a QONNX file; --{name} is for released checkpoints")
    imported = read_qonnx(options.file, images)
    found = imported.findings
    for title, entries in (
        ("thresholds that another order of float additions could move", found.doubtful),
        ("codes of 5 to 8 bits that the nearest multiplication misses", found.fitted),
        ("sums in fixed point, calibrated", found.calibrated),
    ):
        if entries:
            print(f"{title}: {entries}")
    return imported.graph, {
        "format": "qonnx",
        "nodes": len(imported.graph.nodes),
        "doubtful": found.doubtful,
        "fitted": found.fitted,
        "calibrated": found.calibrated,
    }


def _import_released(options: Namespace, images: npt.NDArray[Any] | None) -> tuple[Any, Report]:
    from palquant.golden.released_import import import_released
    from palquant.golden.released_report import report_lines, report_rows

    missing = [
        f"--{name}" for name in ("arch", "groups", "calibration") if getattr(options, name) is None
    ]
    if missing:
        raise InputError(
            f"{options.file}: a released checkpoint needs {', '.join(missing)} "
            f"(QONNX files end with {QONNX_SUFFIX})"
        )
    assert images is not None

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    graph, report = import_released(
        options.file,
        options.arch,
        options.groups,
        images,
        stem=options.stem or "accelerator",
        progress=say,
    )
    print(table(*report_rows(report)))
    for line in report_lines(report):
        print(line)
    return graph, {"format": "released", **report}


def export_model(options: Namespace) -> Report:
    """Write a model as a QONNX file."""
    from palquant.sw.model import load_model
    from palquant.sw.qonnx_export import export_qonnx

    path: Path = options.output
    if path.suffix != QONNX_SUFFIX:
        raise InputError(f"{path}: a QONNX file's name ends with {QONNX_SUFFIX}")
    graph = load_model(options.model)
    export_qonnx(graph, path)
    print(f"{path}: {count(len(graph.nodes), 'node')} of {options.model}")
    return {"file": str(path), "nodes": len(graph.nodes)}
