"""The ``palquant`` command: options and help; what the commands do stands in ``commands``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from palquant import __version__, commands, exchange, guard
from palquant.golden.config import TrainConfig
from palquant.golden.recipe import folder_choices
from palquant.golden.released_options import BITS, STEMS, STRUCTURES
from palquant.golden.settings import BAD_IMAGES, DEVICES, RunSettings
from palquant.hw.config import PRESETS
from palquant.sim.bus import LATENCY

#: Names of the benchmarks, ``bench.BENCHMARKS``.
BENCHMARKS = ("resnet18", "speedup", "growth", "accuracy")
DESCRIPTION = "Train, compile, simulate and compare 2-bit networks on the palquant accelerator."
EXAMPLES = """\
a first run:
  palquant train -o build/digits
  palquant compile build/digits/model.npz --geometry tiny -o build/image
  palquant compare build/image --input build/digits/heldout_images.npy --images 4
  palquant generate --geometry tiny --image build/image -o build/verilog

exit status: 0 success; 1 a mistake in a file or in what an option asks for, or a
mismatch; 2 an option that is unknown, missing or without a usable text or number;
130 interrupted; 143 terminated
"""
TRAIN_EXAMPLES = """\
palquant train --groups 2 --weight-bits 2 --activation-bits 2 -o build/digits
  palquant train --data imagenet --architecture resnet18 --groups 2 -o build/resnet18 --workers 16
  palquant train --data cifar10 --image-size 32 --architecture resnet18 -o build/cifar10
  palquant train --per-channel --learned-thresholds --gradient-scaling 0.001 -o build/improved
  palquant train --teacher build/wide/checkpoint.pt --distillation 0.5 -o build/student
several GPUs:
  torchrun --nproc-per-node 8 -m palquant.cli train --data imagenet -o build/resnet18 --amp auto"""


def _add(
    subparsers: Any, name: str, run: Callable[..., Any], text: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example{'s' if example.count('palquant ') > 1 else ''}:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json",
        type=file_path,
        metavar="FILE",
        help="write the results as JSON; - is standard output, with nothing else on it",
    )
    parser.set_defaults(run=run)
    return parser


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", type=file_path, metavar="DIR", help="memory image (palquant compile)"
    )
    parser.add_argument(
        "--input",
        type=file_path,
        required=True,
        metavar="FILE.npy",
        help="images of shape (N, C, H, W): float32 with pixels of 0 to 1, or uint8 of 0 to 255",
    )
    parser.add_argument(
        "--images", type=positive, metavar="N", help="only the first N images (default: all)"
    )
    parser.add_argument(
        "--latency",
        type=positive,
        metavar="CYCLES",
        help=f"latency of the memory that is simulated with the RTL (default: {LATENCY})",
    )


def _add_geometry(
    parser: argparse.ArgumentParser, default: str | None = None, remark: str = ""
) -> None:
    presets = ", ".join(
        f"{name} ({item.tin}x{item.tout} multipliers)" for name, item in PRESETS.items()
    )
    parser.add_argument(
        "--geometry",
        required=default is None,
        default=default,
        metavar="NAME",
        help=f"sizes of the machine: {presets}"
        + (f" (default: {default})" if default else "")
        + remark,
    )


def _add_output(parser: argparse.ArgumentParser, what: str) -> argparse.Action:
    return parser.add_argument(
        "-o",
        "--output",
        type=file_path,
        required=True,
        metavar="DIR",
        help=f"folder for {what}; made if missing",
    )


def file_path(text: str) -> Path:
    """Parse a file or folder; an empty text would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; expected a file or folder")
    return Path(text)


def positive(text: str) -> int:
    """Parse a positive integer option."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text}")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Parse an option of numbers between commas."""
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"must be numbers between commas, not {text}")
    return found


