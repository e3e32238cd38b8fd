"""Model files: the graph comes back as it was, and what does not fit is refused by name."""

import dataclasses
import io
import json
import os
import random
import zipfile

import numpy as np
import pytest

from palquant.errors import ModelError, OutputError
from palquant.sw.graph import (
    Add,
    Affine,
    Clamp,
    Convolution,
    Graph,
    Input,
    Logits,
    MaxPool,
    Normalization,
    Permute,
    Quantize,
    Relu,
    Shape,
    SumPool,
)
from palquant.sw.model import load_model, save_model


def sample():
    """A graph with every operation."""
    rng = np.random.default_rng(0)

    def column(low, high):
        return rng.integers(low, high, 4)

    def affine(name, reads, bits=16):
        return Affine(name=name, input=reads, scale=column(-99, 99), offset=column(-9999, 9999),
                      shift=column(0, 32), bits=bits)  # fmt: skip

    norm = Normalization((0.1, -0.2), (0.5, 1.5), 0.0123456789)
    window = {"kernel": (2, 3), "stride": (1, 2), "padding": (1, 0)}
    nodes = [
        Input(name="input", shape=Shape(2, 6, 5), bits=8, zero_point=128, normalization=norm),
        Convolution(name="stem/conv", input="input", weight_bits=8, alpha=1, beta=128,
                    weight=rng.integers(0, 256, (4, 2, 3, 3)).astype(np.uint8), stride=(2, 1),
                    padding=(1, 1), quantized=False),
        affine("a", "stem/conv"),
        Relu(name="relu", input="a"),
        Permute(name="p", input="relu", permutation=np.array([2, 0, 3, 1])),
        Add(name="add", a="a", b="p"),
        MaxPool(name="max", input="add", **window),
        Quantize(name="q", input="max", bits=2, zero_point=1, negate=column(0, 2) > 0,
                 thresholds=np.sort(rng.integers(-99, 99, (4, 3)), axis=1)),
        Convolution(name="conv", input="q", weight_bits=2, alpha=2, beta=3, groups=2,
                    weight=rng.integers(0, 4, (4, 2, 1, 1)).astype(np.uint8)),
        affine("b", "conv", bits=8),
        SumPool(name="sum", input="b", kernel=(3, 2), stride=(2, 1)),
        affine("c", "sum"),
        Clamp(name="clamp", input="c", zero_point=3),
        Convolution(name="fc", input="clamp", weight_bits=8, alpha=1, beta=128,
                    weight=rng.integers(0, 256, (4, 4, 1, 1)).astype(np.uint8)),
        Logits(name="logits", input="fc", offset=column(-99, 99), scale=rng.random(4) + 0.1,
               rest=rng.random(4) - 0.5),
    ]  # fmt: skip
    return Graph(nodes, {"name": "sample", "top1": 0.25, "nested": {"list": [1, 2.5, None]}})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.npz"
    save_model(sample(), path)
    return path


def contents(path):
    with np.load(path) as archive:
        arrays = dict(archive)
    return json.loads(arrays.pop("graph").tobytes()), arrays


def rewrite(path, document, arrays):
    np.savez(path, graph=np.frombuffer(json.dumps(document).encode(), np.uint8), **arrays)


def node_of(document, name):
    return next(node for node in document["nodes"] if node["name"] == name)


def test_round_trip_keeps_everything(saved):
    graph, found = sample(), load_model(saved)
    assert found.metadata == graph.metadata
    assert found.shapes == graph.shapes
    assert found.types == graph.types
    for before, after in zip(graph, found, strict=True):
        assert type(before) is type(after)
        for item in dataclasses.fields(before):
            a, b = getattr(before, item.name), getattr(after, item.name)
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype
                assert np.array_equal(a, b)
            else:
                assert a == b
                assert type(a) is type(b)


def test_files_without_a_rest_load(saved):
    """Nothing is written where nothing is to be added, as in files that do not know of it."""
    document, arrays = contents(saved)
    del arrays["logits/rest"]
    rewrite(saved, document, arrays)
    found = load_model(saved)
    assert found.output.rest is None
    save_model(found, saved)
    document, arrays = contents(saved)
    assert "logits/rest" not in arrays
    assert "rest" not in node_of(document, "logits")


