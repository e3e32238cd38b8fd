"""Groups of consecutive layers that are computed together, one strip of rows after the other.

A tensor that does not fit on chip costs the bus twice: it is stored, and loaded again. Where the
next layer reads it row by row, it need not exist as a whole: the strip of rows that one layer makes
is what the next one reads at once. So a 1x1 convolution joins the layer that makes its input
(PalQuant's cyclic shuffle), and a layer joins the one that makes the residual which it adds (the
convolution of a downsampling block).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from palquant.sw.graph import Convolution
from palquant.sw.layer import Layer
from palquant.sw.layout import TensorLayout
from palquant.sw.network import PlacedNetwork


@dataclass(frozen=True, eq=False)
class Member:
    """One layer of a group.

    Parameters:
        index: The layer's index in the network.
        layer: The layer.
        reads: Layouts of its input and, if it has one, its residual.
        writes: Layouts of its outputs.
        sum: Tensor of residuals that it makes and that may take the place of the residual that it
            adds, word by word; None if there is none.
    """

    index: int
    layer: Layer
    reads: list[TensorLayout]
    writes: list[TensorLayout]
    sum: str | None

    @classmethod
    def of(cls, network: PlacedNetwork, index: int) -> Member:
        """The member for a layer of a network."""
        layer = network.layers[index]
        reads = [network.layouts[network.stored(layer.input)]]
        if layer.residual is not None:
            reads.append(network.layouts[layer.residual])
        writes = [network.layouts[name] for name in layer.outputs]
        return cls(index, layer, reads, writes, _sum(network, layer))

    def row_local(self, tensor: str) -> bool:
        """Whether it reads a tensor, and only row y of it for row y of its results."""
        used = [layout.name for layout in self.reads]
        return tensor in used and (tensor != used[0] or _pointwise(self.layer))


@dataclass(frozen=True, eq=False)
class Group:
    """Consecutive layers with results of the same height and width.

    Parameters:
        members: The layers.
        kept: Tensor that a member makes -> whether it stays on chip as a whole.
        strips: Tensors that exist on chip strip by strip: made and read here, not kept.
        last_use: Tensor that a member makes -> index of the last layer that reads it, or -1.
    """

    members: tuple[Member, ...] = ()
    kept: dict[str, bool] = field(default_factory=dict)
    strips: frozenset[str] = frozenset()
    last_use: dict[str, int] = field(default_factory=dict)

    def with_member(self, member: Member, kept: dict[str, bool], network: PlacedNetwork) -> Group:
        """The group and one more layer; ``kept`` says which of its outputs stay as a whole."""
        return Group(
            (*self.members, member),
            self.kept | kept,
            self.strips | ({layout.name for layout in member.reads} & self._loose()),
            self.last_use | {name: network.last_use(name) for name in kept},
        )

    def joins(self, member: Member) -> bool:
        """Whether the next layer should join: it reads rows here that would not stay on chip."""
        shape = self.members[0].layer.shape
        if (member.layer.shape.height, member.layer.shape.width) != (shape.height, shape.width):
            return False
        made = [layout.name for layout in member.reads if layout.name in self.kept]
        # Rows below the strip are not made yet, wherever the tensor is.
        return any(name in self._loose() for name in made) and all(map(member.row_local, made))

    def passes(self, tensor: str) -> bool:
        """Whether nobody behind the group reads a tensor that it makes and reads."""
        return tensor in self.strips and self.last_use[tensor] <= self.members[-1].index

    def maker(self, tensor: str) -> int:
        """Index of the layer that makes a tensor of the group."""
        return next(
            member.index
            for member in self.members
            if any(layout.name == tensor for layout in member.writes)
        )

    def _loose(self) -> set[str]:
        return {name for name, whole in self.kept.items() if not whole}


def _sum(network: PlacedNetwork, layer: Layer) -> str | None:
    """The residuals that a layer makes, if each word of them lies where the word it adds lies.

    The post-processor reads a word before it writes that word, and no other reads or writes it.
    """
    if layer.residual is None or layer.residual_out is None or layer.permutation is not None:
        return None
    added, made = network.layouts[layer.residual], network.layouts[layer.residual_out]
    same = added.shape == made.shape and added.placement.same_as(made.placement)
    return made.name if same else None


def _pointwise(layer: Layer) -> bool:
    node = layer.operation
    kernel = node.weight.shape[2:] if isinstance(node, Convolution) else node.kernel
    return tuple(kernel) == (1, 1) and tuple(node.stride) == (1, 1) and not any(node.padding)
