"""The published training recipe, as the defaults of configurations for folders of images.

Source: PalQuant, released code. Stochastic gradient descent with momentum for weights and batch
normalisation, Adam for the quantisers' ranges and output scales, half a cosine for both. Batch
size and learning rates of the digits are adapted to 1438 images; they are the defaults of
:class:`~palquant.golden.config.TrainConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palquant.golden.config import NETWORKS, SMALL_NETWORKS, TrainConfig

#: Images up to this size get a stem that keeps their size, and are padded and cut, as is usual
#: for CIFAR; larger ones are treated as ImageNet's are.
SMALL_IMAGE = 64
#: Height and width of an ImageNet network's images.
PHOTO_SIZE = 224


def folder_config(classes: int, **given: Any) -> TrainConfig:
    """The configuration for a folder of images: the published recipe, changed as given.

    ==================== ======================== ===================
    setting              up to 3 groups           4 groups or more
    ==================== ======================== ===================
    batch size           256                      512
    learning rate, SGD   0.1                      0.2
    learning rate, Adam  1e-4                     2e-4
    ==================== ======================== ===================

    90 epochs; momentum 0.9, weight decay 1e-4. Crops keep at least 8 % of an image, 20 % for
    ResNet-18 with two groups. Learning rates do not follow a batch size that is given.

    Parameters:
        classes: Number of classes.
        given: Fields that differ.

    Raises:
        ConfigurationError: A value is out of its range.
    """
    return TrainConfig(**(folder_defaults(classes, given) | dict(given)))


def folder_defaults(classes: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`folder_config` takes where nothing is given; it depends on what is."""
    architecture = given.get("architecture", "resnet18")
    groups = given.get("groups", TrainConfig.groups)
    size = given.get("image_size", PHOTO_SIZE)
    small = size <= SMALL_IMAGE
    wide = groups >= 4
    return {
        "dataset": "folder",
        "classes": classes,
        "architecture": architecture,
        "groups": groups,
        "image_size": size,
        "base_width": 16 if architecture in SMALL_NETWORKS else 64,
        "stem": "3x3" if small or architecture in ("vgg16", *SMALL_NETWORKS) else "7x7",
        "crop": "padded" if small else "resized",
        "crop_scale": 0.2 if architecture == "resnet18" and groups == 2 else 0.08,
        "epochs": 90,
        "batch_size": 512 if wide else 256,
        "learning_rate": 0.2 if wide else 0.1,
        "quantizer_learning_rate": 2e-4 if wide else 1e-4,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }


def folder_choices(name: str) -> list[Any]:
    """What a field is for folders of images where it is not given, the most usual value first.

    Architecture, groups and size have one default; others have several if they follow from these.
    """
    photos = [
        {"architecture": architecture, "groups": groups, "image_size": size}
        for size in (PHOTO_SIZE, SMALL_IMAGE)
        for groups in (2, 4)
        for architecture in ("resnet18", *NETWORKS)
    ]
    if name in photos[0]:
        return [folder_defaults(0, {})[name]]
    found = (folder_defaults(0, given).get(name, getattr(TrainConfig, name)) for given in photos)
    return list(dict.fromkeys(found))