def test_the_same_graph_gives_the_same_file(saved, tmp_path):
    save_model(load_model(saved), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()
    assert (saved.stat().st_mode & 0o777) == 0o644


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=r"model\.npz: cannot write: No space left on device$"):
        save_model(sample(), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["model.npz"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"model\.npz: cannot write: Not a directory$"):
        save_model(sample(), tmp_path / "file" / "below" / "model.npz")


def refused(path, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "format is 'other', expected 'palquant-model'$"),
        (lambda d: d.update(version=2), "version 2, expected 1$"),
        (lambda d: d.pop("format"), r"is damaged \(no entry 'format'\)$"),
        (lambda d: d.pop("metadata"), r"is damaged \(no entry 'metadata'\)$"),
        (lambda d: d.update(metadata=3), "metadata is 3, expected an object$"),
        (lambda d: d.update(nodes={"a": 1}), "is no model of palquant, or is damaged"),
        (lambda d: d.update(nodes=[]), "entry .* belongs to no node$"),
        (lambda d: node_of(d, "relu").update(operation="Gelu"), "unknown operation 'Gelu'$"),
        (lambda d: node_of(d, "relu").pop("operation"), r"is damaged \(no entry 'operation'"),
        (lambda d: node_of(d, "relu").pop("input"), "relu/input is missing$"),
        (lambda d: node_of(d, "conv").pop("alpha"), "conv/alpha is missing$"),
        (lambda d: node_of(d, "conv").update(bias=1), "conv has an unknown attribute 'bias'$"),
        (lambda d: node_of(d, "relu").update(input="fc"), "relu: reads 'fc', which no earlier"),
        (lambda d: node_of(d, "conv").update(stride="2"), "conv: stride is '2', expected tuple"),
        (lambda d: node_of(d, "conv").update(quantized=1), "conv: quantized is 1, expected bool$"),
        (lambda d: node_of(d, "b").update(bits=99), r"b: residual of 99 bits \(supported"),
        (lambda d: node_of(d, "relu").update(name=["x"]), r"name is \('x',\), expected str$"),
        (lambda d: node_of(d, "input")["shape"].update(depth=1), "is damaged .*depth"),
        (lambda d: node_of(d, "input")["normalization"].update(scale=float("nan")),
         r"input: normalization\.scale is nan, expected float$"),
        (lambda d: node_of(d, "input").update(normalization=3), "is damaged"),
        (lambda d: d["nodes"].append(d["nodes"][3]), "relu: two nodes have this name$"),
    ],
)  # fmt: skip
def test_refuses_descriptions_that_do_not_fit(saved, change, message):
    document, arrays = contents(saved)
    change(document)
    rewrite(saved, document, arrays)
    refused(saved, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("conv/weight"), "conv/weight is missing$"),
        (lambda a: a.update({"conv/more": np.zeros(1)}), "entry 'conv/more' belongs to no node$"),
        (lambda a: a.update({"other": np.zeros(1)}), "entry 'other' belongs to no node$"),
        (lambda a: a.update({"b/scale": a["b/scale"][:3]}), r"b: scale has shape \(3,\), expec"),
        (lambda a: a.update({"b/scale": a["b/scale"].astype(float)}),
         "b: scale is an array of float64, expected an array of int64$"),
        (lambda a: a.update({"b/shift": a["b/shift"].astype(str)}),
         "b: shift is an array of <U.*, expected an array of int64$"),
        (lambda a: a.update({"logits/scale": np.array([1, np.nan, 1, 1])}),
         "logits/scale holds NaN or infinity$"),
        (lambda a: a.update({"logits/scale": np.array([1, 1, np.inf, 1])}),
         "logits/scale holds NaN or infinity$"),
        (lambda a: a.update({"logits/rest": np.array([0, np.nan, 0, 0])}),
         "logits/rest holds NaN or infinity$"),
        (lambda a: a.update({"logits/rest": a["logits/rest"][:2]}),
         r"logits: rest has shape \(2,\), expected \(4,\)$"),
        (lambda a: a.update({"p/permutation": np.array(3)}), "p: is no permutation of 4 channels$"),
    ],
)  # fmt: skip
def test_refuses_arrays_that_do_not_fit(saved, change, message):
    document, arrays = contents(saved)
    change(arrays)
    rewrite(saved, document, arrays)
    refused(saved, message)


def npy_bytes():
    stream = io.BytesIO()
    np.save(stream, np.arange(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content", [b"\x00" * 100, b"PK\x03\x04", b"{}", b"\x93NUMPY", npy_bytes()]
)
def test_refuses_files_of_another_kind(tmp_path, content):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    refused(path, "is no model of palquant, or is damaged")


def test_refuses_missing_files_and_archives_without_a_graph(tmp_path):
    refused(tmp_path / "none.npz", "cannot read: No such file or directory$")
    refused(tmp_path, r"is a folder; expected a model \(palquant train, palquant import\)$")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    refused(tmp_path / "other.npz", r"is damaged \(no entry 'graph'\)$")


def test_pickled_objects_are_not_loaded(saved):
    document, arrays = contents(saved)
    arrays["conv/weight"] = np.array([{"a": 1}], object)
    rewrite(saved, document, arrays)
    refused(saved, "is no model of palquant, or is damaged .*allow_pickle=False")


def damage(path):
    """What reading a file complains about, if anything."""
    try:
        load_model(path)
    except ModelError as error:
        return str(error)
    return None


def test_damage_anywhere_is_refused_or_harmless(saved):
    """Bytes changed at random: either one clear line, or the very same graph."""
    data = saved.read_bytes()
    whole = {name: array.tobytes() for name, array in contents(saved)[1].items()}
    rng = random.Random(1)
    refusals = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.1:
            damaged = damaged[: rng.randrange(len(data))]
        saved.write_bytes(damaged)
        problem = damage(saved)
        refusals += problem is not None
        if problem is None:
            assert {n: a.tobytes() for n, a in contents(saved)[1].items()} == whole
        else:
            assert "\n" not in problem
    assert refusals > 100


def test_entries_are_readable_by_numpy_alone(saved):
    assert zipfile.is_zipfile(saved)
    document, arrays = contents(saved)
    assert document["metadata"]["name"] == "sample"
    assert np.array_equal(arrays["stem/conv/weight"], sample()["stem/conv"].weight)
