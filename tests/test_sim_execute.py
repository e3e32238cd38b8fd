"""What goes wrong around a simulation is told in one line; see test_sim_driver for simulations."""

import json
import tempfile

import numpy as np
import pytest

from palquant.errors import ExecutionError, OutputError, ToolError
from palquant.sim.execute import Dump, Load, Read, execute

#: What every simulator reports.
REPORT = {
    "runs": [], "reads": [[0, 7]], "cycles": 5, "seconds": 0.5,
    "traffic": {"read_bursts": 0, "read_beats": 0, "write_bursts": 0, "write_beats": 0,
                "error_responses": 0},
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
            " --dump) dump=${2%@*};; esac; shift; done\n"
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
