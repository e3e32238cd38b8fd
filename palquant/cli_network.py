"""Options of the commands that bring networks in and out: ``train``, ``import``, ``export``."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from typing import Any

from palquant import commands, exchange
from palquant.arguments import add_command, add_output, file_path, numbers, positive
from palquant.golden.config import TrainConfig
from palquant.golden.recipe import folder_choices
from palquant.golden.released_options import BITS, STEMS, STRUCTURES
from palquant.golden.settings import BAD_IMAGES, DEVICES, RunSettings

TRAIN_EXAMPLES = """\
palquant train --groups 2 --weight-bits 2 --activation-bits 2 -o build/digits
  palquant train --data imagenet --architecture resnet18 --groups 2 -o build/resnet18 --workers 16
  palquant train --data cifar10 --image-size 32 --architecture resnet18 -o build/cifar10
  palquant train --per-channel --learned-thresholds --gradient-scaling 0.001 -o build/improved
  palquant train --teacher build/wide/checkpoint.pt --distillation 0.5 -o build/student
several GPUs:
  torchrun --nproc-per-node 8 -m palquant.cli train --data imagenet -o build/resnet18 --amp auto"""


def add_commands(sub: Any) -> None:
    """Add them to the ``palquant`` command."""
    train = add_command(
        sub,
        "train",
        commands.train,
        "train a network on handwritten digits, or on a folder of images",
        TRAIN_EXAMPLES,
    )
    _train_options(train)

    import_ = add_command(
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

    export = add_command(
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


def _train_options(parser: argparse.ArgumentParser) -> None:
    output = add_output(parser, "model, metrics, checkpoint, held-out images and labels")
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
