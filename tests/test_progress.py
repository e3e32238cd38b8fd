"""Bars on terminals and in logs."""

import sys

import pytest

from palquant.progress import progress_bar


def advance(steps, **options):
    with progress_bar(total=steps, desc="work", mininterval=0, **options) as bar:
        for _ in range(steps):
            bar.update()
            bar.refresh() if sys.stderr.isatty() else None


def test_a_log_gets_few_lines_without_blocks(capsys):
    advance(500, shown=True)
    text = capsys.readouterr().err
    assert text.count("\r") <= 3
    assert "work: 100%" in text
    assert text.isascii()


@pytest.mark.parametrize("options", [{"shown": False}, {"shown": True, "nested": True}])
def test_a_log_has_no_nested_bars(options, capsys):
    advance(5, **options)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_all_bars(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    advance(5, shown=True, nested=True)
    assert capsys.readouterr().err.count("\r") > 5
