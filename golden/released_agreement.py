"""How far an imported integer network is from the float network that it was made from.

Two questions (numerics, section 7). *Fed the same inputs*: every layer gets the float network's
own codes and residuals, these rounded to the fixed-point stream, and makes the next layer's codes;
what differs is the rounding of this one layer. *End to end*: both networks get the same images; a
code that differs changes codes behind it, and how many is a property of the network, not of the
arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from palquant.golden.reference import predict, run, run_node
from palquant.golden.released_network import (
    QuantizedConv2d,
    ReleasedBlock,
    ReleasedResNet,
    ReleasedShuffle,
)
from palquant.sw.graph import (
    Add,
    Affine,
    Clamp,
    Graph,
    Input,
    IntArray,
    Kind,
    Permute,
    Quantize,
)
from palquant.sw.normalize import input_values

Images = npt.NDArray[Any]
#: Pixels of images that are compared at a time.
_PIXELS = 1 << 16


@dataclass
class LayerAgreement:
    """The codes that one layer reads, counted over all images.

    Parameters:
        layer: Name of the convolution that reads them.
        rounded_stem: Whether an 8-bit stem makes them, which is no arithmetic of the float network.
        codes: Codes compared.
        differing: Those that differ with the float network's inputs before them.
        differing_end_to_end: Those that differ with the same images.
    """

    layer: str
    rounded_stem: bool
    codes: int = 0
    differing: int = 0
    differing_end_to_end: int = 0

    @property
    def share(self) -> float:
        """Share of codes that differ, fed the same inputs."""
        return self.differing / self.codes

    @property
    def share_end_to_end(self) -> float:
        """Share of codes that differ end to end."""
        return self.differing_end_to_end / self.codes


@dataclass
class Agreement:
    """What a comparison found.

    Parameters:
        layers: In the order of the graph.
        images: Images compared.
        same_class: Images that both networks put into the same class.
        residuals: Residuals that a requantization or an addition made.
        saturated_residuals: Those at an end of their range.
        classifier_codes: Codes that an 8-bit classifier reads.
        saturated_codes: Those whose value was beyond the largest code.
    """

    layers: list[LayerAgreement] = field(default_factory=list)
    images: int = 0
    same_class: int = 0
    residuals: int = 0
    saturated_residuals: int = 0
    classifier_codes: int = 0
    saturated_codes: int = 0

    @property
    def top1_agreement(self) -> float:
        """Share of images that both networks put into the same class."""
        return self.same_class / self.images

    @property
    def residual_saturation(self) -> float:
        """Share of residuals at an end of their range."""
        return self.saturated_residuals / self.residuals

    @property
    def classifier_saturation(self) -> float | None:
        """Share of an 8-bit classifier's codes that were cut off, None where there is none."""
        return self.saturated_codes / self.classifier_codes if self.classifier_codes else None

    @property
    def largest_share(self) -> float:
        """Largest share of differing codes of a layer that was fed the float network's inputs."""
        return max(layer.share for layer in self.layers if not layer.rounded_stem)


