"""Trainings on folders: several processes as one, interrupted as if they were not."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_pictures
from processes import in_processes

from palquant.errors import ModelError, OutputError, PalquantError
from palquant.golden.checkpoint import load_checkpoint
from palquant.golden.data_source import open_source
from palquant.golden.distill import ENTRIES
from palquant.golden.distributed import broadcast, total
from palquant.golden.image_folder import open_image_folder
from palquant.golden.recipe import folder_config
from palquant.golden.reference import predict, run
from palquant.golden.settings import RunSettings
from palquant.golden.train import _run_epochs, train
from palquant.golden.training_run import TrainingRun
from palquant.sw.graph import Quantize
from palquant.sw.model import load_model
from palquant.sw.normalize import to_codes

TESTS = Path(__file__).parent
SMALL = {"architecture": "small", "image_size": 16, "base_width": 4, "batch_size": 36, "epochs": 3}
CONFIG = folder_config(3, **SMALL)
OPTIONS = [text for name, value in SMALL.items()
           for text in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
IMPROVEMENTS = {"per_channel": True, "learned_thresholds": True, "gradient_scaling": 0.1}
IMPROVEMENT_OPTIONS = ["--per-channel", "--learned-thresholds", "--gradient-scaling", "0.1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def settings(data):
    return RunSettings(data=data, workers=0, held_out=6)


@pytest.fixture(scope="module")
def result(settings, tmp_path_factory):
    return train(CONFIG, tmp_path_factory.mktemp("run"), settings=settings, progress=False)


def state(path):
    """All tensors of a checkpoint, by name."""
    content = load_checkpoint(path, *ENTRIES)
    found = dict(content["model"])
    for optimizer in ("sgd", "adam"):
        for index, buffers in content[optimizer]["state"].items():
            found |= {f"{optimizer}.{index}.{k}": torch.as_tensor(v) for k, v in buffers.items()}
    return found


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def launch(data, output, *options):
    """Train in two processes, in double precision."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(TESTS / "train_in_double.py"), "--data", str(data), "-o", str(output), "--workers",
        "0", "--held-out", "6", "--quiet", *OPTIONS, *options,
    ]  # fmt: skip
    return subprocess.run(
        command, capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_what_a_folder_teaches_is_exported_exactly(result, data):
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    graph = load_model(result.model)
    images, labels = np.load(result.images), np.load(result.labels)
    assert images.shape == (6, 3, 16, 16)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    outputs = run(graph, to_codes(images, graph.input))
    with torch.no_grad():
        expected = result.network(torch.from_numpy(images)).argmax(1).numpy()
    assert np.array_equal(predict(graph, outputs), expected)
    assert graph.metadata["training"]["classes"] == list(open_image_folder(data).classes)
    assert graph.metadata["name"] == "w4-g2-w2a2"


@pytest.mark.parametrize("improved", [False, True], ids=["plain", "improved"])
def test_two_processes_train_the_network_that_one_does(
    data, settings, tmp_path, double_precision, improved
):
    config = dataclasses.replace(CONFIG, **(IMPROVEMENTS if improved else {}))
    alone = train(config, tmp_path / "one", settings=settings, progress=False)
    both = launch(data, tmp_path / "two", "--json", "-", *(IMPROVEMENT_OPTIONS if improved else []))
    report = json.loads(both.stdout)  # of one process: two would be no JSON
    expected, found = (state(tmp_path / name / "checkpoint.pt") for name in ("one", "two"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)
    lines = (tmp_path / "two/metrics.jsonl").read_text().splitlines()
    for one, two in zip(alone.history, map(json.loads, lines), strict=True):
        assert one["top1"] == two["top1"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-9)
    assert report["top1"] == alone.top1
    model = (tmp_path / "two/model.npz").read_bytes()
    for one, two in zip(alone.graph, load_model(tmp_path / "two/model.npz"), strict=True):
        if isinstance(one, Quantize):
            assert np.array_equal(one.thresholds, two.thresholds)
    if not improved:
        launch(data, tmp_path / "two", "--resume")
        assert (tmp_path / "two/model.npz").read_bytes() == model


def test_a_killed_training_goes_on_as_if_it_had_not_been(data, settings, tmp_path):
    """Killed within an epoch, with processes that decode images, without a chance to tidy up."""
    # So many epochs that the last one is far away however late the kill comes.
    config = dataclasses.replace(CONFIG, epochs=12)
    result = train(config, tmp_path / "whole", settings=settings, progress=False)
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "palquant.cli", "train", "--data", str(data), "-o",
               str(output), "--workers", "1", "--quiet", "--held-out", "6", *OPTIONS,
               "--epochs", str(config.epochs)]  # fmt: skip
    process = subprocess.Popen(command)
    metrics = output / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(metrics.read_text().splitlines()) < config.epochs
    assert not (output / "model.npz").exists()
    # More processes decode now, and others than before.
    resumed = train(config, output, settings=dataclasses.replace(settings, workers=2),
                    resume=True, progress=False)  # fmt: skip
    assert resumed.history == result.history
    expected, found = state(result.checkpoint), state(resumed.checkpoint)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert resumed.model.read_bytes() == result.model.read_bytes()


def test_other_data_is_no_resuming(result, settings, tmp_path):
    other = dataclasses.replace(settings, data=write_pictures(tmp_path / "data", training=25))
    with pytest.raises(ModelError, match=r"checkpoint\.pt: was trained with data \w{16}, not \w"):
        train(CONFIG, result.model.parent, settings=other, resume=True, progress=False)


def test_other_contents_under_the_same_names_are_no_resuming(result, settings, tmp_path):
    data = write_pictures(tmp_path / "data")
    one = data / "train/class1/002.png"
    one.write_bytes(one.read_bytes() + bytes(7))
    other = dataclasses.replace(settings, data=data)
    with pytest.raises(ModelError, match=r"checkpoint\.pt: was trained with data \w{16}, not \w"):
        train(CONFIG, result.model.parent, settings=other, resume=True, progress=False)


def test_skipped_images_are_counted(settings, tmp_path, capsys):
    data = write_pictures(tmp_path / "data")
    (data / "train/class0/003.png").write_bytes(b"broken")
    (data / "val/class2/001.png").unlink()
    (data / "val/class2/001.png").symlink_to("nowhere")
    lenient = dataclasses.replace(settings, data=data, bad_images="skip", tensorboard=True)
    one = dataclasses.replace(CONFIG, epochs=1)
    found = train(one, tmp_path / "run", settings=lenient, progress=False)
    assert found.history[0]["skipped"] == 2
    assert found.history[0]["top1"] in [k / 17 for k in range(18)]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": cannot")[0].rsplit("data/")[1] for line in lines] == [
        "train/class0/003.png", "val/class2/001.png"
    ]  # fmt: skip
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert events.stat().st_size > 100


