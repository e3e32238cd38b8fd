"""Learning from a teacher, and what is no teacher."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from palquant.errors import ModelError
from palquant.golden.checkpoint import load_checkpoint, save_checkpoint
from palquant.golden.config import TrainConfig
from palquant.golden.data import load_digits_split
from palquant.golden.distill import (
    ENTRIES,
    Teacher,
    distillation_loss,
    identity,
    load_network,
    total_loss,
)
from palquant.golden.improvements import build_network
from palquant.golden.recipe import folder_config
from palquant.golden.settings import RunSettings
from palquant.golden.train import train

CPU = torch.device("cpu")
SHORT = TrainConfig(base_width=3, epochs=1, batch_size=96)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    config = TrainConfig(base_width=4, groups=1, weight_bits=4, activation_bits=4, epochs=2)
    return train(config, tmp_path_factory.mktemp("teacher"), progress=False)


def test_a_teacher_changes_what_is_learned_but_not_how_it_is_exported(teacher, tmp_path):
    settings = RunSettings(teacher=teacher.checkpoint)
    taught = train(SHORT, tmp_path / "taught", settings=settings, progress=False)
    alone = train(SHORT, tmp_path / "alone", progress=False)
    assert taught.history[0]["loss"] != alone.history[0]["loss"]
    saved = load_checkpoint(taught.checkpoint, *ENTRIES)["config"]
    assert saved["teacher"] == identity(teacher.checkpoint)
    message = rf"was trained with teacher {saved['teacher']}, not None$"
    with pytest.raises(ModelError, match=message):
        train(SHORT, tmp_path / "taught", resume=True, progress=False)
    again = train(SHORT, tmp_path / "taught", settings=settings, resume=True, progress=False)
    assert again.history == taught.history


def test_the_teacher_answers_as_its_integer_network(teacher):
    images = torch.from_numpy(load_digits_split().test_images[:20])
    found = Teacher(teacher.checkpoint, SHORT, CPU)(images)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    with torch.no_grad():
        assert torch.equal(found, teacher.network(images))


def test_the_loss_is_the_divergence_of_softened_answers():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7).double()
    p, q = (F.softmax(v / 3, 1) for v in (teacher, student.double()))
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    found = distillation_loss(student, teacher, 3.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    assert distillation_loss(student, student.detach(), 3.0).abs() < 1e-6
    labels = torch.arange(5)
    plain = F.cross_entropy(student, labels)
    config = dataclasses.replace(SHORT, distillation=0.25, temperature=3.0)
    mixed = total_loss(student, labels, teacher, config)
    torch.testing.assert_close(mixed, 0.75 * plain + 0.25 * found)
    assert torch.equal(total_loss(student, labels, None, config), plain)
    only = total_loss(student, labels, teacher, dataclasses.replace(config, distillation=1.0))
    torch.testing.assert_close(only, found)


def test_a_teacher_of_other_images_is_refused(teacher):
    student = folder_config(10, architecture="small", image_size=8)
    message = r"the teacher has images of shape \(1, 8, 8\), expected \(3, 8, 8\)$"
    with pytest.raises(ModelError, match=message):
        Teacher(teacher.checkpoint, student, CPU)


def test_a_teacher_of_other_classes_is_refused(teacher, tmp_path):
    first, second = (folder_config(n, architecture="small", image_size=8, base_width=1)
                     for n in (3, 4))  # fmt: skip
    content = load_checkpoint(teacher.checkpoint, *ENTRIES)
    content |= {"config": dataclasses.asdict(first), "model": build_network(first).state_dict()}
    save_checkpoint(content, tmp_path / "three.pt")
    message = r"three\.pt: the teacher has a number of classes of 3, expected 4$"
    with pytest.raises(ModelError, match=message):
        Teacher(tmp_path / "three.pt", second, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(config=[1]), "its configuration is not one of this version$"),
        (lambda c: c["config"].pop("groups"), "its configuration is not one of this version$"),
        (lambda c: c["config"].update(groups=0), "not usable: groups must be a positive integer"),
        (lambda c: c["config"].update(base_width=5), r"model: stem\.conv\.weight is float32 of"),
        (lambda c: c.pop("adam"), "entry 'adam' is missing$"),
    ],
)
def test_other_files_are_no_networks(teacher, tmp_path, change, message):
    content = load_checkpoint(teacher.checkpoint, *ENTRIES)
    change(content)
    save_checkpoint(content, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=rf"x\.pt: .*{message}"):
        load_network(tmp_path / "x.pt")


def test_a_truncated_teacher_is_damaged_and_nothing_starts_anew(teacher, tmp_path):
    data = teacher.checkpoint.read_bytes()
    (tmp_path / "x.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"x\.pt: is damaged \(truncated or corrupted\)$"):
        load_network(tmp_path / "x.pt")


def test_a_missing_teacher_is_named(tmp_path):
    for read in (load_network, identity):
        with pytest.raises(ModelError, match=r"none\.pt: cannot read: No such file"):
            read(tmp_path / "none.pt")
