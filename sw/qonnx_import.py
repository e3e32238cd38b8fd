"""Imports a QONNX file: its operators become the nodes of an integer graph.

The graph computes what qonnx's executor computes. Where that cannot be proved, for quantisers
behind sums that the executor rounds, or of more than 4 bits, or where unquantised floats are added
so that fixed-point numbers must take their place, the graph's metadata says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from palquant.errors import GraphError, ModelError, RangeError, UnsupportedLayerError
from palquant.sw import graph as ir
from palquant.sw.qonnx_additions import add_tensors, average_reals, fixed_point
from palquant.sw.qonnx_arrange import ARRANGEMENTS, arrange
from palquant.sw.qonnx_builder import Builder, Findings
from palquant.sw.qonnx_chains import ELEMENTWISE, append, append_to_image, round_integers
from palquant.sw.qonnx_codes import make_codes
from palquant.sw.qonnx_inputs import read_input
from palquant.sw.qonnx_kernels import Kernels
from palquant.sw.qonnx_pools import move_residual
from palquant.sw.qonnx_products import convolution, product
from palquant.sw.qonnx_result import Result, check_result, finish, is_reshape
from palquant.sw.qonnx_source import METADATA, QUANTIZERS, Source, attributes, label, load, refuse
from palquant.sw.qonnx_streams import check_calibration, float_tensors, in_stream
from palquant.sw.qonnx_values import Arranged, Averaged, Image, Pooling, Real, Value
from palquant.sw.qonnx_windows import Window, read_window, whole

Floats = npt.NDArray[np.float64]

#: Operators whose second input is made by a quantiser of constants.
CONVOLUTIONS = ("Conv", "ConvInteger")
PRODUCTS = ("Gemm", "MatMul")
WEIGHTED = (*CONVOLUTIONS, *PRODUCTS)


@dataclass(frozen=True, eq=False)
class Imported:
    """A network that was read from a file.

    Parameters:
        graph: The integer graph.
        findings: What could not be proved to be exact.
        real: Tensor of the graph that is one of the file's as well -> scale and offset per channel
            that turn its integers into the real values of the file's tensor.
        result: What turns the graph's output into the file's result, ``source.output``.
        source: The file, as qonnx's executor runs it.
    """

    graph: ir.Graph
    findings: Findings
    real: dict[str, tuple[Floats, Floats]]
    result: Result
    source: Source


def import_qonnx(path: str | Path, calibration: npt.NDArray[Any] | None = None) -> ir.Graph:
    """The integer graph of an ONNX file in the QONNX dialect.

    Nodes bear the names of the file's tensors. ``graph.metadata["import"]`` holds what
    :class:`~palquant.sw.qonnx_builder.Findings` lists, where there is anything.

    Parameters:
        path: The file; a file of external data lies beside it.
        calibration: Images (N, C, H, W), float32 as the network reads them, or uint8, which are
            divided by 255; needed only if floats without a quantiser are added or averaged.

    Raises:
        ModelError: The file is missing, truncated, or no network of one image and one result.
        UnsupportedLayerError: A node that has no integers of this machine; names it.
        RangeError: Integers that are too large for their registers.
        InputError: Calibration images are needed and were not given, or do not fit.
    """
    return read_qonnx(path, calibration).graph


def read_qonnx(path: str | Path, calibration: npt.NDArray[Any] | None = None) -> Imported:
    """Like :func:`import_qonnx`, with all that connects graph and file."""
    source = load(path)
    if calibration is not None:
        check_calibration(source, calibration)
    return _Importer(source, calibration).run()


class _Importer:
    """Walks over the nodes of a file."""

    def __init__(self, source: Source, calibration: npt.NDArray[Any] | None) -> None:
        self.source = source
        self.kernels = Kernels(source)
        self.builder = Builder(source, self.kernels)
        self.calibration = calibration
        self.values: dict[str, Value] = {}
        self.floats = float_tensors(source)

    def run(self) -> Imported:
        source, builder = self.source, self.builder
        metadata, quantized = self._metadata()
        channels = source.shape(source.input)[1]
        needed = self._needed()
        self.values[source.input] = Image((), np.ones(channels), np.zeros(channels))
        for node in source.nodes:
            if node.output[0] in self.values or not self._reads_image(node):
                continue
            if needed.isdisjoint(node.output):
                continue
            builder.position = source.order.get(node.output[0], builder.position)
            self._node(node)
        if source.output not in self.values:
            raise ModelError(f"{source.path}: its result {source.output} does not depend on its "
                             "input")  # fmt: skip
        builder.position = len(source.order)
        result = finish(builder, self.values[source.output])
        nodes = builder.ordered()
        nodes = [
            replace(made, quantized=quantized[made.name])
            if isinstance(made, ir.Convolution) and made.name in quantized
            else made
            for made in nodes
        ]
        found = {k: v for k, v in asdict(builder.findings).items() if v}
        graph = ir.Graph(nodes, metadata | ({"import": found} if found else {}))
        check_result(builder, graph, result)
        real = {k: v for k, v in builder.real.items() if k in source.order}
        return Imported(graph, builder.findings, real, result, source)

    def _needed(self) -> set[str]:
        """Tensors that the result depends on, itself included."""
        found = {self.source.output}
        for node in reversed(self.source.nodes):
            if not found.isdisjoint(node.output):
                found.update(node.input)
        return found

    def _reads_image(self, node: NodeProto) -> bool:
        return any(name in self.values for name in node.input)

    def _metadata(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """The graph's metadata, and convolutions whose precision the file states."""
        text = self.source.metadata.get(METADATA)
        try:
            stored = {} if text is None else json.loads(text)
            metadata = dict(stored.get("metadata", {"name": self.source.path.stem}))
            self.builder.residual_input = bool(stored.get("residual", False))
            quantized = {str(k): bool(v) for k, v in stored.get("quantized", {}).items()}
        except (ValueError, AttributeError, TypeError):
            raise ModelError(f"{self.source.path}: its metadata {METADATA} is no JSON object of "
                             "an export") from None  # fmt: skip
        return metadata, quantized

    def _node(self, node: NodeProto) -> None:
        operator = node.op_type
        if operator not in _HANDLERS:
            supported = ", ".join(sorted(_HANDLERS))
            refuse(node, f"is not supported (supported: {supported})")
        try:
            for name, value in _HANDLERS[operator](self, node).items():
                self.values[name] = self._in_stream(name, value)
        except (UnsupportedLayerError, RangeError) as error:
            if str(error).startswith(label(node)):
                raise
            raise type(error)(f"{label(node)}: {error}") from None
        except GraphError as error:
            raise GraphError(f"{label(node)}: {error}") from None

    def _in_stream(self, name: str, value: Value) -> Value:
        """A tensor that is added as a float becomes fixed point at once, for all its readers."""
        if name not in self.floats or not isinstance(value, Real) or value.grid is not None:
            return value
        if self.builder.kind(value.source) is not ir.Kind.ACCUMULATOR or value.name != name:
            return value
        tensor, step = in_stream(self.builder, value, name, self.calibration)
        self.builder.findings.calibrated[tensor] = step
        return Real(name, tensor, fixed_point(value.shape.channels, step), value.shape)

    def operand(self, node: NodeProto) -> Value:
        """The only input of a node that is no constant."""
        found = [self.values[name] for name in node.input if name in self.values]
        if len(found) != 1:
            refuse(node, f"has {len(found)} inputs that depend on the image (supported: one)")
        known = (*self.values, *self.source.constants)
        if node.op_type not in WEIGHTED and any(n and n not in known for n in node.input):
            refuse(node, "reads a tensor that is neither constant nor part of the network")
        return found[0]

    def real(self, node: NodeProto) -> Real:
        """The only input of a node, as a function of integers."""
        value = self.operand(node)
        if isinstance(value, Averaged):
            codes = make_codes(self.builder, value.operand)
            return self.builder.average(codes, value.window, value.name)
        if isinstance(value, Image):
            refuse(node, "reads the image itself (expected a quantiser of the input first)")
        if isinstance(value, Arranged):
            refuse(node, f"reads {value.name}, whose elements are in another arrangement "
                   "(supported: channel permutations, flattening before a Gemm, and a reshape of "
                   "the result)")  # fmt: skip
        return value

    def quantize(self, node: NodeProto) -> dict[str, Value]:
        value = self.operand(node)
        if isinstance(value, Image):
            return {node.output[0]: read_input(self.builder, node, value)}
        return self.elementwise(node)

    def elementwise(self, node: NodeProto) -> dict[str, Value]:
        dynamic = [name for name in node.input if name in self.values]
        if node.op_type == "Add" and len(dynamic) == 2:
            return self.addition(node)
        value = self.operand(node)
        if isinstance(value, Image):
            return {node.output[0]: append_to_image(self.source, node, value)}
        if isinstance(value, Arranged) and self._ends(node) and is_reshape(self.builder, value):
            real = value.operand if isinstance(value.operand, Real) else self.real(node)
        else:
            real = self.real(node)
        self._check_channels(node, real)
        return {node.output[0]: append(self.builder, node, real)}

    def _check_channels(self, node: NodeProto, real: Real) -> None:
        """Behind a reshape, the file's channels are no longer ours: one constant for all, then."""
        batch = self.source.shape(self.source.input)[0]
        operand = next(name for name in node.input if name in self.values)
        if self.source.shape(operand)[:2] == (batch, real.shape.channels):
            return
        constants = [self.source.constants.get(name) for name in node.input]
        many = any(v is not None and v.size > 1 for v in constants)
        if node.op_type in ("BatchNormalization", "MultiThreshold") or many:
            refuse(node, f"has other values for each element of {operand} (supported behind a "
                   "reshape: one value for all)")  # fmt: skip

    def _ends(self, node: NodeProto) -> bool:
        """Whether only elementwise nodes stand between a node and the result."""
        name = node.output[0]
        while name != self.source.output:
            readers = self.source.consumers.get(name, [])
            if len(readers) != 1 or readers[0].op_type not in ELEMENTWISE:
                return False
            name = readers[0].output[0]
        return True

    def addition(self, node: NodeProto) -> dict[str, Value]:
        a, b = (self.values[name] for name in node.input)
        if not isinstance(a, Real) or not isinstance(b, Real):
            refuse(node, "adds a tensor that is no image of sums or codes (expected activations)")
        return add_tensors(self.builder, node, a, b, self.calibration)

    def rounding(self, node: NodeProto) -> dict[str, Value]:
        value = self.operand(node)
        if isinstance(value, Image):
            follower = self._only_reader(node, "Clip")
            return {follower.output[0]: read_input(self.builder, follower, value, rounded=True)}
        follower = self._only_reader(node, "Clip") if node.op_type == "Floor" else node
        real = round_integers(self.builder, node, follower, self.real(node))
        return {follower.output[0]: real}

    def _only_reader(self, node: NodeProto, operator: str) -> NodeProto:
        readers = self.source.consumers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != operator:
            refuse(node, f"is not followed by {operator} alone (expected the range of integers)")
        return readers[0]

    def convolution(self, node: NodeProto) -> dict[str, Value]:
        value = self.operand(node)
        operand = value if isinstance(value, Averaged) else self.real(node)
        return {node.output[0]: convolution(self.builder, node, operand)}

    def product(self, node: NodeProto) -> dict[str, Value]:
        value = self.operand(node)
        if isinstance(value, Image):
            self.real(node)
        return {node.output[0]: product(self.builder, node, value)}

    def max_pool(self, node: NodeProto) -> dict[str, Value]:
        real = self.real(node)
        if len(node.output) > 1:
            refuse(node, "gives indices (supported: values only)")
        window = read_window(node, real.shape)
        if any(p >= k for p, k in zip(window.padding, window.kernel, strict=True)):
            refuse(node, f"has padding {window.padding} (expected less than its kernel)")
        step, shape = Pooling(window, node.output[0]), window.shape(real.shape)
        if not real.steps and self.builder.kind(real.source) is ir.Kind.RESIDUAL:
            name, base = move_residual(self.builder, step, real.source, real.base, step.name)
            return {step.name: Real(step.name, name, base, shape, (), real.grid)}
        return {step.name: real.then(step, shape=shape)}

    def average_pool(self, node: NodeProto) -> dict[str, Value]:
        real = self.real(node)
        window = self._average_window(node, real)
        if any(window.padding) and not attributes(node).get("count_include_pad", 0):
            refuse(node, "averages a padded image without its padding (supported: "
                   "count_include_pad 1, or no padding)")  # fmt: skip
        name, summed = node.output[0], node.op_type == "ReduceSum"
        kind = self.builder.kind(real.source)
        if real.grid is not None and (real.steps or kind is not ir.Kind.RESIDUAL) and not summed:
            return {name: Averaged(name, real, window, window.shape(real.shape))}
        return {name: average_reals(self.builder, node, real, window, self.calibration, summed)}

    def _average_window(self, node: NodeProto, real: Real) -> Window:
        found = attributes(node)
        if node.op_type == "GlobalAveragePool":
            return whole(real.shape)
        if node.op_type == "AveragePool":
            return read_window(node, real.shape)
        axes = found.get("axes")
        if axes is None:
            constant = self.source.constant(node, 1)
            axes = [] if constant is None else np.atleast_1d(constant).tolist()
        if sorted(axis % 4 for axis in axes) != [2, 3] or not found.get("keepdims", 1):
            refuse(node, f"reduces axes {list(axes)} with keepdims {found.get('keepdims', 1)} "
                   "(supported: height and width, keepdims 1)")  # fmt: skip
        return whole(real.shape)

    def arrangement(self, node: NodeProto) -> dict[str, Value]:
        values = [self.values[name] for name in node.input if name in self.values]
        if any(isinstance(value, Image) for value in values):
            refuse(node, "rearranges the image itself (expected a quantiser of the input first)")
        return arrange(self.builder, node, self.values)


_HANDLERS: dict[str, Callable[[_Importer, NodeProto], dict[str, Value]]] = {
    **dict.fromkeys(ELEMENTWISE, _Importer.elementwise),
    **dict.fromkeys(QUANTIZERS, _Importer.quantize),
    **dict.fromkeys(ARRANGEMENTS, _Importer.arrangement),
    "Floor": _Importer.rounding,
    "Round": _Importer.rounding,
    **dict.fromkeys(CONVOLUTIONS, _Importer.convolution),
    **dict.fromkeys(PRODUCTS, _Importer.product),
    "MaxPool": _Importer.max_pool,
    "AveragePool": _Importer.average_pool,
    "GlobalAveragePool": _Importer.average_pool,
    "ReduceMean": _Importer.average_pool,
    "ReduceSum": _Importer.average_pool,
}
