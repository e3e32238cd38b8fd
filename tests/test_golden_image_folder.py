"""Folders of images: what is found, in which order, and one line for each thing that is wrong."""

import os
import shutil

import numpy as np
import pytest
from pictures import write_pictures
from PIL import Image

from palquant.errors import InputError
from palquant.golden.image_folder import class_names, open_image_folder, read_image


@pytest.fixture
def root(tmp_path):
    return write_pictures(tmp_path / "data", classes=2, training=3, held_out=2, size=8)


def test_classes_and_files_are_in_order_of_their_names(root):
    (root / "train/class1/000.png").rename(root / "train/class1/zzz.JPEG")
    (root / "train/class1/notes.txt").write_text("no image")
    folder = open_image_folder(root)
    assert folder.classes == class_names(root) == ("class0", "class1")
    assert [path.removeprefix(str(root)) for path in folder.training.paths] == [
        "/train/class0/000.png", "/train/class0/001.png", "/train/class0/002.png",
        "/train/class1/001.png", "/train/class1/002.png", "/train/class1/zzz.JPEG",
    ]  # fmt: skip
    assert folder.training.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(folder.training) == 6
    assert folder.held_out.labels.tolist() == [0, 0, 1, 1]


def test_hidden_names_and_what_is_no_file_do_not_count(root):
    before = open_image_folder(root)
    (root / "train/.cache").mkdir()
    (root / "train/class0/._000.png").write_bytes(b"of another file system")
    (root / "train/class0/folder.png").mkdir()
    (root / "train/class0/link.png").symlink_to("folder.png")
    os.mkfifo(root / "train/class0/pipe.png")  # reading it would wait for a writer for ever
    after = open_image_folder(root)
    assert after.classes == before.classes
    assert after.training.paths == before.training.paths
    (root / "train/class0/missing.png").symlink_to("nowhere.png")
    assert len(open_image_folder(root).training) == len(before.training) + 1


def test_identity_is_that_of_names_and_sizes_not_of_places(root, tmp_path):
    first = open_image_folder(root).identity
    shutil.copytree(root, tmp_path / "elsewhere")
    assert open_image_folder(tmp_path / "elsewhere").identity == first
    (root / "val/class1/000.png").rename(root / "val/class1/009.png")
    second = open_image_folder(root).identity
    (root / "val/class1/009.png").rename(root / "val/class0/009.png")
    assert len({first, second, open_image_folder(root).identity}) == 3


def test_identity_tells_other_contents_under_the_same_names(root):
    first = open_image_folder(root).identity
    image = root / "train/class0/001.png"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    assert open_image_folder(root).identity != first
    image.write_bytes(content)
    assert open_image_folder(root).identity == first
    (root / "link.png").write_bytes(content)  # a link counts as what it leads to
    image.unlink()
    image.symlink_to(root / "link.png")
    assert open_image_folder(root).identity == first
    (root / "link.png").unlink()
    assert open_image_folder(root).identity != first


def remove(root, path):
    shutil.rmtree(root / path)


def empty(root, path):
    remove(root, path)
    (root / path).mkdir()


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        (remove, ".", r"data: is no folder; expected one with train/CLASS/\* and val/CLASS/\*$"),
        (remove, "val", r"data/val: cannot list: No such file or directory; expected a folder"),
        (empty, "train", r"data/train: holds no folders; expected one for each class$"),
        (empty, "train/class1", r"data/train/class1: holds no images \(\.jpg, "),
        (empty, "val/class0", r"data/val/class0: holds no images \(\.jpg, "),
        (remove, "val/class1", r"data: class 'class1' is in train only; expected the same classes"),
        (remove, "train/class0", r"data: class 'class0' is in val only; expected the same classes"),
    ],
)
def test_what_is_wrong_is_one_line(root, change, path, message):
    change(root, path)
    with pytest.raises(InputError, match=message) as caught:
        open_image_folder(root)
    assert "\n" not in str(caught.value)


def test_several_classes_are_counted(root):
    for name in ("x", "y"):
        shutil.copytree(root / "train/class0", root / "train" / name)
    with pytest.raises(InputError, match="class 'x' and 1 more is in train only"):
        open_image_folder(root)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    ending = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(tmp_path / f"x.{ending}")
    image = read_image(str(tmp_path / f"x.{ending}"))
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.asarray(image).min() >= 250


def test_unreadable_files_are_named(root, tmp_path):
    good = root / "train/class0/000.png"
    cases = {
        "missing.png": None,
        "empty.png": b"",
        "text.jpg": b"hello",
        "cut.png": good.read_bytes()[:60],
        "noise.png": good.read_bytes()[:40] + bytes(range(200)),
    }
    for name, content in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: cannot read this image: \w") as caught:
            read_image(str(path))
        assert "\n" not in str(caught.value)
        assert str(caught.value).count(str(tmp_path)) == 1
