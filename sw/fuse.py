"""Groups of consecutive layers that are computed together, one strip of rows after the other.

A tensor that does not fit on chip costs the bus twice: it is stored, and loaded again. Where the
next layer reads it row by row, it need not exist as a whole: the strip of rows that one layer makes
is what the next one reads at once. So a 1x1 convolution joins the layer that makes its input
(PalQuant's cyclic shuffle), and a layer joins the one that makes the residual which it adds (the
convolution of a downsampling block). A layer whose windows overlap by one row at most (a pool, a
convolution of stride 2) joins as well: that row stays where it is (see ``strips``).
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

    def by_window(self, tensor: str) -> bool:
        """Whether it reads a tensor by windows of which neighbours share one row at most.

        Each further row of its results takes further rows of the tensor.
        """
        kernel, stride, padding = self.layer.window
        return (
            tensor == self.reads[0].name
            and 0 <= kernel - stride <= 1
            and padding < stride
            and not self.row_local(tensor)
        )


@dataclass(frozen=True, eq=False)
class Group:
    """Consecutive layers that are computed together.

    Parameters:
        members: The layers.
        levels: Level of each: 0, and one more behind each layer that reads the group by windows.
            Results of one level have the same height and width.
        kept: Tensor that a member makes -> whether it stays on chip as a whole.
        strips: Tensors that exist on chip strip by strip: made and read here, not kept.
        last_use: Tensor that a member makes -> index of the last layer that reads it, or -1.
    """

    members: tuple[Member, ...] = ()
    levels: tuple[int, ...] = ()
    kept: dict[str, bool] = field(default_factory=dict)
    strips: frozenset[str] = frozenset()
    last_use: dict[str, int] = field(default_factory=dict)

    def with_member(self, member: Member, kept: dict[str, bool], network: PlacedNetwork) -> Group:
        """The group and one more layer; ``kept`` says which of its outputs stay as a whole."""
        level = self.levels[-1] if self.levels else 0
        level += any(not member.row_local(name) for name in self._made(member))
        return Group(
            (*self.members, member),
            (*self.levels, level),
            self.kept | kept,
            self.strips | ({layout.name for layout in member.reads} & self._loose()),
            self.last_use | {name: network.last_use(name) for name in kept},
        )

    def joins(self, member: Member) -> bool:
        """Whether the next layer should join: it reads rows here that would not stay on chip."""
        made = self._made(member)
        if not made & self._loose() or any(self.level(name) < self.levels[-1] for name in made):
            return False
        if not all(map(member.row_local, made)):
            return len(made) == 1 and all(map(member.by_window, made))
        shape, last = member.layer.shape, self.members[-1].layer.shape
        return (shape.height, shape.width) == (last.height, last.width)

    def reader(self, tensor: str) -> Member | None:
        """The member that reads a tensor of the group by windows."""
        level = self.level(tensor)
        return next(
            (
                member
                for member, own in zip(self.members, self.levels, strict=True)
                if own > level and tensor in self._made(member)
            ),
            None,
        )

    def shares_rows(self, tensor: str) -> bool:
        """Whether a row of a tensor is read here for a tile and for the next one."""
        reader = self.reader(tensor)
        if reader is None:
            return False
        kernel, stride, _ = reader.layer.window
        return kernel > stride

    def level(self, tensor: str) -> int:
        """Level of the layer that makes a tensor of the group."""
        return next(
            level
            for member, level in zip(self.members, self.levels, strict=True)
            if any(layout.name == tensor for layout in member.writes)
        )

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

    def _made(self, member: Member) -> set[str]:
        """What a layer reads of the group."""
        return {layout.name for layout in member.reads} & self.kept.keys()

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
