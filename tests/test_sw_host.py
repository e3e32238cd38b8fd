"""The host's part of a network: its arithmetic, its checks, and its way through files."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Builder, drawer
from test_residual_input import pooled_sums, residual_input

from palquant.errors import GraphError, InputError, ModelError
from palquant.golden.reference import predict, run
from palquant.hw.presets import PRESETS
from palquant.sim.run import run_emulator
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Graph, HostClassifier, HostEnds, HostStem, Normalization, Shape
from palquant.sw.image import load_image, save_image
from palquant.sw.model import load_model, save_model
from palquant.sw.normalize import input_values
from palquant.sw.passes import identity_permutations

RNG = np.random.default_rng(4)


def stem(**changes):
    parts = {
        "image": Shape(3, 19, 16),
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        "weight": RNG.normal(size=(8, 3, 7, 7)).astype(np.float32),
        "stride": 2,
        "padding": 3,
        "gain": RNG.normal(size=8),
        "offset": RNG.normal(size=8),
        "pool": (3, 2, 1),
    }
    return HostStem(**parts | changes)


def classifier(classes=5, channels=8):
    weight = RNG.normal(size=(classes, channels)).astype(np.float32)
    return HostClassifier(weight=weight, bias=RNG.normal(size=classes).astype(np.float32))


def hosted_graph(**changes):
    b = Builder(drawer(1))
    part = stem(**changes)
    x = residual_input(b, part.shape.channels, part.shape.height, part.shape.width, 16)
    pooled_sums(b, x)
    norm = Normalization((0.0,) * 8, (1.0,) * 8, 2.0**-7)
    nodes = [dataclasses.replace(b.nodes[0], normalization=norm), *b.nodes[1:]]
    return Graph(nodes, {"name": "hosted"}, HostEnds(stem=part, classifier=classifier()))


def pictures(number=3):
    return RNG.random((number, 3, 19, 16), np.float32)


def torch_features(part, images):
    """The stem in PyTorch's float64 layers."""
    mean, std, gain, offset = (
        torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1)
        for v in (part.mean, part.std, part.gain, part.offset)
    )
    x = (torch.from_numpy(images).double() - mean) / std
    y = F.conv2d(x, torch.from_numpy(part.weight).double(), None, part.stride, part.padding)
    return F.max_pool2d(F.relu(y * gain + offset), *part.pool).numpy()


@pytest.mark.parametrize(
    "changes", [{}, {"pool": (1, 1, 0)}, {"stride": 1, "padding": 0}, {"pool": (2, 2, 0)}]
)
def test_features_are_those_of_the_same_layers_elsewhere(changes):
    part, images = stem(**changes), pictures()
    expected = torch_features(part, images)
    found = part.features(images)
    assert found.dtype == np.float32
    assert found.shape[1:] == (part.shape.channels, part.shape.height, part.shape.width)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert (found == 0).any()
    assert (found > 0).any()


def test_classes_are_those_of_the_real_classifier():
    graph, images = hosted_graph(), pictures(6)
    values = input_values(images, graph)
    assert values.dtype == np.int16
    assert np.array_equal(values, np.rint(graph.host.stem.features(images).astype(float) * 2**7))
    outputs = run(graph, values)
    features = outputs["result"][:, :, 0, 0] * 0.5
    part = graph.host.classifier
    logits = features @ part.weight.T.astype(float) + part.bias
    assert len(set(logits.argmax(1))) > 1
    assert predict(graph, outputs).tolist() == logits.argmax(1).tolist()
    image = compile_graph(graph, PRESETS["tiny"])
    assert image.predict(run_emulator(image, images)).tolist() == logits.argmax(1).tolist()
    assert (graph.classes, graph.image_shape) == (5, Shape(3, 19, 16))


def test_pixels_of_bytes_are_those_of_the_float_images():
    graph = hosted_graph()
    pixels = RNG.integers(0, 256, (2, 3, 19, 16), np.uint8)
    floats = pixels.astype(np.float32) / np.float32(255)
    assert np.array_equal(input_values(pixels, graph), input_values(floats, graph))


