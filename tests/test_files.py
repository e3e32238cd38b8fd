"""Files and folders are replaced whole or not at all, and failures are one line."""

import errno
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from palquant.errors import OutputError
from palquant.files import (
    check_writable,
    make_folder,
    replace_file,
    replace_folder,
    temporary_folder,
    write_bytes,
    write_json,
    write_text,
    write_together,
)


def tree(folder):
    """Path -> contents of all files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text()
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


def replace(target, error, place=replace_folder, names="a"):
    """Write files into a folder, and raise ``error``, if any, before the end of the block."""
    with place(target) as aside:
        for name in names:
            write_text(aside / name, "new")
        if error is not None:
            raise error


FULL = OSError(errno.ENOSPC, "No space left on device")
#: What can end a write: only the first is the user's to mend, and is told in one line.
ENDS = [(FULL, OutputError), (KeyboardInterrupt(), KeyboardInterrupt), (ValueError(), ValueError)]

#: All ways to make something under a name.
WAYS = [
    lambda path: write_text(path, "text"),
    lambda path: replace_folder(path).__enter__(),
    lambda path: write_together(path).__enter__(),
    make_folder,
    lambda path: replace_file(path).__enter__(),
    check_writable,
]


def test_files_are_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for data in (b"first", memoryview(b"second, longer"), b""):
        assert write_bytes(path, data) == path
        assert path.read_bytes() == data
    assert write_text(path, "µ\n") == path
    assert path.read_bytes() == b"\xc2\xb5\n"
    write_json(path, {"a": {1}}, default=list)
    assert path.read_text() == '{\n "a": [\n  1\n ]\n}\n'
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("keep", [None, lambda _: False, lambda path: path.stat().st_size > 0])
@pytest.mark.parametrize("contents", [None, "", "new"])
def test_what_another_program_leaves_of_a_file_may_be_kept(tmp_path, keep, contents):
    path = tmp_path / "file"
    for error in (None, KeyboardInterrupt):
        write_text(path, "old")
        with suppress(KeyboardInterrupt, OutputError), replace_file(path, keep) as aside:
            if contents is not None:
                aside.write_text(contents)
            assert path.read_text() == "old"
            if error is not None:
                raise error
        kept = keep is not None and keep(Path(__file__)) and contents == "new"
        placed = contents is not None and (error is None or kept)
        assert tree(tmp_path) == {"file": contents if placed else "old"}
        assert os.listdir(tmp_path) == ["file"]


def test_the_users_mask_decides_on_rights(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
        with replace_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_link_goes_on_pointing_to_the_file(tmp_path):
    (tmp_path / "link").symlink_to("file")
    for text in ("first", "second"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == text


def test_a_device_is_written_and_not_replaced():
    write_text(os.devnull, "text")
    assert Path(os.devnull).is_char_device()
    with pytest.raises(OutputError, match=r"^/dev/full: cannot write: No space left on device$"):
        write_text("/dev/full", "text")


@pytest.mark.parametrize(("error", "expected"), ENDS)
@pytest.mark.parametrize("step", ["os.replace", "io.BufferedWriter"])
def test_a_file_that_fails_leaves_the_old_one(tmp_path, monkeypatch, error, expected, step):
    path = tmp_path / "file"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        if step == "os.replace":
            patch.setattr(os, "replace", failing(error))
        else:
            open_file = Path.open

            def opened(self, mode):
                stream = open_file(self, mode, buffering=0)
                stream.write(b"ha")
                return Broken(stream)

            class Broken:
                def __init__(self, stream):
                    self.stream = stream

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    self.stream.close()

                def write(self, _):
                    raise error

            patch.setattr(Path, "open", opened)
        with pytest.raises(expected) as caught:
            write_text(path, "new")
    if expected is OutputError:
        assert str(caught.value) == f"{path}: cannot write: No space left on device"
    assert tree(tmp_path) == {"file": "old"}


@pytest.mark.parametrize("old", [None, {"a": "old"}, {"a": "old", "b": "old", "sub/c": "old"}])
def test_folders_are_replaced_as_a_whole(tmp_path, old):
    target = tmp_path / "new" / "folder"
    if old is not None:
        for name, text in old.items():
            write_text(target / name, text)
    with replace_folder(target) as aside:
        (aside / "a").write_text("new")
        assert aside.parent == target.parent
        assert tree(target) == (old or {})
    assert tree(tmp_path) == {"new/folder/a": "new"}


@pytest.mark.parametrize(("error", "expected"), ENDS)
@pytest.mark.parametrize("renames", [None, 0, 1])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path, monkeypatch, error, expected, renames):
    """The block fails, or the first rename (old folder away), or the second (new one there)."""
    target = tmp_path / "folder"
    write_text(target / "a", "old")
    rename, calls = os.rename, []

    def limited(*paths):
        calls.append(paths)
        if len(calls) == renames + 1:
            raise error
        rename(*paths)

    with monkeypatch.context() as patch:
        if renames is not None:
            patch.setattr(os, "rename", limited)
        with pytest.raises(expected) as caught:
            replace(target, error if renames is None else None)
    if expected is OutputError:
        assert str(caught.value) == f"{target}: cannot write: No space left on device"
    assert tree(tmp_path) == {"folder/a": "old"}
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_link_goes_on_pointing_to_the_folder(tmp_path, old):
    (tmp_path / "link").symlink_to("place/folder")
    if old is not None:
        write_text(tmp_path / "place" / "folder" / "a", old)
    replace(tmp_path / "link", None)
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "place") == {"folder/a": "new"}
    assert sorted(os.listdir(tmp_path)) == ["link", "place"]
    assert os.listdir(tmp_path / "place") == ["folder"]


@pytest.mark.parametrize("write", [WAYS[0], WAYS[1]])
def test_a_link_to_itself_is_named(tmp_path, write):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OutputError, match=f"^{tmp_path}/link: cannot write: Too many levels of"):
        write(tmp_path / "link")


@pytest.mark.parametrize("name", [".", "..", "../folder", "../link"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path / "folder")
    message = rf"^{re.escape(name)}: the current folder cannot be replaced as a whole; name another"
    with pytest.raises(OutputError, match=message):
        replace(name, None)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert tree(tmp_path) == {}
    replace("below", None)
    assert tree(tmp_path) == {"folder/below/a": "new"}


def test_a_current_folder_that_is_gone_hinders_nothing(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    replace(tmp_path / "other", None)
    assert tree(tmp_path) == {"other/a": "new"}


PLACES = [write_together, replace_folder, lambda _: temporary_folder()]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "fail",
    [
        lambda away: shutil.copyfile(away / "none", away.parent / "copy"),
        lambda away: (away / "none" / "file").write_text("text"),
        lambda away: failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))(),
        lambda away: write_text(away / "file" / "below", "text"),
    ],
)
def test_errors_about_other_files_pass_through(tmp_path, monkeypatch, place, fail):
    """Even about files in the target folder itself: what is written lies aside."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    away = tmp_path / "away"
    write_text(away / "file", "old")
    with pytest.raises(OSError, match=r".") as alone:
        fail(away)
    with pytest.raises(type(alone.value)) as caught, place(tmp_path / "x"):
        fail(away)
    assert str(caught.value) == str(alone.value)
    with pytest.raises(type(alone.value)) as caught, write_together(away):
        fail(away)
    assert str(caught.value) == str(alone.value)
    assert tree(tmp_path) == {"away/file": "old"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (lambda folder: (folder / "none" / "file").write_text("text"), "No such file or directory"),
        (lambda folder: shutil.copyfile(__file__, folder / "none" / "x"), "No such file or dir"),
        (lambda folder: write_text(folder, "text"), "Is a directory"),
        (lambda folder: write_text(folder / ("x" * 300), "text"), "File name too long"),
        (lambda folder: failing(OSError(errno.EDQUOT, "Quota exceeded"))(), "Quota exceeded"),
    ],
)
def test_errors_about_files_within_are_the_folders(tmp_path, monkeypatch, place, fail, reason):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    message = rf"^{tmp_path}(/x)?: cannot write( temporary files .*)?: {reason}"
    with pytest.raises(OutputError, match=message), place(tmp_path / "x") as folder:
        fail(folder)
    assert os.listdir(tmp_path) == []


