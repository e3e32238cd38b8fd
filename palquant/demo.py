"""The main job, end to end: train on real digits, compile, simulate in RTL, compare, report.

PalQuant with two 2-bit groups against its 4-bit counterpart of the same base width, both on the
same 2-bit array. Run by ``make run``; writes ``build/run/report.json``.

Training goes on from its checkpoint, or is not repeated, where configuration, data, code and
packages are all the same; everything else is done anew.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from palquant import golden
from palquant.arguments import positive
from palquant.files import write_json
from palquant.golden.config import TrainConfig
from palquant.golden.data import Split, load_digits_split
from palquant.golden.reference import run as run_reference
from palquant.golden.train import CHECKPOINT_FILE, train
from palquant.golden.verify import count_mismatches
from palquant.guard import guarded
from palquant.hw.config import Geometry
from palquant.hw.presets import PRESETS, geometry
from palquant.sim.build import digest, package_sources
from palquant.sim.driver import Simulator
from palquant.sim.run import run_emulator, run_rtl
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Graph
from palquant.sw.image import save_image
from palquant.sw.normalize import to_codes
from palquant.sw.passes import identity_permutations
from palquant.tables import count, table

#: Images that each network runs in RTL, all behind one doorbell.
RTL_IMAGES = 50


@dataclass(frozen=True)
class NetworkReport:
    """One network's results; rates are fractions, cycles are averages over the RTL images.

    Attributes:
        name: Network name.
        groups: Parallel groups.
        weight_bits: Width of the quantised weights.
        activation_bits: Width of the quantised activations.
        float_top1: Held-out accuracy of the PyTorch model's evaluation mode.
        integer_top1: Held-out accuracy of the compiled image in the emulator.
        rtl_images: Images simulated in RTL.
        rtl_top1: Accuracy on these images in RTL.
        values_compared: Elements of all tensors compared between RTL and reference, per image
            counted once.
        mismatches: Those that differ.
        code_mismatches_vs_float: Integers that differ between the PyTorch model's evaluation mode
            and the integer reference, over all held-out images.
        cycles_per_image: Cycles from doorbell to interrupt, divided by the images.
        quantized_cycles_per_image: Cycles of the low-precision layers.
        utilization: Share of the array's peak in the low-precision layers.
        shuffle_cycles: Cycles per image more than with all channel permutations replaced by
            identities.
    """

    name: str
    groups: int
    weight_bits: int
    activation_bits: int
    float_top1: float
    integer_top1: float
    rtl_images: int
    rtl_top1: float
    values_compared: int
    mismatches: int
    code_mismatches_vs_float: int
    cycles_per_image: float
    quantized_cycles_per_image: float
    utilization: float
    shuffle_cycles: float


def run_network(
    config: TrainConfig, folder: Path, split: Split, machine: Geometry, images: int
) -> NetworkReport:
    """Train, compile, run and compare one network."""
    if (folder / CHECKPOINT_FILE).exists():
        print(
            f"{config.network.name}: going on from {folder / CHECKPOINT_FILE}, made by the same "
            "configuration, data, code and packages; without it, training starts anew"
        )
    result = train(config, folder, resume=True)
    graph = result.graph
    _, code_mismatches = count_mismatches(result.network, graph, split.test_images)
    compiled = compile_graph(graph, machine)
    save_image(compiled, folder / "image")

    emulated = run_emulator(compiled, split.test_images)
    expected = run_reference(graph, to_codes(split.test_images, graph.input))
    require_equal(compare_outputs(compiled, emulated, expected))
    integer_top1 = float((compiled.predict(emulated) == split.test_labels).mean())

    simulator = Simulator(machine)
    some, labels = split.test_images[:images], split.test_labels[:images]
    simulation, cycles = run_rtl(compiled, some, simulator=simulator)
    first = {name: values[:images] for name, values in expected.items()}
    compared = compare_outputs(compiled, simulation.outputs, first)
    require_equal(compared)
    return NetworkReport(
        name=config.network.name,
        groups=config.groups,
        weight_bits=config.weight_bits,
        activation_bits=config.activation_bits,
        float_top1=result.top1,
        integer_top1=integer_top1,
        rtl_images=len(some),
        rtl_top1=float((compiled.predict(simulation.outputs) == labels).mean()),
        values_compared=sum(item.values for item in compared),
        mismatches=sum(item.mismatches for item in compared),
        code_mismatches_vs_float=code_mismatches,
        cycles_per_image=cycles.cycles / cycles.images,
        quantized_cycles_per_image=cycles.quantized_cycles / cycles.images,
        utilization=cycles.quantized_utilization,
        shuffle_cycles=_shuffle_cycles(graph, machine, simulator, some, cycles.cycles),
    )


def _shuffle_cycles(
    graph: Graph, machine: Geometry, simulator: Simulator, images: np.ndarray, cycles: int
) -> float:
    """Cycles per image that the network takes more than without its channel permutations."""
    plain, changed = identity_permutations(graph)
    if not changed:
        return 0.0
    _, other = run_rtl(compile_graph(plain, machine), images, simulator=simulator)
    return (cycles - other.cycles) / len(images)


def training_folder(config: TrainConfig, split: Split) -> str:
    """A folder name of its own for everything that a training's result depends on.

    That is the configuration, the images and labels, the sources of ``golden``, and the versions of
    the packages that do the arithmetic: a checkpoint in the folder is one that this very run makes.
    """
    parts = [json.dumps(asdict(config), sort_keys=True).encode()]
    for array in (getattr(split, item.name) for item in fields(split)):
        parts += [f"{array.dtype} {array.shape}".encode(), array.tobytes()]
    parts += package_sources(golden)
    parts += [importlib.metadata.version(name).encode() for name in ("torch", "numpy")]
    return f"{config.network.name}-{digest(parts)[:12]}"


def demonstrate(
    output: Path, *, epochs: int, base_width: int, images: int, geometry_name: str, seed: int
) -> dict[str, object]:
    """Run PalQuant W2A2 G=2 and W4A4 G=1, print a table, write ``report.json``."""
    split = load_digits_split()
    machine = geometry(geometry_name)
    reports = []
    for groups, bits in ((2, 2), (1, 4)):
        config = TrainConfig(
            base_width=base_width,
            groups=groups,
            weight_bits=bits,
            activation_bits=bits,
            epochs=epochs,
            seed=seed,
        )
        reports.append(
            run_network(config, output / training_folder(config, split), split, machine, images)
        )
    palquant, counterpart = reports
    document = {
        "networks": [asdict(report) for report in reports],
        "speedup_quantized_layers": counterpart.quantized_cycles_per_image
        / palquant.quantized_cycles_per_image,
        "speedup_network": counterpart.cycles_per_image / palquant.cycles_per_image,
    }
    write_json(output / "report.json", document)
    rows = [[name, *(getattr(report, name) for report in reports)] for name in asdict(palquant)][1:]
    print(table(["", *(report.name for report in reports)], rows))
    print(
        f"\nSpeed-up over 4 bits on geometry {geometry_name}: quantised layers "
        f"{document['speedup_quantized_layers']:.3f}x, whole network "
        f"{document['speedup_network']:.3f}x\n"
        "Rates are shares of 1, cycles are those of one image; rtl_top1 is that of "
        f"{count(palquant.rtl_images, 'image')}, the other accuracies of all "
        f"{len(split.test_labels)} held out; utilization is the share of the array's peak in the "
        "quantised layers."
    )
    print(f"Written: {output / 'report.json'}")
    return document


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``python -m palquant.demo``."""
    parser = argparse.ArgumentParser(prog="palquant.demo", description=__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("build/run"),
        metavar="DIR",
        help="folder for report.json and the networks (default: %(default)s)",
    )
    for name, default, text in (
        ("--epochs", 30, "training epochs of each network"),
        ("--base-width", 16, "channels of the first stage in each group"),
        ("--images", RTL_IMAGES, "images to run in RTL"),
    ):
        parser.add_argument(
            name, type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--geometry",
        default="tiny",
        metavar="NAME",
        help=f"sizes of the machine: {', '.join(PRESETS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the trainings (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    return guarded(
        lambda: demonstrate(
            options.output,
            epochs=options.epochs,
            base_width=options.base_width,
            images=options.images,
            geometry_name=options.geometry,
            seed=options.seed,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