def test_residuals_saturate_at_both_ends():
    b = Builder(drawer(1))
    residual_input(b, 1, 1, 4, 12)
    graph = b.graph()
    images = np.array([-1e9, -2048.4, 0.5, 1e9], np.float32).reshape(1, 1, 1, 4)
    assert input_values(images, graph).ravel().tolist() == [-2048, -2048, 0, 2047]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 3, 2), np.float32), r"images have shape .* expected \(N, 3, 19, 16\)"),
        (np.zeros((1, 3, 19, 16)), "images are float64, expected float32 or uint8"),
        (np.full((1, 3, 19, 16), np.nan, np.float32), "image 0 holds NaN or infinity"),
    ],
)
def test_refuses_other_images(images, message):
    with pytest.raises(InputError, match=f"features: {message}"):
        input_values(images, hosted_graph())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 0}, r"host stem: stride 0 and pool \(3, 2, 1\) are no windows"),
        ({"pool": (3, 2, 2)}, "are no windows"),
        ({"padding": -1}, "does not fit into an image"),
        ({"image": Shape(3, 1, 1), "padding": 0}, "does not fit into an image"),
        ({"std": (0.2, 0.0, 0.3)}, "do not fit 3 channels"),
        ({"mean": (0.5,)}, "do not fit 3 channels"),
        ({"gain": np.ones(7)}, r"gain and offset have shapes \(7,\) and \(8,\), expected \(8,\)"),
        ({"weight": np.zeros((8, 2, 7, 7), np.float32)}, r"expected \(O, 3, KH, KW\)"),
        ({"weight": np.zeros((8, 3, 7, 7))}, "weight is an array of float64"),
    ],
)
def test_refuses_stems_whose_parts_do_not_fit(changes, message):
    with pytest.raises(GraphError, match=message):
        stem(**changes)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"weight": np.zeros(3, np.float32)}, r"weight has shape \(3,\), expected \(classes, C\)"),
        ({"bias": np.zeros(3, np.float32)}, r"bias has shape \(3,\), expected \(5,\)"),
        ({"bias": np.zeros(5)}, "bias is an array of float64"),
    ],
)
def test_refuses_classifiers_whose_parts_do_not_fit(parts, message):
    with pytest.raises(GraphError, match="host classifier: " + message):
        dataclasses.replace(classifier(), **parts)


def test_refuses_ends_that_do_not_fit_the_network():
    graph = hosted_graph()
    other = dataclasses.replace(graph.host, stem=stem(pool=(1, 1, 0)))
    with pytest.raises(GraphError, match=r"host stem: makes Shape.* but features is Shape"):
        Graph(graph.nodes, {}, other)
    other = dataclasses.replace(graph.host, classifier=classifier(channels=7))
    with pytest.raises(GraphError, match=r"host classifier: reads Logits of .*channels=7"):
        Graph(graph.nodes, {}, other)
    with pytest.raises(GraphError, match="the network ends with SumPool"):
        Graph(graph.nodes[:-1], {}, graph.host)


def test_files_keep_the_hosts_part(tmp_path):
    graph, images = hosted_graph(), pictures()
    save_model(graph, tmp_path / "model.npz")
    save_image(compile_graph(graph, PRESETS["tiny"]), tmp_path / "image")
    for found in (load_model(tmp_path / "model.npz"), load_image(tmp_path / "image").graph):
        for part in ("stem", "classifier"):
            expected, actual = getattr(graph.host, part), getattr(found.host, part)
            for item in dataclasses.fields(expected):
                assert np.array_equal(getattr(expected, item.name), getattr(actual, item.name))
        assert np.array_equal(input_values(images, found), input_values(images, graph))
    described = json.loads((tmp_path / "image" / "manifest.json").read_text())
    assert described["input"]["image_shape"] == {"channels": 3, "height": 19, "width": 16}
    assert described["input"]["host_stem"] is described["output"]["host_classifier"] is True
    assert identity_permutations(graph)[0].host is graph.host


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host.stem.weight": None}, "host.stem.weight is missing"),
        ({"host.stem.weight": np.zeros((8, 3, 5, 5), np.float32)}, "host stem: makes"),
        ({"host.stem.gain": np.full(8, np.inf)}, "host.stem.gain holds NaN or infinity"),
        ({"host.classifier.bias": np.zeros(4, np.float32)}, "host classifier: bias has shape"),
        ({"host.stem.phase": np.zeros(4)}, "entry 'host.stem.phase' belongs to no node"),
    ],
)
def test_a_model_file_whose_host_part_does_not_fit_is_refused(tmp_path, change, message):
    path = tmp_path / "model.npz"
    save_model(hosted_graph(), path)
    with np.load(path) as archive:
        arrays = {**archive} | change
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_a_file_with_an_unknown_part_of_the_host_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    save_model(hosted_graph(), path)
    with np.load(path) as archive:
        arrays = dict(archive)
    document = json.loads(arrays["graph"].tobytes())
    document["host"]["middle"] = {}
    arrays["graph"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(ModelError, match="host has an unknown part 'middle'"):
        load_model(path)
