"""Assigns a placement to every stored tensor and every layer of a lowered network.

Values that meet element by element (a layer's results, what is added to them, what is pooled from
them) form a class with one placement. A convolution's input and output classes are independent,
since weights can be permuted. A channel shuffle ties two classes together; see ``place``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant.errors import UnsupportedLayerError
from palquant.hw.config import Geometry
from palquant.sw.graph import Convolution
from palquant.sw.layer import Layer
from palquant.sw.lower import LoweredNetwork
from palquant.sw.place import Placement, group_span, natural_placement, place_shuffle

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Assignment:
    """Placements of one network.

    Parameters:
        tensors: Stored tensors and aliases -> where their channels lie in memory.
        computed: Layer name -> placement of the operation's output channels in the array.
        target: Layer name -> group in memory of each of the operation's output channels; equal
            to ``computed[...].group`` unless the layer scatters its lanes.
    """

    tensors: dict[str, Placement]
    computed: dict[str, Placement]
    target: dict[str, Ints]


def assign_placements(network: LoweredNetwork, geometry: Geometry) -> Assignment:
    """Place every channel.

    Raises:
        UnsupportedLayerError: A permutation that placement cannot absorb, with the layer's name.
    """
    return _Assigner(network, geometry).run()


class _Classes:
    """Union-find over names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        root = name
        while self._parent.setdefault(root, root) != root:
            root = self._parent[root]
        self._parent[name] = root
        return root

    def join(self, a: str, b: str) -> None:
        self._parent[self.find(a)] = self.find(b)


def _before(layer: Layer) -> str:
    """Class of a layer's values before its permutation."""
    return f"{layer.name} before" if layer.permutation is not None else _after(layer)


def _after(layer: Layer) -> str:
    """Class of a layer's values behind its permutation: those that it stores."""
    return f"{layer.name} after"


