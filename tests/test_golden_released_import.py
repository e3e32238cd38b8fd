"""A released checkpoint from the file to RTL: imported, compiled, every value compared."""

import json

import numpy as np
import pytest
import torch
from released import calibration_images, checkpoint, normalised, save, state_of, trained

from palquant.errors import ConfigurationError, InputError, ModelError
from palquant.golden.reference import predict, run
from palquant.golden.released_import import import_released
from palquant.golden.released_report import LARGEST_SHARE, report_lines, report_rows
from palquant.hw.presets import PRESETS
from palquant.sim.run import run_emulator, run_rtl
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Add, Affine, Clamp, Convolution, Kind
from palquant.sw.image import load_image, save_image
from palquant.sw.model import load_model, save_model
from palquant.sw.normalize import input_values

TINY = PRESETS["tiny"]
#: Architecture, groups, base width, steps of training.
NETWORKS = [("resnet18", 2, 4, 40), ("resnet18", 3, 5, 40), ("resnet18", 1, 8, 40),
            ("resnet34", 2, 4, 12), ("resnet50", 2, 4, 15)]  # fmt: skip


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Graph and report of a network, made once."""
    known = {}

    def make(network, stem):
        if (network, stem) not in known:
            path = tmp_path_factory.mktemp("released") / "model.pth.tar"
            save(checkpoint(trained(*network)), path)
            known[network, stem] = import_released(
                path, *network[:2], calibration_images(), stem=stem
            )
        return known[network, stem]

    return make


@pytest.mark.parametrize("stem", ["accelerator", "host"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: "-".join(map(str, n[:3])))
def test_every_value_in_rtl_is_the_references(imported, network, stem):
    graph, _ = imported(network, stem)
    images = calibration_images()[: 2 if network[0] == "resnet18" else 1]
    values = run(graph, input_values(images, graph))
    image = compile_graph(graph, TINY)
    made = {name for layer in image.layers for name in layer.outputs}
    assert set(image.tensors) == made
    emulated = run_emulator(image, images)
    require_equal(compare_outputs(image, emulated, values))
    result, _ = run_rtl(image, images)
    compared = require_equal(compare_outputs(image, result.outputs, values))
    assert compared == sum(values[name].size for name in made)
    wanted = predict(graph, values).tolist()
    assert image.predict(emulated).tolist() == image.predict(result.outputs).tolist() == wanted


@pytest.mark.parametrize("stem", ["accelerator", "host"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: "-".join(map(str, n[:3])))
def test_a_layer_fed_the_float_networks_inputs_makes_its_codes(imported, network, stem):
    _, report = imported(network, stem)
    layers = report["layers"]
    model = trained(*network)
    convolutions = [name for name, _ in model.named_parameters() if name.endswith(".uA")]
    assert len(layers) == len(convolutions)
    assert report["images"] == len(calibration_images())
    assert report["residual_bits"] == 16
    for layer in layers:
        assert layer["codes"] > 1000
        # Only what an 8-bit stem makes is not of the float network's own arithmetic.
        assert layer["rounded_stem"] == (
            stem == "accelerator" and layer["layer"] in ("stage1.0.conv1",
                                                         "stage1.0.downsample.conv")
        )  # fmt: skip
        assert layer["rounded_stem"] or layer["share"] < LARGEST_SHARE
        assert layer["share"] == layer["differing"] / layer["codes"]
    assert report["within_limit"]
    assert report["largest_share"] < LARGEST_SHARE
    # Something differs somewhere, or the figures would measure nothing.
    assert sum(layer["differing"] for layer in layers) > 0
    json.dumps(report)


@pytest.mark.parametrize("network", NETWORKS[:2], ids=lambda n: f"G={n[1]}")
def test_end_to_end_figures_are_those_of_both_networks(imported, network):
    images = calibration_images()
    model = trained(*network)
    with torch.no_grad():
        wanted = model(normalised(images)).argmax(1).numpy()
    assert len(set(wanted.tolist())) > 3
    for stem in ("accelerator", "host"):
        graph, report = imported(network, stem)
        found = predict(graph, run(graph, input_values(images, graph)))
        assert report["top1_agreement"] == float((found == wanted).mean())
    _, host = imported(network, "host")
    _, accelerator = imported(network, "accelerator")
    # A stem in full precision is nearer to one in full precision than one of 8 bits.
    assert host["share_end_to_end"] < accelerator["share_end_to_end"] < 0.2
    assert host["top1_agreement"] > 0.8


def test_the_hosts_ends_are_the_released_ones(imported):
    graph, _ = imported(NETWORKS[0], "host")
    model, images = trained(*NETWORKS[0]), calibration_images()
    assert graph.types[graph.input.name].kind is Kind.RESIDUAL
    assert not any(isinstance(node, Clamp) for node in graph)
    assert all(node.quantized for node in graph if isinstance(node, Convolution))
    features = []
    handle = model.maxpool.register_forward_hook(lambda m, i, output: features.append(output))
    with torch.no_grad():
        model(normalised(images))
    handle.remove()
    step = graph.metadata["steps"][graph.input.name]
    found = input_values(images, graph) * step
    # half a step of the stream, and what float32 may differ by
    assert np.abs(found - features[0].numpy()).max() <= step / 2 + 1e-5
    assert np.array_equal(graph.host.classifier.weight, model.fc.weight.detach().numpy())
    assert np.array_equal(graph.host.classifier.bias, model.fc.bias.detach().numpy())


def test_files_keep_what_was_imported(imported, tmp_path):
    graph, report = imported(NETWORKS[0], "host")
    save_model(graph, tmp_path / "model.npz")
    save_image(compile_graph(graph, TINY), tmp_path / "image")
    images = calibration_images()[:3]
    wanted = predict(graph, run(graph, input_values(images, graph)))
    found = load_model(tmp_path / "model.npz")
    assert found.metadata["imported"]["top1_agreement"] == report["top1_agreement"]
    assert found.metadata["groups"] == 2
    assert predict(found, run(found, input_values(images, found))).tolist() == wanted.tolist()
    image = load_image(tmp_path / "image")
    assert image.predict(run_emulator(image, images)).tolist() == wanted.tolist()


def test_the_report_reads_as_a_table(imported):
    _, report = imported(NETWORKS[0], "accelerator")
    headings, rows = report_rows(report)
    assert {len(row) for row in rows} == {len(headings)}
    assert [row[0] for row in rows] == [layer["layer"] for layer in report["layers"]]
    assert rows[0][-1] == "8-bit stem"
    text = "\n".join(report_lines(report, "these images"))
    assert "compared on these images, 32 of them" in text
    assert "below 0.001" in text
    assert f"{report['top1_agreement']:.1%} of 32 images" in text
    assert "of the classifier's codes" in text
    assert "normalised by mean 0.485,0.456,0.406 and standard deviation 0.229,0.224,0.225" in text
    assert f"deviations off ({report['statistics']['largest']['layer']})" in text
    assert "NOT below" not in text
    assert "NOT below" in "\n".join(report_lines(report | {"within_limit": False}, ""))
    host = report | {"classifier_saturation": None}
    assert "classifier's codes" not in "\n".join(report_lines(host, ""))


def test_other_images_can_be_compared_on(tmp_path):
    """Ranges are the calibration images' all the same, and what they cut off is counted."""
    path = save(state_of(trained()), tmp_path / "bare.pth")
    images = calibration_images()
    grey, others = np.full_like(images[:8], 0.45), images[8:]
    (same, _), (graph, report) = (
        import_released(path, "resnet18", 2, grey, comparison=comparison)
        for comparison in (None, others)
    )
    assert same.metadata["steps"] == graph.metadata["steps"]
    assert report["images"] == len(others)
    values = run(graph, input_values(others, graph))
    with torch.no_grad():
        wanted = trained()(normalised(others)).argmax(1).numpy()
    assert report["top1_agreement"] == float((predict(graph, values) == wanted).mean())
    (clamp,) = (node for node in graph if isinstance(node, Clamp))
    assert report["classifier_saturation"] == float((values[clamp.input] > 255).mean())
    made = [
        node.name
        for node in graph
        if isinstance(node, Add | Affine)
        and graph.types[node.name].kind is Kind.RESIDUAL
        and node.name != clamp.input
    ]
    ends = np.concatenate([np.isin(values[name], (-32768, 32767)).ravel() for name in made])
    assert report["residual_saturation"] == float(ends.mean()) > 0
    with pytest.raises(InputError, match=r"^images to compare on have .* \(N, 3, 32, 32\)$"):
        import_released(path, "resnet18", 2, images, comparison=images[:, :, :16, :16])