def meet_failures(process, data, output):
    """What each process meets: a held-out image that one cannot read, a disk that is full."""
    settings = RunSettings(data=data, workers=0)
    run = TrainingRun(CONFIG, open_source(CONFIG, settings, process), process, output / "x.pt")

    def full():
        if process.writes:
            raise OutputError("disk full")

    met = []
    broken = data / "val/class0/001.png"  # of process 1
    for save in (run.save, full):
        run.save = save
        try:
            _run_epochs(run, output, settings, shown=False)
        except PalquantError as error:
            met.append(f"{type(error).__name__}: {error}")
        met.append(float(total(torch.tensor(1.0))))  # they still understand each other
        if process.writes:
            shutil.copy(data / "val/class0/000.png", broken)
        broadcast(None)  # the file is there for both
    return [*met, run.epoch]


def test_what_ends_one_process_between_epochs_ends_all(tmp_path):
    data = write_pictures(tmp_path / "data")
    (data / "val/class0/001.png").write_bytes(b"broken")
    first, second = in_processes(2, partial(meet_failures, data=data, output=tmp_path))
    gone = "ToolError: another process of this training has ended; its own line says why"
    assert first == [gone, 2.0, "OutputError: disk full", 2.0, 2]
    assert second[0].startswith(f"InputError: {data}/val/class0/001.png: cannot read this image")
    assert second[1:] == [2.0, gone, 2.0, 2]


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50", "vgg16"])
def test_large_networks_train_and_are_exported_exactly(settings, tmp_path, architecture):
    config = folder_config(
        3, architecture=architecture, base_width=2, image_size=16, batch_size=24, epochs=1,
        learning_rate=0.01,
    )  # fmt: skip
    found = train(config, tmp_path, settings=settings, progress=False)
    assert found.graph.metadata["name"] == f"{architecture}-w2-g2-w2a2"
    assert np.isfinite(found.history[0]["loss"])
