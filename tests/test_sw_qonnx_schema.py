"""Nodes of a wrong form are refused by name, whatever is wrong: no attribute can end in a crash."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qonnx_networks import Onnx

from palquant.errors import PalquantError
from palquant.sw.qonnx_import import import_qonnx

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4, 3, 3)).astype(np.float32)
F = np.float32


def model():
    """Each operator whose attributes an import reads."""
    made = Onnx(opset=17)
    made.start()
    made.node("Conv", "t0", made.quant(W, 0.25, 0.0, 4, 1), name="conv", kernel_shape=[3, 3],
              strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1], group=1)  # fmt: skip
    made.node("BatchNormalization", "conv", *[np.ones(4, F)] * 4, name="norm", epsilon=1e-5)
    made.node("MultiThreshold", "norm", np.arange(3, dtype=F)[None].repeat(4, 0), name="codes",
              out_dtype="UINT2", out_scale=0.5, out_bias=0.0, data_layout="NCHW")  # fmt: skip
    made.node("MaxPool", "codes", name="pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=0)
    made.node("Cast", "pool", name="cast", to=TensorProto.FLOAT)
    made.node("ReduceMean", "cast", name="mean", axes=[2, 3], keepdims=1)
    made.node("Flatten", "mean", name="flat", axis=1)
    dense = made.quant(RNG.normal(size=(3, 4)).astype(F), 0.25, 0.0, 4, 1, name="weights")
    made.node("Gemm", "flat", dense, name="dense", transB=1, alpha=1.0)
    return made.model()


def refusal(changed, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(changed.SerializeToString())
    with pytest.raises(PalquantError) as caught:
        import_qonnx(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def node(made, name):
    return next(item for item in made.graph.node if name in (item.name, *item.output))


def set_attribute(made, name, attribute, value):
    """Change one attribute, or with None delete it."""
    found = node(made, name)
    kept = [item for item in found.attribute if item.name != attribute]
    del found.attribute[:]
    found.attribute.extend(kept)
    if value is not None:
        found.attribute.append(helper.make_attribute(attribute, value))
    return made


def test_the_network_itself_is_accepted(tmp_path):
    onnx.save(model(), tmp_path / "network.onnx")
    assert import_qonnx(tmp_path / "network.onnx").output.name == "dense.logits"


@pytest.mark.parametrize(
    ("name", "attribute", "value", "text"),
    [
        ("conv", "strides", 1, "attribute strides of kind INT (expected INTS)"),
        ("conv", "pads", 1, "attribute pads of kind INT (expected INTS)"),
        ("conv", "kernel_shape", 3, "attribute kernel_shape of kind INT (expected INTS)"),
        ("conv", "dilations", "x", "attribute dilations of kind STRING (expected INTS)"),
        ("conv", "group", [1, 1], "attribute group of kind INTS (expected INT)"),
        ("conv", "group", "one", "attribute group of kind STRING (expected INT)"),
        ("conv", "auto_pad", 1, "attribute auto_pad of kind INT (expected STRING)"),
        ("conv", "auto_pad", b"\xff", "attribute auto_pad that is no text (expected UTF-8)"),
        ("codes", "out_scale", "x", "attribute out_scale of kind STRING (expected FLOAT)"),
        ("codes", "out_bias", [1.0], "attribute out_bias of kind FLOATS (expected FLOAT)"),
        ("codes", "out_bias", float("nan"), "attribute out_bias that is NaN (expected a number)"),
        ("codes", "out_scale", float("inf"), "out_scale inf and out_bias 0 (supported: finite"),
        ("codes", "data_layout", 1, "attribute data_layout of kind INT (expected STRING)"),
        ("norm", "epsilon", 1, "attribute epsilon of kind INT (expected FLOAT)"),
        ("cast", "to", None, "has no attribute to (expected one)"),
        ("mean", "axes", 2, "attribute axes of kind INT (expected INTS)"),
        ("dense", "alpha", [1.0], "attribute alpha of kind FLOATS (expected FLOAT)"),
        ("weights", "signed", 1.0, "attribute signed of kind FLOAT (expected INT)"),
        ("weights", "rounding_mode", 2, "attribute rounding_mode of kind INT (expected STRING)"),
        ("dense", "beta2", 1, "has an attribute beta2, which its operator set 17 does not know"),
    ],
)
def test_attributes_of_the_wrong_kind(name, attribute, value, text, tmp_path):
    message = refusal(set_attribute(model(), name, attribute, value), tmp_path)
    assert message.startswith(f"{name} (")
    assert text in message


@pytest.mark.parametrize("name", ["conv", "pool"])
@pytest.mark.parametrize(
    ("attribute", "value"),
    [("strides", [2]), ("strides", [1, 1, 1]), ("pads", [1]), ("pads", [1, 1]),
     ("kernel_shape", [3]), ("kernel_shape", [2, 2, 2]), ("dilations", [1])],
)  # fmt: skip
def test_attributes_of_the_wrong_length(name, attribute, value, tmp_path):
    message = refusal(set_attribute(model(), name, attribute, value), tmp_path)
    assert f"has {attribute} {value} (supported: " in message or "cannot be prepared" in message


@pytest.mark.parametrize("name", ["conv", "codes", "norm", "pool", "dense", "weights"])
def test_missing_inputs(name, tmp_path):
    for left in (0, 1):
        made = model()
        found = node(made, name)
        if len(found.input) <= left:
            continue
        del found.input[left:]
        message = refusal(made, tmp_path)
        assert message.startswith(f"{name} ({found.op_type}): has {left} of its first ")
    made = model()
    node(made, name).input[0] = ""
    assert "inputs (expected all)" in refusal(made, tmp_path)


def test_nodes_without_output_or_with_too_many_inputs(tmp_path):
    made = model()
    del node(made, "pool").output[:]
    assert "has no output (expected one)" in refusal(made, tmp_path)
    made = model()
    node(made, "pool").input.append("codes")
    assert refusal(made, tmp_path) == "pool (MaxPool): has 2 inputs (expected at most 1)"
