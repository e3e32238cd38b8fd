"""The cache of builds, with tools that only pretend, so that what they are asked can be counted."""

import dataclasses
import re
import threading
from pathlib import Path

import pytest
from copy_engine import verilog

from palquant.errors import OutputError, ToolError
from palquant.sim import build
from palquant.sim.build import CACHE_VARIABLE, Recipe, build_driver, cache_folder, driver_recipe
from palquant.sim.toolchain import Toolchain, find_toolchain

RECIPE = Recipe(
    label="nothing",
    files={"a.v": b"module a; endmodule", "main.cpp": b"", "main.h": b""},
    verilator=("a.v", "main.cpp"),
    prefix="Va",
    product="program",
)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Tools that note their calls in ``tmp_path/calls``; make takes a while, then makes it."""
    calls = tmp_path / "calls"
    calls.write_text("")
    verilator = tmp_path / "verilator"
    verilator.write_text(f"#!/bin/sh\necho verilator >> {calls}\n")
    make = tmp_path / "make"
    make.write_text(f"#!/bin/sh\necho make >> {calls}\nsleep 0.3\ntouch verilated.o program\n")
    for path in (verilator, make):
        path.chmod(0o755)
    tools = Toolchain(verilator, tmp_path, "g++", str(make), "pretended 1.0")
    monkeypatch.setattr(build, "find_toolchain", lambda: tools)
    return tools


def calls(tmp_path):
    return (tmp_path / "calls").read_text().split()


def test_a_build_happens_once(tools, tmp_path):
    cache = tmp_path / "cache"
    first = build.make(RECIPE, cache)
    assert first.is_file()
    assert 0 <= build.build_seconds(first) < 600
    assert build.make(RECIPE, cache) == first
    assert calls(tmp_path) == ["verilator", "make"]


def test_parallel_builds_of_the_same_happen_once(tools, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(build.make(RECIPE, tmp_path / "cache")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert calls(tmp_path) == ["verilator", "make"]


@pytest.mark.parametrize(
    "change",
    [
        {"files": RECIPE.files | {"a.v": b"module a; wire w; endmodule"}},
        {"files": RECIPE.files | {"main.cpp": b"//"}},
        {"files": RECIPE.files | {"more.h": b""}},
        {"verilator": (*RECIPE.verilator, "-O1")},
        {"verilator": ("a.vmain.cpp",)},
        {"product": "other"},
    ],
)
def test_every_input_counts(change, tools):
    assert dataclasses.replace(RECIPE, **change).key(tools) != RECIPE.key(tools)


def test_tool_versions_count(tools):
    other = dataclasses.replace(tools, versions="pretended 1.1")
    assert RECIPE.key(other) != RECIPE.key(tools)
    assert dataclasses.replace(RECIPE, label="other").key(tools) == RECIPE.key(tools)


def test_a_failed_build_is_reported_and_leaves_its_log(tools, tmp_path):
    Path(tools.make).write_text("#!/bin/sh\necho first\necho 'fatal error: broken' >&2\nexit 2\n")
    cache = tmp_path / "cache"
    text = (
        r"building nothing: make failed with status 2: fatal error: broken \(all it said: (.*)\)$"
    )
    with pytest.raises(ToolError, match=text) as caught:
        build.make(RECIPE, cache)
    log = Path(re.search(text, str(caught.value))[1])
    assert log.read_text() == "first\nfatal error: broken\n"
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".log"]


def test_a_cache_that_cannot_be_written_is_reported(tools, tmp_path):
    (tmp_path / "file").write_text("")
    text = r"file: .* simulator cache \(.*is no directory\); PALQUANT_CACHE names another one$"
    with pytest.raises(OutputError, match=text):
        build.make(RECIPE, tmp_path / "file")


def test_what_other_machines_share_is_compiled_once(tools, tmp_path):
    shared = dataclasses.replace(RECIPE, shared=("main.cpp",))
    touch = "#!/bin/sh\nls *.o 2>/dev/null > found\ntouch verilated.o main.o program\n"
    Path(tools.make).write_text(touch)
    first = build.make(shared, tmp_path / "cache")
    assert (first.parent / "found").read_text() == ""
    other = dataclasses.replace(shared, files=shared.files | {"a.v": b"module b; endmodule"})
    second = build.make(other, tmp_path / "cache")
    assert (second.parent / "found").read_text().split() == ["main.o", "verilated.o"]
    changed = dataclasses.replace(shared, files=shared.files | {"main.h": b"//"})
    third = build.make(changed, tmp_path / "cache")
    assert (third.parent / "found").read_text() == ""


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "palquant"
    (tmp_path / "pyproject.toml").write_text('name = "another"\n')
    assert cache_folder() == tmp_path / "home" / ".cache" / "palquant"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "palquant"\n')
    assert cache_folder() == tmp_path / "build" / "verilator"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"


def test_the_driver_is_packaged_completely():
    """Every C++ file beside build.py goes into the build, but the board's."""
    folder = Path(build.__file__).parent
    present = {path.name for pattern in ("*.cpp", "*.h") for path in folder.glob(pattern)}
    recipe = driver_recipe(verilog(), label="test")
    assert present - {"board.cpp"} == set(recipe.files) - {"palquant.v"}
    assert recipe.key(find_toolchain()) != driver_recipe(verilog(), label="test", waves=True).key(
        find_toolchain()
    )


def test_verilog_that_is_wrong_is_reported_with_its_line():
    text = verilog().replace("assign irq = done;", "assign irq = ;")
    with pytest.raises(
        ToolError, match=r"verilator failed with status 1: .*palquant.v:\d+.*syntax error"
    ):
        build_driver(text, label="broken")
