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
    expected = observe(model, graph, images)
    actual = run(graph, to_codes(images, graph.input))
    compared = 0
    for node in graph:
        if node.name not in expected:
            continue
        found = actual[node.name].astype(np.float64)
        if isinstance(node, Logits):
            found = found * node.scale.reshape(-1, 1, 1)
        wanted = expected[node.name].reshape(found.shape)
        differ = np.argwhere(wanted != found)
        if len(differ):
            n, c, y, x = (int(i) for i in differ[0])
            raise MismatchError(
                f"{node.name}: image {n}, channel {c}, y {y}, x {x}: expected "
                f"{wanted[n, c, y, x]:g}, actual {found[n, c, y, x]:g} "
                f"({len(differ)} of {wanted.size} differ)"
            )
        compared += wanted.size
    if not compared:
        raise MismatchError("the network and the graph have no tensor in common")
    return compared


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
