"""The integer graph: derived shapes and types, and every legality rule provoked."""

import itertools

import numpy as np
import pytest

from palquant.errors import GraphError
from palquant.sw.graph import (
    OPERATIONS,
    RULES,
    Add,
    Affine,
    Clamp,
    Convolution,
    Graph,
    Input,
    Kind,
    Logits,
    MaxPool,
    Node,
    Normalization,
    Permute,
    Quantize,
    Relu,
    Repeat,
    Shape,
    SumPool,
    TensorType,
    legal_betas,
    window_extent,
)

CHANNELS = 4


def source(**changes):
    values = {
        "name": "input",
        "shape": Shape(CHANNELS, 6, 5),
        "bits": 8,
        "zero_point": 128,
        "normalization": Normalization((0.0,) * CHANNELS, (1.0,) * CHANNELS, 1.0),
    }
    return Input(**(values | changes))


def convolution(reads="input", **changes):
    values = {
        "name": "conv",
        "input": reads,
        "weight": np.zeros((CHANNELS, CHANNELS, 1, 1), np.uint8),
        "weight_bits": 2,
        "alpha": 2,
        "beta": 3,
    }
    return Convolution(**(values | changes))


def column(*values, count=CHANNELS):
    return np.array(values * (count if len(values) == 1 else 1), np.int64)


def affine(reads="conv", **changes):
    values = {"name": "affine", "input": reads, "bits": 16}
    values |= {"scale": column(1), "offset": column(0), "shift": column(0)}
    return Affine(**(values | changes))


def quantize(reads="conv", **changes):
    values = {
        "name": "quantize",
        "input": reads,
        "thresholds": np.array([[0, 1, 1]]),
        "negate": np.array([False]),
        "bits": 2,
    }
    return Quantize(**(values | changes))


def pool(cls=MaxPool, reads="affine", **changes):
    values = {"name": "pool", "input": reads, "kernel": (2, 2), "stride": (2, 2)}
    return cls(**(values | changes))


def logits(reads="conv", **changes):
    values = {"name": "logits", "input": reads, "offset": column(0), "scale": np.ones(CHANNELS)}
    return Logits(**(values | changes))


def permute(reads="affine", **changes):
    return Permute(**({"name": "p", "input": reads, "permutation": np.arange(CHANNELS)} | changes))


def test_derives_shapes_and_types():
    graph = Graph(
        [
            source(),
            convolution(
                weight=np.zeros((6, 2, 3, 2), np.uint8), groups=2, stride=(2, 1), padding=(1, 0)
            ),
            affine(scale=column(1, count=6), offset=column(0, count=6), shift=column(0, count=6),
                   bits=12),
            Relu(name="relu", input="affine"),
            permute("relu", permutation=np.array([5, 4, 3, 2, 1, 0])),
            Add(name="add", a="affine", b="p"),
            pool(MaxPool, "add", kernel=(2, 3), stride=(1, 1), padding=(1, 2)),
            quantize("pool", zero_point=2),
            pool(SumPool, "add", name="sum", kernel=(3, 4)),
            affine("sum", name="a2", scale=column(1, count=6), offset=column(0, count=6),
                   shift=column(0, count=6)),
            Clamp(name="clamp", input="a2", zero_point=7),
            convolution("clamp", name="fc", weight=np.zeros((3, 6, 1, 1), np.uint8)),
            logits("fc", offset=column(0, count=3), scale=np.ones(3)),
        ],
        {"name": "sample"},
    )  # fmt: skip
    expected = {
        "input": (Shape(4, 6, 5), TensorType(Kind.CODES, 8, 128)),
        "conv": (Shape(6, 3, 4), TensorType(Kind.ACCUMULATOR, 48)),
        "affine": (Shape(6, 3, 4), TensorType(Kind.RESIDUAL, 12)),
        "relu": (Shape(6, 3, 4), TensorType(Kind.RESIDUAL, 12)),
        "p": (Shape(6, 3, 4), TensorType(Kind.RESIDUAL, 12)),
        "add": (Shape(6, 3, 4), TensorType(Kind.RESIDUAL, 12)),
        "pool": (Shape(6, 4, 6), TensorType(Kind.RESIDUAL, 12)),
        "quantize": (Shape(6, 4, 6), TensorType(Kind.CODES, 2, 2)),
        "sum": (Shape(6, 1, 1), TensorType(Kind.ACCUMULATOR, 48)),
        "a2": (Shape(6, 1, 1), TensorType(Kind.RESIDUAL, 16)),
        "clamp": (Shape(6, 1, 1), TensorType(Kind.CODES, 8, 7)),
        "fc": (Shape(3, 1, 1), TensorType(Kind.ACCUMULATOR, 48)),
        "logits": (Shape(3, 1, 1), TensorType(Kind.LOGITS, 32)),
    }
    assert {name: (graph.shapes[name], graph.types[name]) for name in graph.shapes} == expected
    assert [node.name for node in graph] == list(expected)
    assert graph.input is graph["input"]
    assert graph.output is graph["logits"]
    readers = {name: [node.name for node in nodes] for name, nodes in graph.consumers().items()}
    assert readers["affine"] == ["relu", "add"]
    assert readers["add"] == ["pool", "sum"]
    assert readers["logits"] == []


