"""The command from the outside: files, output, exit status, and one line for each mistake."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from palquant.cli import build_parser, main
from palquant.commands import guarded
from palquant.errors import MismatchError
from palquant.golden.data import load_digits_split
from palquant.sw.model import load_model

TRAIN = ["train", "--base-width", "4", "--epochs", "1", "--quiet"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A trained and compiled network, and images."""
    folder = tmp_path_factory.mktemp("cli")
    assert main([*TRAIN, "-o", str(folder / "digits"), "--json", str(folder / "train.json")]) == 0
    model = str(folder / "digits" / "model.npz")
    assert main(["compile", model, "--geometry", "tiny", "-o", str(folder / "image")]) == 0
    split = load_digits_split()
    np.save(folder / "images.npy", split.test_images[:3])
    np.save(folder / "labels.npy", split.test_labels[:3])
    return folder


def test_train_writes_its_results(workspace):
    report = json.loads((workspace / "train.json").read_text())
    assert 0 <= report["top1"] <= 1
    assert load_model(report["model"]).metadata["name"] == report["name"] == "w4-g2-w2a2"
    assert (workspace / "digits" / "metrics.jsonl").exists()


def test_compare_runs_all_three_and_finds_no_difference(workspace, capsys):
    report_file = workspace / "compare.json"
    assert main(["compare", str(workspace / "image"), "--input", str(workspace / "images.npy"),
                 "--json", str(report_file)]) == 0  # fmt: skip
    report = json.loads(report_file.read_text())
    assert report["images"] == 3
    assert report["mismatches"] == report["emulator_mismatches"] == 0
    assert report["values_compared"] == sum(row["values_compared"] for row in report["layers"]) > 0
    assert report["cycles"] >= sum(row["cycles"] for row in report["layers"]) > 0
    assert "stem" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["rtl", "emulator"])
def test_simulate_predicts_the_same_on_both_back_ends(workspace, backend, capsys):
    report_file = workspace / f"{backend}.json"
    assert main(["simulate", str(workspace / "image"), "--input", str(workspace / "images.npy"),
                 "--labels", str(workspace / "labels.npy"), "--backend", backend,
                 "--json", str(report_file)]) == 0  # fmt: skip
    report = json.loads(report_file.read_text())
    other = workspace / ("emulator.json" if backend == "rtl" else "rtl.json")
    if other.exists():
        assert report["predictions"] == json.loads(other.read_text())["predictions"]
    assert "top-1" in capsys.readouterr().out
    if backend == "rtl":
        assert sum(report["activity"].values()) == report["cycles"]


def test_generate_writes_the_bitstream_inputs(workspace, tmp_path):
    out = tmp_path / "verilog"
    assert main(["generate", "--geometry", "tiny", "-o", str(out), "--image",
                 str(workspace / "image"), "--format", "coe", "--format", "mif",
                 "--format", "mem"]) == 0  # fmt: skip
    files = set(os.listdir(out))
    assert {"image.bin", "image.hex", "image.coe", "image.mif", "image.mem"} <= files
    assert any(name.endswith(".v") for name in files)
    assert any(name.endswith(".h") for name in files)


def test_generate_refuses_an_image_of_another_geometry(workspace, tmp_path, capsys):
    assert main(["generate", "--geometry", "kilomac", "-o", str(tmp_path / "v"), "--image",
                 str(workspace / "image")]) == 1  # fmt: skip
    assert "is compiled for geometry tiny, not kilomac" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


