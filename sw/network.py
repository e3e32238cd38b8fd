"""A network ready to be emitted: layers, placements, layouts and proven ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from palquant.errors import UnsupportedLayerError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.sw.assign import Assignment, assign_placements
from palquant.sw.block_diagonal import split_blocks
from palquant.sw.graph import Convolution, Graph, Shape
from palquant.sw.layer import Layer
from palquant.sw.layout import TensorLayout
from palquant.sw.lower import LoweredNetwork, gather_taps, lower
from palquant.sw.pack import group_input
from palquant.sw.ranges import LayerRanges, prove_ranges


@dataclass(eq=False)
class PlacedNetwork:
    """Everything about a network that does not depend on tiling.

    Parameters:
        lowered: The layers.
        geometry: The machine.
        assignment: Placements.
        layouts: Layout of each stored tensor.
        ranges: Bounds of each layer.
    """

    lowered: LoweredNetwork
    geometry: Geometry
    assignment: Assignment
    layouts: dict[str, TensorLayout]
    ranges: dict[str, LayerRanges]

    @property
    def graph(self) -> Graph:
        """The graph that the layers were made from."""
        return self.lowered.graph

    @property
    def layers(self) -> list[Layer]:
        """Layers in execution order."""
        return self.lowered.layers

    def stored(self, tensor: str) -> str:
        """The stored tensor behind a name."""
        return self.lowered.stored(tensor)

    def last_use(self, tensor: str) -> int:
        """Index of the last layer that reads a stored tensor, -1 if none does."""
        return max(
            (
                index
                for index, layer in enumerate(self.layers)
                if tensor == self.stored(layer.input) or tensor == layer.residual
            ),
            default=-1,
        )


def place_network(graph: Graph, geometry: Geometry) -> PlacedNetwork:
    """Lower a graph, place its channels, and prove its ranges.

    Raises:
        UnsupportedLayerError: A layer that the machine cannot execute.
        RangeError: A register that could overflow.
    """
    lowered, assignment = _assign(graph, geometry)
    layouts = {}
    names = [graph.input.name] + [name for layer in lowered.layers for name in layer.outputs]
    for name in names:
        shape = graph.shapes[name]
        if name == graph.input.name and lowered.gathered is not None:
            inner = lowered.layers[0].input_shape
            shape = Shape(inner.channels, inner.height, inner.width)
        layouts[name] = TensorLayout(
            name, graph.types[name], shape, assignment.tensors[name], geometry
        )
    ranges = {}
    for layer in lowered.layers:
        source = graph.types[lowered.stored(layer.input)]
        ranges[layer.name] = prove_ranges(layer, source, geometry)
        _check_padding(layer, assignment, source.zero_point, geometry)
    return PlacedNetwork(lowered, geometry, assignment, layouts, ranges)


def _assign(graph: Graph, geometry: Geometry) -> tuple[LoweredNetwork, Assignment]:
    """The lowered network and its placement, with block-diagonal convolutions split if that helps.

    More groups than a shuffle can have may meet in one tensor, or a convolution's channels may lie
    between those of others: the convolutions stay whole then.
    """
    whole = _lower(graph, geometry)
    split = _lower(graph, geometry)
    if not split_blocks(split, max(geometry.tin, geometry.tout)):
        return whole, assign_placements(whole, geometry)
    try:
        assignment = assign_placements(split, geometry)
        words = _array_words(split, assignment, geometry)
    except UnsupportedLayerError:
        return whole, assign_placements(whole, geometry)
    other = assign_placements(whole, geometry)
    if words < _array_words(whole, other, geometry):
        return split, assignment
    return whole, other


def _array_words(network: LoweredNetwork, assignment: Assignment, geometry: Geometry) -> int:
    """Words that all convolutions feed to the array, times the digits of their weights.

    Raises:
        UnsupportedLayerError: A convolution's channels do not lie together.
    """
    total = 0
    for layer in network.layers:
        node = layer.operation
        if isinstance(node, Convolution):
            source = network.graph.types[network.stored(layer.input)]
            tensor = assignment.tensors[layer.input]
            inputs = sum(
                len(group_input(layer, node, tensor, group, geometry.tin).channel)
                for group in range(node.groups)
            )
            chunks = assignment.computed[layer.name].slots // node.groups // geometry.tout
            pixels = layer.shape.height * layer.shape.width * math.prod(node.weight.shape[2:])
            passes = isa.digits(source.bits) * isa.digits(node.weight_bits)
            total += inputs // geometry.tin * chunks * pixels * passes
    return total


def _lower(graph: Graph, geometry: Geometry) -> LoweredNetwork:
    lowered = lower(graph)
    gather_taps(lowered, geometry.tin)
    return lowered


def _check_padding(
    layer: Layer, assignment: Assignment, zero_point: int, geometry: Geometry
) -> None:
    """Padding with a code other than 0 must know which lanes are in use."""
    node = layer.operation
    if not isinstance(node, Convolution) or not zero_point or not np.any(node.padding):
        return
    for group in range(node.groups):
        found = group_input(layer, node, assignment.tensors[layer.input], group, geometry.tin)
        if not found.dense(geometry.tin):
            raise UnsupportedLayerError(
                f"{layer.name}: padding with zero point {zero_point} needs input channels that "
                f"fill whole words of {geometry.tin} lanes, but group {group} has gaps"
            )
