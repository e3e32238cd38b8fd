"""Whatever was meant, a file or folder of another kind is named, with what to do instead."""

import shutil

import numpy as np
import pytest
import torch

from palquant.cli import main
from palquant.kinds import Kind, instead_of_checkpoint, instead_of_image, instead_of_model, kind_of


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A training's folder, a memory image, and files of other kinds."""
    folder = tmp_path_factory.mktemp("kinds")
    assert main(["train", "--base-width", "4", "--epochs", "1", "--quiet", "-o",
                 str(folder / "digits")]) == 0  # fmt: skip
    assert main(["compile", str(folder / "digits" / "model.npz"), "--geometry", "tiny", "-o",
                 str(folder / "image")]) == 0  # fmt: skip
    torch.save({"state_dict": {}}, folder / "released.pth")
    (folder / "x.onnx").write_bytes(b"x")
    (folder / "empty").touch()
    (folder / "nothing").mkdir()
    (folder / "text").write_text("text")
    np.savez(folder / "arrays.npz", x=np.zeros(1))
    shutil.copy(folder / "digits" / "model.npz", folder / "alone.npz")
    shutil.copy(folder / "digits" / "checkpoint.pt", folder / "alone.pt")
    (folder / "cut.npz").write_bytes((folder / "alone.npz").read_bytes()[:-30])
    return folder


KINDS = {
    "digits": Kind.FOLDER, "nothing": Kind.FOLDER, "image": Kind.IMAGE_FOLDER,
    "digits/model.npz": Kind.MODEL, "digits/checkpoint.pt": Kind.CHECKPOINT,
    "released.pth": Kind.PYTORCH, "x.onnx": Kind.ONNX, "empty": Kind.EMPTY, "text": Kind.OTHER,
    "arrays.npz": Kind.OTHER, "cut.npz": Kind.OTHER, "missing": Kind.OTHER,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_told_apart(place, name):
    assert kind_of(place / name) is KINDS[name]


@pytest.mark.parametrize("name", ["text", "arrays.npz", "cut.npz", "missing"])
def test_of_what_is_unknown_nothing_is_said(place, name):
    path = place / name
    assert instead_of_model(path) is instead_of_checkpoint(path) is instead_of_image(path) is None


MODEL = {
    "digits/checkpoint.pt": "is a checkpoint of a training; its network is in "
    "{place}/digits/model.npz",
    "alone.pt": "is a checkpoint of a training; its network is in model.npz beside it",
    "released.pth": "is a file of PyTorch; palquant import makes a model of a released checkpoint",
    "x.onnx": "is an ONNX file; palquant import makes a model of it",
    "digits": "is a folder; the model in it is {place}/digits/model.npz",
    "image": "is the folder of a memory image; its network is in {place}/image/model.npz",
    "nothing": "is a folder; expected a model (palquant train, palquant import)",
    "empty": "is empty; expected a model (palquant train, palquant import)",
    "arrays.npz": "is no model of palquant, or is damaged (no entry 'graph')",
    "text": "is no model of palquant, or is damaged (no archive of arrays)",
}
CHECKPOINT = {
    "digits/model.npz": "is a model; the checkpoint of its training is "
    "{place}/digits/checkpoint.pt",
    "alone.npz": "is a model; the checkpoint of its training is checkpoint.pt beside it",
    "digits": "is a folder; the checkpoint in it is {place}/digits/checkpoint.pt",
    "nothing": "is a folder; expected a checkpoint (checkpoint.pt of palquant train)",
    "empty": "is empty; expected a checkpoint (checkpoint.pt of palquant train)",
    "released.pth": "is no checkpoint of a training (checkpoint.pt of palquant train)",
    "text": "is no checkpoint of a training (checkpoint.pt of palquant train), or is damaged",
}
IMAGE = {
    "digits": "is no memory image; palquant compile {place}/digits/model.npz makes one of the "
    "model in it",
    "digits/model.npz": "is a model; palquant compile makes a memory image of it",
    "x.onnx": "is an ONNX file; palquant import makes a model of it, and palquant compile a memory "
    "image of that",
    "nothing": "is no memory image (palquant compile)",
    "text": "is no folder; expected a memory image (palquant compile)",
    "missing": "there is no such folder; expected a memory image (palquant compile)",
}
COMPILE = ["compile", "{path}", "--geometry", "tiny", "-o", "out"]
EXPORT = ["export", "{path}", "-o", "out.onnx"]
TRAIN = ["train", "--teacher", "{path}", "--quiet", "-o", "out"]
CASES = [
    *((command, name, text) for name, text in MODEL.items() for command in (COMPILE, EXPORT)),
    *((["inspect", "{path}"], name, text) for name, text in MODEL.items()
      if name not in ("digits", "image", "nothing")),
    *((TRAIN, name, text) for name, text in CHECKPOINT.items()),
    *(([command, "{path}", "--input", "x.npy"], name, text) for name, text in IMAGE.items()
      for command in ("simulate", "compare")),
    (["inspect", "{path}"], "digits", IMAGE["digits"]),
    (["inspect", "{path}"], "nothing", IMAGE["nothing"]),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name", "text"), CASES)
def test_a_mistaken_kind_is_named(place, tmp_path, monkeypatch, capsys, command, name, text):
    monkeypatch.chdir(tmp_path)
    path = place / name
    assert main([part.format(path=path) for part in command]) == 1
    line = f"palquant: {path}: {text.format(place=place)}\n"
    assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []
