"""``palquant import`` of a released checkpoint: what it tells of images and widths."""

import json

import numpy as np
import pytest
from released import calibration_images, checkpoint, pictures, save, trained

from palquant.cli import main
from palquant.sw.model import load_model


@pytest.fixture
def command(tmp_path):
    """An import that says nothing on standard error, and the file it writes."""
    save(checkpoint(trained("resnet18", 2, 4, 40)), tmp_path / "released.pth")
    np.save(tmp_path / "images.npy", calibration_images())
    return ["import", tmp_path / "released.pth", "--arch", "resnet18", "--groups", "2",
            "--weight-bits", "2", "--activation-bits", "2", "--quiet",
            "--calibration", tmp_path / "images.npy", "-o", tmp_path / "made.npz"]  # fmt: skip


def told(capsys, *arguments, status=0):
    """Standard output, and the lines of standard error."""
    assert main([*map(str, arguments)]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err.splitlines()


def test_the_right_import_is_no_reason_for_a_note(command, tmp_path, capsys):
    report = tmp_path / "report.json"
    out, err = told(capsys, *command, "--json", report)
    assert err == []
    assert "compared on the calibration images, 32 of them" in out
    assert "normalised by mean 0.485,0.456,0.406 and standard deviation 0.229,0.224,0.225" in out
    found = json.loads(report.read_text())
    assert not found["statistics"]["stem_is_far"]
    assert not found["statistics"]["body_is_far"]
    largest = found["statistics"]["largest"]
    assert f"{largest['mean_shift']:.2f} deviations off ({largest['layer']})" in out


@pytest.mark.parametrize(
    ("option", "bits", "named"),
    [("--weight-bits", "3", "W3A2"), ("--weight-bits", "1", "W1A2"),
     ("--activation-bits", "1", "W2A1")],
)  # fmt: skip
def test_another_width_than_that_of_the_training_is_noted(command, capsys, option, bits, named):
    _, (note,) = told(capsys, *command, option, bits)
    assert note.startswith(f"palquant: note: {command[1]}: batch normalisations read other values")
    assert f"was it trained with {named} (--weight-bits, --activation-bits)" in note


def test_another_normalisation_is_used_told_and_noted(command, tmp_path, capsys):
    report = tmp_path / "report.json"
    options = ["--mean", "0.5,0.5,0.25", "--std", "0.5,0.5,1", "--json", report]
    out, (*_, note) = told(capsys, *command, *options)
    assert "normalised by mean 0.5,0.5,0.25 and standard deviation 0.5,0.5,1" in out
    assert note.startswith(f"palquant: note: {command[1]}: the stem's batch normalisation read")
    assert "mean 0.5,0.5,0.25 and standard deviation 0.5,0.5,1, those of the training" in note
    found = json.loads(report.read_text())
    assert (found["mean"], found["std"]) == ([0.5, 0.5, 0.25], [0.5, 0.5, 1])
    graph = load_model(tmp_path / "made.npz")
    assert graph.input.normalization.mean == (0.5, 0.5, 0.25)
    assert graph.input.normalization.std == (0.5, 0.5, 1)


def test_normalisations_that_do_not_fit(command, tmp_path, capsys):
    _, (line,) = told(capsys, *command, "--mean", "0.5", status=1)
    assert "means (0.5,) and standard deviations" in line
    assert "do not fit images of 3 channels" in line
    for text in ("0.5,x", "0.5,nan,1", ""):
        with pytest.raises(SystemExit):
            main([*map(str, command), "--std", text])
        assert f"must be numbers between commas, not {text}" in capsys.readouterr().err
    (tmp_path / "x.onnx").write_bytes(b"x")
    for name, value in (("mean", "0"), ("std", "1"), ("compare", command[-3])):
        arguments = ["import", tmp_path / "x.onnx", f"--{name}", value, "-o", command[-1]]
        _, (line,) = told(capsys, *arguments, status=1)
        assert line.endswith(f"x.onnx: a QONNX file; --{name} is for released checkpoints")


def test_other_images_can_be_compared_on(command, tmp_path, capsys):
    others, report = tmp_path / "others.npy", tmp_path / "report.json"
    images, _ = pictures()
    np.save(others, (images[-40:] * 255).astype(np.uint8))
    out, err = told(capsys, *command, "--compare", others, "--json", report)
    assert err == []
    assert f"compared on {others}, 40 of them" in out
    assert "of 40 images get the float network's class" in out
    found = json.loads(report.read_text())
    assert found["images"] == 40
    assert found["statistics"]["images"] == 32
    assert f"saturated: {found['residual_saturation']:.1e} of the residuals, " in out
    assert f"{found['classifier_saturation']:.1e} of the classifier's codes" in out


def test_pixels_beyond_0_to_1_are_refused_in_one_line(command, tmp_path, capsys):
    bright = tmp_path / "bright.npy"
    np.save(bright, calibration_images() * np.float32(255))
    high = f"{calibration_images().max() * np.float32(255):g}"
    expected = f"to {high}, expected float32 pixels of 0 to 1 (the normalisation is applied here)"
    calibrated = [bright if part == command[-3] else part for part in command]
    for label, arguments in (
        ("calibration images", calibrated),
        ("images to compare on", [*command, "--compare", bright]),
    ):
        _, (line,) = told(capsys, *arguments, status=1)
        assert line.startswith(f"palquant: {label}: pixels from 0")
        assert line.endswith(expected)
    assert not (tmp_path / "made.npz").exists()
