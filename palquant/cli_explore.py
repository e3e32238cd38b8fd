"""Options of ``palquant explore``."""

from __future__ import annotations

from typing import Any

from palquant import commands
from palquant.arguments import add_command, file_path, positive, positive_number

#: Machines that are compiled for unless the user says how many; a few seconds each.
LIMIT = 150


def add_commands(sub: Any) -> None:
    """Add it to the ``palquant`` command."""
    parser = add_command(
        sub,
        "explore",
        commands.explore,
        "find the machines that are worth building for a network on an FPGA, without synthesis",
        "palquant explore --network resnet18 --groups 2 --device ecp5-85f --clock 50 "
        "--json build/explore.json --plot build/explore.svg",
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--network",
        default="resnet18",
        metavar="NAME",
        help="structure of random weights: resnet18, resnet34, resnet50, vgg16 (default: resnet18)",
    )
    network.add_argument(
        "--model", type=file_path, metavar="MODEL", help="a model file, rather than a structure"
    )
    for name, default, text in (
        ("--groups", 2, "parallel groups"),
        ("--bits", 2, "of weights and activations between stem and classifier"),
        ("--stem-bits", 8, "of the stem's weights"),
        ("--size", 224, "height and width of the image"),
        ("--base-width", 64, "channels of the first stage in each group"),
    ):
        parser.add_argument(
            name, type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--shared-stem", action="store_true", help="all groups read one stem (default: one each)"
    )
    parser.add_argument(
        "--device",
        default="ecp5-85f",
        metavar="NAME",
        help="what machines must fit: ecp5-85f (default: ecp5-85f)",
    )
    parser.add_argument(
        "--clock",
        type=positive_number,
        metavar="MHZ",
        help="clock of every machine (default: what the model predicts for each; needed until "
        "`palquant bench cost --plot` has routed whole accelerators)",
    )
    parser.add_argument(
        "--cost",
        choices=("share", "lut"),
        default="share",
        help="what images a second are weighed against: the largest share of any of the device's "
        "resources, or look-up tables (default: share)",
    )
    parser.add_argument(
        "--limit",
        type=positive,
        default=LIMIT,
        metavar="N",
        help=f"machines to compile for at most, a few seconds each (default: {LIMIT})",
    )
    parser.add_argument(
        "--plot", type=file_path, metavar="FILE", help="draw the results: FILE.svg, .png or .pdf"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="compute again what was computed before"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
