"""The check of a clean clone, with a make that only says what it is told to."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PASSED = "===== 7 passed in 1.23s ====="


@pytest.mark.parametrize(
    ("lint", "tests", "closing", "expected"),
    [
        (0, 0, PASSED, 0),
        (1, 0, PASSED, 1),
        (0, 1, "===== 1 failed, 6 passed in 1.23s =====", 1),
        (0, 1, PASSED, 1),
        (0, 0, "===== no tests ran in 0.01s =====", 1),
        (0, 0, "", 1),
    ],
)
def test_success_needs_lint_and_tests_that_ran(tmp_path, lint, tests, closing, expected):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    make = tmp_path / "make"
    make.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$*" >> {tmp_path}/calls\n'
        f"case $* in *lint) exit {lint};; test) echo '{closing}'; exit {tests};; esac\nexit 99\n"
    )
    make.chmod(0o755)
    result = subprocess.run(
        [tmp_path / ".ci/run"],
        cwd="/",
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == expected
    assert closing in result.stdout
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["--keep-going lint", "test"]
