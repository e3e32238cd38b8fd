"""Metrics, event files and bars say what happened."""

import json
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from palquant.golden.metrics import EventWriter, Progress, write_metrics


def test_metrics_are_lines_of_json(tmp_path):
    history = [{"epoch": 1, "loss": 2.5, "top1": 0.1}, {"epoch": 2, "loss": 1.5, "top1": 0.2}]
    path = tmp_path / "metrics.jsonl"
    write_metrics(history, path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == history
    write_metrics(history[:1], path)
    assert len(path.read_text().splitlines()) == 1


def test_event_files_hold_every_epoch_once(tmp_path):
    def write(done, epochs):
        events = EventWriter(tmp_path, done)
        for epoch in epochs:
            events.write({"epoch": epoch, "loss": 3.0 / epoch}, {"images per second": 10.0 + done})
        events.close()

    write(0, [1, 2, 3])  # the checkpoint of the third epoch was never written
    write(2, [3, 4])
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert losses[2][1] == pytest.approx(1.0)
    rates = [event.value for event in found.Scalars("images per second")]
    assert rates == [10, 10, 12, 12]
    assert "epoch" not in found.Tags()["scalars"]


def test_bars_show_loss_rate_and_accuracy(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("net", 4, 1, 100, shown=True)
    with progress.epoch():
        progress._bar.mininterval = 0
        for _ in range(4):
            progress.step(25, torch.tensor(1.25))
    progress.complete({"loss": 1.25, "top1": 0.5})
    progress.close()
    text = capfd.readouterr().err
    assert "net:" in text
    assert "2/4" in text
    assert "loss=1.250, top1=50.0%" in text
    assert "image/s" in text
    assert progress.rate > 100


def test_hidden_bars_still_measure(capfd):
    progress = Progress("net", 4, 0, 100, shown=False)
    with progress.epoch():
        progress.step(100, torch.tensor(1.0))
    progress.complete({"loss": 1.0, "top1": 0.5})
    progress.close()
    assert progress.rate > 0
    assert capfd.readouterr() == ("", "")
