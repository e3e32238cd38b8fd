"""What goes wrong around a simulation is told in one line; see test_sim_driver for simulations."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from palquant.errors import ExecutionError, OutputError, ToolError
from palquant.sim.execute import Dump, Load, Read, execute

#: What every simulator reports.
REPORT = {
    "runs": [], "reads": [[0, 7]], "cycles": 5, "seconds": 0.5,
    "traffic": {"read_bursts": 0, "read_beats": 0, "write_bursts": 0, "write_beats": 0,
                "error_responses": 0},
    "bare_seconds": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A place of its own for temporary files; empty again after each test."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


@pytest.fixture
def simulator(tmp_path):
    """Make an executable that does what a shell script says; ``$dump`` is its first dump."""

    def make(script):
        path = tmp_path / "simulator"
        path.write_text(
            "#!/bin/sh\n"
            "while [ $# -gt 0 ]; do case $1 in --result) result=$2;; --load) load=${2%@*};;"
            " --dump) dump=${2%@*};; --waves) waves=$2;; esac; shift; done\n"
            f"{script}\n"
        )
        path.chmod(0o755)
        return path

    return make


def run(executable, *steps, **options):
    return execute(executable, steps, base=0, size=1 << 20, **options)


def reporting(simulator, script):
    return simulator(f"{script}\ncat > $result <<'END'\n{json.dumps(REPORT)}\nEND")


@pytest.mark.parametrize(
    "contents", [b"abcdef", bytearray(b"abcdef"), memoryview(b"abcdef"),
                 np.frombuffer(b"abcdef", np.uint16), np.frombuffer(b"abcdef", "S1")[::1]],
    ids=lambda contents: type(contents).__name__,
)  # fmt: skip
def test_contents_reach_the_simulator_and_come_back(simulator, contents):
    report = run(reporting(simulator, "cp $load $dump"), Load(0, contents), Read(0), Dump(0, 6))
    assert report.dumps[0].tobytes() == b"abcdef"
    assert report.reads == [7]


def test_an_array_with_gaps_is_loaded_in_order(simulator):
    contents = np.arange(24, dtype=np.uint8).reshape(4, 6)[:, ::2].T
    report = run(reporting(simulator, "cp $load $dump"), Load(0, contents), Dump(0, 12))
    assert report.dumps[0].tobytes() == contents.tobytes()


def test_a_dump_that_is_cut_short_is_an_error(simulator, temporary):
    message = rf"^{temporary}: cannot write temporary files .*: the simulator wrote 2 of 6 bytes$"
    with pytest.raises(OutputError, match=message):
        run(reporting(simulator, "printf ab > $dump"), Dump(0, 6))


def test_a_full_temporary_folder_is_an_error(simulator, temporary, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    message = rf"^{temporary}: cannot write temporary files .*: No space left on device$"
    with pytest.raises(OutputError, match=message):
        run(reporting(simulator, ""), Load(0, b"abc"))


def test_a_missing_temporary_folder_is_an_error(simulator, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    message = rf"^{tmp_path}/none: cannot write temporary files .*: No such file or directory$"
    with pytest.raises(OutputError, match=message):
        run(reporting(simulator, ""), Read(0))


def test_waveforms_that_cannot_be_written_stop_it_before_it_runs(simulator, tmp_path):
    executable = simulator(f"touch {tmp_path / 'ran'}")
    with pytest.raises(OutputError, match=f"^{tmp_path}: cannot write: Is a directory$"):
        run(executable, waves=tmp_path)
    assert not (tmp_path / "ran").exists()


#: The shortest file with value changes and names.
WAVES = bytes([5, *(8).to_bytes(8, "big"), 4, *(8).to_bytes(8, "big")])
WRITE_WAVES = "printf '" + "".join(f"\\{byte:03o}" for byte in WAVES) + "' > $waves"


@pytest.mark.parametrize("name", ["waves.fst", "link", "new/folder/waves.fst"])
@pytest.mark.parametrize("failure", ["", "exit 3", "kill -9 $$"])
def test_waveforms_are_put_in_place_whole(simulator, tmp_path, name, failure):
    """Those of a machine that failed as well: they say why."""
    (tmp_path / "link").symlink_to("waves.fst")
    (tmp_path / "waves.fst").write_bytes(b"old")
    path = tmp_path / name
    executable = reporting(simulator, f"{WRITE_WAVES}; cat {tmp_path}/waves.fst; {failure}")
    if failure:
        with pytest.raises((ExecutionError, ToolError)):
            run(executable, waves=path)
    else:
        run(executable, waves=path)
    assert path.read_bytes() == WAVES
    assert (tmp_path / "link").is_symlink()
    assert not [each.name for each in path.parent.iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("exit 2", ToolError, "the simulator refused"),
        ("echo late >&2; printf half > $waves; exit 4", ExecutionError, "^late$"),
        ("printf half > $waves; kill -9 $$", ToolError, "failed with status -9"),
        (
            "printf half > $waves",
            OutputError,
            r"cannot write: .* no whole waveforms; either .*disk",
        ),
        (": > $waves", OutputError, r"cannot write: the simulator left no whole waveforms"),
        ("", OutputError, r"cannot write: the simulator left no whole waveforms"),
    ],
)
def test_without_whole_waveforms_the_old_ones_stay(simulator, tmp_path, script, error, message):
    (tmp_path / "waves.fst").write_bytes(b"old")
    executable = reporting(simulator, script)
    with pytest.raises(error, match=message):
        run(executable, waves=tmp_path / "waves.fst")
    with pytest.raises(ToolError, match="cannot run the simulator"):
        run(tmp_path / "none", waves=tmp_path / "waves.fst")
    assert (tmp_path / "waves.fst").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "simulator", "temporary", "waves.fst"
    ]  # fmt: skip


def test_an_interruption_leaves_old_waveforms(simulator, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "waves.fst").write_bytes(b"old")
    executable = simulator("printf half > $waves; echo progress 0 1 2; sleep 60")
    with pytest.raises(KeyboardInterrupt):
        run(executable, waves=tmp_path / "waves.fst", progress=interrupt)
    assert (tmp_path / "waves.fst").read_bytes() == b"old"


def test_a_device_takes_waveforms_as_they_come(simulator):
    run(reporting(simulator, WRITE_WAVES), waves=Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_an_error_of_the_progress_is_not_the_simulators(simulator):
    def broken(*_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(simulator("echo progress 0 1 2; sleep 60"), progress=broken)


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo took too long >&2; exit 4", ExecutionError, r"^took too long$"),
        ("echo no such option >&2; exit 2", ToolError, r"^the simulator refused: no such option$"),
        ("echo error: odd >&2; exit 9", ToolError, r"failed with status 9: error: odd$"),
        ("kill -9 $$", ToolError, r"failed with status -9: it said nothing$"),
    ],
)
def test_a_failing_simulator_is_quoted(simulator, script, error, message):
    with pytest.raises(error, match=message):
        run(simulator(script), Read(0))


def test_a_simulator_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ToolError, match=r"^cannot run the simulator /.*/none: .*No such file"):
        run(tmp_path / "none", Read(0))
