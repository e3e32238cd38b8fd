"""The commands ``import`` and ``export``: networks of other tools, and ours for them."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from palquant.errors import InputError
from palquant.files import check_writable
from palquant.golden.released_options import BITS
from palquant.inputs import note, read_images
from palquant.kinds import Kind, instead_of_model, kind_of
from palquant.tables import count, table

Report = dict[str, Any]

#: What a QONNX file's name ends with.
QONNX_SUFFIX = ".onnx"
#: Options that a QONNX file has no use for.
RELEASED_OPTIONS = (
    "arch", "groups", "compare", "stem", "mean", "std", *(f"{part}_bits" for part in BITS)
)  # fmt: skip
#: What a model file's name ends with.
MODEL_SUFFIX = ".npz"


def import_model(options: Namespace) -> Report:
    """Make a model file of a QONNX file or of a released checkpoint."""
    from palquant.sw.model import load_model, save_model

    _check_source(options.file)
    _check_output(options.output)
    if options.file.suffix == QONNX_SUFFIX:
        graph, report = _import_qonnx(options)
    else:
        graph, report = _import_released(options)
    save_model(graph, options.output)
    load_model(options.output)  # what is read back later is what was written now
    print(f"model      {options.output}, {count(len(graph.nodes), 'node')}")
    return report


def _check_source(path: Path) -> None:
    """Refuse a file that is missing or that needs no import.

    Raises:
        InputError: It cannot be read, is empty, or comes from palquant's own training.
    """
    try:
        with path.open("rb"):
            kind = kind_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    if kind is Kind.EMPTY:
        raise InputError(f"{path}: is empty; expected a QONNX file or a released checkpoint")
    if kind is Kind.MODEL:
        raise InputError(f"{path}: is a model already, which palquant compile takes")
    if kind is Kind.CHECKPOINT:
        raise InputError(f"{path}: {instead_of_model(path)}")


def _check_output(path: Path) -> None:
    """Refuse a model file that could not be written, before minutes of work are spent on it.

    Raises:
        InputError: Its name ends otherwise.
        OutputError: Its folder cannot be written, or a folder has its name.
    """
    if path.suffix != MODEL_SUFFIX:
        raise InputError(f"{path}: a model file's name ends with {MODEL_SUFFIX}")
    check_writable(path)


def _import_qonnx(options: Namespace) -> tuple[Any, Report]:
    from palquant.sw.qonnx_import import read_qonnx

    for name in RELEASED_OPTIONS:
        if getattr(options, name) is not None:
            raise InputError(f"{options.file}: a QONNX file; --{name.replace('_', '-')} is for "
                             "released checkpoints")  # fmt: skip
    images = read_images(options.calibration) if options.calibration else None
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


def _import_released(options: Namespace) -> tuple[Any, Report]:
    from palquant.golden.released_import import import_released
    from palquant.golden.released_report import report_lines, report_rows, statistics_warning

    missing = [
        f"--{name}" for name in ("arch", "groups", "calibration") if getattr(options, name) is None
    ]
    if missing:
        raise InputError(
            f"{options.file}: a released checkpoint needs {', '.join(missing)} "
            f"(QONNX files end with {QONNX_SUFFIX})"
        )
    images = read_images(options.calibration, note_floats=False)
    others = read_images(options.compare, note_floats=False) if options.compare else None
    given = {name: getattr(options, f"{name}_bits") for name in BITS}
    bits = {name: given[name] or default for name, default in BITS.items()}

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    graph, report = import_released(
        options.file,
        options.arch,
        options.groups,
        images,
        stem=options.stem or "accelerator",
        mean=options.mean,
        std=options.std,
        comparison=others,
        progress=say,
        weight_bits=bits["weight"],
        activation_bits=bits["activation"],
        residual_bits=bits["residual"],
    )
    assumed = [name for name in ("weight", "activation") if given[name] is None]
    if assumed:
        widths = "".join(f"{name[0].upper()}{bits[name]}" for name in assumed)
        note(f"{widths} assumed: {options.file} does not tell the width of its "
             f"{' and '.join(f'{name}s' for name in assumed)} "
             f"({', '.join(f'--{name}-bits' for name in assumed)})")  # fmt: skip
    print(table(*report_rows(report)))
    for line in report_lines(report, str(options.compare or "the calibration images")):
        print(line)
    if not report["within_limit"]:
        note(
            f"{options.file}: {report['largest_share']:.1e} of a layer's codes differ from the "
            f"float network's, expected less than {report['limit']:g}"
        )
    warning = statistics_warning(report)
    if warning is not None:
        note(f"{options.file}: {warning}")
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
