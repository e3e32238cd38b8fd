"""What a file or folder that a user names is, when another kind of thing was expected.

Commands pass things on to each other: a training's folder, its checkpoint, its model, the memory
image that is compiled from it. A mistaken one is named, with what to do instead.
"""

from __future__ import annotations

import os
import zipfile
from enum import Enum, auto
from pathlib import Path

#: Format of a checkpoint of our own training, as the file names it.
CHECKPOINT_FORMAT = "palquant-checkpoint"
#: What a training calls its model and its checkpoint.
MODEL_FILE = "model.npz"
CHECKPOINT_FILE = "checkpoint.pt"
#: Files that make a folder a memory image.
MANIFEST_FILE, IMAGE_FILE = "manifest.json", "image.bin"


class Kind(Enum):
    """Kinds of files and folders that commands read or write."""

    MODEL = auto()
    CHECKPOINT = auto()
    PYTORCH = auto()
    ONNX = auto()
    EMPTY = auto()
    IMAGE_FOLDER = auto()
    FOLDER = auto()
    OTHER = auto()


def kind_of(path: str | os.PathLike[str]) -> Kind:
    """What stands at a path, seen from a few bytes; executes no code of it."""
    target = Path(path)
    if target.is_dir():
        return Kind.IMAGE_FOLDER if (target / MANIFEST_FILE).exists() else Kind.FOLDER
    try:
        if target.is_file() and not target.stat().st_size:
            return Kind.EMPTY
        if target.suffix == ".onnx":
            return Kind.ONNX
        with zipfile.ZipFile(target) as archive:
            names = archive.namelist()
            if "graph.npy" in names:
                return Kind.MODEL
            pickled = next((name for name in names if name.endswith("/data.pkl")), None)
            if pickled is None:
                return Kind.OTHER
            ours = CHECKPOINT_FORMAT.encode() in archive.read(pickled)
            return Kind.CHECKPOINT if ours else Kind.PYTORCH
    except Exception:  # on damaged bytes zipfile raises anything
        return Kind.OTHER


def instead_of_model(path: str | os.PathLike[str]) -> str | None:
    """What a path is instead of a model, and what to do; None if there is nothing to say."""
    target = Path(path)
    match kind_of(target):
        case Kind.CHECKPOINT:
            model = target.parent / MODEL_FILE
            where = model if model.exists() else f"{MODEL_FILE} beside it"
            return f"is a checkpoint of a training; its network is in {where}"
        case Kind.PYTORCH:
            return "is a file of PyTorch; palquant import makes a model of a released checkpoint"
        case Kind.ONNX:
            return "is an ONNX file; palquant import makes a model of it"
        case Kind.EMPTY:
            return "is empty; expected a model (palquant train, palquant import)"
        case Kind.IMAGE_FOLDER:
            return f"is the folder of a memory image; its network is in {target / MODEL_FILE}"
        case Kind.FOLDER if (target / MODEL_FILE).exists():
            return f"is a folder; the model in it is {target / MODEL_FILE}"
        case Kind.FOLDER:
            return "is a folder; expected a model (palquant train, palquant import)"
    return None


def instead_of_checkpoint(path: str | os.PathLike[str]) -> str | None:
    """What a path is instead of a checkpoint of our own training; None if nothing is to say."""
    target = Path(path)
    kind = kind_of(target)
    if kind is Kind.MODEL:
        checkpoint = target.parent / CHECKPOINT_FILE
        where = checkpoint if checkpoint.exists() else f"{CHECKPOINT_FILE} beside it"
        return f"is a model; the checkpoint of its training is {where}"
    if kind is Kind.EMPTY:
        return f"is empty; expected a checkpoint ({CHECKPOINT_FILE} of palquant train)"
    if kind in (Kind.FOLDER, Kind.IMAGE_FOLDER):
        if (target / CHECKPOINT_FILE).exists():
            return f"is a folder; the checkpoint in it is {target / CHECKPOINT_FILE}"
        return f"is a folder; expected a checkpoint ({CHECKPOINT_FILE} of palquant train)"
    return None


def instead_of_image(path: str | os.PathLike[str]) -> str | None:
    """What a path is instead of a memory image's folder; None if there is nothing to say."""
    target = Path(path)
    kind = kind_of(target)
    if (target / IMAGE_FILE).exists():  # one of its files is missing
        return None
    if kind is Kind.MODEL:
        return "is a model; palquant compile makes a memory image of it"
    if kind is Kind.FOLDER and (target / MODEL_FILE).exists():
        model = target / MODEL_FILE
        return f"is no memory image; palquant compile {model} makes one of the model in it"
    if kind in (Kind.CHECKPOINT, Kind.ONNX, Kind.PYTORCH):
        return f"{instead_of_model(target)}, and palquant compile a memory image of that"
    if kind is Kind.FOLDER:
        return "is no memory image (palquant compile)"
    return None