def test_inspect_shows_models_and_images(workspace, capsys):
    assert main(["inspect", str(workspace / "digits" / "model.npz")]) == 0
    assert "Convolution" in capsys.readouterr().out
    assert main(["inspect", str(workspace / "image"), "--program"]) == 0
    text = capsys.readouterr().out
    assert "COMPUTE" in text
    assert text.rstrip().endswith("END")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["compile", "nowhere.npz", "--geometry", "tiny", "-o", "x"], "nowhere.npz: cannot read"),
        (["compile", "{model}", "--geometry", "huge", "-o", "x"], "no geometry is called 'huge'"),
        (["compile", "{image}/image.bin", "--geometry", "tiny", "-o", "x"], "no palquant-model"),
        (["compare", "nowhere", "--input", "{images}"], "nowhere"),
        (["compare", "{image}", "--input", "nowhere.npy"], "nowhere.npy: cannot read images"),
        (["compare", "{image}", "--input", "{image}/image.bin"], "is no NumPy array file"),
        (["simulate", "{image}", "--input", "{labels}", "--backend", "emulator"], "shape"),
        (["simulate", "{image}", "--input", "{images}", "--labels", "{images}",
          "--backend", "emulator"], "labels of shape"),
        (["simulate", "{image}", "--input", "{images}", "--backend", "emulator", "--waves",
          "x.fst"], "--waves needs --backend rtl"),
        (["train", "--epochs", "0", "-o", "x"], "epochs must be a positive integer, not 0"),
        (["inspect", "nowhere"], "nowhere: cannot read"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line_and_status_1(workspace, tmp_path, monkeypatch, capsys, arguments,
                                            text):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    names = {
        "model": workspace / "digits" / "model.npz",
        "image": workspace / "image",
        "images": workspace / "images.npy",
        "labels": workspace / "labels.npy",
    }
    assert main([argument.format(**names) for argument in arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("palquant: ")
    assert text in lines[0]
    assert os.listdir(tmp_path) == []


def test_an_unwritable_report_is_an_error(workspace, capsys):
    (workspace / "file").write_text("")
    assert (
        main(["inspect", str(workspace / "image"), "--json", str(workspace / "file/x.json")]) == 1
    )
    line = capsys.readouterr().err
    assert re.fullmatch(r"palquant: .*file/x\.json: cannot write: .*file is no directory\n", line)


def test_an_interrupt_is_no_traceback(workspace, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("palquant.commands.load_image", interrupted)
    assert main(["inspect", str(workspace)]) == 130
    assert capsys.readouterr().err == "palquant: interrupted\n"


def test_every_command_has_help_with_an_example():
    parser = build_parser()
    assert "a first run:" in parser.format_help()
    choices = next(action.choices for action in parser._actions if action.choices)
    assert set(choices) == {"train", "compile", "simulate", "compare", "generate", "inspect"}
    for command in choices.values():
        assert "example:" in command.format_help()
        assert "--json" in command.format_help()


def test_the_installed_command_runs():
    command = [sys.executable, "-m", "palquant.cli", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("palquant ")


def test_a_reader_that_goes_away_is_no_traceback(workspace):
    command = f"{sys.executable} -m palquant.cli inspect {workspace / 'image'} --program | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("layer")
    assert result.stderr == ""


def test_a_full_disk_behind_standard_output_is_one_line(workspace):
    command = f"{sys.executable} -m palquant.cli inspect {workspace / 'image'} > /dev/full"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "palquant: standard output: cannot write: No space left on device\n"


def test_a_closed_standard_output_is_no_traceback(workspace):
    command = f"{sys.executable} -m palquant.cli inspect {workspace / 'image'} >&-"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_report_can_go_to_a_device(workspace, capfd):
    assert main(["inspect", str(workspace / "image"), "--json", "/dev/stdout"]) == 0
    assert '"geometry": "tiny"' in capfd.readouterr().out
    assert main(["inspect", str(workspace / "image"), "--json", "/dev/full"]) == 1
    assert capfd.readouterr().err == "palquant: /dev/full: cannot write: No space left on device\n"


def test_waveforms_that_cannot_be_written_are_named(workspace, capsys):
    (workspace / "in-the-way").mkdir(exist_ok=True)
    assert main(["simulate", str(workspace / "image"), "--input", str(workspace / "images.npy"),
                 "--waves", str(workspace / "in-the-way")]) == 1  # fmt: skip
    assert capsys.readouterr().err.endswith("in-the-way: cannot write: Is a directory\n")


def test_a_mismatch_is_told_though_its_report_cannot_be_written(tmp_path, capsys):
    def differs():
        raise MismatchError("values differ", {"layers": []})

    assert guarded(differs, tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"palquant: {tmp_path}: cannot write: Is a directory",
                     "palquant: values differ"]  # fmt: skip
    assert guarded(differs, tmp_path / "report.json") == 1
    assert json.loads((tmp_path / "report.json").read_text()) == {"layers": []}


def test_wrong_options_give_status_2():
    with pytest.raises(SystemExit) as caught:
        main(["compile"])
    assert caught.value.code == 2
