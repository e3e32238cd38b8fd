"""What the import of a released checkpoint found, as a dictionary and in words."""

from __future__ import annotations

from typing import Any

from palquant.golden.released_agreement import Agreement
from palquant.golden.released_network import ReleasedResNet

#: Share of a layer's codes that may differ, fed the same inputs, with 16-bit residuals.
LARGEST_SHARE = 1e-3


def report(
    released: ReleasedResNet, agreement: Agreement, stem: str, residual_bits: int
) -> dict[str, Any]:
    """What an import found, JSON-serialisable.

    Entries: ``architecture``, ``groups``, ``base_width``, ``classes``, ``stem``,
    ``residual_bits``, ``images``; ``layers``, one entry for each convolution that reads codes, with
    ``layer``, ``codes``, ``differing``, ``share`` (fed the float network's inputs),
    ``share_end_to_end`` and ``rounded_stem`` (its codes come straight from an 8-bit stem, so that
    the limit does not concern them); ``largest_share``, ``limit``, ``within_limit``;
    ``share_end_to_end`` of all codes, and ``top1_agreement``.
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
        "residual_bits": residual_bits,
        "images": agreement.images,
        "layers": layers,
        "largest_share": agreement.largest_share,
        "limit": LARGEST_SHARE,
        "within_limit": agreement.largest_share < LARGEST_SHARE,
        "share_end_to_end": differing / sum(layer.codes for layer in agreement.layers),
        "top1_agreement": agreement.top1_agreement,
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


def report_lines(found: dict[str, Any]) -> list[str]:
    """What follows the table: the figures of the whole network, a line each."""
    verdict = "below" if found["within_limit"] else "NOT below"
    return [
        f"largest share of a layer fed the float network's inputs: {found['largest_share']:.1e}, "
        f"{verdict} {found['limit']:g}",
        f"end to end: {found['share_end_to_end']:.1e} of all codes differ; "
        f"{found['top1_agreement']:.1%} of {found['images']} images get the float network's class",
        f"{found['values_verified']:,} integers equal the golden network's own",
    ]
