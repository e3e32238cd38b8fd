"""The ``palquant`` command: options and help; what the commands do stands in ``commands``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from palquant import __version__, cli_board, cli_explore, cli_network, commands, generated, guard
from palquant.arguments import (
    add_command,
    add_geometry,
    add_images,
    add_labels,
    add_output,
    file_path,
    positive,
)

#: Names of the benchmarks, ``bench.BENCHMARKS``.
BENCHMARKS = ("resnet18", "speedup", "growth", "accuracy", "area", "cost")
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

    cli_network.add_commands(sub)

    compile_ = add_command(
        sub,
        "compile",
        commands.compile_model,
        "compile a model to a memory image",
        "palquant compile build/digits/model.npz --geometry tiny -o build/image",
    )
    compile_.add_argument(
        "model", type=file_path, metavar="MODEL", help="model file (palquant train)"
    )
    add_geometry(compile_)
    add_output(compile_, "the memory image; replaced if it holds an older one")
    compile_.add_argument(
        "--result-only",
        action="store_true",
        help="store the result and what does not fit on chip, not every tensor for comparison",
    )

    simulate = add_command(
        sub,
        "simulate",
        commands.simulate,
        "run images on the accelerator",
        "palquant simulate build/image --input build/digits/heldout_images.npy --images 4",
    )
    add_images(simulate)
    simulate.add_argument(
        "--backend",
        choices=("rtl", "emulator"),
        default="rtl",
        help="the RTL, with cycles, or the faster emulator, with results alone (default: rtl)",
    )
    add_labels(simulate)
    simulate.add_argument(
        "--waves",
        type=file_path,
        metavar="FILE.fst",
        help="record waveforms in FST, for GTKWave or Surfer; RTL only",
    )

    compare = add_command(
        sub,
        "compare",
        commands.compare,
        "compare integer reference, emulator and RTL, every value of every layer",
        "palquant compare build/image --input build/digits/heldout_images.npy --images 4",
    )
    add_images(compare)

    generate = add_command(
        sub,
        "generate",
        generated.generate,
        "write Verilog, register map and memory files",
        "palquant generate --geometry tiny --image build/image -o build/verilog",
    )
    add_geometry(generate)
    add_output(generate, "the files")
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

    generate.add_argument(
        "--technology",
        choices=("ecp5", "xilinx7"),
        help="build the array in the carry chains of that FPGA family; the Verilog then names its "
        "cells (default: adders that any tool understands)",
    )

    cli_board.add_commands(sub)

    bench = add_command(
        sub,
        "bench",
        commands.bench,
        "measure whole networks in RTL, what they learn, or what the machine takes on FPGAs",
        "palquant bench resnet18 --json build/bench/resnet18.json --plot build/bench/resnet18.svg\n"
        "  palquant bench accuracy --jobs 2 --plot build/bench/accuracy.svg\n"
        "  palquant bench area --target ecp5\n"
        "  palquant bench cost --plot build/bench/cost.svg",
    )
    bench.add_argument(
        "benchmark",
        choices=BENCHMARKS,
        help="resnet18: one image, every layer; speedup: PalQuant against 4 bits; growth: image "
        "sizes; accuracy: PalQuant and others, trained on noisy digits, without RTL; area: look-up "
        "tables and clock frequency of array and accelerator; cost: the model of both that "
        "palquant explore rests on, fitted anew to machines that are synthesised",
    )
    add_geometry(bench, "kilomac", "; not with accuracy, area, cost")
    for name, text in (
        (
            "--size",
            "height and width of the image, growth: the largest (default: 224); not with accuracy, "
            "area, cost",
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
    bench.add_argument(
        "--target",
        action="append",
        metavar="FAMILY",
        help="ecp5, ice40 or xilinx7 (repeatable; default: all); area only",
    )
    bench.add_argument(
        "--scope",
        choices=("array", "accelerator", "largest"),
        help="only arrays, only whole accelerators, or the largest array that fits an ECP5-85F by "
        "the model of palquant explore (default: arrays and accelerators); area only",
    )
    bench.add_argument(
        "--model",
        type=file_path,
        metavar="FILE",
        help="where to write the model (default: where palquant explore reads it); cost only",
    )
    bench.add_argument(
        "--no-route",
        action="store_true",
        default=None,
        help="fit no clock, keep that of the model; cost only",
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

    cli_explore.add_commands(sub)

    inspect = add_command(
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