def test_of_files_written_together_the_first_may_be_replaced_if_a_rename_fails(
    tmp_path, monkeypatch
):
    for name in "ab":
        write_text(tmp_path / "x" / name, "old")
    rename = Path.replace

    def limited(self, target):
        if target == tmp_path / "x" / "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(self), None, str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", limited)
    with pytest.raises(OutputError, match=rf"^{tmp_path}/x: cannot write: Permission denied$"):
        replace(tmp_path / "x", None, write_together, "abc")
    assert tree(tmp_path) == {"x/a": "new", "x/b": "old"}


def test_files_are_written_together(tmp_path):
    write_text(tmp_path / "folder" / "other", "kept")
    write_text(tmp_path / "folder" / "a", "old")
    with write_together(tmp_path / "folder") as aside:
        for name in "ab":
            write_text(aside / name, "new")
        assert (tmp_path / "folder" / "a").read_text() == "old"
    assert tree(tmp_path) == {"folder/a": "new", "folder/b": "new", "folder/other": "kept"}


@pytest.mark.parametrize(("error", "expected"), ENDS)
@pytest.mark.parametrize("existed", [False, True])
def test_files_that_fail_together_change_nothing(tmp_path, error, expected, existed):
    target = tmp_path / "folder"
    if existed:
        write_text(target / "a", "old")
    before = tree(tmp_path)
    with pytest.raises(expected) as caught:
        replace(target, error, write_together)
    if expected is OutputError:
        assert str(caught.value) == f"{target}: cannot write: No space left on device"
    assert tree(tmp_path) == before
    assert target.exists() == existed
    assert sorted(os.listdir(target) if existed else []) == (["a"] if existed else [])


