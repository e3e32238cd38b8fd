"""What is exported comes back as the same graph, and the executor computes its numbers."""

import dataclasses
import json
import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
from networks import Builder, drawer
from onnx import numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup_model
from qonnx_compare import assert_same, differences

from palquant.errors import OutputError, RangeError, UnsupportedLayerError
from palquant.golden.config import NetworkConfig
from palquant.golden.export import export
from palquant.golden.random_network import random_network
from palquant.golden.reference import predict, run
from palquant.sw.graph import (
    Affine,
    Clamp,
    Convolution,
    Graph,
    Input,
    Logits,
    Normalization,
    Quantize,
    Shape,
    SumPool,
)
from palquant.sw.normalize import to_codes
from palquant.sw.qonnx_export import export_qonnx
from palquant.sw.qonnx_import import import_qonnx, read_qonnx

CONFIGS = [
    NetworkConfig(base_width=4, groups=1, weight_bits=3),
    NetworkConfig(base_width=4, groups=2, stem_pool=True),
    NetworkConfig(base_width=4, groups=3, weight_bits=1, activation_bits=1),
    NetworkConfig(base_width=4, groups=4, activation_bits=4, stem_bits=4),
    NetworkConfig(base_width=2, groups=2, block="bottleneck", residual_bits=12),
    NetworkConfig(base_width=4, groups=2, stem_bits=2, shared_stem=True),
    NetworkConfig(base_width=4, groups=3, stem_pool=True, shared_stem=True),
    NetworkConfig(base_width=4, groups=2, block="plain", classifier_bits=2, weight_bits=8),
]


def returned(graph, path):
    """The graph behind export and import, checked to be the same; and its import's record."""
    export_qonnx(graph, path)
    imported = read_qonnx(path)
    assert_same(graph, imported.graph)
    assert imported.findings == type(imported.findings)()
    return imported


def pixels_for(graph, count, seed=0):
    shape = graph.input.shape
    size = (count, shape.channels, shape.height, shape.width)
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return pixels.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.block} {c.name}")
def test_random_networks_return(config, tmp_path):
    graph = export(random_network(config, 5), note="kept")
    imported = returned(graph, tmp_path / "network.onnx")
    wrong, values, count = differences(imported, pixels_for(graph, 2))
    assert wrong == {}
    assert count == sum(v.size for v in values.values())  # every tensor of the graph is compared


