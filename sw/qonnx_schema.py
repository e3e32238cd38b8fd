"""What a node must look like before anything reads it: inputs, outputs, kinds of attributes.

Standard operators are held against the schema of their operator set, which onnx ships; QONNX has
no such schemas, so that its quantisers' are here.
"""

from __future__ import annotations

import math

import onnx
from onnx import AttributeProto, NodeProto, helper

#: Quantisers of QONNX -> number of inputs, and the attributes that mean something.
_CUSTOM: dict[str, tuple[int, dict[str, int]]] = {
    **dict.fromkeys(
        ("Quant", "IntQuant"),
        (4, {"signed": AttributeProto.INT, "narrow": AttributeProto.INT,
             "rounding_mode": AttributeProto.STRING}),
    ),
    "BipolarQuant": (2, {}),
    "MultiThreshold": (
        2,
        {"out_scale": AttributeProto.FLOAT, "out_bias": AttributeProto.FLOAT,
         "out_dtype": AttributeProto.STRING, "data_layout": AttributeProto.STRING},
    ),
}  # fmt: skip


def fault(node: NodeProto, opset: int, custom: str) -> str | None:
    """What is wrong with a node's form, or None.

    Parameters:
        node: The node.
        opset: Version of the standard operators.
        custom: Domain of the quantisers.

    Returns:
        What the node has and what was expected, without its name. None as well for operators
        that are unknown here.
    """
    if not node.output or not node.output[0]:
        return "has no output (expected one)"
    if node.domain == custom and node.op_type in _CUSTOM:
        inputs, kinds = _CUSTOM[node.op_type]
        return _missing_input(node, inputs, inputs) or _wrong_attribute(node, kinds)
    if node.domain:
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    needed = sum(item.option == single for item in schema.inputs)
    found = _missing_input(node, needed, schema.max_input)
    kinds = {name: _number(item.type) for name, item in schema.attributes.items()}
    found = found or _wrong_attribute(node, kinds)
    given = {item.name for item in node.attribute}
    for name, item in schema.attributes.items():
        if item.required and name not in given:
            found = found or f"has no attribute {name} (expected one)"
    unknown = sorted(given - set(kinds))
    if unknown:
        expected = ", ".join(sorted(kinds)) or "none"
        found = found or (f"has an attribute {unknown[0]}, which its operator set {opset} does not "
                          f"know (expected: {expected})")  # fmt: skip
    return found


def _number(kind: onnx.defs.OpSchema.AttrType) -> int:
    """A kind of attribute as files count it."""
    return int(AttributeProto.AttributeType.Value(str(kind).rpartition(".")[2]))


def _missing_input(node: NodeProto, needed: int, most: int) -> str | None:
    """Too few or too many inputs; inputs that may be left out are empty or missing at the end."""
    if len(node.input) < needed or not all(node.input[:needed]):
        given = sum(map(bool, node.input[:needed]))
        return f"has {given} of its first {needed} inputs (expected all)"
    if len(node.input) > most:
        return f"has {len(node.input)} inputs (expected at most {most})"
    return None


def _wrong_attribute(node: NodeProto, kinds: dict[str, int]) -> str | None:
    """An attribute of another kind than its operator's, or a number that is none."""
    for item in node.attribute:
        kind = kinds.get(item.name)
        if kind is None:
            continue
        if item.type != kind:
            found, expected = map(AttributeProto.AttributeType.Name, (item.type, kind))
            return f"has an attribute {item.name} of kind {found} (expected {expected})"
        value = helper.get_attribute_value(item)
        if kind == AttributeProto.FLOAT and math.isnan(value):
            return f"has an attribute {item.name} that is NaN (expected a number)"
        if kind == AttributeProto.STRING:
            try:
                value.decode()
            except UnicodeDecodeError:
                return f"has an attribute {item.name} that is no text (expected UTF-8)"
    return None
