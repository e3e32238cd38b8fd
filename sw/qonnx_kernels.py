"""Evaluates single nodes with the executor's own kernels, on tensors of any size.

What a chain of nodes makes of an accumulator is asked of the very code that qonnx's executor
runs, onnxruntime for standard operators and qonnx's classes for its own, so that every rounding
is the executor's and none is modelled here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]
from onnx import NodeProto, helper
from qonnx.custom_op.registry import (  # type: ignore[import-untyped]
    getCustomOp,
    is_custom_op,
)

from palquant.errors import ModelError, first_line
from palquant.sw.qonnx_source import Source, label

Array = npt.NDArray[Any]


class Kernels:
    """Runs nodes of one network outside of it.

    Parameters:
        source: The network; gives the constants.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._sessions: dict[tuple[str, tuple[tuple[str, int], ...]], Any] = {}
        self._opsets = {item.domain: item.version for item in source.wrapper.model.opset_import}

    def __call__(self, node: NodeProto, inputs: dict[str, Array]) -> Array:
        """The first output of a node.

        Parameters:
            node: The node.
            inputs: Its inputs that are no constants of the network, by name; others of these
                names replace constants.

        Raises:
            ModelError: The kernel refuses what the file says.
        """
        constants = self.source.constants
        values = {
            name: inputs[name] if name in inputs else constants[name] for name in node.input if name
        }
        try:
            if is_custom_op(node.domain, node.op_type):
                return self._custom(node, values)
            return self._standard(node, values)
        except Exception as error:
            raise ModelError(f"{self.source.path}: {label(node)} cannot be executed: "
                             f"{first_line(error)}") from error  # fmt: skip

    def _custom(self, node: NodeProto, values: dict[str, Array]) -> Array:
        version = self._opsets.get(node.domain, 1)
        context: dict[str, Array] = dict(values)
        getCustomOp(node, onnx_opset_version=version).execute_node(context, None)
        return context[node.output[0]]

    def _standard(self, node: NodeProto, values: dict[str, Array]) -> Array:
        kinds = tuple((value.dtype.name, value.ndim) for value in values.values())
        session = self._sessions.get((node.output[0], kinds))
        if session is None:
            session = self._session(node, values)
            self._sessions[node.output[0], kinds] = session
        (result,) = session.run([node.output[0]], values)
        return np.asarray(result)

    def _session(self, node: NodeProto, values: dict[str, Array]) -> Any:
        described = [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(value.dtype),
                [f"{name}_{axis}" for axis in range(value.ndim)],
            )
            for name, value in values.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output[:1]]
        model = helper.make_model(
            helper.make_graph([node], "node", described, outputs),
            opset_imports=[helper.make_opsetid("", self._opsets[""])],
            ir_version=8,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options)
