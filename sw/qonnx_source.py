"""Reads an ONNX file into what an import walks over: nodes, constants, shapes.

Shapes and constants come from qonnx's own transformations, so that they are those of the executor
that defines what the file means. Every mistake of a file ends in one line.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import NodeProto, helper
from qonnx.core.modelwrapper import ModelWrapper  # type: ignore[import-untyped]
from qonnx.transformation.fold_constants import FoldConstants  # type: ignore[import-untyped]
from qonnx.transformation.general import (  # type: ignore[import-untyped]
    RemoveStaticGraphInputs,
)
from qonnx.transformation.infer_shapes import InferShapes  # type: ignore[import-untyped]
from qonnx.transformation.quant_constant_folding import (  # type: ignore[import-untyped]
    FoldTransposeIntoQuantInit,
)

from palquant.errors import ModelError, UnsupportedLayerError, first_line
from palquant.sw.qonnx_schema import fault

#: Versions of the standard operators that are understood.
OPSETS = range(9, 24)
#: Domain of the operators of QONNX.
DOMAIN = "qonnx.custom_op.general"
#: Quantisers; those of weights are not folded away, since they say what the integers are.
QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant", "MultiThreshold")
#: Key of the file's metadata that holds an exported graph's own metadata.
METADATA = "palquant"


@dataclass(eq=False)
class Source:
    """A network as its file says it.

    Parameters:
        path: The file.
        wrapper: The model, with shapes and constants; what qonnx's executor runs.
        input: Name of the image's tensor.
        output: Name of the result's tensor.
        order: Position of each tensor's node in the file.
    """

    path: Path
    wrapper: Any
    input: str
    output: str
    order: dict[str, int]
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    consumers: dict[str, list[NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tensor in self.wrapper.graph.initializer:
            self.constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    @property
    def nodes(self) -> list[NodeProto]:
        """All nodes, each behind those that it reads."""
        return list(self.wrapper.graph.node)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor, batch included."""
        found = self.wrapper.get_tensor_shape(tensor)
        if found is None or any(size < 1 for size in found):
            raise ModelError(f"{self.path}: tensor {tensor} has no fixed shape (expected: all "
                             "sizes but the batch in the file)")  # fmt: skip
        return tuple(found)

    def constant(self, node: NodeProto, position: int) -> npt.NDArray[Any] | None:
        """A node's input if it is a constant, else None; None as well if it is left out."""
        if position >= len(node.input):
            return None
        return self.constants.get(node.input[position])

    def scalar(self, node: NodeProto, position: int, default: float) -> float:
        """A constant of one element among a node's inputs."""
        if position >= len(node.input) or not node.input[position]:
            return default
        value = self.constant(node, position)
        if value is None or value.size != 1:
            refuse(node, f"input {position} is no constant of one element")
        return float(value.reshape(()))

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata."""
        return {item.key: item.value for item in self.wrapper.model.metadata_props}


def refuse(node: NodeProto, text: str) -> NoReturn:
    """Raise what is wrong with a node, by its name."""
    raise UnsupportedLayerError(f"{label(node)}: {text}")


def label(node: NodeProto) -> str:
    """A node's name and operator, for messages."""
    name = node.name or next(iter(node.output), "a node without name")
    return f"{name} ({node.op_type})"


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name, texts as ``str``."""
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def load(path: str | Path) -> Source:
    """Read and prepare an ONNX file.

    Parameters:
        path: The file; tensors that it keeps in a file of their own lie beside it.

    Raises:
        ModelError: The file is missing, truncated, no ONNX, lacks its external data, or has
            other than one input and one output of fixed shape.
        UnsupportedLayerError: A node lacks an input, or has an attribute of another kind than
            its operator's.
    """
    path = Path(path)
    model = _parse(path)
    if not model.graph.node:
        raise ModelError(f"{path}: holds no nodes (expected an ONNX network)")
    versions = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    version = versions.get("ai.onnx", 0)
    if version not in OPSETS:
        raise ModelError(f"{path}: has operator set {version} (supported: {OPSETS[0]} to "
                         f"{OPSETS[-1]})")  # fmt: skip
    for node in model.graph.node:
        if node.op_type in QUANTIZERS and node.domain in ("", "onnx.brevitas", "finn"):
            node.domain = DOMAIN
        wrong = fault(node, version, DOMAIN)
        if wrong:
            refuse(node, wrong)
    constants = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs (expected "
                         "one image and one result)")  # fmt: skip
    _fix_batch(path, inputs[0])
    order = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wrapper = ModelWrapper(model)
            for step in (
                RemoveStaticGraphInputs(),
                InferShapes(),
                FoldConstants(exclude_op_types=list(QUANTIZERS)),
                FoldTransposeIntoQuantInit(),
            ):
                wrapper = wrapper.transform(step)
        except Exception as error:
            raise ModelError(f"{path}: cannot be prepared: {first_line(error)}") from error
    return Source(path, wrapper, inputs[0].name, outputs[0].name, order)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError, UnicodeDecodeError):
        raise ModelError(f"{path}: is truncated, or no ONNX file") from None
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        for tensor in model.graph.initializer:
            onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        raise ModelError(f"{path}: its external data cannot be read (expected beside it): "
                         f"{first_line(error)}") from error  # fmt: skip
    return model


def _fix_batch(path: Path, image: onnx.ValueInfoProto) -> None:
    """Give an open batch the size 1; all other sizes must be known."""
    kind = image.type.tensor_type
    sizes = kind.shape.dim
    if kind.elem_type != onnx.TensorProto.FLOAT:
        found = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise ModelError(f"{path}: its input {image.name} is {found} (expected FLOAT)")
    if len(sizes) != 4 or any(size.dim_value < 1 for size in list(sizes)[1:]):
        found = "x".join(str(size.dim_value or size.dim_param or "?") for size in sizes)
        raise ModelError(f"{path}: its input {image.name} has shape {found} (expected a batch of "
                         "images with fixed channels, height and width)")  # fmt: skip
    if sizes[0].dim_value < 1:
        sizes[0].dim_value = 1


def per_channel(
    node: NodeProto, values: npt.NDArray[Any], shape: tuple[int, ...], what: str
) -> npt.NDArray[np.float64]:
    """A constant that broadcasts over a tensor as one value per channel.

    Parameters:
        node: Whose constant it is.
        values: The constant.
        shape: Shape of the tensor, batch first, channels second.
        what: The constant's name, for the message.

    Returns:
        float64, shape (C,), or (1,) if there is one value for all.
    """
    if values.size == 1:
        return np.asarray(values, np.float64).reshape(1)
    padded = (1,) * (len(shape) - values.ndim) + values.shape
    wanted = (1, shape[1]) + (1,) * (len(shape) - 2)
    if padded != wanted:
        refuse(node, f"{what} has shape {values.shape} (supported: one value, or one for each of "
               f"{shape[1]} channels)")  # fmt: skip
    return np.asarray(values, np.float64).reshape(-1)
