"""``palquant train`` from the outside: options, folders of images, and what is wrong with them."""

import json
import os
import re

import pytest
from pictures import write_pictures

from palquant.cli import build_parser, main
from palquant.golden.config import TrainConfig
from palquant.golden.recipe import folder_config
from palquant.sw.model import load_model

SMALL = ["--architecture", "small", "--base-width", "2", "--image-size", "16", "--batch-size",
         "24", "--epochs", "1", "--workers", "0", "--quiet"]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return write_pictures(tmp_path / "data")


def configuration(model):
    return load_model(model).metadata["training"]["config"]


def test_a_folder_of_images_is_trained_and_compiled(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["train", "--data", str(data), "-o", str(out), *SMALL, "--per-channel",
                 "--tensorboard", "--json", str(tmp_path / "report.json")]) == 0  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["name"] == "w2-g2-w2a2"
    config = configuration(report["model"])
    expected = folder_config(3, architecture="small", base_width=2, image_size=16, batch_size=24,
                             epochs=1, per_channel=True)  # fmt: skip
    assert config["per_channel"] is True
    assert TrainConfig(**config) == expected
    assert any((out / "tensorboard").iterdir())
    assert main(["compile", report["model"], "--geometry", "tiny", "-o", str(out / "image")]) == 0
    capsys.readouterr()
    assert main(["simulate", str(out / "image"), "--input", str(out / "heldout_images.npy"),
                 "--labels", str(out / "heldout_labels.npy"), "--backend",
                 "emulator"]) == 0  # fmt: skip
    assert "top-1" in capsys.readouterr().out


def test_every_exposed_field_is_an_option():
    choices = next(action.choices for action in build_parser()._actions if action.choices)
    text = re.sub(r"\s+", " ", choices["train"].format_help())
    for option in ("--architecture", "--data", "--image-size", "--workers", "--device", "--amp",
                   "--bad-images", "--gradient-scaling", "--learned-thresholds", "--per-channel",
                   "--teacher", "--tensorboard", "torchrun"):  # fmt: skip
        assert option in text
    assert "--classes" not in text
    assert "Default: 30 (with --data: 90)." in text
    assert "Default: 0.1 (with --data: 0.1 or 0.2)." in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "nowhere"], "nowhere: is no folder; expected one with train/CLASS/*"),
        (["--data", "{data}", "--groups", "0"], "groups must be a positive integer, not 0"),
        (
            ["--data", "{data}", "--batch-size", "100"],
            "batch size 100 exceeds the 72 training images; choose a smaller one (--batch-size)",
        ),
        (["--batch-size", "2000"], "batch size 2000 exceeds the 1438 training images"),
        (["--crop", "padded"], "--crop is for folders of images alone (--data)"),
        (["--crop-scale", "0.5"], "--crop-scale is for folders of images alone (--data)"),
        (["--held-out", "16"], "--held-out is for folders of images alone (--data)"),
        (["--workers", "2"], "--workers is for folders of images alone (--data)"),
        (["--bad-images", "fail"], "--bad-images is for folders of images alone (--data)"),
        (["--data", "{data}", "--split-seed", "1"], "--split-seed is for the digits alone"),
        (["--data", "{data}", "--noise", "0.5"], "noise is for the digits alone"),
        (["--data", "{data}", "--image-size", "0"], "image size must be a positive integer"),
        (["--image-size", "32"], "the digits are images of 8 pixels in 10 classes"),
        (["--groups", "9"], "9 groups with a channel shuffle (supported: at most 8, or no"),
        (["--data", "{data}", "--workers", "-1"], "workers must be at least 0, not -1"),
        (["--amp", "half"], "amp must be one of off, auto, bfloat16, float16, not half"),
        (["--teacher", "nowhere.pt"], "nowhere.pt: cannot read: No such file or directory"),
        (["--data", "{bad}"], "003.png: cannot read this image: "),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    bad = write_pictures(tmp_path / "bad")
    for path in bad.glob("train/*/003.png"):
        path.write_bytes(b"")
    given = [argument.format(data=data, bad=bad) for argument in arguments]
    if "--data" in given:
        given = [*SMALL, *given]
    assert main(["train", "-o", str(tmp_path / "out"), *given]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("palquant: ")
    assert text in lines[0]
    assert not (tmp_path / "out").exists() or "{bad}" in arguments  # in an epoch


def test_a_training_that_cannot_be_resumed_says_that_it_starts_anew(data, tmp_path, capsys):
    command = ["train", "--data", str(data), "-o", str(tmp_path / "out"), *SMALL, "--resume"]
    assert main(command) == 0
    note = f"palquant: note: {tmp_path}/out/checkpoint.pt: there is none; training starts anew\n"
    assert capsys.readouterr().err == note
    assert main(command) == 0
    assert capsys.readouterr().err == ""


def test_a_gpu_that_is_not_there_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["train", "-o", str(tmp_path), "--device", "cuda"]) == 1
    assert "device cuda: PyTorch finds no GPU" in capsys.readouterr().err


def test_other_training_processes_report_nothing(data, tmp_path, monkeypatch, capsys):
    """Process 1 of several writes no file, prints nothing and succeeds."""
    from palquant.golden import train as training
    from palquant.golden.distributed import Process

    class Joined:
        def __enter__(self):
            import torch

            return Process(1, 1, torch.device("cpu"))

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(training, "join_processes", lambda device: Joined())
    monkeypatch.setattr(Process, "share", lambda self, size: slice(0, size))
    with pytest.raises(SystemExit) as caught:
        main(["train", "--data", str(data), "-o", str(tmp_path / "out"), *SMALL])
    assert caught.value.code == 0
    assert capsys.readouterr() == ("", "")
    assert not os.path.exists(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "identity path. Default: small (with --data: resnet18).",
        "Height and width of the network's images. Default: 8 (with --data: 224).",
        "an incomplete last batch is left out. Default: 64 (with --data: 256 or 512).",
        "7x7 of stride 2 and a max- pool. Default: 3x3 (with --data: 7x7 or 3x3).",
        "Momentum of SGD. Default: 0.9.",
    ],
)
def test_help_names_every_default(text, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert text in " ".join(capsys.readouterr().out.split())
