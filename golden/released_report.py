"""What the import of a released checkpoint found, as a dictionary and in words."""

from __future__ import annotations

from typing import Any

from palquant.golden.config import NetworkConfig
from palquant.golden.released_agreement import Agreement
from palquant.golden.released_network import ReleasedResNet
from palquant.golden.released_statistics import Statistics

#: Share of a layer's codes that may differ, fed the same inputs, with 16-bit residuals.
LARGEST_SHARE = 1e-3


def report(
    released: ReleasedResNet,
    config: NetworkConfig,
    stem: str,
    agreement: Agreement,
    statistics: Statistics,
) -> dict[str, Any]:
    """What an import found, JSON-serialisable.

    Entries: ``architecture``, ``groups``, ``base_width``, ``classes``, ``stem``, ``weight_bits``,
    ``activation_bits``, ``residual_bits``, ``mean`` and ``std`` of the images' normalisation;
    ``statistics``, of :meth:`Statistics.as_dict`; ``images`` that were compared; ``layers``, one
    entry for each convolution that reads codes, with ``layer``, ``codes``, ``differing``, ``share``
    (fed the float network's inputs), ``share_end_to_end`` and ``rounded_stem`` (its codes come
    straight from an 8-bit stem, so that the limit does not concern them); ``largest_share``,
    ``limit``, ``within_limit``; ``share_end_to_end`` of all codes, ``top1_agreement``;
    ``residual_saturation``, the share of residuals at an end of their range, and
    ``classifier_saturation``, that of the codes before an 8-bit classifier that were cut off, None
    without one.
    """
    structure = released.structure
    layers = [
        {
            "layer": layer.layer,
            "codes": layer.codes,
            "differing": layer.differing,
            "share": layer.share,
            "share_end_to_end": layer.share_end_to_end,
            "rounded_stem": layer.rounded_stem,
        }
        for layer in agreement.layers
    ]
    differing = sum(layer.differing_end_to_end for layer in agreement.layers)
    return {
        "architecture": structure.architecture,
        "groups": structure.groups,
        "base_width": structure.base_width,
        "classes": structure.classes,
        "stem": stem,
        "weight_bits": structure.weight_bits,
        "activation_bits": structure.activation_bits,
        "residual_bits": config.residual_bits,
        "mean": list(config.mean),
        "std": list(config.std),
        "statistics": statistics.as_dict(),
        "images": agreement.images,
        "layers": layers,
        "largest_share": agreement.largest_share,
        "limit": LARGEST_SHARE,
        "within_limit": agreement.largest_share < LARGEST_SHARE,
        "share_end_to_end": differing / sum(layer.codes for layer in agreement.layers),
        "top1_agreement": agreement.top1_agreement,
        "residual_saturation": agreement.residual_saturation,
        "classifier_saturation": agreement.classifier_saturation,
    }


def report_rows(found: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Headings and rows of a report's table, one row for each layer."""
    headings = ["codes read by", "codes", "differ, same inputs", "share", "share end to end", ""]
    rows: list[list[object]] = [
        [
            layer["layer"],
            layer["codes"],
            layer["differing"],
            f"{layer['share']:.1e}",
            f"{layer['share_end_to_end']:.1e}",
            "8-bit stem" if layer["rounded_stem"] else "",
        ]
        for layer in found["layers"]
    ]
    return headings, rows


def report_lines(found: dict[str, Any], images: str) -> list[str]:
    """What follows the table: the figures of the whole network, a line each.

    Parameters:
        found: The report.
        images: What the networks were compared on, such as "the calibration images".
    """
    verdict = "below" if found["within_limit"] else "NOT below"
    saturated = f"saturated: {found['residual_saturation']:.1e} of the residuals"
    if found["classifier_saturation"] is not None:
        saturated += f", {found['classifier_saturation']:.1e} of the classifier's codes"
    statistics = found["statistics"]
    largest = statistics["largest"]
    return [
        f"compared on {images}, {found['images']} of them",
        f"largest share of a layer fed the float network's inputs: {found['largest_share']:.1e}, "
        f"{verdict} {found['limit']:g}",
        f"end to end: {found['share_end_to_end']:.1e} of all codes differ; "
        f"{found['top1_agreement']:.1%} of {found['images']} images get the float network's class",
        saturated,
        f"normalised by {_normalisation(found)}",
        "statistics of the calibration images against the checkpoint's: at the stem "
        f"{_distance(statistics['stem'])}; behind it the mean at most {largest['mean_shift']:.2f} "
        f"deviations off ({largest['layer']}), the variance by {statistics['variance_factor']:.2f}",
        f"{found['values_verified']:,} integers equal the golden network's own",
    ]


def statistics_warning(found: dict[str, Any]) -> str | None:
    """What batch normalisation statistics say against an import, in one line; None if nothing.

    Where the stem's are far off already, what follows says nothing of the widths.
    """
    statistics = found["statistics"]
    if statistics["stem_is_far"]:
        return (
            f"the stem's batch normalisation read other values in training: "
            f"{_distance(statistics['stem'])}; are the calibration images and their "
            f"normalisation, {_normalisation(found)}, those of the training (--mean, --std)?"
        )
    if statistics["body_is_far"]:
        largest = statistics["largest"]
        return (
            f"batch normalisations read other values in training: the mean is up to "
            f"{largest['mean_shift']:.2f} deviations off ({largest['layer']}), the variance by a "
            f"factor of {statistics['variance_factor']:.2f}; was it trained with "
            f"W{found['weight_bits']}A{found['activation_bits']} (--weight-bits, "
            "--activation-bits), and on such images?"
        )
    return None


def _normalisation(found: dict[str, Any]) -> str:
    mean, std = (",".join(f"{value:g}" for value in found[name]) for name in ("mean", "std"))
    return f"mean {mean} and standard deviation {std}"


def _distance(one: dict[str, Any]) -> str:
    return (f"mean {one['mean_shift']:.2f} deviations off, variance times "
            f"{one['variance_ratio']:.2f}")  # fmt: skip