def nodes_making(kind):
    """Nodes, the last of which makes a tensor of the given kind."""
    return {
        Kind.CODES: [source()],
        Kind.ACCUMULATOR: [source(), convolution()],
        Kind.RESIDUAL: [source(), convolution(), affine()],
        Kind.LOGITS: [source(), convolution(), logits()],
    }[kind]


READERS = {
    Convolution: lambda x: convolution(x, name="reader"),
    Affine: lambda x: affine(x, name="reader"),
    Relu: lambda x: Relu(name="reader", input=x),
    Add: lambda x: Add(name="reader", a=x, b=x),
    Permute: lambda x: permute(x, name="reader"),
    Repeat: lambda x: Repeat(name="reader", input=x, times=2),
    MaxPool: lambda x: pool(MaxPool, x, name="reader"),
    SumPool: lambda x: pool(SumPool, x, name="reader"),
    Quantize: lambda x: quantize(x, name="reader"),
    Clamp: lambda x: Clamp(name="reader", input=x),
    Logits: lambda x: logits(x, name="reader"),
}


@pytest.mark.parametrize(("operation", "kind"), list(itertools.product(READERS, Kind)))
def test_operations_accept_what_the_table_says(operation, kind):
    nodes = nodes_making(kind)
    reader = READERS[operation](nodes[-1].name)
    if kind in RULES[operation]:
        assert Graph([*nodes, reader]).output is reader
    else:
        message = rf"^reader: {operation.__name__} needs .* but '{nodes[-1].name}' is {kind.value}$"
        with pytest.raises(GraphError, match=message):
            Graph([*nodes, reader])


def test_every_operation_has_a_rule():
    assert set(RULES) == set(OPERATIONS.values()) == {Input, *READERS}


