"""Tables for the terminal."""

from palquant.tables import count, table


def test_columns_are_as_wide_as_their_widest_cell():
    assert table(["name", "n"], [["a", 1], ["longer", 1234]]).splitlines() == [
        "name        n",
        "------  -----",
        "a           1",
        "longer  1,234",
    ]


def test_a_missing_number_is_a_dash_to_the_right():
    assert table(["n"], [[100], [None]]).splitlines()[2:] == ["100", "  -"]


def test_large_numbers_have_one_decimal():
    rows = [[0.98765], [999.5], [34512.02]]
    assert table(["x"], rows).split()[2:] == ["0.988", "999.500", "34,512.0"]


def test_a_noun_agrees_with_its_number():
    assert [count(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
