"""Files and nodes that cannot be imported: one line that names the node and what would do."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qonnx_networks import Onnx

from palquant.errors import ModelError, PalquantError
from palquant.sw.qonnx_import import import_qonnx

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4, 3, 3)).astype(np.float32)
DENSE = RNG.normal(size=(3, 4)).astype(np.float32)
F = np.float32


def conv(made, x=None, weight=W, **attributes):
    w = made.quant(weight, 0.25, 0.0, 4, 1)
    return made.node("Conv", x or made.last if x else "t0", w, **attributes)


def pooled(operator, **attributes):
    def build(made):
        made.start(bits=4)
        made.node(operator, "t0", name="pool", **attributes)

    return build


def convolved(**attributes):
    def build(made):
        made.start()
        w = made.quant(attributes.pop("weight", W), 0.25, 0.0, 4, 1)
        made.node("Conv", "t0", w, name="conv", **attributes)

    return build


def weighted(*parameters, data=W, **options):
    def build(made):
        made.start()
        w = made.quant(data, *parameters, name="w", **options)
        made.node("Conv", "t0", w, name="conv")

    return build


def activated(*parameters, pads=0, **options):
    def build(made):
        made.start()
        w = made.quant(W, 0.25, 0.0, 4, 1)
        made.node("Conv", "t0", w, name="first", pads=[1, 1, 1, 1])
        made.quant("first", *parameters, name="codes", **options)
        w = made.quant(W, 0.25, 0.0, 4, 1)
        made.node("Conv", "codes", w, name="conv", pads=[pads] * 4)

    return build


def after(operator, *inputs, first=None, quantized=False, **attributes):
    """A node behind a convolution; ``first`` is a constant before its operand."""

    def build(made):
        made.start()
        w = made.quant(W, 0.25, 0.0, 4, 1)
        x = made.node("Conv", "t0", w, name="acc")
        if quantized:
            x = made.quant(x, 0.5, 0.0, 2, 0, name="codes")
        operands = [x, *inputs] if first is None else [first, x, *inputs]
        made.node(operator, *operands, name="bad", **attributes)

    return build


def dense(weight=DENSE, *rest, source="flat", **attributes):
    def build(made):
        made.start()
        made.node("GlobalAveragePool", "t0")
        made.node("Flatten", made.last, name="flat")
        w = made.quant(weight, 0.25, 0.0, 4, 1)
        made.node("Gemm", *([w, source] if source == "left" else [source, w]), *rest, name="bad",
                  **attributes)  # fmt: skip

    return build


def left(made):
    made.start()
    made.node("GlobalAveragePool", "t0")
    made.node("Flatten", made.last, name="flat")
    made.node("MatMul", DENSE[:, :1], "flat", name="bad")


def float_weights(made):
    made.start()
    made.node("Conv", "t0", W, name="conv")


def relu_weights(made):
    made.start()
    made.node("Conv", "t0", made.node("Softplus", made.node("BipolarQuant", W, F(1))), name="conv")


def unquantised_input(made):
    made.node("Conv", "x", made.quant(W, 0.25, 0.0, 4, 1), name="conv")


def two_inputs(made):
    made.quant("x", 0.1, 0.0, 8, 1, name="first")
    made.node("Add", "first", made.quant("x", 0.2, 0.0, 8, 1, name="second"))


def inputs(*parameters, **options):
    return lambda made: made.quant("x", *parameters, name="image", **options)


def image(operator, *constants, **attributes):
    return lambda made: made.node(operator, "x", *constants, name="bad", **attributes)


def unquantised_twice(made):
    made.start()
    w = made.quant(W, 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, name="first")
    made.node("Conv", "first", w, name="second")


def joined(made):
    made.start()
    w = made.quant(W, 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, name="a")
    made.node("Conv", "t0", w, name="b")
    made.node("Concat", "a", "b", axis=1, name="joined")


def shapes(made):
    made.start()
    w = made.quant(W, 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, name="a", pads=[1, 1, 1, 1])
    made.node("Conv", "t0", made.quant(W[:, :, :1, :1], 0.25, 0, 4, 1), name="b")
    made.quant("a", 0.5, 0, 4, 1, name="qa")
    made.node("GlobalAveragePool", made.quant("b", 0.5, 0, 4, 1), name="mean")
    made.quant("mean", 0.5, 0, 4, 1, name="qb")
    made.node("Add", "qa", "qb", name="sum")


def huge(made):
    made.start()
    w = made.quant(W, 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, name="acc")
    made.node("Add", "acc", F(1e9))


def then(build, operator, *inputs, **attributes):
    """A node behind the last one of another network."""

    def whole(made):
        build(made)
        made.node(operator, made.last, *inputs, name="tail", **attributes)

    return whole


def ints(*values):
    return np.array(values, np.int64)


def quantised(build):
    def whole(made):
        build(made)
        made.quant(made.last, 0.5, 0.0, 2, 0, name="tail")

    return whole


def rearranged(made):
    made.start(bits=4)
    made.node("Transpose", "t0", perm=[0, 2, 1, 3], name="turned")
    made.node("Relu", "turned", name="bad")
    made.quant("bad", 1.0, 0.0, 2, 0)


NODES = [
    ("dilation", convolved(dilations=[2, 2]), r"conv \(Conv\): has dilations \[2, 2\] \(supp"),
    ("asymmetric", convolved(pads=[0, 0, 1, 1]), r"conv \(Conv\): has pads \[0, 0, 1, 1\] \(supp"),
    ("negative pads", convolved(pads=[-1] * 4), r"conv \(Conv\): has pads .*not negative"),
    ("odd SAME", convolved(auto_pad="SAME_UPPER", strides=[2, 2]),
     r"conv \(Conv\): has auto_pad SAME_UPPER with 1 rows and 1 columns"),
    ("groups", convolved(group=3), r"conv \(Conv\): has 3 groups of 4 channels \(expected groups"),
    ("kernel", convolved(kernel_shape=[2, 2]), "states a kernel of .2, 2., but its weights are"),
    ("one axis", convolved(weight=W[..., 0]), "Conv.*(weights of 3 axes|cannot be prepared)"),
    ("too large", convolved(weight=RNG.normal(size=(4, 4, 9, 9)).astype(F)),
     "(does not fit into its input of 6x6|cannot be prepared)"),
    ("strides", convolved(strides=[0, 1]), "(expected positive|cannot be prepared)"),
    ("ceil_mode", pooled("MaxPool", kernel_shape=[2, 2], ceil_mode=1),
     r"pool \(MaxPool\): has ceil_mode 1 \(supported: 0\)"),
    ("pool dilation", pooled("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), "dilations"),
    ("count_include_pad", pooled("AveragePool", kernel_shape=[3, 3], pads=[1] * 4),
     r"pool \(AveragePool\): averages a padded image without its padding \(supported: count_inc"),
    ("reduced axes", pooled("ReduceMean", axes=[1, 2], keepdims=1),
     r"pool \(ReduceMean\): reduces axes \[1, 2\] with keepdims 1 \(supported: height and width"),
    ("reduced shape", pooled("ReduceMean", axes=[2, 3], keepdims=0), "with keepdims 0"),
    ("operator", after("Sigmoid"), r"bad \(Sigmoid\): is not supported \(supported: Add, Average"),
    ("custom operator", after("Trunc", *map(F, (1, 0, 8, 4)), rounding_mode="FLOOR"),
     r"bad \(Trunc\): is not supported"),
    ("weights", float_weights, r"conv \(Conv\): has weights without a quantiser \(expected Quant"),
    ("weights' maker", relu_weights, r"conv \(Conv\): has weights from Softplus"),
    ("weight zero points", weighted(0.25, np.arange(4.0).reshape(4, 1, 1, 1), 4, 0),
     r"w \(Quant\): has zero points that differ between channels \(supported: one per tensor\)"),
    ("zero points inside", weighted(0.25, RNG.random((1, 4, 1, 1)), 4, 0), "differ within a chan"),
    ("fractional weights", weighted(0.25, 0.3, 2, 0), r"w \(Quant\): has zero point 0.3"),
    ("far weights", weighted(0.25, 500.0, 2, 0), r"w \(Quant\): has weights -\d+ to -49\d in st"),
    ("weight bits", weighted(0.25, 0.0, 9, 1), r"w \(Quant\): has a bit width of 9 \(supported: 1"),
    ("weight rounding", weighted(0.25, 0.0, 2, 1, mode="FLOOR"), "rounds by FLOOR .supported: R"),
    ("weight scale", weighted(RNG.random((1, 4, 1, 1)) + 1, 0.0, 4, 1), "scale of shape"),
    ("negative scale", weighted(-0.5, 0.0, 4, 1), "has a scale that is not positive"),
    ("one level", weighted(0.5, 0.0, 1, 0, narrow=1), "leaves one level"),
    ("bipolar zero", weighted(0.5, 1.0, 1, 1), "is bipolar with a zero point of 1"),
    ("padding without zero", activated(0.5, -1.0, 2, 0, pads=1),
     r"conv \(Conv\): conv: pads activations without a code for the value 0 \(expected an int"),
    ("padding between", activated(0.5, 1.5, 2, 0, pads=1), "without a code for the value 0"),
    ("rounding", activated(0.5, 0.0, 2, 0, mode="CEIL"), r"codes \(Quant\): rounds by CEIL"),
    ("scales", activated(RNG.random((1, 4, 1, 1)) + 1, 0.0, 2, 0), "scales differ between chan"),
    ("scale per pixel", activated(RNG.random((1, 1, 6, 1)) + 1, 0.0, 2, 0),
     r"codes \(Quant\): the scale has shape \(1, 1, 6, 1\) \(supported: one value, or one for"),
    ("activation bits", activated(0.5, 0.0, 12, 0), "has a bit width of 12"),
    ("zero points", activated(0.5, np.arange(4.0).reshape(1, 4, 1, 1), 2, 0), "one per tensor"),
    ("unquantised", unquantised_twice, r"second \(Conv\): first: is read as integers, but not qu"),
    ("input", unquantised_input, r"conv \(Conv\): reads the image itself \(expected a quantiser"),
    ("second input", two_inputs, r"second \(Quant\): quantises the image a second time"),
    ("input bits", inputs(0.1, 0.0, 6, 1), r"image \(Quant\): quantises the image to 64 levels"),
    ("narrow input", inputs(0.1, 0.0, 8, 1, narrow=1), "to 255 levels"),
    ("input zero", inputs(0.1, 0.5, 8, 0), "with a zero point of 0.5 .expected a code."),
    ("input thresholds", image("MultiThreshold", np.zeros((4, 3), F), out_dtype="UINT2"),
     r"bad \(MultiThreshold\): quantises the image \(supported for the input: Quant\)"),
    ("input function", image("Relu"), r"bad \(Relu\): changes the image before it is quantised"),
    ("input sign", image("Mul", F(-1)), "turns the image's values around"),
    ("input order", image("Transpose", perm=[0, 1, 3, 2]), "rearranges the image itself"),
    ("join", joined, r"joined \(Concat\): joins a and b \(supported: parts of one tensor\)"),
    ("adds shapes", shapes, r"sum \(Add\): .*(adds tensors of shapes|no image of sums)"),
    ("per pixel", after("Mul", RNG.random((4, 4)).astype(F)),
     r"bad \(Mul\): its constant has shape \(4, 4\) \(supported: one value, or one for each"),
    ("divided by", after("Div", first=F(1)), "divides a constant by activations"),
    ("divided by zero", after("Div", F(0)), "divides by zero"),
    ("floor", after("Floor"), r"bad \(Floor\): is not followed by Clip alone"),
    ("round", after("Round"), r"bad \(Round\): rounds what is no whole number"),
    ("cast", after("Cast", to=TensorProto.INT32, quantized=True),
     r"bad \(Cast\): casts to INT32 \(supported: FLOAT, DOUBLE"),
    ("training", after("BatchNormalization", *[np.ones(4, F)] * 4, training_mode=1),
     r"bad \(BatchNormalization\): is in training mode"),
    ("statistics", after("BatchNormalization", *[np.full(4, np.nan, F)] * 4), "no finite const"),
    ("indices", after("MaxPool", kernel_shape=[2, 2], pads=[2, 2, 2, 2]),
     "(expected less than its kernel|cannot be prepared)"),
    ("layout", after("MultiThreshold", np.zeros((4, 3), F), out_dtype="UINT2", data_layout="NHWC"),
     r"bad \(MultiThreshold\): has data layout NHWC"),
    ("out_scale", after("MultiThreshold", np.zeros((4, 3), F), out_dtype="UINT2", out_scale=-1.0),
     "has out_scale -1"),
    ("alpha", dense(transB=1, alpha=2.0), r"bad \(Gemm\): has transA, alpha or beta"),
    ("from the left", left, r"bad \(MatMul\): multiplies from the left"),
    ("bias", dense(DENSE, np.full(3, np.inf, F), transB=1), "has a bias of shape"),
    ("arrangement", rearranged, r"bad \(Relu\): reads turned, whose elements are in another"),
    ("result", after("Relu"), r"bad: the network ends in what is neither sums nor codes"),
    ("falling result", after("Mul", F(-1)), "the network ends in what is neither sums nor codes"),
    ("bias beyond 32 bits", huge, "units leaves the 32 bits of logits"),
    ("end: slice of classes", then(dense(transB=1), "Slice", ints(0), ints(2), ints(1)),
     r"^tail \(Slice\): ends the network with elements of bad left out, repeated or in another"),
    ("end: gather of classes", then(dense(transB=1), "Gather", ints(0, 2), axis=1),
     r"^tail \(Gather\): ends the network .* \(supported: a reshape\)$"),
    ("end: classes twice", then(dense(transB=1), "Concat", "bad", axis=1),
     r"^tail \(Concat\): ends the network"),
    ("end: sums twice", after("Concat", "acc", axis=1), r"^bad \(Concat\): ends the network"),
    ("end: tile", after("Tile", ints(1, 1, 2, 1)), r"^bad \(Tile\): ends the network"),
    ("end: channels last", after("Transpose", perm=[0, 2, 3, 1], quantized=True),
     r"^bad \(Transpose\): ends the network with elements of codes left out, repeated or in"),
    ("end: crop", after("Slice", ints(1), ints(3), ints(2)), r"^bad \(Slice\): ends the network"),
    ("end: scaled crop", then(after("Slice", ints(1), ints(3), ints(2)), "Mul", F(2)),
     r"^tail \(Mul\): reads bad, whose elements are in another arrangement \(supported: .*reshape"),
    ("end: quantised turn", quantised(after("Transpose", perm=[0, 1, 3, 2])),
     r"^tail \(Quant\): reads bad, whose elements are in another arrangement"),
    ("end: constants of pixels", then(after("Flatten"), "Add", RNG.random(64).astype(F)),
     r"^tail \(Add\): has other values for each element of bad \(supported behind a reshape: one"),
    ("dropout in training", after("Dropout", F(0.5), np.array(True)),
     r"^bad \(Dropout\): is in training mode \(expected training_mode to be the constant False"),
    ("dropout of the image", image("Dropout", F(0.5), np.array(True)), "is in training mode"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "text"), [n[1:] for n in NODES], ids=[n[0] for n in NODES])
def test_nodes(build, text, tmp_path):
    made = Onnx(opset=17)
    build(made)
    with pytest.raises(PalquantError, match=text) as caught:
        import_qonnx(made.save(tmp_path / "bad.onnx"))
    assert "\n" not in str(caught.value)


def whole():
    made = Onnx()
    made.start()
    made.node("Conv", "t0", made.quant(W, 0.25, 0.0, 4, 1), name="acc")
    return made.model()


def refused(path, text):
    with pytest.raises(ModelError, match=text) as caught:
        import_qonnx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files(tmp_path):
    path = tmp_path / "network.onnx"
    refused(path, "no such file")
    path.mkdir()
    refused(path, "cannot be read: Is a directory")
    path.rmdir()
    path.write_text("this is no network, whatever its name says\n")
    refused(path, "is truncated, or no ONNX file")
    path.write_bytes(b"")
    refused(path, "holds no nodes")
    data = whole().SerializeToString()
    for length in (10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:length])
        refused(path, "is truncated, or no ONNX file|holds no nodes|has 0 inputs|has operator set")


def test_external_data(tmp_path):
    path = tmp_path / "network.onnx"
    save = {"save_as_external_data": True, "location": "network.data", "size_threshold": 0}
    onnx.save_model(whole(), path, **save)
    assert import_qonnx(path).output.name == "acc.logits"
    data = (tmp_path / "network.data").read_bytes()
    (tmp_path / "network.data").write_bytes(data[: len(data) // 2])
    refused(path, r"its external data cannot be read \(expected beside it\)")
    (tmp_path / "network.data").unlink()
    refused(path, r"its external data cannot be read \(expected beside it\)")


def test_models(tmp_path):
    path = tmp_path / "network.onnx"

    def changed(change, text):
        model = whole()
        change(model)
        onnx.save(model, path)
        refused(path, text)

    def opset(version):
        def change(model):
            model.opset_import[0].version = version

        return change

    changed(opset(8), r"has operator set 8 \(supported: 9 to 23\)")
    changed(opset(99), r"has operator set 99 \(supported")
    changed(lambda m: m.graph.input.append(m.graph.input[0]), "has 2 inputs and 1 outputs")
    changed(lambda m: m.graph.output.append(m.graph.output[0]), "has 1 inputs and 2 outputs")

    def element(model):
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8

    changed(element, r"its input x is UINT8 \(expected FLOAT\)")

    def size(model):
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"

    changed(size, "its input x has shape 1x4xheightx6")

    def constant(model):
        model.graph.output[0].name = "t1"

    changed(constant, "its result t1 does not depend on its input")

    def metadata(model):
        helper.set_model_props(model, {"palquant": "[1"})

    changed(metadata, "its metadata palquant is no JSON object of an export")