class _Assigner:
    def __init__(self, network: LoweredNetwork, geometry: Geometry) -> None:
        self.network = network
        self.granularity = max(geometry.tin, geometry.tout)
        self.word = geometry.tin
        self.classes = _Classes()
        self.groups: dict[str, int] = {}
        self.channels: dict[str, int] = {}

    def run(self) -> Assignment:
        self._join()
        self._count_groups()
        placements = self._place_classes()
        return self._collect(placements)

    def _join(self) -> None:
        for layer in self.network.layers:
            for tensor in layer.outputs:
                self.classes.join(tensor, _after(layer))
            if not isinstance(layer.operation, Convolution):
                self.classes.join(layer.input, _before(layer))
            if layer.residual is not None and self._repeated(layer):
                continue  # its channels are found behind each other in each group; see _collect
            if layer.residual is not None and layer.permutation is None:
                self.classes.join(self.network.stored(layer.residual), _after(layer))
            elif layer.residual is not None:
                # The residual has its consumer's *new* channel order, with groups replaced.
                self.classes.join(layer.residual, _after(layer))

    def _repeated(self, layer: Layer) -> bool:
        """Whether the residual that a layer adds has fewer channels than its results."""
        assert layer.residual is not None
        return self.network.graph.shapes[layer.residual].channels < layer.shape.channels

    def _need(self, name: str, groups: int, channels: int) -> None:
        root = self.classes.find(name)
        self.groups[root] = math.lcm(self.groups.get(root, 1), groups)
        self.channels[root] = channels

    def _count_groups(self) -> None:
        source = self.network.layers[0].input_shape if self.network.layers else None
        name = self.network.graph.input.name
        shape = self.network.graph.shapes[name]
        self._need(name, 1, shape.channels if source is None else source.channels)
        for layer in self.network.layers:
            groups = layer.operation.groups if isinstance(layer.operation, Convolution) else 1
            self._need(_before(layer), groups, layer.shape.channels)
            self._need(_after(layer), 1, layer.shape.channels)
            stored = self.network.stored(layer.input)
            channels = layer.input_shape.channels
            if stored != layer.input:
                channels = self.network.graph.shapes[stored].channels
            repeats = layer.input_shape.channels // channels
            if groups % repeats:
                raise UnsupportedLayerError(
                    f"{layer.name}: its {groups} groups read {channels} channels {repeats} times "
                    f"(supported: a multiple of {repeats} groups)"
                )
            self._need(stored, groups // repeats, channels)
        for layer in self.network.layers:
            if layer.permutation is not None:
                groups = math.lcm(
                    *(self.groups[self.classes.find(n)] for n in (_before(layer), _after(layer)))
                )
                self._need(_before(layer), groups, layer.shape.channels)
                self._need(_after(layer), groups, layer.shape.channels)

    def _place_classes(self) -> dict[str, Placement]:
        placements: dict[str, Placement] = {}
        for layer in self.network.layers:
            if layer.permutation is None:
                continue
            before, after = self.classes.find(_before(layer)), self.classes.find(_after(layer))
            if after not in placements:
                placements[before], placements[after] = place_shuffle(
                    layer.permutation, self.groups[after], self.granularity, self.word, layer.name
                )
            else:
                placements[before] = self._follow(layer, placements[after])
        for root, groups in self.groups.items():
            if root not in placements:
                channels = self.channels[root]
                if channels % groups:
                    raise UnsupportedLayerError(f"{root}: {channels} channels in {groups} groups")
                placements[root] = natural_placement(channels, groups, self.granularity)
        return placements

    def _follow(self, layer: Layer, after: Placement) -> Placement:
        """Placement before a permutation whose result is already placed by an earlier one."""
        assert layer.permutation is not None
        channels = layer.shape.channels
        size = channels // after.groups
        position = np.empty(channels, np.int64)
        position[layer.permutation] = after.position
        group = np.arange(channels) // size
        if len(np.unique(group * after.span + position)) != channels:
            raise UnsupportedLayerError(
                f"{layer.name}: its channel permutation and an earlier one meet in the same "
                "tensor and disagree about lanes"
            )
        return Placement(after.groups, group_span(size, self.granularity), group, position)

    def _collect(self, placements: dict[str, Placement]) -> Assignment:
        tensors: dict[str, Placement] = {}
        computed: dict[str, Placement] = {}
        target: dict[str, Ints] = {}
        name = self.network.graph.input.name
        tensors[name] = placements[self.classes.find(name)]
        foreign: dict[str, Placement] = {}
        for layer in self.network.layers:
            if layer.residual is None or self._repeated(layer):
                continue
            if layer.permutation is not None:
                foreign[layer.residual] = self._foreign(layer, placements)
        for layer in self.network.layers:
            before = placements[self.classes.find(_before(layer))]
            after = placements[self.classes.find(_after(layer))]
            computed[layer.name] = before
            own = {tensor: foreign.get(tensor, after) for tensor in layer.outputs}
            memory = next(iter(own.values()))
            if not all(placement.same_as(memory) for placement in own.values()):
                raise UnsupportedLayerError(
                    f"{layer.name}: its outputs {', '.join(own)} would need different lane groups"
                )
            permutation = layer.permutation
            group = memory.group.copy()
            if permutation is not None:
                group[permutation] = memory.group
            target[layer.name] = group
            tensors.update(own)
            for code in layer.codes:
                if code.permutation is not None:
                    tensors[code.tensor] = _permuted(memory, code.permutation)
        for alias, (source, permutation) in self.network.aliases.items():
            tensors[alias] = _permuted(tensors[source], permutation)
        for layer in self.network.layers:
            if layer.residual is not None and self._repeated(layer):
                _check_repeated(layer, computed[layer.name], tensors[layer.residual])
        return Assignment(tensors, computed, target)

    def _foreign(self, layer: Layer, placements: dict[str, Placement]) -> Placement:
        """Where the residual of a shuffling layer lies: in the order *before* the shuffle.

        Then the addition finds each lane's residual in the word that it computes, and only the
        sum is scattered.
        """
        assert layer.residual is not None
        assert layer.permutation is not None
        readers = [
            other.name
            for other in self.network.layers
            if layer.residual in (other.residual, other.input) and other is not layer
        ]
        if readers or layer.residual == self.network.graph.output.name:
            raise UnsupportedLayerError(
                f"{layer.name}: adds {layer.residual} behind a channel shuffle, but "
                f"{', '.join(readers) or 'the network output'} reads it too"
            )
        return _permuted(placements[self.classes.find(_before(layer))], layer.permutation)


def _check_repeated(layer: Layer, computed: Placement, residual: Placement) -> None:
    """A repeated residual must have its channels where the array has them, group by group.

    A COMPUTE makes chunks of one group of the convolution, and finds the residual's words one
    behind the other: they must not start over within a group.
    """
    channel = np.arange(layer.shape.channels) % residual.channels
    groups = layer.operation.groups if isinstance(layer.operation, Convolution) else 1
    if (
        layer.permutation is not None
        or residual.slots % (computed.slots // groups)
        or not np.array_equal(computed.slot % residual.slots, residual.slot[channel])
    ):
        raise UnsupportedLayerError(
            f"{layer.name}: adds the {residual.channels} channels of {layer.residual} repeatedly "
            f"(supported: to groups of as many channels, in the same order)"
        )


def _permuted(placement: Placement, permutation: Ints) -> Placement:
    """Placement of a tensor whose channel c is channel ``permutation[c]`` of a placed one."""
    return Placement(
        placement.groups,
        placement.span,
        placement.group[permutation],
        placement.position[permutation],
    )