def test_logits_equal_after_the_cleanup_of_qonnx(tmp_path):
    """The executor needs nothing of ours: the logits of another tool's copy of the file."""
    graph = export(random_network(CONFIGS[1], 3))
    export_qonnx(graph, tmp_path / "network.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cleanup_model(ModelWrapper(str(tmp_path / "network.onnx")))
        pixels = pixels_for(graph, 3)
        values = run(graph, to_codes(pixels, graph.input))
        name = model.graph.input[0].name
        for image, integers in zip(pixels, values[graph.output.name], strict=True):
            (found,) = execute_onnx(model, {name: image[None]}).values()
            assert found.dtype == np.float64
            np.testing.assert_array_equal(found[0], integers[:, 0, 0] * graph.output.scale)
    assert predict(graph, values).shape == (3,)


def test_four_levels_are_a_quantiser_of_the_middle(tmp_path):
    graph = export(random_network(CONFIGS[1], 3))
    export_qonnx(graph, tmp_path / "network.onnx")
    model = onnx.load(tmp_path / "network.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.name == "stage1.0.conv1/weight_levels")
    assert (node.op_type, node.domain) == ("Quant", "qonnx.custom_op.general")
    levels, scale, zero, bits = (constants[name] for name in node.input)
    assert (scale, zero, bits) == (2, 1.5, 2)
    assert set(levels.ravel()) == {-3, -1, 1, 3}
    assert levels.dtype == np.float32
    metadata = {item.key: item.value for item in model.metadata_props}
    assert set(json.loads(metadata["palquant"])) == {"metadata", "quantized"}


@pytest.mark.parametrize("seed", range(3))
def test_wild_graphs_return(seed, tmp_path):
    """Thresholds per tensor, negated, out of reach; gains of any kind; a code for 0 in between."""
    rng = np.random.default_rng(seed)
    b = Builder(drawer(seed))
    x = b.start(3, 6, 6)
    c, h, w = 4, 6, 6
    weight = rng.integers(0, 4, (c, 3, 3, 3), np.uint8)
    acc = b.add(Convolution(name="first", input=x, weight=weight, weight_bits=2, alpha=2, beta=2,
                            padding=(1, 1), quantized=False))  # fmt: skip
    q = b.add(
        Quantize(
            name="codes", input=acc, bits=2, zero_point=1,
            thresholds=np.array([[-(1 << 30), 5, 1 << 40]]), negate=np.array([bool(seed % 2)]),
        )
    )  # fmt: skip
    weight = rng.integers(0, 16, (c, c // 2, 3, 3), np.uint8)
    acc = b.add(Convolution(name="second", input=q, weight=weight, weight_bits=4, alpha=1, beta=8,
                            groups=2, padding=(1, 1), stride=(1, 2)))  # fmt: skip
    ints = (
        rng.integers(-300, 300, c),
        rng.integers(-(1 << 30), 1 << 30, c),
        rng.integers(0, 32, c),
    )
    r = b.add(Affine(name="residual", input=acc, scale=ints[0], offset=ints[1], shift=ints[2],
                     bits=16))  # fmt: skip
    r = b.add(Affine(name="again", input=r, scale=ints[0][::-1].copy(), offset=ints[1], bits=10,
                     shift=np.full(c, 20)))  # fmt: skip
    p = b.add(SumPool(name="sums", input=r, kernel=(3, 2), stride=(1, 1), padding=(1, 1)))
    r = b.add(Affine(name="third", input=p, scale=np.full(c, 3), offset=np.arange(c), bits=16,
                     shift=np.zeros(c, np.int64)))  # fmt: skip
    k = b.add(Clamp(name="wide", input=r, zero_point=7))
    weight = rng.integers(0, 255, (5, c, 1, 1), np.uint8)
    acc = b.add(Convolution(name="last", input=k, weight=weight, weight_bits=8, alpha=1, beta=128,
                            quantized=True))  # fmt: skip
    scale = rng.random(5) + 0.1
    b.add(Logits(name="logits", input=acc, offset=np.arange(5) - 2, scale=scale))
    graph = Graph(b.nodes, {"name": "wild"})
    imported = returned(graph, tmp_path / "wild.onnx")
    wrong, _, _ = differences(imported, pixels_for(graph, 2, seed))
    assert wrong == {}
    assert h == w


def wide(taps, alpha=1, beta=128):
    """A network whose sums may leave the 24 bits that float32 holds."""
    norm = Normalization((0.0,), (1.0,), 1 / 128)
    nodes = [
        Input(name="x", shape=Shape(1, taps, taps), bits=8, zero_point=128, normalization=norm),
        Convolution(name="conv", input="x", weight=np.full((2, 1, taps, taps), 255, np.uint8),
                    weight_bits=8, alpha=alpha, beta=beta),
        Logits(name="logits", input="conv", offset=np.zeros(2, np.int64),
               scale=np.ones(2)),
    ]  # fmt: skip
    return Graph(nodes)


def test_wide_sums_are_integers(tmp_path):
    graph = wide(40)
    export_qonnx(graph, tmp_path / "wide.onnx")
    assert "ConvInteger" in {n.op_type for n in onnx.load(tmp_path / "wide.onnx").graph.node}
    imported = returned(graph, tmp_path / "wide.onnx")
    pixels = np.ones((1, 1, 40, 40), np.float32) * np.float32(0.999)
    wrong, values, _ = differences(imported, pixels)
    assert wrong == {}
    assert abs(values["conv"]).max() > 1 << 24
    with pytest.raises(RangeError, match=r"^conv: sums reach 52224000, and weights 255 to 255 "):
        export_qonnx(wide(40, 2, 255), tmp_path / "wide.onnx")


def test_what_would_round_is_refused(tmp_path):
    graph = wide(3)
    affine = Affine(name="big", input="conv", scale=np.full(2, 1 << 40), offset=np.zeros(2, int),
                    shift=np.zeros(2, int), bits=16)  # fmt: skip
    with pytest.raises(RangeError, match=r"^big: products reach .* below 2"):
        export_qonnx(Graph([*graph.nodes[:2], affine]), tmp_path / "big.onnx")
    small = dataclasses.replace(affine, scale=np.ones(2, np.int64))
    graph = Graph([*graph.nodes[:2], small])
    assert returned(graph, tmp_path / "small.onnx").graph.output.name == "big"


def test_the_largest_sums_of_whole_images(tmp_path):
    """Averages of 16 bits over 12 x 12 pixels leave float32, and are summed in float64."""
    norm = Normalization((0.0,), (1.0,), 1 / 128)
    pool = SumPool(name="pool", input="r", kernel=(12, 12), stride=(12, 12))
    nodes = [
        Input(name="x", shape=Shape(1, 12, 12), bits=8, zero_point=128, normalization=norm),
        Convolution(name="conv", input="x", weight=np.full((1, 1, 1, 1), 255, np.uint8),
                    weight_bits=8, alpha=1, beta=128),
        Affine(name="r", input="conv", scale=np.array([2]), offset=np.array([1]),
               shift=np.array([0]), bits=16),
        pool,
        Quantize(name="codes", input="pool", bits=1, thresholds=np.array([[4000000]]),
                 negate=np.array([False])),
    ]  # fmt: skip
    imported = returned(Graph(nodes, {}), tmp_path / "sums.onnx")
    assert differences(imported, np.ones((1, 1, 12, 12), np.float32))[0] == {}
    nodes[3] = dataclasses.replace(pool, kernel=(11, 11), stride=(1, 1))
    with pytest.raises(RangeError, match=r"^pool: sums reach 3964928 \(exact in the file: up to"):
        export_qonnx(Graph(nodes), tmp_path / "sums.onnx")


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_an_input_of_residuals(bits, tmp_path):
    norm = Normalization((0.25, 0.5), (0.5, 0.125), 1 / 64)
    nodes = [
        Input(name="x", shape=Shape(2, 5, 5), bits=bits, zero_point=0, normalization=norm,
              residual=True),
        Quantize(name="codes", input="x", bits=2, thresholds=np.array([[-9, 3, 20]]),
                 negate=np.array([True])),
    ]  # fmt: skip
    imported = returned(Graph(nodes, {}), tmp_path / "residual.onnx")
    assert differences(imported, pixels_for(imported.graph, 2))[0] == {}


def test_what_has_no_operators(tmp_path):
    class Unknown(Clamp):
        pass

    graph = wide(3)
    graph.nodes.append(Unknown(name="odd", input="logits"))
    with pytest.raises(UnsupportedLayerError, match=r"^odd: Unknown has no QONNX op"):
        export_qonnx(graph, tmp_path / "odd.onnx")
    graph = wide(3)
    graph.host = object()
    with pytest.raises(UnsupportedLayerError, match=r"^x: the host computes what is"):
        export_qonnx(graph, tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export_qonnx(wide(3), tmp_path / "file" / "network.onnx")


def output_of(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout


def test_the_compiler_does_not_need_onnx():
    probe = "import palquant.sw.compile, sys; print('onnx' in sys.modules, 'qonnx' in sys.modules)"
    assert output_of(probe) == "False False\n"


def test_importing_does_not_need_torch(tmp_path):
    export_qonnx(wide(3), tmp_path / "n.onnx")
    probe = f"""import sys
from palquant.sw.qonnx_import import import_qonnx
import_qonnx({str(tmp_path / "n.onnx")!r})
print("torch" in sys.modules)"""
    assert output_of(probe) == "False\n"
    assert import_qonnx(tmp_path / "n.onnx").output.name == "logits"