def split(images: Images) -> list[Images]:
    """Images in batches of about the same number of pixels, whatever their size."""
    size = max(1, _PIXELS // (images.shape[2] * images.shape[3]))
    return [images[start : start + size] for start in range(0, len(images), size)]


def measure(released: ReleasedResNet, graph: Graph, images: Images) -> Agreement:
    """Compare the float network and its integer graph.

    Parameters:
        released: The float network, in eval mode.
        graph: Made from it.
        images: float32 or uint8, shape (N, C, H, W).
    """
    nodes = [node for node in graph if isinstance(node, Quantize)]
    found = Agreement(
        [LayerAgreement(_reader(node), _reads_rounded_stem(graph, node)) for node in nodes]
    )
    for batch in split(images):
        values = input_values(batch, graph)
        codes, residuals, classes = trace(released, graph, normalised(batch, graph))
        actual = run(graph, values)
        fed = _Fed(graph, {graph.input.name: values.astype(np.int64)} | codes | residuals)
        for node, layer in zip(nodes, found.layers, strict=True):
            wanted = codes[node.name]
            layer.codes += wanted.size
            layer.differing += int((fed.fresh(node.name) != wanted).sum())
            layer.differing_end_to_end += int((actual[node.name] != wanted).sum())
        _count_saturated(graph, actual, found)
        found.images += len(batch)
        found.same_class += int((predict(graph, actual) == classes).sum())
    return found


def _count_saturated(graph: Graph, actual: Mapping[str, IntArray], found: Agreement) -> None:
    """Count what the ranges, which come from calibration images, cut off of other ones."""
    scaled = {node.input for node in graph if isinstance(node, Clamp)}
    for node in graph:
        kind, values = graph.types[node.name], actual[node.name]
        if isinstance(node, Clamp):
            found.classifier_codes += values.size
            found.saturated_codes += int((actual[node.input] + node.zero_point > kind.max).sum())
        elif (
            isinstance(node, Affine | Add | Input)
            and kind.kind is Kind.RESIDUAL
            and node.name not in scaled
        ):
            found.residuals += values.size
            found.saturated_residuals += int(((values == kind.min) | (values == kind.max)).sum())


def normalised(images: Images, graph: Graph) -> Tensor:
    """Images as the float network reads them, float32, of the graph's normalisation."""
    pixels = images.astype(np.float32)
    if images.dtype == np.uint8:
        pixels /= np.float32(255)
    norm = graph.input.normalization if graph.host is None else graph.host.stem
    mean, std = (
        torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (norm.mean, norm.std)
    )
    return (torch.from_numpy(pixels) - mean) / std


@torch.no_grad()
def trace(
    released: ReleasedResNet, graph: Graph, inputs: Tensor
) -> tuple[dict[str, IntArray], dict[str, IntArray], IntArray]:
    """What the float network computes, by the graph's tensor names.

    Parameters:
        released: The float network, in eval mode.
        graph: Made from it; says the step of each residual.
        inputs: Normalised images (N, C, H, W).

    Returns:
        Codes, residuals rounded to their streams, and classes (N,).
    """
    codes: dict[str, IntArray] = {}
    residuals: dict[str, IntArray] = {}

    def keep_codes(module: QuantizedConv2d, x: Tensor, name: str) -> None:
        codes[f"{name}.quantize"] = module.codes(x).numpy().astype(np.int64)

    def keep_residual(x: Tensor, name: str) -> None:
        kind = graph.types[name]
        steps = torch.round(x.double() / graph.metadata["steps"][name])
        residuals[name] = steps.clamp(kind.min, kind.max).numpy().astype(np.int64)

    handles = []
    for path, module in released.named_modules():
        name = converted_name(path)
        if isinstance(module, QuantizedConv2d):
            handles.append(module.register_forward_pre_hook(
                lambda m, inputs, name=name: keep_codes(m, inputs[0], name)))  # fmt: skip
        elif isinstance(module, ReleasedBlock | ReleasedShuffle):
            end = f"{name}.relu" if isinstance(module, ReleasedBlock) else f"{name}.add"
            handles.append(module.register_forward_hook(
                lambda m, inputs, output, name=end: keep_residual(output, name)))  # fmt: skip
        elif module is released.maxpool and graph.host is None:
            handles.append(module.register_forward_hook(
                lambda m, inputs, output: keep_residual(output, "stem.pool")))  # fmt: skip
    try:
        classes: IntArray = released(inputs).argmax(1).numpy()
    finally:
        for handle in handles:
            handle.remove()
    return codes, residuals, classes


def converted_name(path: str) -> str:
    """Name in the integer network of a released network's module."""
    name = path.replace("layer", "stage").replace("downsample.0", "downsample.conv")
    return name.replace("conv1.0", "conv")


class _Fed:
    """Evaluates one tensor from the float network's own tensors before it."""

    def __init__(self, graph: Graph, given: dict[str, IntArray]) -> None:
        self.graph = graph
        self.given = given
        self.found: dict[str, IntArray] = {}

    def fresh(self, name: str) -> IntArray:
        """The tensor ``name``, from the nearest given tensors behind its residual."""
        if name not in self.found:
            node = self.graph[name]
            self.found[name] = (
                run_node(self.graph, node, {source: self._source(node, source)
                                            for source in node.inputs})
                if node.inputs else self.given[name]
            )  # fmt: skip
        return self.found[name]

    def _source(self, node: Any, source: str) -> IntArray:
        """What a node reads: quantisers and permutations see the layer before them computed."""
        through = isinstance(node, Quantize | Permute)
        return self.given[source] if source in self.given and not through else self.fresh(source)


def _reader(node: Quantize) -> str:
    """The convolution that reads a quantiser's codes bears its name."""
    return node.name.removesuffix(".quantize")


def _reads_rounded_stem(graph: Graph, node: Quantize) -> bool:
    """Whether nothing but the stem stands between a quantiser and the input's 8-bit codes."""
    if graph.input.residual:
        return False
    name = node.input
    while not isinstance(graph[name], Quantize):
        name = graph[name].inputs[0]
        if name == graph.input.name:
            return True
    return False