WITH_CONV = [source(), convolution()]
WITH_RESIDUAL = [*WITH_CONV, affine()]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "^a graph starts with its Input node$"),
        ([convolution()], "^a graph starts with its Input node$"),
        ([source(), source(name="second")], "^second: a graph has one Input, its first node$"),
        ([source(), Node(name="odd")], r"^odd: unknown operation Node \(supported: Input, Conv"),
        ([*WITH_CONV, convolution()], "^conv: two nodes have this name$"),
        ([source(), convolution("later")], "^conv: reads 'later', which no earlier node makes$"),
        # Input
        ([source(shape=Shape(4, 0, 5))], r"^input: shape .* has an empty dimension$"),
        ([source(bits=5)], r"^input: input codes of 5 bits \(supported: 1, 2, 3, 4, 8\)$"),
        ([source(zero_point=256)], "^input: zero point 256 is not a code of 8 bits$"),
        ([source(zero_point=-1)], "^input: zero point -1 is not a code of 8 bits$"),
        ([source(normalization=Normalization((0.0,), (1.0,), 1.0))],
         "^input: normalisation has 1 means and 1 standard deviations for 4 channels$"),
        ([source(normalization=Normalization((0.0,) * 4, (1.0, 1.0, 0.0, 1.0), 1.0))],
         "^input: normalisation needs positive standard deviations and scale$"),
        ([source(normalization=Normalization((0.0,) * 4, (1.0,) * 4, 0.0))],
         "^input: normalisation needs positive"),
        # Attributes of another type than declared
        ([source(bits=8.0)], r"^input: bits is 8\.0, expected int$"),
        ([source(), convolution(stride=(1,))], r"^conv: stride is \(1,\), expected tuple\[int"),
        ([source(), convolution(weight=np.zeros((4, 4, 1, 1)))],
         "^conv: weight is an array of float64, expected an array of uint8$"),
        ([source(normalization=Normalization((float("nan"),) * 4, (1.0,) * 4, 1.0))],
         r"^input: normalization\.mean is \(nan, nan, nan, nan\), expected tuple"),
        # Convolution
        ([source(), convolution(weight=np.zeros((4, 4, 1), np.uint8))],
         r"^conv: weights have shape \(4, 4, 1\), expected \(O, I / groups, KH, KW\)"),
        ([source(), convolution(weight=np.zeros((0, 4, 1, 1), np.uint8))],
         r"^conv: weights have shape \(0, 4, 1, 1\)"),
        ([source(), convolution(groups=3)],
         "^conv: 3 groups do not divide 4 input channels and 4 output channels$"),
        ([source(), convolution(groups=0)], "^conv: 0 groups do not divide"),
        ([source(), convolution(weight=np.zeros((3, 2, 1, 1), np.uint8), groups=2)],
         "^conv: 2 groups do not divide 4 input channels and 3 output channels$"),
        ([source(), convolution(groups=2)],
         "^conv: weights take 4 channels in each of 2 groups, but the input has 4$"),
        ([source(), convolution(weight_bits=3)],
         r"^conv: weights of 3 bits \(supported: 2, 4, 8\)$"),
        ([source(), convolution(weight=np.full((4, 4, 1, 1), 4, np.uint8))],
         "^conv: weight code 4 does not fit 2 bits$"),
        ([source(), convolution(alpha=3)], r"^conv: weight levels 3\*c - 3 \(supported: alpha 1"),
        ([source(), convolution(beta=5)], r"^conv: weight levels 2\*c - 5 "),
        ([source(), convolution(stride=(0, 1))],
         r"^conv: stride \(0, 1\) and padding \(0, 0\) must be positive$"),
        ([source(), convolution(padding=(0, -1))],
         r"^conv: stride \(1, 1\) and padding \(0, -1\) must be positive$"),
        ([source(), convolution(weight=np.zeros((4, 4, 9, 3), np.uint8), padding=(1, 0))],
         r"^conv: a 9x3 window does not fit into 6x5 with padding \(1, 0\)$"),
        # Affine
        ([*WITH_CONV, affine(scale=column(1, count=3))],
         r"^affine: scale has shape \(3,\), expected \(4,\)$"),
        ([*WITH_CONV, affine(offset=np.zeros((4, 1), np.int64))],
         r"^affine: offset has shape \(4, 1\), expected \(4,\)$"),
        ([*WITH_CONV, affine(shift=column(0, 0, 32, 0))], r"^affine: shift 0\.\.32 is outside"),
        ([*WITH_CONV, affine(shift=column(0, -1, 3, 0))], r"^affine: shift -1\.\.3 is outside"),
        ([*WITH_CONV, affine(bits=7)], r"^affine: residual of 7 bits \(supported: 8 to 16\)$"),
        ([*WITH_CONV, affine(bits=17)], r"^affine: residual of 17 bits \(supported: 8 to 16\)$"),
        # Add
        ([*WITH_RESIDUAL, affine(name="b", bits=8), Add(name="add", a="affine", b="b")],
         "^add: adds residuals of 16 and 8 bits$"),
        ([*WITH_RESIDUAL, pool(), Add(name="add", a="affine", b="pool")],
         "^add: adds tensors of shapes .* and .*$"),
        # Permute
        ([*WITH_RESIDUAL, permute(permutation=column(0, 1, 1, 3))],
         "^p: is no permutation of 4 channels$"),
        ([*WITH_RESIDUAL, permute(permutation=np.arange(5))],
         "^p: is no permutation of 4 channels$"),
        ([*WITH_RESIDUAL, permute(permutation=np.array(0))],
         "^p: is no permutation of 4 channels$"),
        # Pools
        ([*WITH_RESIDUAL, pool(kernel=(0, 2))],
         r"^pool: kernel \(0, 2\) and stride \(2, 2\) must be positive$"),
        ([*WITH_RESIDUAL, pool(stride=(1, 0))], r"^pool: kernel \(2, 2\) and stride \(1, 0\) "),
        ([*WITH_RESIDUAL, pool(padding=(2, 0))],
         r"^pool: padding \(2, 0\) must be smaller than kernel \(2, 2\)$"),
        ([*WITH_RESIDUAL, pool(SumPool, kernel=(7, 2))],
         r"^pool: a 7x2 window does not fit into 6x5 with padding \(0, 0\)$"),
        # Quantize
        ([*WITH_CONV, quantize(bits=5)],
         r"^quantize: threshold quantiser of 5 bits \(supported: 1 to 4\)$"),
        ([*WITH_CONV, quantize(bits=3)],
         r"^quantize: thresholds have shape \(1, 3\), expected \(4, 7\) or \(1, 7\)$"),
        ([*WITH_CONV, quantize(thresholds=np.zeros((2, 3), np.int64))],
         r"^quantize: thresholds have shape \(2, 3\), expected \(4, 3\) or \(1, 3\)$"),
        ([*WITH_CONV, quantize(thresholds=np.zeros(3, np.int64))],
         r"^quantize: thresholds have shape \(3,\), expected"),
        ([*WITH_CONV, quantize(negate=np.zeros(4, bool))],
         r"^quantize: negate has shape \(4,\), expected \(1,\)$"),
        ([*WITH_CONV, quantize(thresholds=np.array([[0, 2, 1]]))],
         "^quantize: thresholds decrease$"),
        ([*WITH_CONV, quantize(zero_point=4)],
         "^quantize: zero point 4 is not a code of 2 bits$"),
        ([*WITH_RESIDUAL, Clamp(name="clamp", input="affine", zero_point=256)],
         "^clamp: zero point 256 is not a code of 8 bits$"),
        # Logits
        ([*WITH_CONV, logits(offset=column(0, count=5))],
         r"^logits: offset has shape \(5,\), expected \(4,\)$"),
        ([*WITH_CONV, logits(scale=np.ones(1))],
         r"^logits: scale has shape \(1,\), expected \(4,\)$"),
        ([*WITH_CONV, logits(scale=np.array([1.0, 0.0, 1.0, 1.0]))],
         "^logits: logit scales must be positive and finite$"),
        ([*WITH_CONV, logits(scale=np.array([1.0, np.nan, 1.0, 1.0]))],
         "^logits: logit scales must be positive and finite$"),
        ([*WITH_CONV, logits(scale=np.array([1.0, np.inf, 1.0, 1.0]))],
         "^logits: logit scales must be positive and finite$"),
        ([*WITH_CONV, logits(rest=np.zeros(1))],
         r"^logits: rest has shape \(1,\), expected \(4,\)$"),
        ([*WITH_CONV, logits(rest=np.array([0.5, np.inf, 0.0, 0.0]))],
         "^logits: the rest of the logits' bias must be finite$"),
        ([*WITH_CONV, logits(rest=0.5)],
         r"^logits: rest is 0.5, expected an array of float64 or None$"),
    ],
)  # fmt: skip
def test_every_refusal_names_the_node(nodes, message):
    with pytest.raises(GraphError, match=message) as error:
        Graph(nodes)
    assert "\n" not in str(error.value)


