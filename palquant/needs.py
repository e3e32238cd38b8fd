"""What a network needs of a machine: the widths of its registers, and the least of its memories."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from palquant.errors import CapacityError, RangeError
from palquant.hw.config import Geometry
from palquant.hw.isa import Memory
from palquant.hw.memory_shapes import DEPTHS
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Graph
from palquant.sw.network import PlacedNetwork, place_network
from palquant.sw.ranges import prove_ranges

__all__ = ["WIDEST", "depth", "needed_contents", "needed_widths"]

#: Registers that a network may need less of, and the widest that each can be. Saturation, scale and
#: offset are left as they are: other weights would soon need all of them.
WIDEST: dict[str, Any] = {
    "accumulator_bits": 32,
    "activation_sum_bits": 32,
    "threshold_bits": 32,
    "pool_bits": 32,
}


def needed_widths(graph: Graph, geometry: Geometry) -> dict[str, int]:
    """The smallest widths with which no register of a network can overflow.

    Parameters:
        graph: The network.
        geometry: Any machine that can run it; all but the widths is taken from it.

    Raises:
        RangeError: Not even the widest registers do.
        UnsupportedLayerError: A layer that no machine can execute.
    """
    widest = dataclasses.replace(geometry, **WIDEST)
    network = place_network(graph, widest)
    found: dict[str, Any] = dict(WIDEST)
    for name in WIDEST:
        low = 1
        while low < found[name]:
            middle = (low + found[name]) // 2
            # Sums of pooling go through the value path, which is as wide as the accumulator says.
            tried = {**found, name: middle}
            if name == "accumulator_bits":
                tried["pool_bits"] = min(tried["pool_bits"], middle + 2)
            if _suffices(network, dataclasses.replace(widest, **tried)):
                found = tried
            else:
                low = middle + 1
    return found


def _suffices(network: PlacedNetwork, geometry: Geometry) -> bool:
    try:
        for layer in network.layers:
            source = network.graph.types[network.stored(layer.input)]
            prove_ranges(layer, source, geometry)
    except RangeError:
        return False
    return True


#: Contents that are tried, as steps of a scale with eight steps for a factor of 2.
_STEPS, _LEAST, _MOST = 8, 12 * 8, 21 * 8


def depth(geometry: Geometry, memory: Memory, content: float) -> int:
    """Words of a memory that holds so many digits, or residuals, rounded up to whole rows."""
    if memory is Memory.RESIDUAL:
        return math.ceil(content / geometry.lanes)
    row = geometry.activation_words_per_row
    return math.ceil(content / geometry.tin / row) * row


def needed_contents(graph: Graph, geometry: Geometry) -> dict[Memory, int]:
    """The least of each memory with which a network can be compiled, if all others are ample.

    What another machine needs differs a little: it has other words to fill up.

    Parameters:
        graph: The network.
        geometry: The machine; the depths of its memories do not matter.

    Returns:
        Digits of activation memory and output buffer, residuals of the residual memory.

    Raises:
        PalquantError: The network cannot be compiled however much memory there is.
    """
    memories = (Memory.ACTIVATION, Memory.RESIDUAL, Memory.OUTPUT)
    ample: dict[str, Any] = {
        DEPTHS[memory]: depth(geometry, memory, 1 << _MOST // _STEPS) for memory in memories
    }
    geometry = dataclasses.replace(geometry, **ample)
    compile_graph(graph, geometry, keep_all=False)
    found = {}
    for memory in memories:
        low, high = _LEAST, _MOST
        while low < high:
            middle = (low + high) // 2
            least: dict[str, Any] = {DEPTHS[memory]: depth(geometry, memory, _content(middle))}
            try:
                compile_graph(graph, dataclasses.replace(geometry, **least), keep_all=False)
                high = middle
            except CapacityError:
                low = middle + 1
        found[memory] = _content(high)
    return found


def _content(step: int) -> int:
    return math.ceil(2 ** (step / _STEPS))