def test_a_folder_in_a_files_place_is_seen_before_anything_is_replaced(tmp_path):
    write_text(tmp_path / "a", "old")
    (tmp_path / "b").mkdir()
    message = f"^{tmp_path}: cannot write: b is a directory$"
    with pytest.raises(OutputError, match=message):
        replace(tmp_path, None, write_together, "ab")
    assert tree(tmp_path) == {"a": "old"}


def test_a_write_within_is_named_after_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(FULL))
    for place in (write_together, replace_folder):
        with pytest.raises(OutputError) as caught:
            replace(tmp_path / "x", None, place)
        assert str(caught.value) == f"{tmp_path / 'x'}: cannot write: No space left on device"
    assert os.listdir(tmp_path) == []


def test_another_refusal_within_keeps_its_words(tmp_path):
    with pytest.raises(OutputError, match=r"^holds other files$"), replace_folder(tmp_path / "x"):
        raise OutputError("holds other files")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", WAYS)
def test_a_place_without_rights_is_named(tmp_path, monkeypatch, write):
    refused = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "open", failing(refused))
    monkeypatch.setattr("io.open", failing(refused))
    monkeypatch.setattr(os, "mkdir", failing(refused))
    path = tmp_path / "name"
    with pytest.raises(OutputError) as caught:
        write(path)
    assert str(caught.value).startswith(f"{path}: cannot ")
    assert str(caught.value).endswith(": Permission denied")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", WAYS)
def test_a_file_in_a_folders_place_is_named(tmp_path, write):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "file" / "below")
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'below'}: cannot ")
    assert re.search(r": (Not a directory|/.*/file is no directory)$", str(caught.value))
    assert tree(tmp_path) == {"file": "old"}


def test_a_folder_in_a_files_place_is_named(tmp_path):
    with pytest.raises(OutputError, match=f"^{tmp_path}: cannot write: Is a directory$"):
        write_text(tmp_path, "text")


def test_a_temporary_folder_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "file").write_text("text")
        assert folder.parent == tmp_path
    with pytest.raises(KeyboardInterrupt), temporary_folder():
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    message = f"^{tmp_path}: cannot write temporary files .TMPDIR names another place.: No space"
    with pytest.raises(OutputError, match=message), temporary_folder():
        raise FULL
    monkeypatch.setattr(tempfile, "mkdtemp", failing(FULL))
    with pytest.raises(OutputError, match=message), temporary_folder():
        pass
    assert os.listdir(tmp_path) == []


def test_without_any_temporary_folder_the_places_tried_are_named(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/no/such/place"])
    message = r"^cannot write temporary files: No usable temporary directory found in .*/no/such"
    with pytest.raises(OutputError, match=message), temporary_folder():
        pass


def test_a_check_leaves_what_is_there(tmp_path):
    path = tmp_path / "below" / "file"
    check_writable(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    check_writable(path)
    assert tree(tmp_path) == {"below/file": "old"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/proc/x.json", "No such file or directory"), ("{folder}", "Is a directory"),
     ("/dev/fd/999", "No such file or directory")],
)  # fmt: skip
def test_a_check_names_what_cannot_be_written(tmp_path, path, reason):
    path = path.format(folder=tmp_path)
    with pytest.raises(OutputError) as caught:
        check_writable(path)
    assert str(caught.value) == f"{path}: cannot write: {reason}"


def test_a_check_does_not_open_a_pipe(tmp_path):
    """Its reader would see the end, before anything was written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(path)
        with pytest.raises(BlockingIOError), path.open("wb"):
            os.read(reader, 1)  # a writer is there only now
    finally:
        os.close(reader)
    check_writable(path)  # and it does not wait for a reader
