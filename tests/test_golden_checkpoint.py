"""Checkpoints: what is written comes back, what does not fit is refused in one line."""

import os
import random

import pytest
import torch
from torch import nn

from palquant.errors import ModelError, OutputError
from palquant.golden.checkpoint import load_checkpoint, load_state, save_checkpoint


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_round_trip(tmp_path, model):
    path = tmp_path / "run.pt"
    content = {"epoch": 3, "model": model.state_dict(), "history": [{"loss": 0.5}]}
    save_checkpoint(content, path)
    found = load_checkpoint(path, "epoch", "model", "history")
    assert found["epoch"] == 3
    assert found["history"] == [{"loss": 0.5}]
    assert found["model"].keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(found["model"][name], value)
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    save_checkpoint({"epoch": 1}, path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=r"run\.pt: cannot write: No space left on device$"):
        save_checkpoint({"epoch": 2}, path)
    assert load_checkpoint(path, "epoch") == {"epoch": 1}
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"below/run\.pt: cannot write: Not a directory$"):
        save_checkpoint({}, tmp_path / "file" / "below" / "run.pt")


NO_CHECKPOINT = r"is no checkpoint of a training \(checkpoint\.pt of palquant train\)"


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty; expected a checkpoint \(checkpoint\.pt of palquant train\)$"),
        (
            b"not really",
            rf"{NO_CHECKPOINT}, or is damaged$",
        ),
        (b"PK\x03\x04 and no more", r"is damaged \(truncated or corrupted\)"),
        (None, "cannot read: No such file or directory$"),
        ({"a": 1}, rf"{NO_CHECKPOINT}$"),
        ([1, 2], rf"{NO_CHECKPOINT}$"),
        ({"format": "palquant-checkpoint", "version": 9}, "version 9, expected 2$"),
        ({"epoch": 1}, "entry 'model' is missing$"),
        (
            {"epoch": 1, "model": {}, "more": 0, "zoo": 0},
            r"entry 'more' is unknown \(and 1 more\)$",
        ),
        (
            {"epoch": 1, "model": {"a": [{"b": torch.tensor([0.0, float("inf")])}]}},
            r"model\.a\.0\.b holds NaN or infinity$",
        ),
        (
            {"epoch": 1, "model": {"a": torch.tensor(float("nan"))}},
            "model.a holds NaN or infinity$",
        ),
    ],
)
def test_refuses_files_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "run.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict) and "epoch" in content:
        save_checkpoint(content, path)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=rf"^{path}: .*{message}") as error:
        load_checkpoint(path, "epoch", "model")
    assert one_line(error)


def damage(path):
    """What reading a file complains about, if anything."""
    try:
        load_checkpoint(path, "epoch", "model")
    except ModelError as error:
        return str(error)
    return None


def test_arbitrary_bytes_are_refused_in_one_line(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "run.pt"
    for size in range(1, 400):
        path.write_bytes(rng.randbytes(size))
        assert damage(path).startswith(f"{path}: is no checkpoint of a training")
        assert "\n" not in damage(path)


def test_damage_anywhere_is_refused_or_harmless(tmp_path, model):
    rng = random.Random(1)
    path = tmp_path / "run.pt"
    save_checkpoint({"epoch": 7, "model": model.state_dict()}, path)
    data = path.read_bytes()
    refusals = 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randrange(len(data))] if rng.random() < 0.1 else damaged)
        problem = damage(path)
        refusals += problem is not None
        assert problem is None or "\n" not in problem
    assert refusals > 100


class Payload:
    """Code that a reader must not run."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_damaged_whatever_is_missing(tmp_path, model, share):
    path = tmp_path / "run.pt"
    save_checkpoint({"epoch": 7, "model": model.state_dict()}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert damage(path) == f"{path}: is damaged (truncated or corrupted)"


def test_checkpoints_without_a_scaler_are_of_another_version(tmp_path):
    old = {"format": "palquant-checkpoint", "version": 1, "epoch": 1, "model": {}}
    torch.save(old, tmp_path / "run.pt")
    assert damage(tmp_path / "run.pt") == f"{tmp_path / 'run.pt'}: version 1, expected 2"


def test_code_in_a_file_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "palquant-checkpoint", "x": Payload()}, "run.pt")
    with pytest.raises(ModelError, match=r"^run\.pt: is no checkpoint of a training") as error:
        load_checkpoint("run.pt")
    assert one_line(error)
    assert os.listdir() == ["run.pt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), r"^here: entry '0\.bias' is missing$"),
        (lambda s: s.update(z=torch.zeros(1)), "^here: entry 'z' is unknown$"),
        (
            lambda s: s.update({"0.bias": torch.zeros(5)}),
            r"^here: 0\.bias is float32 of shape \(5,\), expected float32 of shape \(4,\)$",
        ),
        (
            lambda s: s.update({"0.bias": torch.zeros(4).long()}),
            r"^here: 0\.bias is int64 of shape \(4,\), expected float32 of shape \(4,\)$",
        ),
        (lambda s: s.update({"0.bias": 3}), r"^here: 0\.bias is int, expected a tensor$"),
        (
            lambda s: s.update({"1.running_var": torch.full((4,), float("nan"))}),
            r"^here: 1\.running_var holds NaN or infinity$",
        ),
    ],
)
def test_refuses_states_that_do_not_fit(model, change, message):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(ModelError, match=message):
        load_state(model, state, "here")
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())


def test_loads_a_state_that_fits(model):
    state = {name: value + 1 for name, value in model.state_dict().items()}
    load_state(model, state, "here")
    assert all(torch.equal(state[name], v) for name, v in model.state_dict().items())
    with pytest.raises(ModelError, match=r"^here: is list, expected a state dictionary$"):
        load_state(model, [1], "here")
