"""The end of a file: real logits with a bias that is no whole number of units, and reshapes."""

import dataclasses

import numpy as np
import pytest
from qonnx_compare import assert_same, differences
from qonnx_networks import Onnx

from palquant.errors import UnsupportedLayerError
from palquant.golden.reference import predict, run
from palquant.sw.graph import Graph, Logits, Quantize
from palquant.sw.model import load_model, save_model
from palquant.sw.normalize import to_codes
from palquant.sw.qonnx_builder import Builder
from palquant.sw.qonnx_export import export_qonnx
from palquant.sw.qonnx_import import read_qonnx
from palquant.sw.qonnx_kernels import Kernels
from palquant.sw.qonnx_result import check_result

F = np.float32
#: Far from whole units of 1/4 * 1/2, and between them.
BIAS = np.array([0.06, -0.06, 0.055, 0.031], F)


def normal(*shape):
    return np.random.default_rng(4).normal(size=shape).astype(F)


def pixels(count=4, size=6):
    shape = (count, 4, size, size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(F) / F(255)


def classifier(made, bias=BIAS):
    """Two bits of activations and of weights, whose sums are few."""
    made.quant("x", 1 / 64, 0.0, 8, 1, name="image")
    made.node("Flatten", made.quant("image", 0.5, 0.0, 2, 0), name="flat")
    w = made.quant(normal(4, 144) / 8, 0.25, 0.0, 2, 1)
    made.node("Gemm", "flat", w, bias, transB=1, name="fc")
    return made


def convolved(made):
    made.start(1 / 128)
    w = made.quant(normal(4, 4, 3, 3), 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, normal(4), name="acc", kernel_shape=[3, 3])
    return made


def imported(made, path):
    found = read_qonnx(made.save(path / "made.onnx"))
    wrong, _, count = differences(found, pixels())
    assert wrong == {}
    assert count
    return found


def test_a_bias_is_whole_units_and_a_rest(tmp_path):
    found = imported(classifier(Onnx()), tmp_path)
    node = found.graph.output
    assert isinstance(node, Logits)
    assert node.rest.any()
    assert (np.abs(node.rest) <= node.scale / 2).all()
    np.testing.assert_array_equal(node.offset * node.scale + node.rest, BIAS.astype(np.float64))


def test_the_rest_decides_classes(tmp_path):
    """Sums of 2 bits are often equal: without the rest, other images get the first class."""
    found = imported(classifier(Onnx()), tmp_path)
    graph, node = found.graph, found.graph.output
    values = run(graph, to_codes(pixels(200), graph.input))
    exact = values[node.input][:, :, 0, 0] * node.scale + BIAS.astype(np.float64)
    np.testing.assert_allclose(node.real(values[node.name])[:, :, 0, 0], exact, rtol=1e-15)
    classes = predict(graph, values)
    np.testing.assert_array_equal(classes, exact.argmax(1))
    rounded = Graph([*graph.nodes[:-1], dataclasses.replace(node, rest=None)])
    assert (predict(rounded, values) != classes).any()


def test_a_comparison_sees_a_lost_bias(tmp_path):
    """What is compared is the file's result: a bias that was rounded away is counted."""
    found = imported(classifier(Onnx()), tmp_path)
    node = dataclasses.replace(found.graph.output, rest=None)
    rounded = dataclasses.replace(found, graph=Graph([*found.graph.nodes[:-1], node]))
    wrong, _, _ = differences(rounded, pixels())
    assert set(wrong) == {node.name}
    assert wrong[node.name] >= 4 * (np.abs(found.graph.output.rest) > 1e-3).sum()


@pytest.mark.parametrize("rest", [None, "rounding", "zeros", "far"])
def test_logits_return(rest, tmp_path):
    """Export and import give the same graph, and the executor the same real logits."""
    found = imported(classifier(Onnx()), tmp_path)
    node = found.graph.output
    rests = {"rounding": node.rest, "zeros": np.zeros(4), "far": np.array([1e-9, 0.1, -1 / 3, 7.0])}
    scale = node.scale * np.array([1.0, 0.3, 1 / 3, 1.1])
    node = dataclasses.replace(node, scale=scale, rest=rests.get(rest))
    graph = Graph([*found.graph.nodes[:-1], node], found.graph.metadata)
    export_qonnx(graph, tmp_path / "again.onnx")
    again = read_qonnx(tmp_path / "again.onnx")
    assert_same(graph, again.graph)
    assert differences(again, pixels())[0] == {}
    save_model(graph, tmp_path / "model.npz")
    assert_same(graph, load_model(tmp_path / "model.npz"))


def flatten(made, x):
    return made.node("Flatten", x, name="shaped")


def reshape(made, x):
    return made.node("Reshape", x, np.array([1, 2, 8, 4]), name="shaped")


@pytest.mark.parametrize("form", [flatten, reshape])
@pytest.mark.parametrize("tail", ["sums", "scaled", "codes", "wide"])
def test_reshapes_of_the_result(form, tail, tmp_path):
    """The elements keep their order: only the file's shape is another one."""
    made = convolved(Onnx())
    if tail == "codes":
        made.quant("acc", 0.5, 0.0, 2, 0, name="few")
    x = form(made, made.last)
    if tail == "scaled":
        made.node("Mul", x, F(3), name="more")
        made.node("Add", "more", F(0.1), name="result")
    if tail == "wide":
        made.quant(x, 0.25, 0.0, 4, 1, name="result")
    found = imported(made, tmp_path)
    kind = Quantize if tail in ("codes", "wide") else Logits
    assert type(found.graph.output) is kind
    assert found.graph.shapes[found.graph.output.name].channels == 4


def test_scaled_codes_are_the_result(tmp_path):
    """The graph's last tensor has the codes; what they stand for is the file's last tensor."""
    made = convolved(Onnx())
    made.quant("acc", 0.5, 1.0, 2, 0, name="codes")
    made.node("Mul", "codes", F(4), name="result")
    found = imported(made, tmp_path)
    assert found.graph.output.name == found.result.name == "codes"
    assert found.result.scale.tolist() == [2.0] * 4
    assert found.result.offset.tolist() == [-2.0] * 4


def test_what_the_result_does_not_need_is_left_out(tmp_path):
    """A branch that leads nowhere, behind the result and with an operator of no integers."""
    made = convolved(Onnx())
    made.quant("acc", 0.5, 0.0, 2, 0, name="codes")
    w = made.quant(normal(4, 4, 1, 1), 0.25, 0.0, 4, 1)
    made.node("Sigmoid", made.node("Conv", "codes", w, name="aside"), name="nowhere")
    made.last = "codes"
    assert imported(made, tmp_path).graph.output.name == "codes"


def test_a_batch_is_no_part_of_the_result(tmp_path):
    """A file of two images at once: all of its result is taken, and no half of it."""
    made = convolved(Onnx((2, 4, 6, 6)))
    made.node("Reshape", made.last, np.array([2, 64]), name="rows")
    found = read_qonnx(made.save(tmp_path / "two.onnx"))
    assert found.graph.output.name == "acc.logits"
    made.node("Slice", "rows", np.array([0]), np.array([1]), np.array([0]), name="first")
    with pytest.raises(UnsupportedLayerError, match=r"^first \(Slice\): ends the network with"):
        read_qonnx(made.save(tmp_path / "one.onnx"))


def test_the_graph_ends_with_the_result(tmp_path):
    found = imported(convolved(Onnx()), tmp_path)
    builder = Builder(found.source, Kernels(found.source))
    check_result(builder, found.graph, found.result)
    other = dataclasses.replace(found.result, name="acc")
    text = "^acc: the result has 64 elements, but the graph ends with {} of {} .expected the same"
    with pytest.raises(UnsupportedLayerError, match=text.format(64, "acc.logits")):
        check_result(builder, found.graph, other)
    nodes = list(found.graph)
    nodes[1] = dataclasses.replace(nodes[1], stride=(2, 2))
    with pytest.raises(UnsupportedLayerError, match=text.format(16, "acc.logits")):
        check_result(builder, Graph(nodes), found.result)
