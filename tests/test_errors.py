"""What other libraries' exceptions say, in one line."""

import pytest

from palquant.errors import first_line, in_words


@pytest.mark.parametrize(
    ("text", "line"),
    [("one", "one"), ("one\ntwo", "one"), ("\n \n  one \ntwo", "one"), ("", "ValueError"),
     (" \n", "ValueError")],
)  # fmt: skip
def test_the_first_line_that_says_something(text, line):
    assert first_line(ValueError(text)) == line
    assert in_words(ValueError(text)) == first_line(ValueError(text))


def test_missing_entries_are_named():
    assert in_words(KeyError("nodes")) == "no entry 'nodes'"
    assert in_words(KeyError()) == "an entry is missing"
