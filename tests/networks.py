"""Random networks whose codes are spread: thresholds and scales follow the reference's values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from palquant.golden.reference import run_node
from palquant.sw.graph import (
    Add,
    Affine,
    Clamp,
    Convolution,
    Graph,
    Input,
    Logits,
    MaxPool,
    Node,
    Normalization,
    Permute,
    Quantize,
    Relu,
    Shape,
    SumPool,
)

#: Draws an integer between two bounds, both included: from a generator, or from hypothesis.
Draw = Callable[[int, int], int]


def drawer(seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    return lambda low, high: int(rng.integers(low, high + 1))


@dataclass
class Builder:
    """Adds nodes to a graph and knows the values that each of them makes on some random images."""

    draw: Draw
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    residual_bits: int = 16

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.draw(0, 2**31 - 1))

    def choose(self, *options):
        return options[self.draw(0, len(options) - 1)]

    def flip(self) -> bool:
        return bool(self.draw(0, 1))

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        graph = Graph(list(self.nodes))
        if isinstance(node, Input):
            self.values[node.name] = self.codes.astype(np.int64)
        else:
            self.values[node.name] = run_node(graph, node, self.values)
        return node.name

    def start(self, channels: int, height: int, width: int, images: int = 2) -> str:
        norm = Normalization((0.0,) * channels, (1.0,) * channels, 1 / 127)
        node = Input(
            name="image",
            shape=Shape(channels, height, width),
            bits=8,
            zero_point=128,
            normalization=norm,
        )
        self.codes = self.rng.integers(0, 256, (images, channels, height, width), np.uint8)
        return self.add(node)

    def convolution(
        self,
        name,
        source,
        outputs,
        bits,
        *,
        groups=1,
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1),
        quantized=True,
    ):
        channels = self.values[source].shape[1]
        shape = (outputs, channels // groups, *kernel)
        weight = self.rng.integers(0, 1 << bits, shape, np.uint8)
        alpha, beta = self.choose((2, (1 << bits) - 1), (1, 1 << (bits - 1)))
        return self.add(
            Convolution(
                name=name,
                input=source,
                weight=weight,
                weight_bits=bits,
                alpha=alpha,
                beta=beta,
                groups=groups,
                stride=stride,
                padding=padding,
                quantized=quantized,
            )
        )

    def affine(self, name, source, bits=None, low=None, high=None):
        """Scale each channel into about 80 % of the residual's range, or into low..high."""
        bits = self.residual_bits if bits is None else bits
        values = self.values[source].transpose(1, 0, 2, 3).reshape(self.values[source].shape[1], -1)
        low = -(1 << (bits - 1)) if low is None else low
        high = (1 << (bits - 1)) - 1 if high is None else high
        spread = np.maximum(values.max(axis=1) - values.min(axis=1), 1)
        gain = 0.8 * (high - low) / spread
        gain *= self.rng.choice([-1.0, 1.0], len(gain)) if low < 0 else 1.0
        gain[self.rng.random(len(gain)) < 0.05] = 0.0
        # As many bits of gain as M holds, but an offset (also one that makes up for a zero
        # point) that stays within 32 bits.
        largest = np.abs(values).max(axis=1) + 128 * 255 * 196
        gain = np.clip(gain, -(2.0**28) / largest, 2.0**28 / largest)
        reach = largest * np.abs(gain) + high
        shift = 13 - np.ceil(np.log2(np.maximum(np.abs(gain), 1e-9)))
        shift = np.minimum(shift, np.floor(np.log2(2.0**29 / reach)))
        shift = np.clip(shift, 0, 31).astype(np.int64)
        scale = np.clip(np.round(gain * 2.0**shift), -32767, 32767).astype(np.int64)
        middle = values.astype(float).mean(axis=1)
        offset = np.round((low + high) / 2 * 2.0**shift - scale * middle)
        offset = np.clip(offset + 2.0 ** np.maximum(shift - 1, 0), -(2**30), 2**30)
        return self.add(
            Affine(
                name=name,
                input=source,
                scale=scale,
                shift=shift,
                bits=bits,
                offset=offset.astype(np.int64),
            )
        )

    def quantize(self, name, source, bits):
        values = self.values[source]
        per_channel = self.flip()
        flat = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)
        if not per_channel:
            flat = flat.reshape(1, -1)
        negate = self.rng.random(len(flat)) < 0.25
        flat = np.where(negate[:, None], -flat, flat)
        levels = 1 << bits
        points = np.linspace(0, 1, levels + 1)[1:-1]
        thresholds = np.quantile(flat, points, axis=1, method="nearest").T.astype(np.int64)
        extreme = self.rng.random(len(flat)) < 0.05  # channels that never switch
        thresholds[extreme] = self.choose(-(1 << 29), 1 << 29)
        return self.add(
            Quantize(name=name, input=source, thresholds=thresholds, negate=negate, bits=bits)
        )

    def relu(self, name, source):
        return self.add(Relu(name=name, input=source))

    def rotation(self, name, source, groups):
        channels = self.values[source].shape[1]
        permutation = np.roll(np.arange(channels), -(channels // groups))
        return self.add(Permute(name=name, input=source, permutation=permutation))

    def shuffle(self, name, source, groups):
        channels = self.values[source].shape[1]
        permutation = np.arange(channels).reshape(groups, -1).T.reshape(-1)
        return self.add(Permute(name=name, input=source, permutation=permutation))

    def classifier(self, source, classes):
        height, width = self.values[source].shape[2:]
        pool = self.add(SumPool(name="pool", input=source, kernel=(height, width), stride=(1, 1)))
        scaled = self.affine("pool.affine", pool, low=0, high=255)
        codes = self.add(Clamp(name="classifier.quantize", input=scaled))
        acc = self.convolution(
            "classifier", codes, classes, 8, kernel=(1, 1), padding=(0, 0), quantized=False
        )
        offset = self.rng.integers(-(2**20), 2**20, classes)
        scale = self.rng.uniform(0.5, 2.0, classes)
        return self.add(Logits(name="logits", input=acc, offset=offset, scale=scale))

    def graph(self) -> Graph:
        return Graph(list(self.nodes), {"name": "random"})


def codes_for(b: Builder, name: str, source: str, bits: int) -> str:
    """Codes of 2, 4 or 8 bits (or odd widths) from a residual."""
    if bits < 8:
        return b.quantize(name, source, bits)
    return b.add(Clamp(name=name, input=b.affine(name + ".affine", source, low=0, high=255)))


def basic_block(b: Builder, name: str, x: str, outputs: int, groups: int, stride: int) -> str:
    """Two convolutions with a residual; if shapes differ, a downsampling block with a shuffle."""
    weight_bits, bits = b.choose(2, 4, 8), b.choose(1, 2, 3, 4, 8)
    size = b.choose(1, 3, 5, 7)
    pad = (size // 2, size // 2)
    first = codes_for(b, f"{name}.quantize1", x, bits)
    acc = b.convolution(
        f"{name}.conv1",
        first,
        outputs,
        weight_bits,
        groups=groups,
        kernel=(size, size),
        stride=(stride, stride),
        padding=pad,
    )
    middle_bits = b.choose(2, 4)
    middle = b.quantize(f"{name}.quantize2", acc, middle_bits)
    acc = b.convolution(f"{name}.conv2", middle, outputs, b.choose(2, 4, 8), groups=groups)
    r = b.affine(f"{name}.affine2", acc)
    if stride != 1 or b.values[x].shape[1] != outputs:
        other = codes_for(b, f"{name}.quantize3", x, b.choose(2, 4))
        acc = b.convolution(
            f"{name}.downsample",
            other,
            outputs,
            b.choose(2, 4),
            groups=groups,
            kernel=(1, 1),
            stride=(stride, stride),
            padding=(0, 0),
        )
        x = b.affine(f"{name}.identity", acc)
        if groups > 1 and b.flip():
            r = b.shuffle(f"{name}.shuffle", r, groups)
    y = b.add(Add(name=f"{name}.add", a=r, b=x) if b.flip() else Add(name=f"{name}.add", a=x, b=r))
    return b.relu(f"{name}.relu", y)


def cyclic_shuffle(b: Builder, name: str, x: str, groups: int) -> str:
    if b.flip():
        rotated = b.rotation(f"{name}.rotate", x, groups)
        codes = b.quantize(f"{name}.quantize", rotated, b.choose(2, 4))
    else:
        codes = b.quantize(f"{name}.quantize", x, b.choose(2, 4))
        codes = b.rotation(f"{name}.rotate", codes, groups)
    channels = b.values[x].shape[1]
    acc = b.convolution(
        f"{name}.conv",
        codes,
        channels,
        b.choose(2, 4),
        groups=groups,
        kernel=(1, 1),
        padding=(0, 0),
    )
    r = b.relu(f"{name}.relu", b.affine(f"{name}.affine", acc))
    return b.add(Add(name=f"{name}.add", a=x, b=r))


def random_network(draw: Draw, residual_bits: int = 16) -> Builder:
    """A residual network of random shape, ending in a classifier or in a residual tensor.

    Its residual stream has at most ``residual_bits`` bits.
    """
    b = Builder(draw)
    groups = draw(1, 4)
    b.residual_bits = b.choose(*[bits for bits in (8, 12, 16) if bits <= residual_bits])
    channels = draw(1, 4)
    extent = (1, 1) if draw(0, 9) == 9 else (draw(1, 9), draw(1, 9))
    x = b.start(channels, *extent)
    width = groups * draw(1, 20)
    size = b.choose(1, 3, 5, 7)
    stride = b.choose(1, 2)
    acc = b.convolution(
        "stem",
        x,
        width,
        8,
        kernel=(size, size),
        stride=(stride, b.choose(1, 2)),
        padding=tuple(
            # Small images may have rows and columns of results that see nothing but padding.
            draw(max(0, -(-(size - n) // 2)), size + 1 if max(extent) < 5 else size // 2 + 1)
            for n in extent
        ),
        quantized=False,
    )
    x = b.affine("stem.affine", acc)
    if b.flip():
        x = b.relu("stem.relu", x)
    if b.flip():
        extent = b.values[x].shape[2:]
        kernel, pad = b.choose(((3, 3), 1), ((2, 2), 1), ((1, 1), 0), (extent, 0))
        stride = b.choose(1, 2)
        x = b.add(
            MaxPool(
                name="maxpool",
                input=x,
                kernel=kernel,
                stride=(stride, stride),
                padding=(pad, pad),
            )
        )
    height, width = b.values[x].shape[2:]
    if b.flip() and min(height, width) > 1:
        area = (b.choose(1, 2), 2)
        pool = b.add(SumPool(name="sumpool", input=x, kernel=area, stride=area))
        x = b.affine("sumpool.affine", pool)
    for index in range(draw(1, 3)):
        stride = b.choose(1, 2)
        # shuffles need each old group to give channels to each new one, evenly or not
        factor = b.choose(1, 1, 2)
        width = b.values[x].shape[1] * factor
        if width > 96:
            width = b.values[x].shape[1]
        x = basic_block(b, f"block{index}", x, width, groups, stride)
        if groups > 1 and b.flip():
            x = cyclic_shuffle(b, f"shuffle{index}", x, groups)
    if b.flip():
        b.classifier(x, draw(1, 12))
    return b


def downsampling_block(b: Builder, name: str, x: str, outputs: int, groups: int) -> str:
    """The residual branch is channel-shuffled before the identity path's convolution is added."""
    codes = b.quantize(f"{name}.quantize1", x, 2)
    acc = b.convolution(f"{name}.conv1", codes, outputs, 2, groups=groups, stride=(2, 2))
    middle = b.quantize(f"{name}.quantize2", acc, 2)
    acc = b.convolution(f"{name}.conv2", middle, outputs, 2, groups=groups)
    branch = b.shuffle(f"{name}.shuffle", b.affine(f"{name}.affine2", acc), groups)
    other = b.quantize(f"{name}.quantize3", x, 2)
    acc = b.convolution(f"{name}.downsample", other, outputs, 2, groups=groups, kernel=(1, 1),
                        stride=(2, 2), padding=(0, 0))  # fmt: skip
    identity = b.affine(f"{name}.identity", acc)
    return b.relu(f"{name}.relu", b.add(Add(name=f"{name}.add", a=branch, b=identity)))


def shuffled_network(size: int = 12, groups: int = 2, channels: int = 16) -> Builder:
    """Stem, a convolution with a cyclic shuffle behind it, a downsampling block, a classifier."""
    b = Builder(drawer(5))
    x = b.affine("stem.affine", b.convolution("stem", b.start(1, size, size), channels, 8))
    codes = b.quantize("conv.quantize", x, 2)
    acc = b.convolution("conv", codes, channels, 2, groups=groups)
    x = b.relu("conv.relu", b.add(Add(name="conv.add", a=b.affine("conv.affine", acc), b=x)))
    x = cyclic_shuffle(b, "shuffle", x, groups)
    x = downsampling_block(b, "down", x, 2 * channels, groups)
    b.classifier(x, 5)
    return b


def pool(b: Builder, name: str, source: str, kernel, stride, padding=0, kind=MaxPool) -> str:
    """A square pool; a sum pool has no padding."""
    shape = {"kernel": (kernel, kernel), "stride": (stride, stride)}
    if kind is MaxPool:
        shape["padding"] = (padding, padding)
    return b.add(kind(name=name, input=source, **shape))


def pooled_network(height, *pools, width=9, channels=32) -> Builder:
    """A stem and pools behind it, each with its kernel, stride and padding; codes at the end."""
    b = Builder(drawer(7))
    x = b.convolution("stem", b.start(1, height, width), channels, 8)
    x = b.relu("relu", b.affine("stem.affine", x))
    for index, shape in enumerate(pools):
        x = pool(b, f"pool{index}", x, *shape)
    acc = b.convolution("conv", b.quantize("codes", x, 2), channels, 2, groups=2)
    b.add(Add(name="sum", a=b.affine("branch", acc), b=x))
    return b


def strided_network(height, kernel=3, stride=2, padding=1, width=9) -> Builder:
    """A convolution that reads codes by windows, made by a layer without a halo."""
    b = Builder(drawer(7))
    x = b.convolution("stem", b.start(1, height, width), 32, 8)
    acc = b.convolution("first", b.quantize("codes", b.affine("x", x), 2), 32, 2, groups=2,
                        kernel=(1, 1), padding=(0, 0))  # fmt: skip
    codes = b.quantize("between", acc, 4)
    acc = b.convolution("second", codes, 16, 2, groups=2, kernel=(kernel, kernel),
                        stride=(stride, stride), padding=(padding, padding))  # fmt: skip
    b.quantize("result", b.affine("y", acc), 2)
    return b


def wide_pool_network(kind=MaxPool, channels=36, groups=1, height=9, width=9) -> Builder:
    """A pool between a stem and three readers: codes of 2 bits, of 4 bits, and an addition."""
    b = Builder(drawer(9))
    x = b.convolution("stem", b.start(1, height, width), channels, 8)
    x = b.relu("relu", b.affine("stem.affine", x))
    x = pool(b, "pool", x, 3, 2, 1 if kind is MaxPool else 0, kind)
    if kind is SumPool:
        x = b.affine("pool.affine", x)
    first, second = (
        b.convolution(
            f"conv{bits}", b.quantize(f"codes{bits}", x, bits), channels, 2, groups=groups
        )
        for bits in (2, 4)
    )
    x = b.add(Add(name="sum", a=b.affine("branch", first), b=x))
    b.add(Add(name="end", a=b.affine("other", second), b=x))
    return b
