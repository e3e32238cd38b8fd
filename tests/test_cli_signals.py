"""Interrupts and terminations of commands: one line, no traceback, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_workspace import TRAIN, make_workspace

from palquant.cli import main
from palquant.guard import guarded


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("cli"))


def test_an_interrupt_is_no_traceback(workspace, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("palquant.commands.load_image", interrupted)
    assert main(["inspect", str(workspace)]) == 130
    assert capsys.readouterr().err == "palquant: interrupted\n"


def children(pid):
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children")
            for child in path.read_text().split()]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_ends_the_simulator_and_leaves_nothing_behind(
    workspace, tmp_path, number, status, word
):
    images = np.load(workspace / "images.npy")
    np.save(workspace / "many.npy", np.concatenate([images] * 2000))  # minutes of simulation
    command = [sys.executable, "-m", "palquant", "simulate", str(workspace / "image"),
               "--input", str(workspace / "many.npy")]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"TMPDIR": str(tmp_path)})  # fmt: skip
    while not (found := children(process.pid)) or not any(tmp_path.glob("palquant-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=30)[1] == f"palquant: {word}\n"
    assert process.returncode == status
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10  # whoever adopts a killed process buries it in its own time
    while any(Path(f"/proc/{pid}").exists() for pid in found):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_termination_is_an_interruption_with_another_name(monkeypatch, tmp_path, capsys):
    """The hint of an interrupted training stays; signals are as before afterwards."""

    def terminated(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("palquant.golden.train.export", terminated)
    assert main([*TRAIN, "-o", str(tmp_path / "new")]) == 143
    hint = "palquant: terminated; the same command with --resume goes on\n"
    assert capsys.readouterr().err == hint
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_termination_does_not_stop_the_cleaning_up():
    done = []

    def command():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append(True)
        return {}

    assert guarded(command) == 143
    assert done == [True]


def test_copies_and_launched_processes_are_terminated_as_usual(monkeypatch):
    def copy():
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            os._exit(0)
        return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}

    reports = []
    assert guarded(lambda: reports.append(copy()) or {}) == 0
    assert reports == [{"status": -signal.SIGTERM}]
    monkeypatch.setenv("RANK", "0")
    handlers = []
    assert guarded(lambda: handlers.append(signal.getsignal(signal.SIGTERM)) or {}) == 0
    assert handlers == [signal.SIG_DFL]
