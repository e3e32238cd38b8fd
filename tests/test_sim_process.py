import io
import os
import signal
import sys
import time

import pytest

from palquant.errors import ToolError
from palquant.sim import process


def test_output_goes_to_the_log_and_status_comes_back(tmp_path):
    log = tmp_path / "log"
    code = "import sys; print('out'); print('error', file=sys.stderr); sys.exit(7)"
    assert process.run([sys.executable, "-c", code], log=log, label="a test") == 7
    assert sorted(log.read_text().split()) == ["error", "out"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo\n\n", "two"),
        ("", "it said nothing"),
        ("g++ -c error.cpp\nerror.cpp:3:1: error: no\nmake: *** Error 1\n",
         "error.cpp:3:1: error: no"),
        ("  %Error: a.v:1: syntax error\n%Error: Exiting\n", "%Error: a.v:1: syntax error"),
        ("Traceback\nModuleNotFoundError: No module named 'x'\nbye\n",
         "ModuleNotFoundError: No module named 'x'"),
    ],
)  # fmt: skip
def test_complaint(text, line, tmp_path):
    log = tmp_path / "log"
    log.write_text(text)
    assert process.complaint(log) == line


def test_complaint_without_a_log(tmp_path):
    assert "No such file" in process.complaint(tmp_path / "none")


def test_what_cannot_be_started_is_a_tool_error(tmp_path):
    with pytest.raises(ToolError, match="a test: cannot run /nowhere"):
        process.run(["/nowhere"], log=tmp_path / "log", label="a test")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_that_takes_too_long_is_stopped_with_its_children(tmp_path):
    children = tmp_path / "children"
    script = f"sleep 60 & echo $! > {children}; echo $$ >> {children}; wait"
    with pytest.raises(ToolError, match=r"a test took longer than 0\.5 s and was stopped"):
        process.run(["sh", "-c", script], log=tmp_path / "log", label="a test", timeout=0.5)
    pids = [int(pid) for pid in children.read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, pids))


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    pids = []

    def body():
        with process.start(["sleep", "60"], log=tmp_path / "log") as running:
            pids.append(running.pid)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        body()
    assert not _alive(pids[0])


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_line(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    plain, terminal = io.StringIO(), _Terminal()
    lines = [process.ProgressLine("working", stream) for stream in (plain, terminal)]
    for second in range(6):
        now[0] = float(second)
        for line in lines:
            line.update()
    for line in lines:
        line.finish()
    assert plain.getvalue() == "working ...\n"
    assert terminal.getvalue() == "\rworking (3 s)\rworking (4 s)\rworking (5 s)\n"


def test_short_work_shows_no_progress():
    stream = _Terminal()
    line = process.ProgressLine("working", stream)
    line.update()
    line.finish()
    assert stream.getvalue() == ""
