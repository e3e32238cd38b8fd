"""Import of PalQuant's released checkpoints: from a file to an integer graph and a report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from palquant.errors import ConfigurationError, InputError, ModelError, RangeError
from palquant.golden.config import PHOTO_MEAN, PHOTO_STD
from palquant.golden.export import export
from palquant.golden.released_agreement import measure, normalised, split
from palquant.golden.released_convert import (
    calibrate_converted,
    convert,
    host_ends,
    network_config,
)
from palquant.golden.released_file import read_released
from palquant.golden.released_options import BITS, STEMS
from palquant.golden.released_report import report
from palquant.golden.released_statistics import enough, measure_statistics
from palquant.golden.released_structure import load_released
from palquant.golden.verify import verify
from palquant.sw.graph import Graph, HostEnds

Images = npt.NDArray[Any]
#: Images of which every integer is compared with the golden network's own eval mode.
VERIFIED_IMAGES = 2


def import_released(
    path: str | os.PathLike[str],
    architecture: str,
    groups: int,
    calibration: Images,
    *,
    stem: str = "accelerator",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    weight_bits: int = BITS["weight"],
    activation_bits: int = BITS["activation"],
    residual_bits: int = BITS["residual"],
    comparison: Images | None = None,
    compared: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, dict[str, Any]]:
    """Import a released checkpoint.

    Parameters:
        path: File of ``torch.save``: a dictionary with ``state_dict``, or that alone.
        architecture: "resnet18", "resnet34" or "resnet50".
        groups: Parallel groups G.
        calibration: Images that the ranges of residual streams come from, float32 of 0 to 1 or
            uint8, shape (N, C, H, H).
        stem: "accelerator" computes stem and classifier there, in 8 bits; "host" leaves them to
            the host, in floating point.
        mean: Mean of a pixel per channel, for pixels of 0 to 1; ImageNet's unless given.
        std: Standard deviation of a pixel per channel; ImageNet's unless given.
        weight_bits: Width of the weights between stem and classifier, which files do not tell.
        activation_bits: Width of the activations there.
        residual_bits: Width of the residual stream, 8 to 16.
        comparison: Images that both networks are compared on, as the calibration images are
            given; these themselves unless given.
        compared: How many of them, at least 1; all unless given.
        progress: Called with a line on what is being done.

    Returns:
        The integer graph, and a report, JSON-serialisable, which
        :func:`~palquant.golden.released_report.report` describes.

    Raises:
        ModelError: The file is none of the released format, or not the network that was named.
        InputError: The images do not fit the network.
        ConfigurationError: An option is out of its range.
        RangeError: A requantization does not fit its registers; names module and channel.
        MismatchError: Graph and golden network differ in an integer, a defect of this package.
    """
    if stem not in STEMS:
        raise ConfigurationError(f"stem must be one of {', '.join(STEMS)}, not {stem!r}")
    if compared is not None and compared < 1:
        raise ConfigurationError(f"at least 1 image must be compared, not {compared}")
    say = progress or (lambda line: None)
    source = os.fspath(path)
    released = load_released(
        read_released(path), source, architecture, groups,
        weight_bits=weight_bits, activation_bits=activation_bits,
    )  # fmt: skip
    channels = released.structure.channels
    check_images(calibration, channels, "calibration images")
    if comparison is None:
        comparison = calibration
    else:
        check_images(comparison, channels, "images to compare on", calibration.shape[2])
    mean, std = _normalization(channels, mean, std)
    config = network_config(released, calibration.shape[2], mean, std, residual_bits)
    ends = host_ends(released, config) if stem == "host" else None
    network = convert(released, config, stem)
    say(f"calibrating on {len(calibration)} images")
    try:
        calibrate_converted(network, [_network_input(b, ends) for b in split(calibration)])
        say("finding thresholds")
        name = f"{architecture} W{weight_bits}A{activation_bits} G={groups}"
        graph = export(network, name=name)
    except (ModelError, RangeError) as error:
        raise type(error)(f"{source}: {error}") from error
    say("comparing with the golden network")
    few = _network_input(calibration[:VERIFIED_IMAGES], ends).numpy()
    verified = verify(network, graph, few)
    graph = Graph(graph.nodes, graph.metadata, ends)
    say("comparing with the float network")
    agreement = measure(released, graph, comparison[:compared])
    some = normalised(calibration[: enough(calibration.shape[2])], graph)
    statistics = measure_statistics(released, some)
    found = report(released, config, stem, agreement, statistics) | {"values_verified": verified}
    summary = {name: found[name] for name in ("stem", "largest_share", "top1_agreement", "images")}
    return replace(graph, metadata=graph.metadata | {"imported": summary}), found


def check_images(images: Images, channels: int, label: str, size: int | None = None) -> None:
    """Refuse images that no network of ``channels`` input channels can take.

    Parameters:
        images: The images.
        channels: Input channels of the network.
        label: What they are for, for messages.
        size: Their height and width; any unless given.

    Raises:
        InputError: Wrong shape, element type or values; says which.
    """
    wanted = (channels, size, size) if size else (channels, "H", "H")
    if (
        images.ndim != 4
        or images.shape[1] != channels
        or images.shape[2] != images.shape[3]
        or (size and images.shape[2] != size)
    ):
        raise InputError(f"{label} have shape {images.shape}, expected "
                         f"(N, {', '.join(map(str, wanted))})")  # fmt: skip
    if not images.size:
        raise InputError(f"{label} have shape {images.shape}: there is none")
    if images.dtype not in (np.float32, np.uint8):
        raise InputError(f"{label} are {images.dtype}, expected float32 or uint8")
    finite = np.isfinite(images).all((1, 2, 3))
    if not finite.all():
        raise InputError(f"{label}: image {int(np.argmin(finite))} holds NaN or infinity")
    low, high = images.min() + 0.0, images.max() + 0.0  # no -0
    if images.dtype == np.float32 and (low < 0 or high > 1):
        raise InputError(f"{label}: pixels from {low:g} to {high:g}, expected float32 pixels of 0 "
                         "to 1 (the normalisation is applied here)")  # fmt: skip


def _normalization(
    channels: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as given, or those of ImageNet."""
    if (mean is None or std is None) and channels != len(PHOTO_MEAN):
        raise ConfigurationError(f"images of {channels} channels need a mean and a standard "
                                 "deviation for each of them (--mean, --std)")  # fmt: skip
    return mean or PHOTO_MEAN, std or PHOTO_STD


def _network_input(images: Images, ends: HostEnds | None) -> torch.Tensor:
    """What the golden network reads: images, or the features that the host's stem makes."""
    if ends is None:
        return torch.from_numpy(images)
    pixels = images.astype(np.float32)
    if images.dtype == np.uint8:
        pixels /= np.float32(255)
    return torch.from_numpy(ends.stem.features(pixels))
