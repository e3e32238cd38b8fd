"""Comparisons with the float network find what differs, where it differs, and nothing else."""

import dataclasses

import numpy as np
import pytest
import torch
from released import calibration_images, normalised, trained

from palquant.golden.config import PHOTO_MEAN, PHOTO_STD
from palquant.golden.export import export
from palquant.golden.layers import channel_shuffle
from palquant.golden.quantize import Integers
from palquant.golden.released_agreement import converted_name, measure, split, trace
from palquant.golden.released_agreement import normalised as graph_normalised
from palquant.golden.released_convert import (
    calibrate_converted,
    convert,
    host_ends,
    network_config,
)
from palquant.golden.released_network import QuantizedConv2d
from palquant.sw.graph import Graph, Quantize


@pytest.fixture(scope="module")
def made():
    """Float network, golden network and graph with the host's ends."""
    released = trained()
    config = network_config(released, 32, PHOTO_MEAN, PHOTO_STD, 16)
    ends = host_ends(released, config)
    network = convert(released, config, "host")
    calibrate_converted(network, [torch.from_numpy(ends.stem.features(calibration_images()))])
    graph = export(network)
    return released, network, Graph(graph.nodes, graph.metadata, ends)


def float_codes(released, images):
    """Codes that each convolution reads, in the float network, and what blocks make."""
    codes, outputs, handles = {}, {}, []
    for name, module in released.named_modules():
        if isinstance(module, QuantizedConv2d):
            handles.append(module.register_forward_pre_hook(
                lambda m, inputs, name=name: codes.update({name: m.codes(inputs[0])})))  # fmt: skip
        handles.append(module.register_forward_hook(
            lambda m, inputs, output, name=name: outputs.update({name: output})))  # fmt: skip
    with torch.no_grad():
        released(normalised(images))
    for handle in handles:
        handle.remove()
    return codes, outputs


def sums(module, codes):
    """Accumulators of float codes, from the golden network's convolution."""
    return Integers(module._convolve(codes, module.quantize_weight(module.weight)), module.step)


def rounded(stream, values):
    return stream.round(values.double())


@torch.no_grad()
def test_a_layer_is_fed_codes_and_residuals_of_the_float_network(made):
    """One quantiser of each kind, from the golden network's own modules."""
    released, network, graph = made
    images = calibration_images()
    codes, outputs = float_codes(released, images)
    found = {layer.layer: layer.differing for layer in measure(released, graph, images).layers}
    first, second = network.stage1[0], network.stage2[0]
    # inside a block: convolution, batch normalisation and ReLU
    inner = first.affine1(sums(first.conv1, codes["layer1.0.conv1"])).relu()
    # behind a block: residual addition as well
    branch = first.affine2(sums(first.conv2, codes["layer1.0.conv2"]))
    behind = first.add(branch, rounded(network.streams[0], outputs["maxpool"])).relu()
    # behind a downsampling block: two convolutions and a channel shuffle
    branch = second.affine2(sums(second.conv2, codes["layer2.0.conv2"]))
    identity = second.downsample.affine(
        sums(second.downsample.conv, codes["layer2.0.downsample.0"])
    )
    shuffle = channel_shuffle(branch.shape[1], 2)
    downsampled = second.add(shuffle(branch), identity).relu()
    for name, values, path in (
        ("stage1.0.conv2", inner, "layer1.0.conv2"),
        ("stage1.1.conv1", behind, "layer1.1.conv1"),
        ("stage2.1.conv1", downsampled, "layer2.1.conv1"),
    ):
        quantize = network.get_submodule(name).quantize
        assert found[name] == int((quantize(values) != codes[path]).sum())


def changed(graph, name, amount):
    """The graph with the thresholds of one quantiser moved."""
    nodes = [
        dataclasses.replace(node, thresholds=node.thresholds + amount)
        if node.name == name
        else node
        for node in graph
    ]
    return Graph(nodes, graph.metadata, graph.host)


def test_a_wrong_threshold_shows_in_its_layer_alone_and_end_to_end_behind_it(made):
    released, _, graph = made
    images = calibration_images()[:8]
    right = measure(released, graph, images)
    name = "stage2.0.conv2"
    quantizers = [node for node in graph if isinstance(node, Quantize)]
    width = int(np.ptp(graph[f"{name}.quantize"].thresholds))
    wrong = measure(released, changed(graph, f"{name}.quantize", width // 4), images)
    behind = False
    for node, before, after in zip(quantizers, right.layers, wrong.layers, strict=True):
        assert node.name == f"{before.layer}.quantize"
        if before.layer == name:
            assert after.share > 0.05 > before.share
            behind = True
        else:
            assert after.differing == before.differing
        if not behind:
            assert after.differing_end_to_end == before.differing_end_to_end
    assert wrong.layers[-1].share_end_to_end > 2 * right.layers[-1].share_end_to_end
    assert wrong.largest_share > 0.05


def test_batches_make_no_difference(made, monkeypatch):
    released, _, graph = made
    images = calibration_images()[:7]
    whole = measure(released, graph, images)
    monkeypatch.setattr("palquant.golden.released_agreement._PIXELS", 3 * 32 * 32)
    assert [len(part) for part in split(images)] == [3, 3, 1]
    assert measure(released, graph, images) == whole
    assert whole.images == 7


def test_the_float_network_reads_the_graphs_normalisation(made):
    _, _, graph = made
    images = calibration_images()[:2]
    assert torch.equal(graph_normalised(images, graph), normalised(images))
    pixels = (images * 255).astype(np.uint8)
    floats = pixels.astype(np.float32) / np.float32(255)
    assert torch.equal(graph_normalised(pixels, graph), graph_normalised(floats, graph))


def test_the_trace_names_every_tensor_of_the_graph(made):
    released, _, graph = made
    codes, residuals, classes = trace(released, graph, normalised(calibration_images()[:2]))
    assert set(codes) == {node.name for node in graph if isinstance(node, Quantize)}
    assert len(residuals) == 8 + 3  # blocks and cyclic shuffles
    for name, values in (codes | residuals).items():
        shape = graph.shapes[name]
        assert values.shape == (2, shape.channels, shape.height, shape.width)
        assert graph.types[name].allowed(values)
    assert classes.shape == (2,)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("layer3.0.conv1", "stage3.0.conv1"),
        ("layer3.0.downsample.0", "stage3.0.downsample.conv"),
        ("shuffle2.conv1.0", "shuffle2.conv"),
    ],
)
def test_names_of_modules(path, name):
    assert converted_name(path) == name
