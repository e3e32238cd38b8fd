"""Lowering: the graph's small operations fused into the layers that the machine executes.

Each convolution and each pool starts a layer, which then swallows what follows it as long as the
post-processor can do it in its fixed order: affine, ReLU, permutation, residual addition, ReLU,
quantisers. What is left over on residuals (a third quantiser, a requantization) becomes a layer
of its own, a 1x1 pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from palquant.errors import UnsupportedLayerError
from palquant.sw.graph import (
    Add,
    Affine,
    Clamp,
    Convolution,
    Graph,
    Input,
    Kind,
    Logits,
    MaxPool,
    Node,
    Permute,
    Pool,
    Quantize,
    Relu,
    Repeat,
)
from palquant.sw.layer import AffineStep, CodeOutput, Layer

Ints = npt.NDArray[np.int64]

MAX_CODES = 2


@dataclass(eq=False)
class LoweredNetwork:
    """A graph as layers.

    Parameters:
        graph: The graph.
        layers: In execution order.
        aliases: Tensors that are not stored, because they are another tensor with its channels
            permuted or repeated: name -> (stored tensor, its channel for each channel).
        gathered: Convolution that reads the network's input as one channel per tap, or None.
    """

    graph: Graph
    layers: list[Layer] = field(default_factory=list)
    aliases: dict[str, tuple[str, Ints]] = field(default_factory=dict)
    gathered: Convolution | None = None

    def stored(self, tensor: str) -> str:
        """The stored tensor behind a name."""
        return self.aliases[tensor][0] if tensor in self.aliases else tensor


def lower(graph: Graph) -> LoweredNetwork:
    """Fuse a graph into layers.

    Raises:
        UnsupportedLayerError: Names the node that fits no layer, and why.
    """
    return _Lowering(graph).run()


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.users = graph.consumers()
        self.absorbed: set[str] = set()
        self.materialized: set[str] = {graph.input.name} if graph.input.residual else set()
        self.network = LoweredNetwork(graph)

    def run(self) -> LoweredNetwork:
        for node in self.graph:
            if node.name in self.absorbed or isinstance(node, Input):
                continue
            if isinstance(node, Convolution | Pool):
                self._layer(node, node.input, node.name)
            elif isinstance(node, Permute | Repeat):
                self._alias(node)
            elif isinstance(node, Affine | Quantize | Clamp) and self._is_residual(node.input):
                self._requantization(node)
            else:
                raise UnsupportedLayerError(
                    f"{node.name}: {type(node).__name__} of {', '.join(node.inputs)} cannot be "
                    "fused with the layer that makes it (order: affine, ReLU, permutation, "
                    "residual addition, ReLU, quantisers)"
                )
        return self.network

    def _is_residual(self, tensor: str) -> bool:
        return self.graph.types[tensor].kind is Kind.RESIDUAL

    def _alias(self, node: Permute | Repeat) -> None:
        source = node.input
        if isinstance(node, Permute):
            channels = node.permutation
        else:
            channels = np.tile(np.arange(self.graph.shapes[source].channels), node.times)
        if source in self.network.aliases:
            source, inner = self.network.aliases[source]
            channels = inner[channels]
        self.network.aliases[node.name] = (source, channels)

    def _requantization(self, node: Affine | Quantize | Clamp) -> None:
        """A layer that only reads residuals and post-processes them."""
        pool = MaxPool(name=node.name, input=node.input, kernel=(1, 1), stride=(1, 1))
        self._layer(pool, node.input, node.input, only=node)

    def _layer(
        self, operation: Convolution | Pool, source: str, value: str, only: Node | None = None
    ) -> None:
        """Build a layer around ``operation`` and swallow what follows ``value``.

        With ``only``, just that one of the value's users (and what follows it) is considered.
        """
        if isinstance(operation, Pool) and source in self.network.aliases:
            raise UnsupportedLayerError(f"{operation.name}: pools the permuted tensor {source}")
        layer = Layer(
            name=operation.name,
            operation=operation,
            input=source,
            input_shape=self.graph.shapes[source],
            shape=self.graph.shapes[value],
        )
        users = [only] if only is not None else self._users(value)
        while len(users) == 1 and self._absorb(layer, users[0]):
            value = users[0].name
            self.absorbed.add(value)
            users = self._users(value)
        if layer.logits is None:
            self._outputs(layer, value, users, only)
        self.network.layers.append(layer)
        self.materialized.update(layer.outputs)

    def _users(self, value: str) -> list[Node]:
        return [user for user in self.users[value] if user.name not in self.absorbed]

    def _absorb(self, layer: Layer, node: Node) -> bool:
        """Fuse ``node`` into the layer if the post-processor's order allows it."""
        bits = self.graph.types[node.name].bits
        fresh = layer.permutation is None and layer.residual is None
        if isinstance(node, Affine):
            if layer.affine is not None or layer.relu_before or not fresh:
                return False
            layer.affine = AffineStep(node.scale, node.offset, node.shift, node.bits)
            layer.saturation_bits = bits
            return True
        if isinstance(node, Logits):
            channels = len(node.offset)
            ones, zeros = np.ones(channels, np.int64), np.zeros(channels, np.int64)
            layer.affine = AffineStep(ones, node.offset, zeros, bits)
            layer.logits = node.name
            return True
        if isinstance(node, Relu):
            if layer.residual is not None:
                layer.relu_after = True
            else:
                layer.relu_before = True
            return True
        if isinstance(node, Permute) and self._is_residual(node.name):
            followers = self._users(node.name)
            if layer.residual is not None or not all(isinstance(user, Add) for user in followers):
                return False
            inner = layer.permutation
            layer.permutation = node.permutation if inner is None else inner[node.permutation]
            return True
        if isinstance(node, Add) and layer.residual is None:
            return self._absorb_addition(layer, node, bits)
        return False

    def _absorb_addition(self, layer: Layer, node: Add, bits: int) -> bool:
        others = [name for name in node.inputs if self._addend(name) in self.materialized]
        if isinstance(layer.operation, Pool) or len(others) != 1:
            return False
        layer.residual = self._addend(others[0])
        layer.saturation_bits = bits
        return True

    def _addend(self, tensor: str) -> str:
        """The tensor itself, or the one that it repeats."""
        node = self.graph[tensor]
        while isinstance(node, Repeat):
            tensor = node.input
            node = self.graph[tensor]
        return tensor

    def _outputs(self, layer: Layer, value: str, users: list[Node], only: Node | None) -> None:
        """Decide what leaves the layer: up to two code tensors, and a residual if one is read."""
        stored = False
        permuted: dict[str, Ints] = {}
        if value == layer.input:  # a bare quantiser of a residual
            users = [] if only is None else [only]
            stored = True
        for user in users:
            quantizers, permutation = [user], None
            if isinstance(user, Permute) and self._is_residual(value):
                quantizers, permutation = self._users(user.name), user.permutation
            if not quantizers or not all(isinstance(q, Quantize | Clamp) for q in quantizers):
                stored = self._needs(layer, value)
                continue
            if len(layer.codes) + len(quantizers) > MAX_CODES:
                stored = self._needs(layer, value)
                continue
            for quantizer in quantizers:
                layer.codes.append(_code_output(quantizer, permutation))
                self.absorbed.add(quantizer.name)
            if permutation is not None:
                self.absorbed.add(user.name)
                permuted[user.name] = permutation
        if stored:  # otherwise nobody needs to know where the permuted tensor lies: it does not
            self.network.aliases |= {name: (value, way) for name, way in permuted.items()}
        if not layer.codes and not stored:
            self._needs(layer, value)

    def _needs(self, layer: Layer, value: str) -> bool:
        """The layer's value is read as a residual, so it is stored."""
        if value == layer.input:
            return True
        if not self._is_residual(value):
            readers = ", ".join(user.name for user in self.users[value]) or "the network's end"
            raise UnsupportedLayerError(
                f"{value}: an accumulator cannot be stored for {readers}; supported are an Affine, "
                f"a Logits, or at most {MAX_CODES} Quantize nodes"
            )
        layer.residual_out = value
        return True


