"""Whether the integer graph gives, on real images, every integer of the network's own eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from palquant.errors import MismatchError
from palquant.golden.quantize import Integers
from palquant.golden.reference import run
from palquant.sw.graph import Graph, Kind, Logits
from palquant.sw.normalize import to_codes


def verify(model: nn.Module, graph: Graph, images: npt.NDArray[Any]) -> int:
    """Compare every tensor that both sides have, element by element.

    Parameters:
        model: Network in eval mode.
        graph: Its export.
        images: float32 or uint8, shape (N, C, H, W).

    Returns:
        Number of integers compared, never 0.

    Raises:
        MismatchError: The first difference: tensor, image, channel, y, x, expected (the network's
            own value), actual (the graph's).
    """
    differences = compare(model, graph, images)
    for name, (wanted, found) in differences.items():
        differ = np.argwhere(wanted != found)
        if len(differ):
            n, c, y, x = (int(i) for i in differ[0])
            raise MismatchError(
                f"{name}: image {n}, channel {c}, y {y}, x {x}: expected "
                f"{wanted[n, c, y, x]:g}, actual {found[n, c, y, x]:g} "
                f"({len(differ)} of {wanted.size} differ)"
            )
    return sum(wanted.size for wanted, _ in differences.values())


def count_mismatches(model: nn.Module, graph: Graph, images: npt.NDArray[Any]) -> tuple[int, int]:
    """How many integers of both sides were compared, and how many differ.

    Parameters:
        model: Network in eval mode.
        graph: Its export.
        images: float32 or uint8, shape (N, C, H, W).

    Raises:
        MismatchError: There is nothing to compare.
    """
    pairs = compare(model, graph, images).values()
    return (
        sum(wanted.size for wanted, _ in pairs),
        sum(int((wanted != found).sum()) for wanted, found in pairs),
    )


def compare(
    model: nn.Module, graph: Graph, images: npt.NDArray[Any]
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Tensors that both sides have: the network's values, and the graph's, (N, C, H, W) each.

    Raises:
        MismatchError: There are none.
    """
    expected = observe(model, graph, images)
    actual = run(graph, to_codes(images, graph.input))
    found = {}
    for node in graph:
        if node.name in expected:
            integers = actual[node.name]
            values = node.real(integers) if isinstance(node, Logits) else integers.astype(float)
            found[node.name] = expected[node.name].reshape(values.shape), values
    if not found:
        raise MismatchError("the network and the graph have no tensor in common")
    return found


@torch.no_grad()
def observe(
    model: nn.Module, graph: Graph, images: npt.NDArray[Any]
) -> dict[str, npt.NDArray[np.float64]]:
    """Integers (and real logits) that the network's eval mode computes, by node name.

    Fused nodes that no module computes on its own, such as the requantization inside an 8-bit
    code quantiser, are not among them.

    Parameters:
        model: Network in eval mode.
        graph: Its export, whose node names are the names of the modules.
        images: float32 or uint8, shape (N, C, H, W).
    """
    found: dict[str, npt.NDArray[np.float64]] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Integers | Tensor], None]:
        kind = graph.types[name]

        def hook(module: nn.Module, inputs: Any, output: Integers | Tensor) -> None:
            values = output.values if isinstance(output, Integers) else output
            values = values.double()
            if kind.kind is Kind.RESIDUAL:
                values = values / graph.metadata["steps"][name]  # a power of two: exact
            found[name] = (values + kind.zero_point).numpy()

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if name in graph.types
    ]
    try:
        model(torch.from_numpy(images))
    finally:
        for handle in handles:
            handle.remove()
    return found