def _train_options(parser: argparse.ArgumentParser) -> None:
    output = _add_output(parser, "model, metrics, checkpoint, held-out images and labels")
    output.help = f"Folder{(output.help or '').removeprefix('folder')}."
    parser.add_argument(
        "--resume",
        action="store_true",
        help="Go on after the last full epoch of an interrupted training; without it, training "
        "starts anew.",
    )
    parser.add_argument("--quiet", action="store_true", help="Draw no progress bars.")
    parser.add_argument(
        "--data",
        type=file_path,
        metavar="DIR",
        help="Folder with train/CLASS/* and val/CLASS/* image files. Default: the digits.",
    )
    parser.add_argument(
        "--teacher",
        type=file_path,
        metavar="FILE",
        help="Checkpoint (checkpoint.pt) of a network to learn from as well. Default: none.",
    )
    settings = RunSettings()
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default=settings.device,
        help="Where to train; auto is a GPU if there is one, and the CPU for the digits. "
        f"Default: {settings.device}.",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="Processes that decode the images of a folder, for each training process; 0 decodes "
        f"in itself. Default: {settings.workers}.",
    )
    parser.add_argument(
        "--bad-images",
        choices=BAD_IMAGES,
        help="What to do with a file of a folder that is missing or unreadable: end, or name and "
        f"count it and take the next one. Default: {settings.bad_images}.",
    )
    parser.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="Held-out images of a folder that are written beside the model, and on which it is "
        f"verified; of the digits it is all. Default: {settings.held_out}.",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="Write event files for TensorBoard as well."
    )
    for item in fields(TrainConfig):
        if item.metadata["exposed"]:
            _train_option(parser, item)


