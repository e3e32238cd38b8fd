"""What each ``palquant`` command does, given its parsed options."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from palquant.errors import InputError, MismatchError, OutputError, PalquantError
from palquant.files import write_json, write_together
from palquant.hw.config import geometry
from palquant.sw.image import MemoryImage, load_image
from palquant.tables import table

Report = dict[str, Any]

#: Latency of the simulated memory in cycles, unless told otherwise.
LATENCY = 50


def read_array(path: Path, label: str) -> npt.NDArray[Any]:
    """A NumPy array file, read without executing code.

    Raises:
        InputError: Missing or no array file.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot read {label}: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, TokenError, BadZipFile, MemoryError) as error:
        raise InputError(f"{path}: is no NumPy array file ({error})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays, expected one (.npy)")
    return array


def _images(options: Namespace) -> npt.NDArray[Any]:
    images = read_array(options.input, "images")
    if not images.ndim or not len(images):
        raise InputError(f"{options.input}: holds no image, expected shape (N, C, H, W)")
    return images if options.images is None else images[: options.images]


def _top1(image: MemoryImage, predictions: npt.NDArray[Any], labels: Path | None) -> Report:
    if labels is None:
        return {}
    wanted = read_array(labels, "labels")[: len(predictions)]
    if wanted.shape != predictions.shape:
        raise InputError(f"{labels}: labels of shape {wanted.shape}, expected {predictions.shape}")
    return {"top1": float((predictions == wanted).mean())}


def train(options: Namespace) -> Report:
    """Train on digits and write model, metrics and checkpoint."""
    from palquant.golden.config import TrainConfig
    from palquant.golden.train import train as run_training

    config = TrainConfig(**{item.name: getattr(options, item.name) for item in fields(TrainConfig)})
    result = run_training(config, options.output, resume=options.resume, progress=not options.quiet)
    print(f"{config.network.name}: held-out top-1 {result.top1:.4f}")
    print(f"model      {result.model}\nmetrics    {result.metrics}\ncheckpoint {result.checkpoint}")
    return {"name": config.network.name, "top1": result.top1, "model": str(result.model)}


def compile_model(options: Namespace) -> Report:
    """Compile a model file into a memory image."""
    from palquant.sw.compile import compile_graph
    from palquant.sw.image import save_image
    from palquant.sw.model import load_model

    machine = geometry(options.geometry)
    image = compile_graph(load_model(options.model), machine, keep_all=not options.result_only)
    save_image(image, options.output)
    report = {
        "geometry": machine.name,
        "image_bytes": len(image.data),
        "input_bytes": image.input_bytes,
        "output_bytes": image.output_bytes,
        "layers": len(image.layers),
        "tensors": len(image.tensors),
    }
    print(f"{options.output}: " + ", ".join(f"{value} {key}" for key, value in report.items()))
    return report


def simulate(options: Namespace) -> Report:
    """Run images on one back-end and print predictions, cycles and utilisation."""
    from palquant.sim.execute import Bus
    from palquant.sim.run import run_emulator, run_rtl

    image = load_image(options.directory)
    images = _images(options)
    if options.backend == "emulator":
        if options.waves:
            raise InputError("--waves needs --backend rtl: the emulator has no signals")
        if options.latency is not None:
            raise InputError("--latency needs --backend rtl: the emulator has no clock")
        predictions = image.predict(run_emulator(image, images))
        report: Report = {"predictions": predictions.tolist()}
    else:
        result, cycles = run_rtl(
            image, images, waves=options.waves, bus=Bus(latency=options.latency or LATENCY)
        )
        predictions = image.predict(result.outputs)
        report = {
            "predictions": predictions.tolist(),
            "cycles": cycles.cycles,
            "cycles_per_image": cycles.cycles / cycles.images,
            "utilization": cycles.utilization,
            "quantized_utilization": cycles.quantized_utilization,
            "activity": cycles.activity,
            "counters": dict(result.counters),
            "cycles_per_second": result.cycles_per_second,
            "layers": [
                asdict(layer) | {"utilization": layer.utilization} for layer in cycles.layers
            ],
        }
        rows = [
            [
                layer.name,
                layer.cycles // cycles.images,
                layer.utilization,
                ", ".join(
                    f"{name.lower()} {count // cycles.images}"
                    for name, count in layer.activity.items()
                    if name != "ARRAY"
                ),
            ]
            for layer in cycles.layers
        ]
        print(table(["layer", "cycles/image", "utilization", "other cycles"], rows))
        print(
            f"\n{cycles.cycles} cycles for {cycles.images} images, utilization "
            f"{cycles.utilization:.3f} (quantised layers {cycles.quantized_utilization:.3f})"
        )
    report |= _top1(image, predictions, options.labels)
    print("predictions: " + " ".join(map(str, predictions[:64])) + (" ..." * (len(images) > 64)))
    if "top1" in report:
        print(f"top-1: {report['top1']:.4f}")
    return report