def test_fewer_bits_of_residual_are_further_away(tmp_path):
    path = save(state_of(trained()), tmp_path / "bare.pth")
    shares = []
    for bits in (16, 8):
        graph, report = import_released(path, "resnet18", 2, calibration_images(), stem="host",
                                        residual_bits=bits)  # fmt: skip
        assert graph.types[graph.input.name].bits == report["residual_bits"] == bits
        shares.append(report["largest_share"])
    assert shares[0] < LARGEST_SHARE < shares[1]
    assert not report["within_limit"]


def test_images_of_bytes_are_those_of_the_float_images(tmp_path):
    path = save(state_of(trained()), tmp_path / "bare.pth")
    pixels = (calibration_images()[:8] * 255).astype(np.uint8)
    floats = pixels.astype(np.float32) / np.float32(255)
    (a, first), (b, second) = (
        import_released(path, "resnet18", 2, images, stem="host") for images in (pixels, floats)
    )
    assert first == second
    assert a.metadata == b.metadata


def test_fewer_images_are_compared_than_calibrated_with(tmp_path):
    path = save(state_of(trained()), tmp_path / "bare.pth")
    lines = []
    graphs, reports = zip(
        *(import_released(path, "resnet18", 2, calibration_images(), compared=number,
                          progress=lines.append) for number in (None, 5, 100)),
        strict=True,
    )  # fmt: skip
    assert [report["images"] for report in reports] == [32, 5, 32]
    assert len({repr(graph.metadata["steps"]) for graph in graphs}) == 1
    assert lines[0] == "calibrating on 32 images"
    assert len(lines) == 3 * len(set(lines))