def _train_option(parser: argparse.ArgumentParser, item: Field[Any]) -> None:
    """The option of one field of the configuration; None where it is not given."""
    flag = "--" + item.name.replace("_", "-")
    # What the recipe chooses by architecture, groups or size of the images has several values.
    others = folder_choices(item.name)
    with_data = (
        "" if others == [item.default] else f" (with --data: {' or '.join(map(str, others))})"
    )
    help_text = f"{item.metadata['help']} Default: {item.default}{with_data}."
    if isinstance(item.default, bool):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
    else:
        metavar = {str: "NAME", float: "X", int: "N"}[type(item.default)]
        parser.add_argument(flag, type=type(item.default), metavar=metavar, help=help_text)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(
        prog="palquant",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"palquant {__version__}")
    sub = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = _add(
        sub,
        "train",
        commands.train,
        "train a network on handwritten digits, or on a folder of images",
        TRAIN_EXAMPLES,
    )
    _train_options(train)

    import_ = _add(
        sub,
        "import",
        exchange.import_model,
        "make a model of a QONNX file or of a released checkpoint",
        "palquant import network.onnx -o build/network.npz\n"
        "  palquant import g2_resnet18.pth --arch resnet18 --groups 2 --calibration images.npy "
        "-o build/resnet18.npz",
    )
    import_.add_argument("file", type=file_path, metavar="FILE", help="FILE.onnx, or a checkpoint")
    import_.add_argument(
        "--arch", choices=tuple(STRUCTURES), help="structure of a released checkpoint"
    )
    import_.add_argument(
        "--groups", type=positive, metavar="G", help="groups of a released checkpoint"
    )
    import_.add_argument(
        "--calibration",
        type=file_path,
        metavar="FILE.npy",
        help="images that fixed-point ranges come from; a QONNX file needs them where it adds "
        "floats",
    )
    import_.add_argument(
        "--compare",
        type=file_path,
        metavar="FILE.npy",
        help="images to compare a released checkpoint's float and integer network on (default: the "
        "calibration images)",
    )
    import_.add_argument(
        "--stem",
        choices=STEMS,
        help="who computes stem and classifier of a released checkpoint: the accelerator with 8 "
        "bits, or the host in floating point (default: accelerator)",
    )
    for name, text in (
        ("weight", "width of a released checkpoint's weights between stem and classifier"),
        ("activation", "width of the activations there"),
        ("residual", "width of the residual stream, 8 to 16"),
    ):
        default = BITS[name]
        import_.add_argument(
            f"--{name}-bits", type=positive, metavar="N", help=f"{text} (default: {default})"
        )
    for name, text in (("mean", "mean"), ("std", "standard deviation")):
        import_.add_argument(
            f"--{name}",
            type=numbers,
            metavar="X,...",
            help=f"{text} of a released checkpoint's images, of pixels of 0 to 1, a number for "
            "each channel (default: ImageNet's)",
        )
    import_.add_argument("--quiet", action="store_true", help="show no progress")
    import_.add_argument(
        "-o",
        "--output",
        type=file_path,
        required=True,
        metavar="MODEL.npz",
        help="model file to write; its name ends with .npz",
    )

    export = _add(
        sub,
        "export",
        exchange.export_model,
        "write a model as a QONNX file",
        "palquant export build/digits/model.npz -o build/digits.onnx",
    )
    export.add_argument(
        "model", type=file_path, metavar="MODEL", help="model file (palquant train)"
    )
    export.add_argument(
        "-o", "--output", type=file_path, required=True, metavar="FILE.onnx", help="file to write"
    )

    compile_ = _add(
        sub,
        "compile",
        commands.compile_model,
        "compile a model to a memory image",
        "palquant compile build/digits/model.npz --geometry tiny -o build/image",
    )
    compile_.add_argument(
        "model", type=file_path, metavar="MODEL", help="model file (palquant train)"
    )
    _add_geometry(compile_)
    _add_output(compile_, "the memory image; replaced if it holds an older one")
    compile_.add_argument(
        "--result-only",
        action="store_true",
        help="store the result and what does not fit on chip, not every tensor for comparison",
    )

    simulate = _add(
        sub,
        "simulate",
        commands.simulate,
        "run images on the accelerator",
        "palquant simulate build/image --input build/digits/heldout_images.npy --images 4",
    )
    _add_images(simulate)
    simulate.add_argument(
        "--backend",
        choices=("rtl", "emulator"),
        default="rtl",
        help="the RTL, with cycles, or the faster emulator, with results alone (default: rtl)",
    )
    simulate.add_argument(
        "--labels",
        type=file_path,
        metavar="FILE.npy",
        help="classes of the images, integers of shape (N,); reports the top-1 accuracy",
    )
    simulate.add_argument(
        "--waves",
        type=file_path,
        metavar="FILE.fst",
        help="record waveforms in FST, for GTKWave or Surfer; RTL only",
    )

    compare = _add(
        sub,
        "compare",
        commands.compare,
        "compare integer reference, emulator and RTL, every value of every layer",
        "palquant compare build/image --input build/digits/heldout_images.npy --images 4",
    )
    _add_images(compare)

    generate = _add(
        sub,
        "generate",
        commands.generate,
        "write Verilog, register map and memory files",
        "palquant generate --geometry tiny --image build/image -o build/verilog",
    )
    _add_geometry(generate)
    _add_output(generate, "the files")
    generate.add_argument(
        "--image", type=file_path, metavar="DIR", help="memory image to include (default: none)"
    )
    generate.add_argument(
        "--format",
        action="append",
        default=[],
        choices=("mem", "coe", "mif"),
        help="also write the image in this format (repeatable; default: image.bin and .hex only)",
    )

    bench = _add(
        sub,
        "bench",
        commands.bench,
        "measure whole networks in RTL, or what they learn",
        "palquant bench resnet18 --json build/bench/resnet18.json --plot build/bench/resnet18.svg\n"
        "  palquant bench accuracy --jobs 2 --plot build/bench/accuracy.svg",
    )
    bench.add_argument(
        "benchmark",
        choices=BENCHMARKS,
        help="resnet18: one image, every layer; speedup: PalQuant against 4 bits; growth: image "
        "sizes; accuracy: PalQuant and others, trained on noisy digits, without RTL",
    )
    _add_geometry(bench, "kilomac", "; not with accuracy")
    for name, text in (
        (
            "--size",
            "height and width of the image, growth: the largest (default: 224); not with accuracy",
        ),
        (
            "--base-width",
            "channels of the first stage in each group, fewer for a quick look (default: 64; "
            "accuracy: 4)",
        ),
        ("--epochs", "epochs of each training (default: 50); accuracy only"),
        ("--seeds", "trainings of each network, from --seed on (default: 6); accuracy only"),
        ("--jobs", "trainings at the same time (default: one for each core); accuracy only"),
    ):
        bench.add_argument(name, type=positive, metavar="N", help=text)
    bench.add_argument(
        "--method",
        action="append",
        metavar="NAME",
        help="train this network, such as 'PalQuant G=2' (repeatable; default: all); accuracy only",
    )
    # Which benchmark has which defaults, the benchmarks know.
    bench.set_defaults(geometry=None)
    bench.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of weights and images; accuracy: the first one (default: 0)",
    )
    bench.add_argument(
        "--plot", type=file_path, metavar="FILE", help="draw the results: FILE.svg, .png or .pdf"
    )
    bench.add_argument(
        "--fresh",
        action="store_true",
        help="measure again what was measured before; not with resnet18, which always measures",
    )
    bench.add_argument("--quiet", action="store_true", help="show no progress")

    inspect = _add(
        sub,
        "inspect",
        commands.inspect,
        "show what a model or a memory image holds",
        "palquant inspect build/image --program",
    )
    inspect.add_argument(
        "path", type=file_path, metavar="PATH", help="model file or image directory"
    )
    inspect.add_argument("--program", action="store_true", help="list the instructions as well")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``palquant``; returns the exit status."""
    options = build_parser().parse_args(arguments)
    return guard.run_guarded(options.run, options)


if __name__ == "__main__":
    sys.exit(main())
