"""What each ``palquant`` command does, given its parsed options."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from palquant.errors import ConfigurationError, InputError, MismatchError
from palquant.hw.presets import geometry
from palquant.inputs import note, read_images, read_labels
from palquant.sim.bus import LATENCY, Bus
from palquant.sw.image import MemoryImage, load_image
from palquant.tables import count, table

Report = dict[str, Any]

#: Settings of a training that mean nothing for the digits.
OF_FOLDERS = ("crop", "crop_scale", "workers", "bad_images", "held_out")


def train(options: Namespace) -> Report:
    """Train on digits or a folder of images and write model, metrics and checkpoint."""
    from palquant.golden.config import TrainConfig
    from palquant.golden.image_folder import class_names
    from palquant.golden.recipe import folder_config
    from palquant.golden.settings import RunSettings, launched_rank
    from palquant.golden.train import CHECKPOINT_FILE
    from palquant.golden.train import train as run_training

    named = {item.name: getattr(options, item.name, None) for item in fields(TrainConfig)}
    given = {name: value for name, value in named.items() if value is not None}
    named = {item.name: getattr(options, item.name) for item in fields(RunSettings)}
    chosen = {name: value for name, value in named.items() if value is not None}
    settings = RunSettings(**chosen)
    if options.data is None:
        for name in OF_FOLDERS:
            if name in given or name in chosen:
                flag = "--" + name.replace("_", "-")
                raise ConfigurationError(f"{flag} is for folders of images alone (--data)")
        config = TrainConfig(**given)
    elif "split_seed" in given:
        raise ConfigurationError("--split-seed is for the digits alone")
    else:
        config = folder_config(len(class_names(options.data)), **given)
    checkpoint = options.output / CHECKPOINT_FILE
    before = _modified(checkpoint)
    if before and not options.resume and launched_rank() == 0:
        note(f"{checkpoint} exists; training starts anew, --resume would go on from it")
    if options.resume and not before and launched_rank() == 0:
        note(f"{checkpoint}: there is none; training starts anew")
    try:
        result = run_training(
            config,
            options.output,
            settings=settings,
            resume=options.resume,
            progress=not options.quiet,
        )
    except KeyboardInterrupt as error:
        if options.resume or _modified(checkpoint) != before:
            raise type(error)("the same command with --resume goes on") from None
        raise
    if not result.writer:
        sys.exit(0)  # one of several training processes; the first one reports
    print(f"{config.name}: held-out top-1 {result.top1:.4f}")
    print(f"model      {result.model}\nmetrics    {result.metrics}\ncheckpoint {result.checkpoint}")
    print(f"images     {result.images}\nlabels     {result.labels}")
    return {"name": config.name, "top1": result.top1, "model": str(result.model)}


def _modified(path: Path) -> int | None:
    """When a file was last written, or None where there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


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
    print(
        f"{options.output}: geometry {machine.name}, image of {len(image.data):,} bytes; for each "
        f"network input {image.input_bytes:,} bytes in, {image.output_bytes:,} bytes out; "
        f"{count(len(image.layers), 'layer')}, {count(len(image.tensors), 'tensor')} in memory"
    )
    return report


def simulate(options: Namespace) -> Report:
    """Run images on one back-end and print predictions, cycles and utilisation."""
    from palquant.sim.run import run_emulator, run_rtl

    if options.waves and options.waves.suffix != ".fst" and options.backend == "rtl":
        raise InputError(f"{options.waves}: waveforms are written as FST; use a name with .fst")
    image = load_image(options.directory)
    images = read_images(options.input, options.images)
    labels = read_labels(options.labels, image, len(images)) if options.labels else None
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
            f"\n{cycles.cycles:,} cycles for {count(cycles.images, 'image')}, utilization "
            f"{cycles.utilization:.3f} (quantised layers {cycles.quantized_utilization:.3f})"
        )
        print(_utilization_text(image) + "; docs/register-map.md, Counters, has the other cycles")
    if labels is not None:
        report["top1"] = float((predictions == labels).mean())
    print("predictions: " + " ".join(map(str, predictions[:64])) + (" ..." * (len(images) > 64)))
    if "top1" in report:
        print(f"top-1: {report['top1']:.4f}")
    return report


def _utilization_text(image: MemoryImage) -> str:
    """What the columns of a table with cycles and utilization mean."""
    return (
        "cycles are the average of one image; utilization is the share of the array's peak, "
        f"{image.geometry.peak_macs} two-bit multiply-accumulates a cycle; images overlap, so that "
        "cycles depend on their number"
    )