def test_other_widths_of_codes(tmp_path):
    """3-bit weights and 4-bit activations, which the file does not tell."""
    model = trained(base_width=4, steps=20, weight_bits=3, activation_bits=4)
    path = save(checkpoint(model), tmp_path / "w3a4.pth")
    images = calibration_images()
    graph, report = import_released(path, "resnet18", 2, images, weight_bits=3, activation_bits=4,
                                    mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))  # fmt: skip
    assert report["within_limit"]
    assert graph.input.normalization.mean == (0.4, 0.4, 0.4)
    assert report["mean"] == [0.4, 0.4, 0.4]
    assert report["std"] == [0.3, 0.3, 0.3]
    assert (report["weight_bits"], report["activation_bits"]) == (3, 4)
    assert graph.metadata["weight_bits"] == 3
    assert graph["stage1.0.conv1.quantize"].bits == 4
    values = run(graph, input_values(images[:1], graph))
    image = compile_graph(graph, TINY)
    assert require_equal(compare_outputs(image, run_emulator(image, images[:1]), values)) > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 1, 32, 32), np.float32), r"have shape \(4, 1, 32, 32\), expected \(N, 3, H"),
        (np.zeros((4, 3, 32, 30), np.float32), r"expected \(N, 3, H, H\)"),
        (np.zeros((3, 32, 32), np.float32), r"have shape \(3, 32, 32\)"),
        (np.zeros((0, 3, 32, 32), np.float32), "there is none"),
        (np.zeros((4, 3, 32, 32)), "are float64, expected float32 or uint8"),
        (np.full((4, 3, 32, 32), np.nan, np.float32), "image 0 holds NaN or infinity"),
        (np.full((4, 3, 32, 32), 1.5, np.float32), "pixels from 1.5 to 1.5, expected float32 pix"),
        (np.full((4, 3, 32, 32), -0.5, np.float32), "pixels from -0.5 to -0.5, expected float32"),
    ],
)
def test_refuses_images_that_do_not_fit(tmp_path, images, message):
    path = save(checkpoint(trained()), tmp_path / "model.pth")
    with pytest.raises(InputError, match=f"^calibration images:? .*{message}"):
        import_released(path, "resnet18", 2, images)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("resnet18", 3), {}, ModelError, "model.pth: has G=2, not G=3"),
        (("resnet34", 2), {}, ModelError, "looks like a resnet18, not like a resnet34"),
        (("resnet18", 2), {"stem": "fpga"}, ConfigurationError,
         "stem must be one of accelerator, host, not 'fpga'"),
        (("resnet18", 2), {"compared": 0}, ConfigurationError, "at least 1 image must be comp"),
        (("resnet18", 2), {"residual_bits": 17}, ConfigurationError, "residual stream of 17 bits"),
        (("resnet18", 2), {"std": (0.2, 0.0, 0.2)}, ConfigurationError, "standard deviations"),
        (("resnet18", 2), {"mean": (0.2,)}, ConfigurationError, "do not fit images of 3 channels"),
    ],
)  # fmt: skip
def test_refuses_options_that_do_not_fit(tmp_path, arguments, options, error, message):
    path = save(checkpoint(trained()), tmp_path / "model.pth")
    with pytest.raises(error, match=message):
        import_released(path, *arguments, calibration_images(), **options)


def test_images_of_other_channels_need_a_normalisation(tmp_path):
    state = state_of(trained())
    state["conv1.weight"] = state["conv1.weight"].mean(1, keepdim=True)
    path = save(state, tmp_path / "grey.pth")
    images = calibration_images().mean(1, keepdims=True)
    with pytest.raises(ConfigurationError, match="images of 1 channels need a mean and a standard"):
        import_released(path, "resnet18", 2, images)
    graph, _ = import_released(path, "resnet18", 2, images, mean=(0.45,), std=(0.22,))
    assert graph.image_shape.channels == 1


def test_a_network_that_overflows_names_the_file(tmp_path):
    state = state_of(trained())
    state["bn1.weight"][:] = 1e38
    state["bn1.running_var"][:] = 0
    path = save(state, tmp_path / "huge.pth")
    with pytest.raises(
        ModelError, match=r"huge\.pth: .*activation that ResidualStream reads is NaN or inf"
    ):
        import_released(path, "resnet18", 2, calibration_images(), stem="host")
