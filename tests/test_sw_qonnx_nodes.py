"""Hand-made QONNX graphs: levels, thresholds, permutations, sums, folded arithmetic."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qonnx_compare import differences
from qonnx_networks import Onnx

from palquant.errors import UnsupportedLayerError
from palquant.golden.reference import run
from palquant.sw.graph import (
    Add,
    Clamp,
    Convolution,
    Logits,
    MaxPool,
    Permute,
    Quantize,
    Repeat,
    SumPool,
)
from palquant.sw.normalize import to_codes
from palquant.sw.qonnx_import import import_qonnx, read_qonnx


def pixels(shape=(4, 6, 6), count=3, seed=0):
    size = (count, *shape)
    return np.random.default_rng(seed).integers(0, 256, size).astype(np.float32) / np.float32(255)


def weights(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def checked(made, path, shape=(4, 6, 6), doubts=0):
    """The graph of a file whose every tensor equals the executor's."""
    imported = read_qonnx(made.save(path / "made.onnx"))
    wrong, values, count = differences(imported, pixels(shape))
    assert wrong == {}
    assert count > 0
    assert sum(imported.findings.doubtful.values()) <= doubts
    assert not imported.findings.fitted
    for node in imported.graph:
        if isinstance(node, Quantize):
            assert len(np.unique(values[node.name])) > 1, node.name
    return imported.graph


def finish(made, levels=None):
    """A grouped convolution of 2-bit codes behind what was made, and a classifier."""
    q = made.last
    w = made.quant(weights((8, 2, 3, 3)), 0.5, 0.0, 2, 1) if levels is None else levels
    made.node("Conv", q, w, group=2, pads=[1, 1, 1, 1], kernel_shape=[3, 3], name="acc")
    return made


ODD = {-3, -1, 1, 3}
#: Name; scale, zero point, bits, signed, narrow; bits, alpha and beta; possible levels, or any.
LEVELS = [
    ("middle unsigned", (0.5, 1.5, 2, 0, 0), (2, 2, 3), ODD),
    ("middle signed", (0.5, -0.5, 2, 1, 0), (2, 2, 3), ODD),
    ("integers", (1.0, 1.5, 2, 0, 0), None, ODD),
    ("even", (2.0, 1.0, 2, 0, 0), (2, 2, 2), {-2, 0, 2, 4}),
    ("ternary", (0.5, 0.0, 2, 1, 1), (2, 1, 1), {-1, 0, 1}),
    ("two's complement", (0.25, 0.0, 3, 1, 0), (4, 1, 4), None),
    ("unsigned", (0.25, 0.0, 4, 0, 0), (4, 1, 0), None),
    ("shifted", (0.25, 5.0, 4, 0, 0), None, set(range(-5, 11))),
    ("odd of 3 bits", (0.25, 3.5, 3, 0, 0), (4, 2, 7), None),
    ("8 bits", (1 / 64, 0.0, 8, 1, 1), (8, 1, 127), None),
]


@pytest.mark.parametrize(
    ("parameters", "form", "levels"), [row[1:] for row in LEVELS], ids=[row[0] for row in LEVELS]
)
def test_weight_quantisers(parameters, form, levels, tmp_path):
    made = Onnx()
    made.start(1 / 128)
    made.node("Relu", made.last)
    made.quant(made.last, 0.25, 0.0, 2, 0, name="codes")
    w = made.quant(weights((8, 2, 3, 3)), *parameters)
    made.last = "codes"
    graph = checked(finish(made, w), tmp_path)
    node = graph["acc"]
    assert form is None or (node.weight_bits, node.alpha, node.beta) == form
    found = set((node.alpha * node.weight.astype(int) - node.beta).ravel())
    assert len(found) > 1
    assert levels is None or found <= levels