def test_check_derives_anew():
    graph = Graph([source(), convolution(), affine()])
    graph.nodes[2] = affine(bits=8)
    graph.check()
    assert graph.types["affine"].bits == 8
    graph.nodes.append(affine("none", name="more"))
    with pytest.raises(GraphError, match=r"^more: reads 'none'"):
        graph.check()


@pytest.mark.parametrize(
    ("kind", "bits", "smallest", "largest"),
    [
        (Kind.CODES, 1, 0, 1),
        (Kind.CODES, 8, 0, 255),
        (Kind.RESIDUAL, 8, -128, 127),
        (Kind.ACCUMULATOR, 48, -(2**47), 2**47 - 1),
        (Kind.LOGITS, 32, -(2**31), 2**31 - 1),
    ],
)
def test_ranges_of_types(kind, bits, smallest, largest):
    tensor = TensorType(kind, bits)
    assert (tensor.min, tensor.max) == (smallest, largest)
    assert tensor.signed == (smallest < 0)
    assert tensor.allowed(np.array([smallest, largest]))
    assert not tensor.allowed(np.array([smallest - 1]))
    assert not tensor.allowed(np.array([largest + 1]))
    assert not tensor.allowed(np.array([0.0]))
    assert tensor.allowed(np.zeros(0, np.int8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorType(Kind.CODES, 0), "^tensor width must be 1 to 64 bits, not 0$"),
        (lambda: TensorType(Kind.CODES, 65), "^tensor width must be 1 to 64 bits, not 65$"),
        (lambda: TensorType(Kind.RESIDUAL, 8, 1), "^only codes have a zero point, not residual$"),
        (lambda: TensorType(Kind.CODES, 2, 4), "^zero point 4 is not a code of 2 bits$"),
    ],
)
def test_types_refuse_bad_parameters(make, message):
    with pytest.raises(GraphError, match=message):
        make()


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_window_extent_counts_positions(kernel, stride, padding):
    for size in range(max(1, kernel - 2 * padding), 9):
        starts = [
            s for s in range(0, size + 2 * padding, stride) if s + kernel <= size + 2 * padding
        ]
        assert window_extent(size, kernel, stride, padding) == len(starts)


def test_legal_betas_are_those_of_both_weight_kinds():
    expected = {0} | {2**b - 1 for b in range(1, 9)} | {2 ** (b - 1) for b in range(1, 9)}
    assert legal_betas() == expected
