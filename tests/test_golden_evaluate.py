"""Accuracy counts what it should."""

import pytest
import torch
from torch import nn

from palquant.errors import InputError
from palquant.golden.evaluate import evaluate
from palquant.golden.image_loader import Batch

CPU = torch.device("cpu")


class Echo(nn.Module):
    """Answers with the first pixels of an image."""

    def forward(self, images):
        assert not self.training
        return images[:, 0, 0]


def batch(rows, labels):
    images = torch.tensor(rows, dtype=torch.float32)[:, None, None]
    return Batch(images, torch.tensor(labels), [])


def test_first_answers_are_counted_over_all_batches():
    batches = [
        batch([[3, 2, 1, 0], [0, 1, 2, 3]], [0, 0]),
        batch([[0, 9, 1, 0]], [3]),
        batch([[0, 9, 8, 7]], [2]),
    ]
    found, skipped = evaluate(Echo(), batches, CPU, (1, 2))
    assert found == {"top1": 0.25, "top2": 0.5}
    assert skipped == 0
    assert evaluate(Echo(), batches, CPU)[0] == {"top1": 0.25}


def test_images_without_a_label_do_not_count():
    batches = [batch([[3, 2], [3, 2], [0, 1]], [0, -1, 0]), batch([[1, 0]], [-1])]
    assert evaluate(Echo(), batches, CPU) == ({"top1": 0.5}, 2)
    with pytest.raises(InputError, match=r"^none of the held-out images can be read$"):
        evaluate(Echo(), batches[1:], CPU)


def test_the_network_is_left_in_eval_mode():
    model = Echo().train()
    evaluate(model, [batch([[1, 0]], [0])], CPU)
    assert not model.training
