"""A short training learns, can be resumed bit for bit, and leaves files that fit together."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from palquant.errors import ConfigurationError, ModelError, OutputError
from palquant.golden import training_run
from palquant.golden.checkpoint import load_checkpoint, save_checkpoint
from palquant.golden.config import NetworkConfig, TrainConfig
from palquant.golden.data import load_digits_split
from palquant.golden.distill import ENTRIES
from palquant.golden.improvements import split_parameters
from palquant.golden.models import ResidualNetwork
from palquant.golden.reference import predict, run
from palquant.golden.train import train
from palquant.sw.model import load_model
from palquant.sw.normalize import to_codes

SHORT = TrainConfig(base_width=3, groups=2, epochs=3, batch_size=48, seed=5)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return train(SHORT, tmp_path_factory.mktemp("run"), progress=False)


def test_learns(result):
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3]
    assert result.history[-1]["loss"] < 0.75 * result.history[0]["loss"]
    assert result.top1 > 0.6


def test_top1_is_that_of_the_integer_graph_in_the_model_file(result):
    graph = load_model(result.model)
    split = load_digits_split(SHORT.split_seed)
    outputs = run(graph, to_codes(split.test_images, graph.input))
    assert np.mean(predict(graph, outputs) == split.test_labels) == result.top1
    assert graph.metadata["top1"] == result.top1
    assert graph.metadata["name"] == "w3-g2-w2a2"
    assert graph.metadata["training"]["config"] == dataclasses.asdict(SHORT)


def test_metrics_are_the_history(result):
    lines = result.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    assert {path.name for path in result.model.parent.iterdir()} == {
        "model.npz", "metrics.jsonl", "checkpoint.pt", "heldout_images.npy", "heldout_labels.npy"
    }  # fmt: skip


def test_the_held_out_images_lie_beside_the_model(result):
    images, labels = np.load(result.images), np.load(result.labels)
    split = load_digits_split(SHORT.split_seed)
    assert images.dtype == np.float32
    assert np.array_equal(images, split.test_images)
    assert np.array_equal(labels, split.test_labels)


def interrupt_after(monkeypatch, epochs):
    """Raise at the end of an epoch, before its checkpoint is written."""
    calls = []
    original = training_run.evaluate

    def evaluate(*arguments):
        calls.append(1)
        if len(calls) > epochs:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training_run, "evaluate", evaluate)


def test_resumed_equals_uninterrupted(result, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, tmp_path, progress=False)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / "model.npz").exists()
    torch.manual_seed(99)  # the global generator plays no part
    resumed = train(SHORT, tmp_path, resume=True, progress=False)
    assert resumed.history == result.history
    first, second = (load_checkpoint(r.checkpoint, *ENTRIES) for r in (result, resumed))
    assert first["epoch"] == second["epoch"] == 3
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for optimizer in ("sgd", "adam"):
        for index, state in first[optimizer]["state"].items():
            for name, value in state.items():
                assert torch.equal(value, second[optimizer]["state"][index][name])
    assert result.model.read_bytes() == resumed.model.read_bytes()


def test_resuming_a_finished_run_changes_nothing(result):
    before = result.model.read_bytes()
    again = train(SHORT, result.model.parent, resume=True, progress=False)
    assert again.history == result.history
    assert result.model.read_bytes() == before


def test_resume_refuses_another_configuration(result):
    other = dataclasses.replace(SHORT, learning_rate=0.02)
    message = r"checkpoint\.pt: was trained with learning rate 0\.1, not 0\.02$"
    with pytest.raises(ModelError, match=message):
        train(other, result.model.parent, resume=True, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(adam=c["sgd"]), r"adam does not fit: "),
        (lambda c: c.update(sgd=3), r"sgd does not fit: "),
        (lambda c: c["sgd"]["state"][2].update(momentum_buffer=torch.zeros(5)),
         r"sgd\.state\.2\.momentum_buffer has shape \(5,\), expected \(6,\)$"),
        (lambda c: c["adam"]["state"][0].update(exp_avg=torch.tensor(float("nan"))),
         r"adam\.state\.0\.exp_avg holds NaN or infinity; without it, training starts anew$"),
        (lambda c: c["model"].pop("stem.conv.weight"),
         r"model: entry 'stem\.conv\.weight' is missing$"),
        (lambda c: c.update(config=[1]), r"was trained with base width None, not 3$"),
        (lambda c: c.update(epoch=2), r"epoch 2 does not fit its history$"),
        (lambda c: c.update(epoch="3"), r"epoch 3 does not fit its history$"),
        (lambda c: c.pop("sgd"), r"entry 'sgd' is missing; without it, training"),
    ],
)  # fmt: skip
def test_resume_refuses_checkpoints_that_do_not_fit(result, tmp_path, change, message):
    content = load_checkpoint(result.checkpoint, *ENTRIES)
    change(content)
    save_checkpoint(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match=rf"checkpoint\.pt: {message}"):
        train(SHORT, tmp_path, resume=True, progress=False)


def test_without_resume_a_run_starts_anew(tmp_path):
    tiny = TrainConfig(base_width=1, groups=1, epochs=1, batch_size=400)
    first = train(tiny, tmp_path, progress=False)
    second = train(tiny, tmp_path, progress=False)
    assert first.history == second.history
    shifted = train(dataclasses.replace(tiny, augment=not tiny.augment), tmp_path, progress=False)
    assert shifted.history != first.history


def test_progress_bar_goes_to_standard_error(tmp_path, capfd):
    train(TrainConfig(base_width=1, groups=1, epochs=1, batch_size=700), tmp_path)
    captured = capfd.readouterr()
    assert "w1-g1-w2a2" in captured.err
    assert captured.out == ""


def test_a_loss_that_diverges_is_an_error(tmp_path):
    config = TrainConfig(base_width=1, groups=1, epochs=3, learning_rate=1e30)
    message = r"^epoch 1: .* is NaN or infinite; try a smaller learning rate$"
    with pytest.raises(ModelError, match=message):
        train(config, tmp_path, progress=False)


def test_an_unusable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"file: cannot make this folder: .*file is no directory$"
    with pytest.raises(OutputError, match=message):
        train(SHORT, tmp_path / "file", progress=False)


def test_threads_are_given_back(tmp_path):
    before = torch.get_num_threads()
    train(TrainConfig(base_width=1, groups=1, epochs=1, batch_size=700, threads=2), tmp_path,
          progress=False)  # fmt: skip
    assert torch.get_num_threads() == before


def test_quantiser_parameters_go_to_adam():
    model = ResidualNetwork(NetworkConfig(base_width=1))
    weights, quantizers = split_parameters(model)
    names = {id(p): name for name, p in model.named_parameters()}
    published = (".lower", ".upper", ".output_scale")
    assert all(names[id(p)].endswith(published) for p in quantizers)
    assert not any(names[id(p)].endswith(published) for p in weights)
    assert len(weights) + len(quantizers) == len(names)
    assert len(quantizers) == 5 * 10  # six 3x3, two 1x1 and two shuffle convolutions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "^epochs must be a positive integer, not 0$"),
        ({"batch_size": -1}, "^batch size must be a positive integer, not -1$"),
        ({"threads": 0}, "^threads must be a positive integer, not 0$"),
        (
            {"learning_rate": float("nan")},
            r"^learning rate must be .* at least 0, not nan$",
        ),
        ({"weight_decay": -0.1}, r"^weight decay must be .* at least 0, not -0\.1$"),
        ({"seed": -1}, "^seeds must be at least 0, not -1$"),
        (
            {"batch_size": 5000},
            "^batch size 5000 exceeds the 1438 training images; choose a smaller one",
        ),
        ({"groups": 0}, "^groups must be a positive integer, not 0$"),
        ({"base_width": 0}, "^base width must be a positive integer, not 0$"),
        ({"weight_bits": 9}, "^weight bits must be one of 1, 2, 3, 4, 5, 6, 7, 8, not 9$"),
        ({"activation_bits": 5}, "^activation bits must be one of 1, 2, 3, 4, not 5$"),
        ({"residual_bits": 7}, "^residual bits must be one of 8, .*, 16, not 7$"),
        ({"stem_bits": 3}, "^stem bits must be one of 2, 4, 8, not 3$"),
        ({"classifier_bits": 1}, "^classifier bits must be one of 2, 4, 8, not 1$"),
    ],
)
def test_refuses_bad_configurations(tmp_path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        train(TrainConfig(**changes), tmp_path, progress=False)