def compare(options: Namespace) -> Report:
    """Run reference, emulator and RTL and compare every tensor."""
    from palquant.golden.reference import run as run_reference
    from palquant.sim.run import run_emulator, run_rtl
    from palquant.sim.scoreboard import compare_outputs
    from palquant.sw.normalize import input_values

    image = load_image(options.directory)
    images = read_images(options.input, options.images)
    expected = run_reference(image.graph, input_values(images, image.graph))
    emulated = compare_outputs(image, run_emulator(image, images), expected)
    result, cycles = run_rtl(image, images, bus=Bus(latency=options.latency or LATENCY))
    simulated = compare_outputs(image, result.outputs, expected)
    layers: list[Report] = []
    for index, layer in enumerate(cycles.layers):
        mine = [item for item in simulated if item.layer_index == index]
        other = [item for item in emulated if item.layer_index == index]
        layers.append(
            {
                "name": layer.name,
                "values_compared": sum(item.values for item in mine),
                # Of a layer whose results stay on chip nothing is known: None, not 0.
                "mismatches": sum(item.mismatches for item in mine) if mine else None,
                "emulator_mismatches": sum(item.mismatches for item in other) if other else None,
                "cycles": layer.cycles,
                "cycles_per_image": layer.cycles / len(images),
                "utilization": layer.utilization,
            }
        )
    columns = {
        "name": "layer", "values_compared": "values compared", "mismatches": "RTL mismatches",
        "emulator_mismatches": "emulator mismatches", "cycles_per_image": "cycles/image",
        "utilization": "utilization",
    }  # fmt: skip
    rows = [
        [layer[name] for name in columns]
        for layer in (
            item | {"cycles_per_image": round(item["cycles_per_image"])} for item in layers
        )
    ]
    print(table(list(columns.values()), rows))
    unseen = sum(layer["mismatches"] is None for layer in layers)
    report = {
        "layers": layers,
        "images": len(images),
        "values_compared": sum(item.values for item in simulated),
        "layers_not_compared": unseen,
        "mismatches": sum(item.mismatches for item in simulated),
        "emulator_mismatches": sum(item.mismatches for item in emulated),
        "cycles": cycles.cycles,
    }
    print(
        f"\n{report['values_compared']:,} values of {count(len(images), 'image')} compared with "
        f"the integer reference: {report['mismatches']:,} differ in RTL, "
        f"{report['emulator_mismatches']:,} in the emulator"
    )
    if unseen:
        print(
            f"{count(unseen, 'layer')} of {len(layers)} not compared (-): results stay on chip; "
            "compile without --result-only to compare them"
        )
    print(_utilization_text(image))
    for label, found in (("emulator", emulated), ("RTL", simulated)):
        for item in found:
            if item.mismatches:
                layer = cycles.layers[item.layer_index]
                window = f" (cycles {layer.first} to {layer.last})" if label == "RTL" else ""
                raise MismatchError(f"{label}: {item.describe()}{window}", report)
    return report


def explore(options: Namespace) -> Report:
    """Find the machines that are worth building for a network."""
    from palquant.explore import explore as run_explore

    return run_explore(options)


def bench(options: Namespace) -> Report:
    """Run one benchmark."""
    from palquant.bench import run

    if options.fresh and options.benchmark == "resnet18":  # it keeps no results
        raise ConfigurationError("bench resnet18: --fresh is not an option of this benchmark")
    return run(options)


def inspect(options: Namespace) -> Report:
    """Show what a model file or a memory image holds."""
    from palquant.sw.listing import host_line, image_basics, node_rows, program_lines
    from palquant.sw.model import load_model

    path: Path = options.path
    if not path.is_dir():
        if options.program:
            raise InputError(f"{path}: --program needs a memory image's folder (palquant compile)")
        graph = load_model(path)
        rows = node_rows(graph)
        print(table(["node", "operation", "inputs", "shape", "type"], rows))
        if graph.host is not None:
            print("\n" + host_line(graph.host))
        return {"nodes": [list(row) for row in rows], "metadata": graph.metadata}
    image = load_image(path)
    basics = image_basics(image)
    print(
        f"geometry {basics['geometry']}, image of {basics['image_bytes']:,} bytes; "
        f"{count(basics['instructions'], 'instruction')}, {count(basics['layer_count'], 'layer')}, "
        f"{basics['macs']:,} multiply-accumulates for one input; "
        f"{count(basics['tensor_count'], 'tensor')} in memory\n"
    )
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
    print(
        "\nMACs are multiply-accumulates of one input, padding included; passes are pairs of 2-bit "
        "digits that each takes; shuffle is whether channels are permuted"
    )
    if image.graph.host is not None:
        print("\n" + host_line(image.graph.host))
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
    print("\noffset and bytes are those in one input's output region")
    if options.program:
        print("\n" + "\n".join(program_lines(image)))
    return basics | {"layers": layers}
