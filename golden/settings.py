"""How a training runs, as opposed to what it computes: plain data, readable without PyTorch.

A run may be resumed with other settings; what its result depends on is a ``TrainConfig``, and the
contents of the files named here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from palquant.errors import ConfigurationError

#: Where a training runs; auto is a GPU if there is one, and the CPU for the digits.
DEVICES = ("auto", "cpu", "cuda")
#: What happens to image files that are missing or cannot be read.
BAD_IMAGES = ("fail", "skip")


def launched_rank() -> int:
    """Number of this process among those that ``torchrun`` started, 0 for the one that writes.

    Raises:
        ConfigurationError: The environment variable ``RANK`` is no such number.
    """
    return launch_variable("RANK", 0, 0)


def launch_variable(name: str, default: int, least: int) -> int:
    """An integer of the environment, as ``torchrun`` sets it for each process.

    Parameters:
        name: The variable.
        default: Its value where it is not set.
        least: Its smallest value.

    Raises:
        ConfigurationError: It is set to something else.
    """
    text = os.environ.get(name)
    try:
        value = default if text is None else int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise ConfigurationError(f"the environment variable {name} is {text!r}, expected an "
                                 f"integer from {least} on, as torchrun sets it")  # fmt: skip
    return value


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where a training finds its data and its device.

    Parameters:
        data: Folder with ``train/CLASS/*`` and ``val/CLASS/*``, or None for the digits.
        teacher: Checkpoint of a network to learn from, or None.
        device: "auto", "cpu" or "cuda".
        workers: Processes that decode images, for each training process; 0 decodes in itself.
        bad_images: "fail" at the first bad image file, or "skip" and count them.
        tensorboard: Whether event files for TensorBoard are written.
        held_out: Held-out images of a folder that are written and on which the exported network
            is verified; of the digits it is all.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    data: Path | None = None
    teacher: Path | None = None
    device: str = "auto"
    workers: int = 2
    bad_images: str = "fail"
    tensorboard: bool = False
    held_out: int = 16

    def __post_init__(self) -> None:
        for name, allowed in (("device", DEVICES), ("bad_images", BAD_IMAGES)):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f"{name.replace('_', ' ')} must be one of "
                                         f"{', '.join(allowed)}, not "
                                         f"{getattr(self, name)}")  # fmt: skip
        if self.workers < 0:
            raise ConfigurationError(f"workers must be at least 0, not {self.workers}")
        if self.held_out < 1:
            raise ConfigurationError("held-out images must be a positive number, not "
                                     f"{self.held_out}")  # fmt: skip
