"""A digits network, trained and compiled by commands, for tests of other commands."""

import numpy as np

from palquant.cli import main
from palquant.golden.data import load_digits_split

TRAIN = ["train", "--base-width", "4", "--epochs", "1", "--quiet"]


def make_workspace(folder):
    """Put a trained and compiled network, and images, into a folder."""
    assert main([*TRAIN, "-o", str(folder / "digits"), "--json", str(folder / "train.json")]) == 0
    model = str(folder / "digits" / "model.npz")
    assert main(["compile", model, "--geometry", "tiny", "-o", str(folder / "image")]) == 0
    split = load_digits_split()
    np.save(folder / "images.npy", split.test_images[:3])
    np.save(folder / "labels.npy", split.test_labels[:3])
    return folder
