"""The command from the outside: files, output, exit status, and one line for each mistake."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_workspace import TRAIN, make_workspace

from palquant.arguments import file_path
from palquant.cli import build_parser, main
from palquant.errors import MismatchError
from palquant.guard import guarded, run_guarded
from palquant.hw.presets import PRESETS
from palquant.sw.model import load_model


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("cli"))


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


def test_layers_of_which_nothing_was_compared_are_no_success(workspace, capsys):
    model, image = str(workspace / "digits" / "model.npz"), str(workspace / "result")
    assert main(["compile", model, "--geometry", "tiny", "-o", image, "--result-only"]) == 0
    capsys.readouterr()
    images = ["--input", str(workspace / "images.npy"), "--images", "1"]
    assert main(["compare", image, *images, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    unseen = [row for row in report["layers"] if not row["values_compared"]]
    assert 0 < len(unseen) == report["layers_not_compared"] < len(report["layers"])
    for row in unseen:
        assert row["mismatches"] is row["emulator_mismatches"] is None
    assert main(["compare", image, *images]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^stem\S* +0 +- +- ", text, re.MULTILINE)
    assert re.search(rf"^{len(unseen)} layers of {len(report['layers'])} not compared", text,
                     re.MULTILINE)  # fmt: skip
    assert "values of 1 image compared" in text
    assert "cycles are the average of one image" in text


def test_more_images_than_there_are_get_a_note(workspace, capsys):
    assert main(["simulate", str(workspace / "image"), "--input", str(workspace / "images.npy"),
                 "--backend", "emulator", "--images", "9"]) == 0  # fmt: skip
    note = r"palquant: note: --images 9, but \S+images\.npy holds 3 images\n"
    assert re.fullmatch(note, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("scale", "dtype", "text"),
    [
        (1, np.float32, None),
        (255, np.uint8, None),
        (16, np.float32, "pixels from 0 to 16; float32 images are expected in 0 to 1"),
        (-1, np.float32, "pixels from -1 to 0; float32 images are expected in 0 to 1"),
        (16, np.uint8, "no pixel exceeds 16; uint8 images are expected to use 0 to 255"),
    ],
)
def test_a_scale_that_is_likely_wrong_gets_a_note(workspace, capsys, scale, dtype, text):
    path = workspace / "scaled.npy"
    images = np.load(workspace / "images.npy")
    assert images.max() == 1
    np.save(path, (images * scale).astype(dtype))
    assert main(["simulate", str(workspace / "image"), "--input", str(path), "--backend",
                 "emulator"]) == 0  # fmt: skip
    expected = f"palquant: note: {path}: {text}\n" if text else ""
    assert capsys.readouterr().err == expected


def test_a_training_over_another_one_and_its_end_are_told(workspace, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "digits"
    shutil.copytree(workspace / "digits", folder)
    assert main([*TRAIN, "-o", str(folder)]) == 0
    assert re.fullmatch(r"palquant: note: \S+checkpoint\.pt exists; training starts anew, .*\n",
                        capsys.readouterr().err)  # fmt: skip
    assert main([*TRAIN, "-o", str(folder), "--resume"]) == 0
    assert capsys.readouterr().err == ""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("palquant.golden.train.export", interrupted)
    command = [*TRAIN, "-o", str(tmp_path / "new")]
    assert main(command) == 130  # after the epoch's checkpoint
    hint = "palquant: interrupted; the same command with --resume goes on\n"
    assert capsys.readouterr().err == hint
    assert main([*command, "--resume"]) == 130
    assert capsys.readouterr().err == hint
    monkeypatch.setattr("palquant.golden.train.TrainingRun", interrupted)
    assert main([*TRAIN, "-o", str(tmp_path / "none")]) == 130  # nothing to resume
    assert capsys.readouterr().err == "palquant: interrupted\n"


def test_a_report_on_standard_output_is_alone_there(workspace, capsys):
    assert main(["inspect", str(workspace / "image"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["geometry"] == "tiny"

    def differs():
        print("a table")
        raise MismatchError("values differ", {"layers": []})

    assert guarded(differs, Path("-")) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"layers": []}
    assert captured.err == "palquant: values differ\n"


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


def test_generate_replaces_its_own_files_alone(workspace, tmp_path, capsys):
    image, out = str(workspace / "image"), tmp_path / "v"
    command = ["generate", "--geometry", "tiny", "-o", str(out)]
    out.mkdir()
    for more in ([], ["--image", image, "--format", "mif"], []):
        assert main([*command, *more]) == 0
    capsys.readouterr()
    shutil.copytree(image, tmp_path / "image")
    (out / "notes").write_text("precious")
    for folder in (out, workspace / "digits", tmp_path / "image"):
        before = sorted(os.listdir(folder))
        assert main(["generate", "--geometry", "tiny", "-o", str(folder)]) == 1
        line = f"palquant: {folder}: holds other files; name an empty or a new directory\n"
        assert capsys.readouterr().err == line
        assert sorted(os.listdir(folder)) == before


def test_inspect_shows_models_and_images(workspace, capsys):
    assert main(["inspect", str(workspace / "digits" / "model.npz")]) == 0
    assert "Convolution" in capsys.readouterr().out
    assert main(["inspect", str(workspace / "image"), "--program"]) == 0
    text = capsys.readouterr().out
    assert "COMPUTE" in text
    assert text.rstrip().endswith("END")
    assert main(["inspect", str(workspace / "image"), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    program = [line for line in text.splitlines() if line.startswith("0x")]
    size = (workspace / "image" / "image.bin").stat().st_size
    macs = sum(layer["macs"] for layer in report["layers"])
    assert (report["image_bytes"], report["instructions"], report["macs"]) == (
        size, len(program), macs)  # fmt: skip
    assert text.startswith(
        f"geometry tiny, image of {size:,} bytes; {len(program)} instructions, "
        f"{len(report['layers'])} layers, {macs:,} multiply-accumulates for one input; "
        f"{report['tensor_count']} tensors in memory\n"
    )
    assert "\nMACs are multiply-accumulates of one input" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["compile", "nowhere.npz", "--geometry", "tiny", "-o", "x"], "nowhere.npz: cannot read"),
        (["compile", "{model}", "--geometry", "huge", "-o", "x"], "no geometry is called 'huge'"),
        (["compile", "{image}/image.bin", "--geometry", "tiny", "-o", "x"], "is no model of"),
        (["compare", "nowhere", "--input", "{images}"], "nowhere"),
        (["compare", "{image}", "--input", "nowhere.npy"], "nowhere.npy: cannot read images"),
        (["compare", "{image}", "--input", "{image}/image.bin"], "is no NumPy array file"),
        (["simulate", "{image}", "--input", "{labels}", "--backend", "emulator"], "shape"),
        (["simulate", "{image}", "--input", "{images}", "--labels", "{images}",
          "--backend", "emulator"], "labels of shape"),
        (["simulate", "{image}", "--input", "{images}", "--backend", "emulator", "--waves",
          "x.fst"], "--waves needs --backend rtl"),
        (["simulate", "{image}", "--input", "{images}", "--waves", "x.vcd"],
         "x.vcd: waveforms are written as FST"),
        (["simulate", "{image}", "--input", "{text}"], "text.npy: is no NumPy array file (.npy)"),
        (["simulate", "{image}", "--input", "{model}"], "model.npz: is an archive, expected"),
        (["simulate", "{image}", "--input", "{objects}"], "holds Python objects, expected numbers"),
        (["simulate", "{image}", "--input", "{cut}"], "cut.npy: is a damaged NumPy array file"),
        (["simulate", "{image}", "--input", "{images}", "--labels", "{two}"],
         "two.npy: labels of shape (2,), expected (3,)"),
        (["simulate", "{image}", "--input", "{images}", "--labels", "{real}"],
         "real.npy: labels are float64, expected integers"),
        (["simulate", "{image}", "--input", "{images}", "--labels", "{eleven}"],
         "eleven.npy: label 1 is 10, expected classes 0 to 9"),
        (["compare", "{image}/image.bin", "--input", "{images}"], "image.bin: is no folder"),
        (["inspect", "{model}", "--program"], "--program needs a memory image's folder"),
        (["train", "--weight-bits", "9", "-o", "x"], "weight bits must be one of 1, 2, 3, 4, 5, 6"),
        (["train", "--epochs", "0", "-o", "x"], "epochs must be a positive integer, not 0"),
        (["inspect", "nowhere"], "nowhere: cannot read"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line_and_status_1(workspace, tmp_path, monkeypatch, capsys, arguments,
                                            text):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    others = {name: workspace / f"{name}.npy" for name in ("text", "objects", "cut", "two", "real",
                                                           "eleven")}  # fmt: skip
    others["text"].write_text("1, 2, 3\n")
    np.save(others["objects"], np.array([{}]), allow_pickle=True)
    others["cut"].write_bytes((workspace / "images.npy").read_bytes()[:-1])
    np.save(others["two"], np.array([1, 2]))
    np.save(others["real"], np.array([1.0, 2.0, 3.0]))
    np.save(others["eleven"], np.array([1, 10, 3]))
    names = others | {
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


def test_every_command_has_help_with_an_example():
    parser = build_parser()
    assert "a first run:" in parser.format_help()
    choices = next(action.choices for action in parser._actions if action.choices)
    assert set(choices) == {
        "train", "import", "export", "compile", "simulate", "compare", "generate", "bench",
        "inspect", "bitstream", "host", "package", "explore",
    }  # fmt: skip
    for command in choices.values():
        text = command.format_help()
        several = text[text.index("example") :].count("palquant ") > 1
        assert ("examples:" if several else "example:") in text
        assert "--json" in text
        for action in command._actions:
            assert action.help, action.dest
        if any(action.dest == "geometry" for action in command._actions):
            assert all(name in text for name in PRESETS)


def test_the_installed_command_runs():
    for module in ("palquant", "palquant.cli"):
        command = [sys.executable, "-m", module, "--version"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stdout.startswith("palquant ")


def test_a_reader_that_goes_away_is_no_traceback(workspace):
    command = f"{sys.executable} -m palquant.cli inspect {workspace / 'image'} --program | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("geometry")
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
    (workspace / "in-the-way.fst").mkdir(exist_ok=True)
    assert main(["simulate", str(workspace / "image"), "--input", str(workspace / "images.npy"),
                 "--waves", str(workspace / "in-the-way.fst")]) == 1  # fmt: skip
    assert capsys.readouterr().err.endswith("in-the-way.fst: cannot write: Is a directory\n")


def test_a_mismatch_is_told_though_its_report_cannot_be_written(tmp_path, capsys):
    path = tmp_path / "report.json"

    def differs():
        raise MismatchError("values differ", {"layers": []})

    def in_the_way():
        path.mkdir()
        differs()

    assert guarded(in_the_way, path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"palquant: {path}: cannot write: Is a directory",
                     "palquant: values differ"]  # fmt: skip
    path.rmdir()
    assert guarded(differs, path) == 1
    assert json.loads(path.read_text()) == {"layers": []}


@pytest.mark.parametrize("option", ["json", "plot", "waves"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, option):
    work = []
    options = argparse.Namespace(**{"json": None, option: tmp_path})
    assert run_guarded(lambda _: work.append(1) or {}, options) == 1
    assert capsys.readouterr().err == f"palquant: {tmp_path}: cannot write: Is a directory\n"
    assert work == []
    setattr(options, option, tmp_path / "file")
    assert run_guarded(lambda _: work.append(1) or {}, options) == 0
    assert work == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"] * (option == "json")


def test_wrong_options_give_status_2():
    with pytest.raises(SystemExit) as caught:
        main(["compile"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [["train", "-o", ""], ["train", "-o", "x", "--data", ""], ["inspect", ""],
     ["import", "", "-o", "x.npz"], ["import", "x.onnx", "-o", ""], ["export", "", "-o", "x.onnx"],
     ["compile", "", "--geometry", "tiny", "-o", "x"], ["simulate", "", "--input", "x.npy"],
     ["compare", "x", "--input", ""], ["simulate", "x", "--input", "x.npy", "--waves", ""],
     ["generate", "--geometry", "tiny", "-o", ""], ["bench", "growth", "--plot", ""],
     ["inspect", "x", "--json", ""]],
)  # fmt: skip
def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(": an empty path; expected a file or folder")
    assert os.listdir(tmp_path) == []


def test_every_path_is_checked():
    """No option takes a path by another type."""
    choices = next(action.choices for action in build_parser()._actions if action.choices)
    types = {action.type for command in choices.values() for action in command._actions}
    assert file_path in types
    assert Path not in types
