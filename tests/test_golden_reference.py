"""The integer reference against definitions spelled out element by element."""

import dataclasses

import numpy as np
import pytest

from palquant.errors import GraphError, InputError, RangeError
from palquant.golden.reference import predict, run
from palquant.sw.graph import (
    Add,
    Affine,
    Clamp,
    Convolution,
    Graph,
    Input,
    Logits,
    MaxPool,
    Normalization,
    Permute,
    Quantize,
    Relu,
    Shape,
    SumPool,
)

RNG = np.random.default_rng(7)


def input_node(channels, height=5, width=4, bits=8, zero_point=128):
    norm = Normalization((0.0,) * channels, (1.0,) * channels, 1.0)
    return Input(
        name="input",
        shape=Shape(channels, height, width),
        bits=bits,
        zero_point=zero_point,
        normalization=norm,
    )


def convolution(name, source, outputs, inputs, kernel=(1, 1), bits=8, alpha=1, beta=128, **extra):
    weight = RNG.integers(0, 1 << bits, (outputs, inputs, *kernel)).astype(np.uint8)
    return Convolution(
        name=name,
        input=source,
        weight=weight,
        weight_bits=bits,
        alpha=alpha,
        beta=beta,
        **extra,
    )


def affine(name, source, scale, offset, shift, bits=16):
    columns = (np.asarray(v, np.int64) for v in (scale, offset, shift))
    return Affine(
        name=name,
        input=source,
        **dict(zip(("scale", "offset", "shift"), columns, strict=True)),
        bits=bits,
    )


def codes_for(node, count=2):
    shape = (count, node.shape.channels, node.shape.height, node.shape.width)
    return RNG.integers(0, 1 << node.bits, shape).astype(np.uint8)