def _code_output(node: Node, permutation: Ints | None) -> CodeOutput:
    if isinstance(node, Clamp):
        return CodeOutput(node.name, 8, permutation=permutation)
    assert isinstance(node, Quantize)
    return CodeOutput(node.name, node.bits, node.thresholds, node.negate, permutation)


def gather_taps(network: LoweredNetwork, lanes: int) -> None:
    """Let the first convolution read one channel per tap where that fills words better (im2col).

    A stem with few input channels would leave most lanes of the array idle. The input is then
    written by the host as (taps, output height, output width), tap order (row, column, channel).

    Parameters:
        network: Changed in place.
        lanes: Channels of one activation word.
    """
    source = network.graph.input.name
    readers = [layer for layer in network.layers if network.stored(layer.input) == source]
    if len(readers) != 1 or readers[0].input != source:
        return
    layer = readers[0]
    node = layer.operation
    if not isinstance(node, Convolution) or node.groups != 1:
        return
    outputs, channels, height, width = node.weight.shape
    taps = channels * height * width
    if -(-taps // lanes) >= height * width * -(-channels // lanes):
        return
    weight = np.ascontiguousarray(node.weight.transpose(0, 2, 3, 1)).reshape(outputs, taps, 1, 1)
    network.gathered = node
    layer.operation = Convolution(
        name=node.name,
        input=node.input,
        weight=weight,
        weight_bits=node.weight_bits,
        alpha=node.alpha,
        beta=node.beta,
        quantized=node.quantized,
    )
    layer.input_shape = type(layer.shape)(taps, layer.shape.height, layer.shape.width)


def im2col(codes: npt.NDArray[np.uint8], node: Convolution, pad: int) -> npt.NDArray[np.uint8]:
    """The convolution's window at each output pixel, one channel per tap.

    Parameters:
        codes: Input codes, shape (N, C, H, W).
        node: The convolution whose windows are meant.
        pad: Code that padding taps carry.

    Returns:
        uint8 array of shape (N, KH * KW * C, OH, OW), tap order (row, column, channel).
    """
    _, _, kernel_rows, kernel_columns = node.weight.shape
    (rows, columns), (stride_rows, stride_columns) = node.padding, node.stride
    padded = np.pad(codes, ((0, 0), (0, 0), (rows, rows), (columns, columns)), constant_values=pad)
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (kernel_rows, kernel_columns), axis=(2, 3)
    )[:, :, ::stride_rows, ::stride_columns]
    batch, _, height, width = windows.shape[:4]
    taps = windows.transpose(0, 4, 5, 1, 2, 3)
    return np.ascontiguousarray(taps).reshape(batch, -1, height, width)
