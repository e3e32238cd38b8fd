"""The integer graph while it is made: its nodes, their real values, and what was not exact."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from palquant.errors import UnsupportedLayerError
from palquant.sw import graph as ir
from palquant.sw.qonnx_kernels import Kernels
from palquant.sw.qonnx_quantizers import Weights, is_power_of_two
from palquant.sw.qonnx_source import Source
from palquant.sw.qonnx_staircase import Ints
from palquant.sw.qonnx_values import Base, Codes, Floats, Real
from palquant.sw.qonnx_windows import Window

#: Half a unit in the last place of float32, relative.
ROUNDING = 2.0**-24
#: Integers below this magnitude, and sums of them, are exact in float32.
EXACT = 1 << 24
#: Width of residuals, and the largest one.
RESIDUAL_BITS = 16
RESIDUAL_LIMIT = (1 << (RESIDUAL_BITS - 1)) - 1


@dataclass
class Findings:
    """What an import could not prove to be exact; empty where the graph equals the executor.

    Parameters:
        doubtful: Tensor -> steps of its quantiser so near to an integer that the executor's
            rounding of float sums, in whatever order it adds, could decide them otherwise; for
            the input, byte values of all channels that the executor gives another code.
        fitted: Tensor -> integers at which a quantiser of 5 to 8 bits, a multiplication in the
            machine, gives another code, summed over channels.
        calibrated: Tensor -> real step of the fixed-point numbers that took the place of floats.
    """

    doubtful: dict[str, int] = field(default_factory=dict)
    fitted: dict[str, int] = field(default_factory=dict)
    calibrated: dict[str, float] = field(default_factory=dict)


class Builder:
    """Appends the nodes of the integer graph.

    Parameters:
        source: The file.
        kernels: The executor's kernels.
    """

    def __init__(self, source: Source, kernels: Kernels) -> None:
        self.source = source
        self.kernels = kernels
        self.nodes: dict[str, ir.Node] = {}
        self.findings = Findings()
        #: Tensor -> scale and offset per channel of its integers' real values.
        self.real: dict[str, tuple[Floats, Floats]] = {}
        #: Tensor -> step of its fixed-point stream, once that was measured.
        self.streams: dict[str, float] | None = None
        #: Whether an export says that an input of 8 bits is a residual.
        self.residual_input = False
        #: Place in the file of the node that is imported.
        self.position = 0
        self._positions: dict[str, tuple[int, int]] = {}

    def add(self, node: ir.Node, scale: npt.ArrayLike, offset: npt.ArrayLike = 0.0) -> str:
        """Append a node, whose integers have the real values ``integer * scale + offset``."""
        if node.name in self.nodes:
            raise UnsupportedLayerError(f"{node.name}: is needed in two ways at once (expected a "
                                        "quantiser for each use)")  # fmt: skip
        at = self.source.order.get(node.name, self.position)
        self._positions[node.name] = (at, len(self.nodes))
        self.nodes[node.name] = node
        self.real[node.name] = (np.asarray(scale, np.float64), np.asarray(offset, np.float64))
        return node.name

    def ordered(self) -> list[ir.Node]:
        """All nodes: each behind its inputs, and apart from that in the order of the file."""
        waiting = {node.name: len(set(node.inputs)) for node in self.nodes.values()}
        readers: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in set(node.inputs):
                readers[name].append(node.name)
        ready = [(self._positions[name], name) for name, count in waiting.items() if not count]
        heapq.heapify(ready)
        found = []
        while ready:
            _, name = heapq.heappop(ready)
            found.append(self.nodes[name])
            for reader in readers[name]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    heapq.heappush(ready, (self._positions[reader], reader))
        return found

    def kind(self, name: str) -> ir.Kind:
        """Kind of a tensor of the graph."""
        node = self.nodes[name]
        if isinstance(node, ir.Convolution | ir.SumPool):
            return ir.Kind.ACCUMULATOR
        if isinstance(node, ir.Input):
            return node.type.kind
        if isinstance(node, ir.Quantize | ir.Clamp):
            return ir.Kind.CODES
        if isinstance(node, ir.Permute | ir.Repeat):
            return self.kind(node.input)
        return ir.Kind.RESIDUAL

    def bits(self, name: str) -> int:
        """Width of a residual."""
        node = self.nodes[name]
        if isinstance(node, ir.Affine | ir.Input):
            return node.bits
        return self.bits(node.inputs[0])

    def zero_point(self, name: str) -> int:
        """Zero point of a code tensor of the graph."""
        node = self.nodes[name]
        if isinstance(node, ir.Permute | ir.Repeat):
            return self.zero_point(node.input)
        assert isinstance(node, ir.Quantize | ir.Clamp | ir.Input)
        return node.zero_point

    def correction(self, name: str, channels: int) -> Ints:
        """What the machine's sum of codes lacks to be the accumulator (numerics, section 2)."""
        node = self.nodes[name]
        if not isinstance(node, ir.Convolution):
            return np.zeros(channels, np.int64)
        levels = node.alpha * node.weight.astype(np.int64) - node.beta
        found: Ints = -self.zero_point(node.input) * levels.sum(axis=(1, 2, 3))
        return found

    def permute(self, step_name: str, source: str, order: Ints) -> str:
        """Append a channel permutation of codes or residuals, once."""
        if step_name not in self.nodes:
            scale, offset = (np.broadcast_to(v, order.shape)[order] for v in self.real[source])
            node = ir.Permute(name=step_name, input=source, permutation=order)
            self.add(node, scale, offset)
        return step_name

    def repeat(self, name: str, source: str, channels: int, times: int) -> str:
        """Append all ``channels`` of codes or residuals, ``times`` in a row, once."""
        if name not in self.nodes:
            known = (np.broadcast_to(values, channels) for values in self.real[source])
            scale, offset = (np.tile(values, times) for values in known)
            self.add(ir.Repeat(name=name, input=source, times=times), scale, offset)
        return name

    def multiply(
        self,
        name: str,
        source: str,
        factor: int | Ints,
        added: int = 0,
        *,
        scale: Floats,
        offset: npt.ArrayLike = 0.0,
    ) -> str:
        """Append residuals ``factor * x + added`` of integers x, exactly, once."""
        if name not in self.nodes:
            ones = np.ones(len(scale), np.int64)
            node = ir.Affine(name=name, input=source, scale=factor * ones, offset=added * ones,
                             shift=0 * ones, bits=RESIDUAL_BITS)  # fmt: skip
            self.add(node, scale, offset)
        return name

    def convolve(
        self,
        name: str,
        codes: Codes,
        weights: Weights,
        window: Window,
        groups: int = 1,
        bias: Floats | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> Real:
        """Append a convolution of codes.

        Parameters:
            name: Its tensor's name.
            codes: What it reads.
            weights: Codes of shape (O, I / groups, KH, KW), step of shape (1,) or (O,).
            window: How its kernel moves.
            groups: Number of groups.
            bias: What the executor adds, real, shape (O,).
            dtype: Element type of the executor's sums; integers do not round.
        """
        if any(window.padding) and codes.zero != codes.zero_point:
            raise UnsupportedLayerError(f"{name}: pads activations without a code for the value "
                                        "0 (expected an integer zero point in range)")  # fmt: skip
        levels = weights.levels
        outputs = len(levels)
        step = np.broadcast_to(weights.step * codes.scale, outputs)
        added = np.zeros(outputs) if bias is None else bias
        offset = (codes.zero_point - codes.zero) * levels.sum((1, 2, 3)) * step + added
        self.add(
            ir.Convolution(
                name=name, input=codes.tensor, weight=np.ascontiguousarray(weights.codes),
                weight_bits=weights.bits, alpha=weights.alpha, beta=weights.beta, groups=groups,
                stride=window.stride, padding=window.padding, quantized=codes.levels <= 16,
            ),
            step, offset,
        )  # fmt: skip
        ends = np.stack(
            [levels * -codes.zero_point, levels * (codes.levels - 1 - codes.zero_point)]
        )
        low, high = ends.min(0).sum((1, 2, 3)), ends.max(0).sum((1, 2, 3))
        if any(window.padding):
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        error = np.zeros(outputs)
        if not np.issubdtype(dtype, np.integer):
            largest = max(abs(codes.zero), abs(codes.levels - 1 - codes.zero))
            sums = np.abs(levels).sum((1, 2, 3)) * largest
            factors = np.array([codes.scale, *weights.step])
            fine = 2 * codes.zero == round(2 * codes.zero) and not added.any()
            safe = fine & is_power_of_two(factors) & (2 * sums < EXACT)
            if codes.zero == round(codes.zero) and fine and is_power_of_two(factors):
                safe = sums < EXACT
            error = np.where(
                safe, 0.0, (levels[0].size + 3) * ROUNDING * (sums * step + np.abs(added))
            )
        shape = window.shape(codes.shape)
        base = Base(low, high, step, offset, error, dtype)
        return Real(name, name, base, ir.Shape(outputs, shape.height, shape.width))

    def spread(self, codes: Codes, window: Window, name: str) -> Real:
        """Exact sums of windows of codes, each channel by itself, by weights of ones and zeros."""
        channels = codes.shape.channels
        weight = np.zeros((channels, channels, *window.kernel), np.uint8)
        weight[np.arange(channels), np.arange(channels)] = 1
        return self.convolve(name, codes, Weights(weight, 2, 1, 0, np.ones(1)), window)

    def average(self, codes: Codes, window: Window, name: str) -> Real:
        """Averages of windows of codes, as their sums."""
        sums = self.spread(codes, window, name)
        base, area = sums.base, window.area
        scale, offset = base.scale / area, base.offset / area
        self.real[name] = (scale, offset)
        largest = np.maximum(np.abs(base.low), np.abs(base.high)) * scale + np.abs(offset)
        error = (area + 4) * ROUNDING * largest
        if area.bit_count() == 1:  # a division that does not round
            error = np.where(base.error == 0, 0.0, error)
        return replace(sums, base=replace(base, scale=scale, offset=offset, error=error))
