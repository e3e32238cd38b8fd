"""Exports an integer graph as a QONNX file whose executor gives the same numbers.

Tensors hold the graph's integers: codes less their zero point, accumulators, residuals. Float32
holds them exactly below 2^24; a requantization, whose products are larger, is done in float64, and
sums that may reach 2^24 are those of ConvInteger. See ``docs/qonnx.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from palquant.errors import RangeError, UnsupportedLayerError
from palquant.files import write_bytes
from palquant.sw import graph as ir
from palquant.sw.qonnx_source import DOMAIN, METADATA

#: Version of the standard operators that are written.
OPSET = 20
_EXACT = {TensorProto.FLOAT: 1 << 24, TensorProto.DOUBLE: 1 << 53}


def export_qonnx(graph: ir.Graph, path: str | Path) -> None:
    """Write a graph as an ONNX file in the QONNX dialect.

    The input is a float32 image, the output are the real logits in float64. Importing the file
    gives the same graph.

    Parameters:
        graph: The network; its names become those of the file's tensors.
        path: The file.

    Raises:
        UnsupportedLayerError: The host computes a part of the network, or a node has no operators.
        RangeError: A node's integers are too large for the executor to be exact; names it.
        OutputError: The file cannot be written.
    """
    model = _Exporter(graph).model()
    write_bytes(path, model.SerializeToString())


class _Exporter:
    """Writes the operators of one node after the other."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.infos: list[onnx.ValueInfoProto] = []
        #: Tensor of the graph -> tensor of the file that holds it.
        self.held: dict[str, str] = {}
        #: Tensor of the file -> its element type.
        self.kinds: dict[str, int] = {}
        self.bounds: dict[str, int] = {}

    def model(self) -> onnx.ModelProto:
        """The whole file."""
        graph = self.graph
        if graph.host is not None:
            raise UnsupportedLayerError(f"{graph.input.name}: the host computes what is before it "
                                        "(supported: networks from images to logits)")  # fmt: skip
        for node in graph:
            if type(node) not in _WRITERS:
                supported = ", ".join(kind.__name__ for kind in _WRITERS)
                raise UnsupportedLayerError(f"{node.name}: {type(node).__name__} has no QONNX "
                                            f"operators (supported: {supported})")  # fmt: skip
            _WRITERS[type(node)](self, node)
        shape = graph.shapes[graph.output.name]
        result = self.held[graph.output.name]
        sizes = [1, shape.channels, shape.height, shape.width]
        if isinstance(graph.output, ir.Logits) and (shape.height, shape.width) == (1, 1):
            result = self.add("Flatten", [result], f"{graph.output.name}/flat", self.kinds[result])
            sizes = sizes[:2]
        source = graph.input.shape
        image = helper.make_tensor_value_info(
            f"{graph.input.name}/image", TensorProto.FLOAT,
            [1, source.channels, source.height, source.width],
        )  # fmt: skip
        output = helper.make_tensor_value_info(result, self.kinds[result], sizes)
        infos = [info for info in self.infos if info.name != result]
        body = helper.make_graph(
            self.nodes, str(graph.metadata.get("name", "network")), [image], [output],
            self.constants, value_info=infos,
        )  # fmt: skip
        model = helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
            producer_name="palquant",
            ir_version=9,
        )
        helper.set_model_props(model, {METADATA: self.metadata()})
        return model

    def metadata(self) -> str:
        """What operators do not say: the graph's description, and labels of convolutions."""
        labels = {
            node.name: node.quantized
            for node in self.graph
            if isinstance(node, ir.Convolution)
            and node.quantized != (self.graph.types[node.input].bits <= 4)
        }
        stated = {"metadata": self.graph.metadata, "quantized": labels}
        return json.dumps(stated | ({"residual": True} if self.graph.input.residual else {}))

    def add(
        self, operator: str, inputs: list[str], output: str, kind: int, **attributes: Any
    ) -> str:
        """Append a node of one output of a given element type."""
        domain = DOMAIN if operator in ("Quant", "MultiThreshold") else ""
        node = helper.make_node(
            operator, inputs, [output], name=output, domain=domain, **attributes
        )
        self.nodes.append(node)
        self.kinds[output] = kind
        return output

    def constant(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Append a constant, which its element type must hold exactly."""
        array = np.asarray(values)
        found = array.astype(dtype)
        if not np.array_equal(found.astype(array.dtype), array):
            raise RangeError(f"{name}: holds numbers that {np.dtype(dtype).name} rounds")
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(found), name))
        return name

    def column(self, name: str, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> str:
        """Append a constant with one value per channel."""
        return self.constant(name, np.asarray(values).reshape(1, -1, 1, 1), dtype)

    def cast(self, source: str, output: str, kind: int) -> str:
        """A tensor in another element type; itself if it has it already."""
        if self.kinds[source] == kind:
            return source
        return self.add("Cast", [source], output, kind, to=kind)

    def hold(self, node: ir.Node, tensor: str, bound: int) -> None:
        """Note what holds a node's integers, none of them above ``bound``."""
        self.held[node.name] = tensor
        self.bounds[node.name] = bound

    def input(self, node: ir.Input) -> None:
        name, norm = node.name, node.normalization
        self.kinds[f"{name}/image"] = TensorProto.FLOAT
        double = TensorProto.DOUBLE
        tensor = self.cast(f"{name}/image", f"{name}/double", double)
        for operator, label, values in (
            ("Sub", "mean", np.array(norm.mean, np.float64)),
            ("Div", "std", np.array(norm.std, np.float64)),
            ("Div", "scale", np.array([norm.scale], np.float64)),
        ):
            constant = self.column(f"{name}/{label}", values, np.float64)
            tensor = self.add(operator, [tensor, constant], f"{name}/by_{label}", double)
        tensor = self.add("Round", [tensor], f"{name}/rounded", double)
        low, high = node.type.min - node.zero_point, node.type.max - node.zero_point
        tensor = self._clip(tensor, name, low, high, double)
        self.hold(node, self.cast(tensor, f"{name}/float", TensorProto.FLOAT), max(-low, high))

    def _clip(self, source: str, name: str, low: int, high: int, kind: int) -> str:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        bounds = [
            self.constant(f"{name}/{label}", np.array(value), dtype)
            for label, value in (("low", low), ("high", high))
        ]
        return self.add("Clip", [source, *bounds], name, kind)

    def convolution(self, node: ir.Convolution) -> None:
        name = node.name
        levels = node.alpha * node.weight.astype(np.int64) - node.beta
        kind = self.graph.types[node.input]
        largest = max(kind.zero_point, kind.max - kind.zero_point)
        bound = int(np.abs(levels).sum((1, 2, 3)).max()) * largest
        weight = self._weights(node, levels)
        window = {
            "kernel_shape": list(node.weight.shape[2:]),
            "strides": list(node.stride),
            "pads": [*node.padding, *node.padding],
            "group": node.groups,
        }
        source = self.held[node.input]
        if bound < _EXACT[TensorProto.FLOAT]:
            self.hold(node, self.add("Conv", [source, weight], name, TensorProto.FLOAT, **window),
                      bound)  # fmt: skip
            return
        if levels.min() < -128 or levels.max() > 127 or bound >= 1 << 31:
            raise RangeError(f"{name}: sums reach {bound}, and weights {levels.min()} to "
                             f"{levels.max()} (exact in the file: sums below 2^24, or weights of "
                             "8 bits and sums below 2^31)")  # fmt: skip
        if kind.zero_point:
            zero = self.constant(f"{name}/zero", np.array(kind.zero_point), np.float32)
            source = self.add("Add", [source, zero], f"{name}/codes", TensorProto.FLOAT)
        byte, small = TensorProto.UINT8, TensorProto.INT8
        inputs = [
            self.add("Cast", [source], f"{name}/bytes", byte, to=byte),
            self.add("Cast", [weight], f"{name}/small", small, to=small),
            self.constant(f"{name}/zero_point", np.array(kind.zero_point), np.uint8),
        ]
        sums = self.add("ConvInteger", inputs, name, TensorProto.INT32, **window)
        self.hold(node, self.cast(sums, f"{name}/double", TensorProto.DOUBLE), bound)

    def _weights(self, node: ir.Convolution, levels: npt.NDArray[np.int64]) -> str:
        """Weights as floats behind a Quant node that says which codes they have."""
        name, bits = node.name, node.weight_bits
        signed = node.alpha == 1 and node.beta == 1 << (bits - 1)
        narrow = node.beta.bit_length()  # an odd width is stored in the next even one
        if node.alpha == 2 and node.beta == (1 << narrow) - 1 and narrow == bits - 1 > 1:
            bits = narrow if not int(node.weight.max()) >> narrow else bits
        inputs = [
            self.constant(f"{name}/weight", levels, np.float32),
            self.constant(f"{name}/weight_scale", np.array(node.alpha), np.float32),
            self.constant(
                f"{name}/weight_zero", np.array(0 if signed else node.beta / node.alpha), np.float32
            ),
            self.constant(f"{name}/weight_bits", np.array(bits), np.float32),
        ]
        return self.add(
            "Quant", inputs, f"{name}/weight_levels", TensorProto.FLOAT,
            signed=int(signed), narrow=0, rounding_mode="ROUND",
        )  # fmt: skip

    def affine(self, node: ir.Affine) -> None:
        name, double = node.name, TensorProto.DOUBLE
        product = self.bounds[node.input] * int(np.abs(node.scale).max()) + int(
            np.abs(node.offset).max()
        )
        if product >= _EXACT[double]:
            raise RangeError(f"{name}: products reach {product} (exact in the file: below 2^53)")
        tensor = self.cast(self.held[node.input], f"{name}/double", double)
        for operator, values in (
            ("Mul", node.scale), ("Add", node.offset), ("Div", 1 << node.shift),
        ):  # fmt: skip
            constant = self.column(f"{name}/{operator}", values, np.float64)
            tensor = self.add(operator, [tensor, constant], f"{name}/{operator}_done", double)
        tensor = self.add("Floor", [tensor], f"{name}/floor", double)
        limit = 1 << (node.bits - 1)
        tensor = self._clip(tensor, name, -limit, limit - 1, double)
        self.hold(node, self.cast(tensor, f"{name}/float", TensorProto.FLOAT), limit)

    def relu(self, node: ir.Relu) -> None:
        self._same(node, "Relu")

    def permute(self, node: ir.Permute) -> None:
        order = self.constant(f"{node.name}/order", node.permutation, np.int64)
        self._same(node, "Gather", order, axis=1)

    def repeat(self, node: ir.Repeat) -> None:
        source = self.held[node.input]
        tensor = self.add("Concat", [source] * node.times, node.name, self.kinds[source], axis=1)
        self.hold(node, tensor, self.bounds[node.input])

    def max_pool(self, node: ir.MaxPool) -> None:
        self._same(node, "MaxPool", kernel_shape=list(node.kernel), strides=list(node.stride),
                   pads=[*node.padding, *node.padding])  # fmt: skip

    def _same(self, node: ir.UnaryNode, operator: str, *inputs: str, **attributes: Any) -> None:
        """A node of one operator whose result is like its operand."""
        source = self.held[node.input]
        tensor = self.add(operator, [source, *inputs], node.name, self.kinds[source], **attributes)
        self.hold(node, tensor, self.bounds[node.input])

    def addition(self, node: ir.Add) -> None:
        limit = 1 << (self.graph.types[node.name].bits - 1)
        total = self.add(
            "Add", [self.held[node.a], self.held[node.b]], f"{node.name}/total", TensorProto.FLOAT
        )
        self.hold(node, self._clip(total, node.name, -limit, limit - 1, TensorProto.FLOAT), limit)

    def sum_pool(self, node: ir.SumPool) -> None:
        name, source = node.name, self.held[node.input]
        area = node.kernel[0] * node.kernel[1]
        bound = area * self.bounds[node.input]
        shape = self.graph.shapes[node.input]
        whole = node.kernel == node.stride == (shape.height, shape.width)
        if bound > 1 << 21 and whole and not any(node.padding):
            double = self.cast(source, f"{name}/double", TensorProto.DOUBLE)
            axes = self.constant(f"{name}/axes", np.array([2, 3]), np.int64)
            self.hold(node, self.add("ReduceSum", [double, axes], name, TensorProto.DOUBLE), bound)
            return
        if bound > 1 << 21:
            raise RangeError(f"{name}: sums reach {bound} (exact in the file: up to 2^21, or the "
                             "sum of a whole image)")  # fmt: skip
        average = self.add(
            "AveragePool", [source], name, TensorProto.FLOAT, kernel_shape=list(node.kernel),
            strides=list(node.stride), pads=[*node.padding, *node.padding], count_include_pad=1,
        )  # fmt: skip
        size = self.constant(f"{name}/area", np.array(area), np.float32)
        total = self.add("Mul", [average, size], f"{name}/total", TensorProto.FLOAT)
        self.hold(node, self.add("Round", [total], f"{name}/sum", TensorProto.FLOAT), bound)

    def quantize(self, node: ir.Quantize) -> None:
        name, source = node.name, self.held[node.input]
        if node.negate.any():
            signs = self.column(f"{name}/signs", np.where(node.negate, -1, 1),
                                helper.tensor_dtype_to_np_dtype(self.kinds[source]))  # fmt: skip
            source = self.add("Mul", [source, signs], f"{name}/turned", self.kinds[source])
        small = int(np.abs(node.thresholds).max()) < 1 << 24
        dtype = np.float32 if small else np.float64
        thresholds = self.constant(f"{name}/thresholds", node.thresholds, dtype)
        codes = self.add(
            "MultiThreshold", [source, thresholds], name, self.kinds[source],
            out_dtype=f"UINT{node.bits}", out_scale=1.0, out_bias=-float(node.zero_point),
            data_layout="NCHW",
        )  # fmt: skip
        bound = (1 << node.bits) - 1
        self.hold(node, self.cast(codes, f"{name}/float", TensorProto.FLOAT), bound)

    def clamp(self, node: ir.Clamp) -> None:
        kind = TensorProto.FLOAT
        tensor = self._clip(self.held[node.input], node.name, 0, 255, kind)
        if node.zero_point:
            zero = self.constant(f"{node.name}/zero", np.array(node.zero_point), np.float32)
            tensor = self.add("Sub", [tensor, zero], f"{node.name}/values", kind)
        self.hold(node, tensor, 255)

    def logits(self, node: ir.Logits) -> None:
        name, double = node.name, TensorProto.DOUBLE
        tensor = self.cast(self.held[node.input], f"{name}/double", double)
        offset = self.column(f"{name}/offset", node.offset, np.float64)
        tensor = self.add("Add", [tensor, offset], f"{name}/sum", double)
        scale = self.column(f"{name}/scale", node.scale, np.float64)
        product = name if node.rest is None else f"{name}/product"
        tensor = self.add("Mul", [tensor, scale], product, double)
        if node.rest is not None:
            rest = self.column(f"{name}/rest", node.rest, np.float64)
            tensor = self.add("Add", [tensor, rest], name, double)
        self.hold(node, tensor, 1 << 31)


_WRITERS: dict[type[ir.Node], Callable[[_Exporter, Any], None]] = {
    ir.Input: _Exporter.input,
    ir.Convolution: _Exporter.convolution,
    ir.Affine: _Exporter.affine,
    ir.Relu: _Exporter.relu,
    ir.Add: _Exporter.addition,
    ir.Permute: _Exporter.permute,
    ir.Repeat: _Exporter.repeat,
    ir.MaxPool: _Exporter.max_pool,
    ir.SumPool: _Exporter.sum_pool,
    ir.Quantize: _Exporter.quantize,
    ir.Clamp: _Exporter.clamp,
    ir.Logits: _Exporter.logits,
}