def test_bipolar_weights(tmp_path):
    made = Onnx()
    made.start()
    made.quant(made.last, 0.25, 0.0, 2, 0, name="codes")
    scale = np.linspace(0.1, 0.9, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    w = made.node("BipolarQuant", weights((8, 2, 3, 3)), scale)
    made.last = "codes"
    graph = checked(finish(made, w), tmp_path)
    node = graph["acc"]
    assert (node.alpha, node.beta, node.weight_bits, node.groups) == (2, 1, 2, 2)
    np.testing.assert_allclose(graph.output.scale, scale.ravel() * 0.25)


def test_weights_that_are_integers_already(tmp_path):
    made = Onnx()
    made.start()
    w = np.random.default_rng(0).integers(-7, 8, (5, 4, 1, 1)).astype(np.float32)
    made.node("Conv", made.last, w, kernel_shape=[1, 1], name="acc")
    node = checked(made, tmp_path)["acc"]
    assert (node.weight_bits, node.alpha, node.beta) == (4, 1, 8)
    assert node.quantized is False  # it reads 8 bits


def test_thresholds_scale_and_bias(tmp_path):
    """A MultiThreshold per channel, whose levels are -3, -1, 1, 3 halves: no code stands for 0."""
    made = Onnx()
    made.start(1 / 64)
    w = made.quant(weights((6, 4, 1, 1)), 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, kernel_shape=[1, 1])
    levels = np.sort(weights((6, 3), 5) * 0.7, axis=1)
    made.node("MultiThreshold", made.last, levels, name="codes", out_scale=1.0, out_bias=-1.5,
              out_dtype="INT2")  # fmt: skip
    made.node("Mul", "codes", np.float32(0.5), name="halves")
    w = made.quant(weights((4, 3, 3, 3)), 0.25, 0.0, 4, 1)
    made.node("Conv", "halves", w, group=2, kernel_shape=[3, 3], name="acc")
    graph = checked(made, tmp_path)
    assert graph["codes"].thresholds.shape == (6, 3)
    assert graph["codes"].zero_point == 0  # what is missing is in the offset of the logits
    assert isinstance(graph.output, Logits)
    assert graph.output.offset.any()


def rotation(made, x):
    """Output group g is input group g + 1, by Slice and Concat."""
    parts = [
        made.node("Slice", x, np.array([start]), np.array([end]), np.array([1]))
        for start, end in ((4, 8), (0, 4))
    ]
    return made.node("Concat", *parts, axis=1, name="moved")


def gather(made, x):
    return made.node("Gather", x, np.array([4, 5, 6, 7, 0, 1, 2, 3]), axis=1, name="moved")


def shuffle(made, x):
    made.node("Reshape", x, np.array([1, 2, 4, 4, 4]))
    made.node("Transpose", made.last, perm=[0, 2, 1, 3, 4])
    return made.node("Reshape", made.last, np.array([1, 8, 4, 4]), name="moved")


@pytest.mark.parametrize(
    ("idiom", "order"),
    [
        (rotation, [4, 5, 6, 7, 0, 1, 2, 3]),
        (gather, [4, 5, 6, 7, 0, 1, 2, 3]),
        (shuffle, [0, 4, 1, 5, 2, 6, 3, 7]),
    ],
)
@pytest.mark.parametrize("where", ["codes", "floats", "pooled"])
def test_permutations(idiom, order, where, tmp_path):
    """Of codes, of floats before their quantiser, and behind a max-pool."""
    made = Onnx((1, 8, 4, 4))
    made.start(1 / 128)
    w = made.quant(weights((8, 8, 1, 1)), 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, kernel_shape=[1, 1])
    gain = np.linspace(-1, 1, 8, dtype=np.float32).reshape(8, 1, 1) + np.float32(0.1)
    x = made.node("Mul", made.last, gain)
    if where == "pooled":
        x = made.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    scale = 0.125
    if where == "codes":
        x = idiom(made, made.quant(x, scale, 1.0, 2, 0, name="codes"))
    else:
        x = made.quant(idiom(made, x), scale, 1.0, 2, 0, name="codes")
    w = made.quant(weights((6, 4, 3, 3)), 0.5, 1.5, 2, 0)
    made.node("Conv", x, w, group=2, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="acc")
    graph = checked(made, tmp_path, (8, 4, 4))
    found = [node for node in graph if isinstance(node, Permute)]
    assert [node.permutation.tolist() for node in found] == [order]
    assert graph["acc"].groups == 2
    assert sum(isinstance(node, MaxPool) for node in graph) == (where == "pooled")


def itself(made, x):
    return made.node("Concat", x, x, axis=1, name="twice")


def tiled(made, x):
    return made.node("Tile", x, np.array([1, 2, 1, 1]), name="twice")


def gathered(made, x):
    return made.node("Gather", x, np.arange(8) % 4, axis=1, name="twice")


@pytest.mark.parametrize("idiom", [itself, tiled, gathered])
@pytest.mark.parametrize("bits", [2, 4])
def test_repeated_codes(idiom, bits, tmp_path):
    """What two groups share: read twice, and added to what it became."""
    made = Onnx()
    made.start(1 / 128)
    made.node("Conv", "t0", made.quant(weights((4, 4, 1, 1)), 0.25, 0.0, 4, 1), kernel_shape=[1, 1])
    codes = made.quant(made.last, 0.25, 1.0, bits, 0, name="codes")
    twice = idiom(made, codes)
    w = made.quant(weights((8, 4, 3, 3)), 0.5, 1.5, 2, 0)
    acc = made.node("Conv", twice, w, group=2, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="acc")
    branch = made.quant(acc, 0.5, 2.0, 3, 0, name="branch")
    made.quant(made.node("Add", branch, twice, name="sum"), 0.5, 1.0, 2, 0, name="out")
    w = made.quant(weights((3, 8, 3, 3)), 0.5, 1.5, 2, 0)
    made.node("Conv", "out", w, kernel_shape=[3, 3], name="last")
    graph = checked(made, tmp_path)
    repeats = [node for node in graph if isinstance(node, Repeat)]
    assert [(node.name, node.input, node.times) for node in repeats] == [("twice", "codes", 2)]


def test_repeated_floats_are_refused(tmp_path):
    made = Onnx()
    made.start(1 / 128)
    made.node("Conv", "t0", made.quant(weights((4, 4, 1, 1)), 0.25, 0.0, 4, 1), kernel_shape=[1, 1])
    made.quant(itself(made, made.last), 0.3, 1.0, 2, 0, name="codes")
    finish(made)
    with pytest.raises(UnsupportedLayerError, match="twice"):
        import_qonnx(made.save(tmp_path / "made.onnx"))


def test_a_sum_of_different_steps(tmp_path):
    """Steps of 1/4 and 1/8 have a common one; the sum is exact, and so is one of three."""
    made = Onnx()
    made.start(1 / 64)
    w = [made.quant(weights((4, 4, 1, 1), seed), 0.125, 0.0, 4, 1) for seed in (1, 2)]
    a, b = (made.node("Conv", "t0", each, kernel_shape=[1, 1]) for each in w)
    a = made.quant(a, 0.25, 0.0, 4, 1, name="a")
    b = made.quant(b, 0.125, 3.0, 3, 0, name="b")
    total = made.node("Relu", made.node("Add", a, b, name="sum"), name="positive")
    more = made.node("Add", total, a, name="more")
    made.quant(more, 0.25, 0.0, 4, 0, name="codes")
    w = made.quant(weights((3, 4, 3, 3)), 0.5, 0.0, 2, 1)
    made.node("Conv", "codes", w, kernel_shape=[3, 3], name="acc")
    graph = checked(made, tmp_path)
    assert sum(isinstance(node, Add) for node in graph) == 2


def test_a_sum_whose_scales_are_no_powers_of_two(tmp_path):
    """Float sums of equal integers differ in the last bit: each pair of values is looked at."""
    made = Onnx()
    made.start(1 / 64)
    w = [made.quant(weights((4, 4, 1, 1), seed), 0.125, 0.0, 4, 1) for seed in (1, 2)]
    a, b = (made.node("Conv", "t0", each, kernel_shape=[1, 1]) for each in w)
    step = np.float32(0.1)
    total = made.node("Add", made.quant(a, step, 0, 4, 1), made.quant(b, step, 0, 4, 1), name="sum")
    made.quant(total, np.float32(0.3), 1.0, 4, 0, name="codes")
    w = made.quant(weights((3, 4, 1, 1)), 0.5, 0.0, 2, 1)
    made.node("Conv", "codes", w, kernel_shape=[1, 1], name="acc")
    graph = checked(made, tmp_path, doubts=100)
    assert isinstance(graph["sum"], Add)


def test_codes_of_many_widths(tmp_path):
    """5 to 8 bits leave through a multiplication that takes the same steps."""
    for bits, signed in ((8, 1), (8, 0), (7, 0), (6, 1), (5, 0)):
        made = Onnx()
        made.start(1 / 128)
        made.quant("t0", 1 / 16, 0.0, 2, 1, name="few")
        w = made.quant(weights((6, 4, 3, 3)), 0.5, 0.0, 2, 1)
        made.node("Conv", "few", w, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="first")
        made.node("Relu", made.last)
        made.quant(made.last, 1 / 32, 0.0, bits, signed, name="codes")
        w = made.quant(weights((3, 6, 3, 3)), 0.5, 0.0, 2, 1)
        made.node("Conv", "codes", w, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="acc")
        graph = checked(made, tmp_path)
        assert isinstance(graph["codes"], Clamp)
        assert graph["codes"].zero_point == 0  # codes below 0 do not come out of a ReLU


@pytest.mark.parametrize("pool", ["average", "global", "mean", "strided"])
def test_averages_of_codes_are_sums_of_a_convolution(pool, tmp_path):
    made = Onnx((1, 4, 4, 4))
    made.start(1 / 128)
    made.quant("t0", 1 / 8, 0.0, 3, 0, name="codes")
    if pool == "global":
        made.node("GlobalAveragePool", "codes", name="average")
    elif pool == "mean":
        made.node("ReduceMean", "codes", axes=[2, 3], keepdims=1, name="average")
    else:
        made.node("AveragePool", "codes", kernel_shape=[2, 2], name="average",
                  strides=[2, 2] if pool == "strided" else [1, 1])  # fmt: skip
    if pool in ("average", "strided"):
        made.quant("average", 1 / 16, 0.0, 4, 0, name="again")
    made.node("Flatten", made.last, axis=1)
    size = {"average": 36, "strided": 16}.get(pool, 4)
    w = made.quant(weights((5, size)), 1 / 4, 0.0, 4, 1, name="levels")
    bias = np.linspace(-1, 1, 5, dtype=np.float32)
    made.node("Gemm", made.nodes[-2].output[0], w, bias, transB=1, name="logits")
    graph = checked(made, tmp_path, (4, 4, 4), doubts=300)
    assert not any(isinstance(node, SumPool) for node in graph)
    assert graph["logits"].weight.shape[2:] == {"average": (3, 3), "strided": (2, 2)}.get(
        pool, (4, 4)
    )
    assert ("again" in graph._by_name) == (pool in ("average", "strided"))


def test_normalisation_before_the_quantiser(tmp_path):
    made = Onnx((1, 3, 4, 4))
    mean = np.array([0.5, 0.25, 0.75], np.float32).reshape(3, 1, 1)
    made.node("Sub", "x", mean)
    made.node("Div", made.last, mean)
    made.quant(made.last, 1 / 64, 0.0, 8, 1, name="image")
    w = made.quant(weights((2, 3, 1, 1)), 0.25, 0.0, 4, 1)
    made.node("Conv", "image", w, kernel_shape=[1, 1], name="acc")
    graph = checked(made, tmp_path, (3, 4, 4))
    norm = graph.input.normalization
    assert norm.mean == (0.5, 0.25, 0.75) == norm.std
    assert (norm.scale, graph.input.zero_point) == (1 / 64, 128)


def test_matmul_arithmetic_and_a_hidden_layer(tmp_path):
    made = Onnx((1, 4, 2, 2))
    made.start(1 / 64)
    made.node("Flatten", "t0")
    w = made.quant(weights((16, 6)), 0.125, 0.0, 4, 1)
    made.node("MatMul", "t1", w, name="hidden")
    gain = np.linspace(-1, 1, 6, dtype=np.float32) + np.float32(0.05)
    made.node("Mul", "hidden", gain)
    made.node("Div", made.last, np.float32(2))
    made.node("Sub", np.float32(0.25), made.last)
    made.node("Add", made.last, gain)
    made.node("Clip", made.last, np.float32(-1), np.float32(1.5))
    made.quant(made.last, 0.25, 2.0, 3, 0, name="codes")
    w = made.quant(weights((6, 3)), 0.125, 0.0, 4, 1)
    made.node("MatMul", "codes", w, name="last")
    made.node("Mul", "last", np.float32(3), name="scaled")
    made.node("Add", "scaled", np.array([1, 2, 3], np.float32), name="result")
    graph = checked(made, tmp_path, (4, 2, 2))
    assert graph["hidden"].weight.shape == (6, 4, 2, 2)
    assert set(graph["codes"].negate.tolist()) == {False, True}
    image = pixels((4, 2, 2))
    values = run(graph, to_codes(image, graph.input))["result"][:, :, 0, 0]
    assert values.dtype == np.int64
    assert graph.output.name == "result"


def test_opset_with_dynamic_batch_and_ordinary_domains(tmp_path):
    """The batch may be open, and old files name the quantisers' domain otherwise."""
    made = Onnx()
    made.start()
    w = made.quant(weights((3, 4, 1, 1)), 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, kernel_shape=[1, 1], name="acc")
    model = made.model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for node in model.graph.node:
        if node.op_type == "Quant":
            node.domain = "onnx.brevitas"
    onnx.save(model, tmp_path / "open.onnx")
    graph = import_qonnx(tmp_path / "open.onnx")
    assert [type(node) for node in graph.nodes[1:]] == [Convolution, Logits]


def test_doubtful_steps_are_counted(tmp_path):
    """A threshold that lies on an integer, where the executor's rounding decides."""
    made = Onnx((1, 4, 3, 3))
    made.start(np.float32(0.01))
    w = made.quant(np.ones((2, 4, 3, 3), np.float32), np.float32(0.1), 0.0, 4, 1)
    made.node("Conv", "t0", w, kernel_shape=[3, 3], name="acc")
    made.quant("acc", np.float32(0.01) * np.float32(0.1) * 2, 0.0, 2, 1, name="codes")
    w = made.quant(weights((2, 2, 1, 1)), 0.5, 0.0, 2, 1)
    made.node("Conv", "codes", w, kernel_shape=[1, 1])
    imported = read_qonnx(made.save(tmp_path / "tie.onnx"))
    assert imported.findings.doubtful["codes"] > 0
    assert imported.graph.metadata["import"]["doubtful"] == imported.findings.doubtful


def test_fitted_quantisers_are_counted(tmp_path):
    """Steps that no line takes: each integer with another code is counted, and seen."""
    made = Onnx((1, 1, 16, 16))
    made.start(1 / 128)
    w = made.quant(np.array([[[[1.0]], ]], np.float32), 1 / 128, 0.0, 8, 1)  # fmt: skip
    made.node("Conv", "t0", w, kernel_shape=[1, 1])
    made.quant(made.last, 1 / 96, 0.0, 7, 1)
    made.quant(made.last, 1 / 100, 0.0, 8, 1, name="codes")
    w = made.quant(np.ones((1, 1, 1, 1), np.float32), 0.5, 0.0, 2, 1)
    made.node("Conv", "codes", w, kernel_shape=[1, 1], name="acc")
    imported = read_qonnx(made.save(tmp_path / "fit.onnx"))
    counted = imported.findings.fitted["codes"]
    image = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16) / np.float32(255)
    wrong, _, _ = differences(imported, image)
    assert counted > 0
    assert wrong["codes"] > 0


def test_initializers_may_be_inputs_as_well(tmp_path):
    made = Onnx()
    made.start()
    w = made.quant(weights((3, 4, 1, 1)), 0.25, 0.0, 4, 1)
    made.node("Conv", "t0", w, kernel_shape=[1, 1], name="acc")
    model = made.model()
    model.graph.input.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, ()))
    onnx.save(model, tmp_path / "inputs.onnx")
    assert import_qonnx(tmp_path / "inputs.onnx").output.name == "acc.logits"