def residual_graph(*nodes, channels=3, bits=16, height=5, width=4):
    """A graph whose tensor ``x`` is a residual of any int8 values, then ``nodes``."""
    weight = np.full((channels, 1, 1, 1), 129, np.uint8)
    source = input_node(channels, height, width)
    copy = Convolution(
        name="copy", input="input", weight=weight, weight_bits=8, alpha=1, beta=128, groups=channels
    )
    ones = np.ones(channels, np.int64)
    return Graph([source, copy, affine("x", "copy", ones, 0 * ones, 0 * ones, bits), *nodes])


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "kernel", "bits", "alpha", "beta", "in_bits", "zero_point"),
    [
        (1, (1, 1), (0, 0), (1, 1), 2, 2, 3, 2, 0),
        (2, (1, 1), (1, 1), (3, 3), 2, 2, 3, 2, 0),
        (2, (2, 1), (1, 2), (3, 2), 4, 2, 15, 4, 0),
        (4, (2, 2), (1, 1), (3, 3), 8, 1, 128, 8, 128),
        (1, (1, 2), (2, 0), (2, 3), 4, 2, 7, 3, 5),
    ],
)
def test_convolution_by_definition(
    groups, stride, padding, kernel, bits, alpha, beta, in_bits, zero_point
):
    source = input_node(4, 5, 4, in_bits, zero_point)
    node = convolution(
        "c", "input", 8, 4 // groups, kernel, bits, alpha, beta,
        groups=groups, stride=stride, padding=padding,
    )  # fmt: skip
    graph = Graph([source, node])
    codes = codes_for(source)
    result = run(graph, codes)["c"]
    assert result.dtype == np.int64
    shape = graph.shapes["c"]
    assert result.shape == (2, 8, shape.height, shape.width)
    for n, o, y, x in np.ndindex(result.shape):
        total = 0
        for i, ky, kx in np.ndindex(node.weight.shape[1:]):
            row = y * stride[0] + ky - padding[0]
            column = x * stride[1] + kx - padding[1]
            if 0 <= row < 5 and 0 <= column < 4:
                a = int(codes[n, o // (8 // groups) * (4 // groups) + i, row, column]) - zero_point
                total += a * (alpha * int(node.weight[o, i, ky, kx]) - beta)
        assert result[n, o, y, x] == total


def test_affine_floors_and_saturates():
    graph = residual_graph(
        affine("y", "x", [3, -5, 32767], [4, -(2**31), 2**31 - 1], [3, 31, 0], bits=8)
    )
    codes = codes_for(graph.input, 8)
    outputs = run(graph, codes)
    for index, value in np.ndenumerate(outputs["y"]):
        x = int(codes[index]) - 128
        m, b, sh = [(3, 4, 3), (-5, -(2**31), 31), (32767, 2**31 - 1, 0)][index[1]]
        assert value == min(max((x * m + b) // 2**sh, -128), 127)


def test_relu_add_permute_clamp_by_definition():
    graph = residual_graph(
        Relu(name="relu", input="x"),
        Permute(name="permute", input="x", permutation=np.array([2, 0, 1])),
        Add(name="add", a="x", b="permute"),
        Clamp(name="clamp", input="add", zero_point=3),
        Permute(name="codes", input="clamp", permutation=np.array([1, 2, 0])),
        bits=8,
    )
    outputs = run(graph, codes_for(graph.input, 8))
    x = outputs["x"]
    assert x.min() < -100
    assert x.max() > 100
    assert np.array_equal(outputs["relu"], np.maximum(x, 0))
    assert np.array_equal(outputs["permute"], np.stack([x[:, 2], x[:, 0], x[:, 1]], 1))
    total = x + outputs["permute"]
    assert total.max() > 127
    assert total.min() < -128
    assert np.array_equal(outputs["add"], np.clip(total, -128, 127))
    assert np.array_equal(outputs["clamp"], np.clip(outputs["add"], 0, 255))
    assert np.array_equal(outputs["codes"], outputs["clamp"][:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((2, 2), (2, 2), (0, 0)),
        ((3, 3), (2, 2), (1, 1)),
        ((3, 2), (1, 2), (2, 1)),
        ((5, 4), (1, 1), (0, 0)),
    ],
)
def test_pools_by_definition(kernel, stride, padding):
    window = {"kernel": kernel, "stride": stride, "padding": padding}
    graph = residual_graph(
        MaxPool(name="max", input="x", **window), SumPool(name="sum", input="x", **window), bits=8
    )
    outputs = run(graph, codes_for(graph.input, 3))
    for n, c, y, x in np.ndindex(outputs["max"].shape):
        taps = []
        for ky, kx in np.ndindex(kernel):
            row, column = y * stride[0] + ky - padding[0], x * stride[1] + kx - padding[1]
            if 0 <= row < 5 and 0 <= column < 4:
                taps.append(int(outputs["x"][n, c, row, column]))
        assert outputs["max"][n, c, y, x] == max(taps, default=-128)
        assert outputs["sum"][n, c, y, x] == sum(taps)


@pytest.mark.parametrize("rows", [1, 3])
def test_quantize_counts_thresholds(rows):
    thresholds = np.sort(RNG.integers(-128, 128, (rows, 7)), axis=1)
    negate = np.array([False, True, False])[:rows]
    node = Quantize(name="q", input="x", thresholds=thresholds, negate=negate, bits=3)
    outputs = run(graph := residual_graph(node), codes_for(graph.input, 8))
    for (n, c, y, x), value in np.ndenumerate(outputs["x"]):
        row = c if rows > 1 else 0
        v = -int(value) if negate[row] else int(value)
        assert outputs["q"][n, c, y, x] == sum(v >= int(t) for t in thresholds[row])


def logits_graph(classes=3, offset=(0, 0, 0)):
    source = input_node(4, 1, 1)
    node = convolution("fc", "input", classes, 4)
    scale = np.array([1.0, 0.5, 2.0])
    return Graph([source, node, Logits(name="y", input="fc", offset=np.array(offset), scale=scale)])


def test_predict_takes_the_first_of_the_largest_real_logits():
    graph = logits_graph(offset=(5, -7, 11))
    outputs = run(graph, codes_for(graph.input, 16))
    assert np.array_equal(
        outputs["y"] - outputs["fc"], np.tile(np.array([5, -7, 11])[:, None, None], (16, 1, 1, 1))
    )
    outputs["y"][:3, :, 0, 0] = [[4, 8, 2], [-9, -9, -9], [10, 19, 4]]
    assert predict(graph, outputs)[:3].tolist() == [0, 1, 0]


def test_predict_adds_what_units_of_the_sums_lack():
    """The rest decides between logits that are equal, and between near ones."""
    graph = logits_graph()
    node = dataclasses.replace(graph.output, rest=np.array([0.25, 0.5, -0.25]))
    graph = Graph([*graph.nodes[:-1], node])
    outputs = run(graph, codes_for(graph.input, 3))
    outputs["y"][:, :, 0, 0] = [[4, 8, 2], [9, 17, 0], [10, 19, 5]]
    assert node.real(outputs["y"])[0, :, 0, 0].tolist() == [4.25, 4.5, 3.75]
    np.testing.assert_array_equal(node.real(outputs["y"][:, :, 0, 0]),
                                  node.real(outputs["y"])[:, :, 0, 0])  # fmt: skip
    assert predict(graph, outputs).tolist() == [1, 0, 0]


def test_predict_refuses_what_is_no_classifier():
    graph = residual_graph()
    with pytest.raises(GraphError, match="x: Affine of 5x4 pixels is no class prediction"):
        predict(graph, run(graph, codes_for(graph.input)))


def test_logits_beyond_32_bits_are_refused():
    graph = logits_graph(offset=(2**31 - 1, 0, 0))
    codes = np.full((1, 4, 1, 1), 255, np.uint8)
    graph["fc"].weight[:] = 255
    with pytest.raises(RangeError, match=r"y: values .* leave the 32-bit range"):
        run(graph, codes)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, 4, 1, 2), np.uint8), r"shape \(1, 4, 1, 2\), expected \(N, 4, 1, 1\)$"),
        (np.zeros((4, 1, 1), np.uint8), "codes have shape"),
        (np.zeros((1, 4, 1, 1), np.float32), "must be integers in 0..255, not float32"),
        (np.full((1, 4, 1, 1), 256), "must be integers in 0..255, not int64 in 256..256"),
        (np.full((1, 4, 1, 1), -1), "must be integers in 0..255, not int64 in -1..-1"),
    ],
)
def test_refuses_input_that_does_not_fit(codes, message):
    with pytest.raises(InputError, match=f"^input: .*{message}"):
        run(logits_graph(), codes)
