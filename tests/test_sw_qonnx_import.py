"""Networks of Brevitas: every integer equals the executor's tensor, and the RTL's value."""

import contextlib
import io

import numpy as np
import pytest
import torch
from qonnx_compare import assert_same, differences
from qonnx_networks import (
    FIXED,
    FLOAT,
    PER_CHANNEL,
    Doubled,
    FloatResidual,
    Layers,
    Plain,
    Residual,
    ResNet18,
    export_brevitas,
    images,
)

from palquant.errors import InputError
from palquant.golden.reference import run
from palquant.hw.presets import PRESETS
from palquant.sim.run import run_emulator, run_rtl
from palquant.sim.scoreboard import compare_outputs
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Add, Clamp, Convolution, MaxPool, Permute, Quantize
from palquant.sw.normalize import to_codes
from palquant.sw.qonnx_export import export_qonnx
from palquant.sw.qonnx_import import import_qonnx, read_qonnx

TINY = PRESETS["tiny"]


def made(network, tmp_path, seed=1):
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        return export_brevitas(network(), tmp_path / "network.onnx")


def codes_vary(imported, values):
    """Quantised tensors hold more than a constant: otherwise equality says little."""
    nodes = [node for node in imported.graph if isinstance(node, Quantize | Clamp)]
    return nodes and all(len(np.unique(values[node.name])) > 2 for node in nodes)


def compare_rtl(graph, pixels, simulate):
    """Values that RTL, or emulator, shares with the reference, of which none may differ."""
    image = compile_graph(graph, TINY, keep_all=True)
    expected = run(graph, to_codes(pixels, graph.input))
    outputs = simulate(image, pixels)
    compared = compare_outputs(image, outputs, expected)
    assert sum(item.mismatches for item in compared) == 0
    return sum(item.values for item in compared)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: Plain(Layers(2, FIXED)), {MaxPool: 2, Convolution: 6}),
        (lambda: Plain(Layers(4, FIXED)), {MaxPool: 2, Convolution: 6}),
        (lambda: Residual(Layers(2, PER_CHANNEL)), {Permute: 2, Add: 1, Convolution: 8}),
        (lambda: Residual(Layers(4, PER_CHANNEL)), {Permute: 2, Add: 1, Convolution: 8}),
        (lambda: ResNet18(Layers(2, FLOAT)), {Add: 8, Convolution: 37}),
    ],
    ids=["plain of 2 bits", "plain of 4 bits", "grouped of 2 bits", "grouped of 4 bits",
         "ResNet-18"],
)  # fmt: skip
def test_rtl_equals_the_executor(network, expected, tmp_path):
    imported = read_qonnx(made(network, tmp_path))
    graph = imported.graph
    pixels = images(3, 4)
    wrong, values, count = differences(imported, pixels)
    assert wrong == {}
    assert count > 4000
    assert codes_vary(imported, values)
    for kind, number in expected.items():
        assert sum(type(node) is kind for node in graph) == number
    compared = compare_rtl(graph, pixels[:2], lambda i, p: run_rtl(i, p)[0].outputs)
    assert compared > 1000
    export_qonnx(graph, tmp_path / "again.onnx")
    assert_same(graph, import_qonnx(tmp_path / "again.onnx"))


@pytest.mark.parametrize(
    "network",
    [
        lambda: Doubled(Layers(4, FLOAT)),
        lambda: Residual(Layers(4, FLOAT, ), groups=4, channels=16),
    ],
    ids=["sums of 8 bits", "four groups"],
)  # fmt: skip
def test_quantised_sums_are_exact(network, tmp_path):
    imported = read_qonnx(made(network, tmp_path))
    wrong, values, count = differences(imported, images(4, 4))
    assert wrong == {}
    assert codes_vary(imported, values)
    assert count > 15000
    assert imported.findings.fitted == imported.findings.calibrated == {}
    assert any(isinstance(node, Add) for node in imported.graph)
    export_qonnx(imported.graph, tmp_path / "again.onnx")
    assert_same(imported.graph, import_qonnx(tmp_path / "again.onnx"))
    assert compare_rtl(imported.graph, images(5, 2), run_emulator) > 5000


def test_powers_of_two_leave_no_doubt(tmp_path):
    imported = read_qonnx(made(lambda: Residual(Layers(2, FIXED)), tmp_path))
    assert imported.graph.metadata == {"name": "network"}
    assert differences(imported, images(6, 4))[0] == {}


def test_float_sums_are_calibrated(tmp_path):
    path = made(lambda: FloatResidual(Layers(2, FLOAT)), tmp_path)
    with pytest.raises(InputError, match=r"takes floats without a quantiser, .*give calibration"):
        import_qonnx(path)
    for bad, text in (
        (images(5, 4, size=9), r"float32 of shape \(4, 3, 9, 9\), expected float32 or uint8"),
        (images(5, 4).astype(np.float64), "are float64"),
        (np.full_like(images(5, 4), np.nan), "NaN among them"),
        (images(5, 4)[:0], "^0 calibration images"),
    ):
        with pytest.raises(InputError, match=text):
            import_qonnx(path, bad)
    imported = read_qonnx(path, images(5, 8))
    steps = imported.graph.metadata["import"]["calibrated"]
    pixels = np.rint(images(5, 8) * 255).astype(np.uint8)
    floats = pixels.astype(np.float32) / np.float32(255)
    of_bytes, of_floats = (read_qonnx(path, given).graph for given in (pixels, floats))
    assert_same(of_bytes, of_floats)
    assert of_bytes.metadata["import"]["calibrated"].keys() == steps.keys()
    assert len(steps) >= 3
    assert all(np.frexp(step)[0] == 0.5 for step in steps.values())
    wrong, values, count = differences(imported, images(6, 4))
    sums = sum(wrong.get(node.name, 0) for node in imported.graph if isinstance(node, Quantize))
    size = sum(values[node.name].size for node in imported.graph if isinstance(node, Quantize))
    assert 0 < sum(wrong.values()) < count / 10  # units of the residuals, of 16 bits
    assert sums < size / 500  # codes
    assert compare_rtl(imported.graph, images(5, 2), run_emulator) > 3000
