"""Released checkpoints are read without executing code, and refused in one line."""

import argparse
import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from released import checkpoint, save, state_of, trained

from palquant.errors import ModelError
from palquant.golden.released_file import read_released


def same(found, model):
    expected = state_of(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("archive", [True, False])
def test_reads_what_training_writes(tmp_path, prefix, bare, archive):
    content = checkpoint(trained(), prefix)
    content = content["state_dict"] if bare else content
    path = tmp_path / "model.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    same(read_released(path), trained())


@pytest.mark.parametrize(
    "accuracy", [np.float64(71.1), np.float32(71.1), np.int64(71), torch.tensor([71.1]), 71.1]
)
def test_numbers_beside_the_parameters_do_no_harm(tmp_path, accuracy):
    content = checkpoint(trained()) | {"best_acc1": accuracy}
    content["state_dict"] = collections.OrderedDict(content["state_dict"])
    same(read_released(save(content, tmp_path / "a.pth")), trained())


def test_numbers_of_older_numpy_versions_are_read(tmp_path):
    """The module that makes them had another name until NumPy 2."""
    path = save(checkpoint(trained()), tmp_path / "new.pth")
    old = tmp_path / "old.pth"
    changed = 0
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            changed += data.count(b"cnumpy._core.multiarray\n")
            target.writestr(item, data.replace(b"cnumpy._core.", b"cnumpy.core."))
    assert changed
    same(read_released(old), trained())


class Payload:
    """Runs a command when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("where", ["best_acc1", "state_dict", "optimizer_m"])
@pytest.mark.parametrize("archive", [True, False])
def test_pickled_code_is_refused_and_never_runs(tmp_path, where, archive):
    trace = tmp_path / "ran"
    content = checkpoint(trained()) | {where: Payload(trace)}
    path = tmp_path / "bad.pth"
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(ModelError, match=r"holds the Python object posix\.system, which is not "):
        read_released(path)
    assert not trace.exists()


def test_a_pickle_of_its_own_is_refused_and_never_runs(tmp_path):
    trace = tmp_path / "ran"
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"state_dict": Payload(trace)}))
    with pytest.raises(ModelError, match=r"^\S*bad\.pkl: [^\n]*$"):
        read_released(path)
    assert not trace.exists()


def test_objects_that_are_no_numbers_are_refused(tmp_path):
    content = checkpoint(trained()) | {"args": argparse.Namespace(arch="resnet18")}
    with pytest.raises(ModelError, match=r"Python object argparse\.Namespace, .* save its state_"):
        read_released(save(content, tmp_path / "x.pth"))
    with pytest.raises(ModelError, match=r"or holds more than tensors and plain values$"):
        read_released(save(content | {"args": np.str_("resnet18")}, tmp_path / "x.pth"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("archive", [True, False])
def test_a_truncated_file_is_refused(tmp_path, share, archive):
    path = tmp_path / "short.pth"
    torch.save(checkpoint(trained()), path, _use_new_zipfile_serialization=archive)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"^\S*short\.pth: [^\n]*damaged[^\n]*$"):
        read_released(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other"
    for content in (b"", b"hello", bytes(1000), b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"other: [^\n]*damaged[^\n]*$"):
            read_released(path)
    with pytest.raises(ModelError, match="cannot read: No such file"):
        read_released(tmp_path / "missing")
    with pytest.raises(ModelError, match="cannot read: Is a directory"):
        read_released(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds list, expected a state dictionary"),
        ({"state_dict": 5}, "holds int, expected a state dictionary"),
        ({}, "its state dictionary is empty"),
        ({"epoch": 3, "arch": "resnet18"}, "entry 'epoch' is int, expected a tensor"),
        ({"a": torch.ones(2), "module.a": torch.ones(2)}, "'a' is there with and without"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' is no plain tensor of real numbers"),
        ({"a": torch.ones(2, 2).to_sparse()}, "'a' is no plain tensor of real numbers"),
    ],
)
def test_what_is_no_state_dictionary_is_refused(tmp_path, content, message):
    with pytest.raises(ModelError, match=f"x.pth: .*{message}"):
        read_released(save(content, tmp_path / "x.pth"))


def test_the_list_of_what_may_be_named_stays_ours(tmp_path):
    """Reading a released file must not let later readers load more."""
    read_released(save(checkpoint(trained()), tmp_path / "a.pth"))
    stream = io.BytesIO()
    torch.save(np.float64(1), stream)
    stream.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(stream, weights_only=True)
