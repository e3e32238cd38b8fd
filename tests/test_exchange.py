"""``palquant import`` and ``palquant export``: networks of other tools, and ours for them."""

import json

import numpy as np
import pytest
import torch
from qonnx_compare import assert_same
from released import calibration_images, checkpoint, save, trained

from palquant.cli import main
from palquant.golden.checkpoint import save_checkpoint
from palquant.golden.config import NetworkConfig
from palquant.golden.random_network import calibrated_graph
from palquant.sw.model import load_model, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network's model file."""
    config = NetworkConfig(base_width=4, blocks=(1,))
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    path = tmp_path_factory.mktemp("exchange") / "model.npz"
    save_model(calibrated_graph(config, 0, images), path)
    return path


@pytest.fixture
def released(tmp_path):
    """A checkpoint of the released format, and images to calibrate with."""
    save(checkpoint(trained("resnet18", 2, 4, 40)), tmp_path / "released.pth")
    np.save(tmp_path / "images.npy", calibration_images()[:8])
    return tmp_path / "released.pth", tmp_path / "images.npy"


def refusal(capsys, *arguments):
    assert main([*map(str, arguments)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("palquant: ")


def test_an_exported_model_returns(model, tmp_path, capsys):
    path, back = tmp_path / "model.onnx", tmp_path / "back.npz"
    assert main(["export", str(model), "-o", str(path)]) == 0
    report = tmp_path / "import.json"
    assert main(["import", str(path), "-o", str(back), "--json", str(report)]) == 0
    assert f"{back}, " in capsys.readouterr().out
    first, second = load_model(model), load_model(back)
    assert_same(first, second)
    found = json.loads(report.read_text())
    assert found["nodes"] == len(first.nodes)
    assert found["doubtful"] == found["fitted"] == found["calibrated"] == {}


@pytest.mark.parametrize("stem", ["accelerator", "host"])
def test_a_released_checkpoint_becomes_a_model_that_runs(released, stem, tmp_path, capsys):
    path, images = released
    made, image = tmp_path / "model.npz", tmp_path / "image"
    options = ["--arch", "resnet18", "--groups", "2", "--calibration", str(images), "--stem", stem]
    assert main(["import", str(path), *options, "--quiet", "-o", str(made)]) == 0
    assert "get the float network's class" in capsys.readouterr().out
    assert main(["compile", str(made), "--geometry", "tiny", "-o", str(image)]) == 0
    for path in (made, image):
        capsys.readouterr()
        assert main(["inspect", str(path)]) == 0
        told = "on the host, in floating point: stem 3->8 7x7/2, classifier 64->10"
        assert (told in capsys.readouterr().out) == (stem == "host")
    report = tmp_path / "compare.json"
    compare = ["compare", str(image), "--input", str(images), "--images", "1"]
    assert main([*compare, "--json", str(report)]) == 0


def test_refusals(model, released, tmp_path, capsys):
    path, images = released
    made = tmp_path / "made.npz"
    text = refusal(capsys, "import", path, "-o", made)
    assert text == (
        f"{path}: a released checkpoint needs --arch, --groups, --calibration "
        "(QONNX files end with .onnx)"
    )
    options = ["--arch", "resnet18", "--calibration", images, "--quiet", "-o", made]
    assert "has G=2, not G=3" in refusal(capsys, "import", path, "--groups", 3, *options)
    (tmp_path / "x.onnx").write_bytes(b"x")
    text = refusal(capsys, "import", tmp_path / "x.onnx", "--arch", "resnet18", "-o", made)
    assert text.endswith("x.onnx: a QONNX file; --arch is for released checkpoints")
    assert "x.onnx" in refusal(capsys, "import", tmp_path / "x.onnx", "-o", made)
    torch.save({"a": print}, tmp_path / "code.pth")
    assert "code.pth" in refusal(capsys, "import", tmp_path / "code.pth", "--groups", 2, *options)
    text = refusal(capsys, "export", model, "-o", tmp_path / "model.txt")
    assert text.endswith("model.txt: a QONNX file's name ends with .onnx")
    assert not made.exists()


def test_what_could_not_be_written_is_refused_before_the_work(released, tmp_path, capsys):
    path, images = released
    options = ["--arch", "resnet18", "--groups", 2, "--calibration", images, "--quiet", "-o"]
    text = refusal(capsys, "import", path, *options, tmp_path / "made.onnx")
    assert text.endswith("made.onnx: a model file's name ends with .npz")
    text = refusal(capsys, "import", path, *options, images / "made.npz")
    assert text.endswith("made.npz: cannot write: " + text.rpartition(": ")[2])
    assert "is no directory" in text or "Not a directory" in text
    (tmp_path / "folder.npz").mkdir()
    text = refusal(capsys, "import", path, *options, tmp_path / "folder.npz")
    assert text.endswith("folder.npz: cannot write: Is a directory")
    assert not list(tmp_path.glob(".*"))


def test_widths_of_a_released_checkpoint(tmp_path, capsys):
    """They are taken as given; where they are not given, a note says what was assumed."""
    model = trained(base_width=4, steps=20, weight_bits=3, activation_bits=4)
    path, images, made = (tmp_path / name for name in ("w3a4.pth", "images.npy", "made.npz"))
    save(checkpoint(model), path)
    np.save(images, calibration_images()[:8])
    command = ["import", str(path), "--arch", "resnet18", "--groups", "2", "--quiet",
               "--calibration", str(images), "-o", str(made)]  # fmt: skip
    widths = ["--weight-bits", "3", "--activation-bits", "4", "--residual-bits", "15"]
    report = tmp_path / "report.json"
    assert main([*command, *widths, "--json", str(report)]) == 0
    assert "assumed" not in capsys.readouterr().err
    graph = load_model(made)
    assert graph.metadata["weight_bits"] == 3
    assert graph["stage1.0.conv1.quantize"].bits == 4
    assert json.loads(report.read_text())["residual_bits"] == 15
    assert main(command) == 0
    assert f"note: W2A2 assumed: {path} does not tell the width" in capsys.readouterr().err
    assert load_model(made).metadata["weight_bits"] == 2
    assert main([*command, *widths[:2]]) == 0
    note = (
        f"note: A2 assumed: {path} does not tell the width of its activations (--activation-bits)"
    )
    assert note in capsys.readouterr().err
    (tmp_path / "x.onnx").write_bytes(b"x")
    text = refusal(capsys, "import", tmp_path / "x.onnx", *widths[:2], "-o", made)
    assert text.endswith("x.onnx: a QONNX file; --weight-bits is for released checkpoints")
    text = refusal(capsys, *command, "--weight-bits", 9, "--activation-bits", 2)
    assert "9-bit weights" in text


def test_a_network_that_is_too_far_from_the_float_one_is_noted(released, tmp_path, capsys):
    """With 8 bits of residuals, more codes differ than may."""
    path, images = released
    command = ["import", str(path), "--arch", "resnet18", "--groups", "2", "--quiet",
               "--calibration", str(images), "-o", str(tmp_path / "made.npz")]  # fmt: skip
    assert main([*command, "--residual-bits", "8"]) == 0
    captured = capsys.readouterr()
    assert "NOT below" in captured.out
    assert "of a layer's codes differ from the float network's, expected less" in captured.err


def test_files_that_cannot_be_imported_are_named(model, tmp_path, capsys):
    """Before anything is said of options that another file would need."""
    made = tmp_path / "made.npz"
    (tmp_path / "empty.onnx").touch()
    checkpoint_file = tmp_path / "checkpoint.pt"
    save_checkpoint({"epoch": 1}, checkpoint_file)
    for path, reason in (
        (tmp_path / "nosuch.pth", "cannot read: No such file or directory"),
        (tmp_path / "nosuch.onnx", "cannot read: No such file or directory"),
        (tmp_path, "cannot read: Is a directory"),
        (tmp_path / "empty.onnx", "is empty; expected a QONNX file or a released checkpoint"),
        (model, "is a model already, which palquant compile takes"),
        (checkpoint_file,
         "is a checkpoint of a training; its network is in model.npz beside it"),
    ):  # fmt: skip
        assert refusal(capsys, "import", path, "-o", made) == f"{path}: {reason}"


def test_images_that_are_not_needed_must_fit_as_well(model, tmp_path, capsys):
    path, images = tmp_path / "model.onnx", tmp_path / "images.npy"
    assert main(["export", str(model), "-o", str(path)]) == 0
    made = tmp_path / "made.npz"
    for shape, fits in (((2, 3, 9, 9), False), ((8, 8), False), ((2, 1, 8, 8), True)):
        np.save(images, np.ones(shape, np.float32))
        command = ["import", path, "--calibration", images, "-o", made]
        if fits:
            assert main([*map(str, command)]) == 0
        else:
            assert refusal(capsys, *command) == (
                f"calibration images are float32 of shape {shape}, expected float32 or uint8, "
                "(N, 1, 8, 8)"
            )
