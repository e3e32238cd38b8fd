"""The set-up script's check of the machine, on machines that it is told of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: What the script uses of any Unix.
BASICS = ("bash", "env", "dirname", "cat", "touch", "rm")


@pytest.fixture
def machine(tmp_path):
    """A copy of the script, and a folder of commands that is all of PATH."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in BASICS:
        (commands / name).symlink_to(shutil.which(name))
    return tmp_path


def command(machine, name, text):
    path = machine / "commands" / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def python(machine, body):
    """A Python that answers like this test's, except for what ``body`` does."""
    command(machine, "python3.11", f'{body}\nexec {sys.executable} "$@"')


def set_up(machine):
    return subprocess.run(
        [machine / "scripts/setup.sh"],
        env={"PATH": str(machine / "commands")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_missing_tools_are_named_with_their_packages(machine):
    command(machine, "make", "exit 0")
    result = set_up(machine)
    assert result.returncode == 1
    assert result.stderr == (
        "setup: missing; install these Debian packages, or the like: g++ perl python3.11 "
        "python3.11-venv libpython3.11\n"
        "setup: PYTHON=/path/to/python3.11 names one off the PATH\n"
    )


def test_another_python_is_refused(machine):
    for name in ("g++", "make", "perl"):
        command(machine, name, "exit 0")
    python(machine, "[[ $2 == *version_info* ]] && echo 3.12 && exit")
    result = set_up(machine)
    assert result.returncode == 1
    assert result.stderr == "setup: python3.11 is Python 3.12, expected 3.11\n"


def test_a_python_without_venv_or_shared_library_is_reported(machine):
    for name in ("g++", "make", "perl"):
        command(machine, name, "exit 0")
    python(machine, "[[ $2 == *ensurepip* || $1 == - ]] && exit 1")
    result = set_up(machine)
    assert result.returncode == 1
    assert result.stderr.endswith(": python3.11-venv libpython3.11\n")


def test_root_installs_what_is_missing_and_others_are_told(machine):
    commands = machine / "commands"
    command(machine, "make", "exit 0")
    command(machine, "perl", "exit 0")
    command(machine, "apt-get", f'echo "$*" >> {machine}/calls; ln -sf /bin/true {commands}/g++')
    (commands / "ln").symlink_to(shutil.which("ln"))
    python(machine, "[[ $2 == *version_info* ]] && echo 0.0 && exit")  # goes no further
    result = set_up(machine)
    assert result.returncode == 1
    if os.geteuid() == 0:
        assert result.stderr == "setup: python3.11 is Python 0.0, expected 3.11\n"
        assert (machine / "calls").read_text().splitlines() == [
            "update -qq",
            "install -y -qq --no-install-recommends g++",
        ]
    else:
        assert result.stderr == "setup: missing; install these Debian packages, or the like: g++\n"
        assert not (machine / "calls").exists()


def test_packages_that_apt_does_not_have_are_named_all_the_same(machine):
    command(machine, "make", "exit 0")
    command(machine, "perl", "exit 0")
    command(machine, "apt-get", "[[ $1 == update ]]")
    python(machine, "")
    result = set_up(machine)
    assert result.returncode == 1
    lines = ["setup: missing; install these Debian packages, or the like: g++"]
    if os.geteuid() == 0:
        lines.insert(0, "setup: apt-get could not install all of them")
    assert result.stderr.splitlines() == lines


def test_an_environment_of_exact_versions_is_made(machine):
    """The environment's own Python is asked to install the build tools, then everything."""
    for name in ("g++", "make", "perl"):
        command(machine, name, "exit 0")
    environment = f"""
if [[ $1 == -m && $2 == venv ]]; then
    /bin/mkdir -p .venv/bin
    echo 'echo "$*" >> {machine}/calls' > .venv/bin/python
    /bin/chmod +x .venv/bin/python
    exit
fi"""
    python(machine, environment)
    result = set_up(machine)
    assert (result.returncode, result.stderr) == (0, "")
    install = "-m pip --quiet --disable-pip-version-check install -c constraints.txt"
    assert (machine / "calls").read_text().splitlines() == [
        f"{install} setuptools",
        f"{install} --no-build-isolation --editable .[dev,fpga]",
        "-m pip check",
    ]