def compare(options: Namespace) -> Report:
    """Run reference, emulator and RTL and compare every tensor."""
    from palquant.golden.reference import run as run_reference
    from palquant.sim.run import run_emulator, run_rtl
    from palquant.sim.scoreboard import compare_outputs
    from palquant.sw.normalize import to_codes

    image = load_image(options.directory)
    images = _images(options)
    expected = run_reference(image.graph, to_codes(images, image.graph.input))
    emulated = compare_outputs(image, run_emulator(image, images), expected)
    result, cycles = run_rtl(image, images)
    simulated = compare_outputs(image, result.outputs, expected)
    layers = []
    for index, layer in enumerate(cycles.layers):
        mine = [item for item in simulated if item.layer_index == index]
        other = [item for item in emulated if item.layer_index == index]
        layers.append(
            {
                "name": layer.name,
                "values_compared": sum(item.values for item in mine),
                "mismatches": sum(item.mismatches for item in mine),
                "emulator_mismatches": sum(item.mismatches for item in other),
                "cycles": layer.cycles,
                "utilization": layer.utilization,
            }
        )
    print(table(list(layers[0]), [list(layer.values()) for layer in layers]))
    report = {
        "layers": layers,
        "images": len(images),
        "values_compared": sum(item.values for item in simulated),
        "mismatches": sum(item.mismatches for item in simulated),
        "emulator_mismatches": sum(item.mismatches for item in emulated),
        "cycles": cycles.cycles,
    }
    print(
        f"\n{report['values_compared']} values of {len(images)} images compared with the integer "
        f"reference: RTL {report['mismatches']} mismatches, emulator "
        f"{report['emulator_mismatches']}"
    )
    for label, found in (("emulator", emulated), ("RTL", simulated)):
        for item in found:
            if item.mismatches:
                layer = cycles.layers[item.layer_index]
                window = f" (cycles {layer.first} to {layer.last})" if label == "RTL" else ""
                raise MismatchError(f"{label}: {item.describe()}{window}", report)
    return report


def generate(options: Namespace) -> Report:
    """Write Verilog, register map and, with an image, memory files."""
    from palquant.hw.generate import generate as generate_files
    from palquant.sw.formats import FORMATS
    from palquant.sw.image import FILES

    machine = geometry(options.geometry)
    image = load_image(options.image) if options.image else None
    if image is not None and image.geometry.identity != machine.identity:
        raise InputError(
            f"{options.image}: is compiled for geometry {image.geometry.name}, not {machine.name}"
        )
    if options.image and options.output.resolve() == options.image.resolve():
        raise OutputError(f"{options.output}: is the memory image's own folder; name another")
    if options.format and image is None:
        raise InputError("--format needs --image: there is no memory image to write")

    with write_together(options.output) as aside:
        generate_files(machine, aside)
        if image is not None:
            for name in FILES:
                shutil.copyfile(options.image / name, aside / name)
            for name in options.format:
                text = FORMATS[name](image.data, image.geometry.bus_bytes)
                (aside / f"image.{name}").write_text(text)
        files = [str(options.output / name) for name in sorted(os.listdir(aside))]
    print("\n".join(files))
    return {"geometry": machine.name, "files": files}


def bench(options: Namespace) -> Report:
    """Run one benchmark."""
    from palquant.bench import run

    return run(options)


def inspect(options: Namespace) -> Report:
    """Show what a model file or a memory image holds."""
    from palquant.sw.listing import node_rows, program_lines
    from palquant.sw.model import load_model

    path: Path = options.path
    if not path.is_dir():
        graph = load_model(path)
        rows = node_rows(graph)
        print(table(["node", "operation", "inputs", "shape", "type"], rows))
        return {"nodes": [list(row) for row in rows], "metadata": graph.metadata}
    image = load_image(path)
    layers = [asdict(layer) for layer in image.layers]
    print(
        table(
            ["layer", "quantized", "shuffle", "MACs", "passes", "outputs"],
            [
                [
                    layer.name,
                    layer.quantized,
                    layer.shuffle,
                    layer.macs,
                    layer.passes,
                    ", ".join(layer.outputs),
                ]
                for layer in image.layers
            ],
        )
    )
    tensors = [
        [
            name,
            layout.type.kind.value,
            layout.type.bits,
            layout.placement.groups,
            offset,
            layout.bytes,
        ]
        for name, (layout, offset) in image.tensors.items()
    ]
    print("\n" + table(["tensor", "kind", "bits", "groups", "offset", "bytes"], tensors))
    if options.program:
        print("\n" + "\n".join(program_lines(image)))
    return {"geometry": image.geometry.name, "layers": layers, "image_bytes": len(image.data)}


def guarded(command: Callable[[], Report], json_file: Path | None = None) -> int:
    """Run something for a user: a mistake becomes one line and an exit status.

    Parameters:
        command: What to run; returns its results.
        json_file: Where the results are written as JSON, also those of a comparison that failed.

    Returns:
        Exit status: 0 success, 1 a mistake or a mismatch, 130 interrupted.
    """
    try:
        try:
            report: Report | None = command()
        except MismatchError as error:
            if json_file is not None and error.report is not None:
                try:
                    write_json(json_file, error.report)
                except OutputError as second:
                    print(f"palquant: {second}", file=sys.stderr)
            raise
        print(end="", flush=True)
        if json_file is not None:
            write_json(json_file, report)
    except PalquantError as error:
        print(f"palquant: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has gone, as in `palquant inspect … | head`.
        _drop_output()
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if not where and error.errno == errno.ENOSPC:  # all files are written by palquant.files
            _drop_output()
            where = "standard output: cannot write: "
        print(f"palquant: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("palquant: out of memory; try fewer images (--images)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("palquant: interrupted", file=sys.stderr)
        return 130
    return 0


def _drop_output() -> None:
    """Forget what standard output still holds: Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_guarded(command: Callable[[Namespace], Report], options: Namespace) -> int:
    """Run a command with its options; see :func:`guarded`."""
    return guarded(lambda: command(options), options.json)
