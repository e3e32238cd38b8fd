"""Configuration of networks and training runs: plain data, readable without PyTorch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from palquant.errors import ConfigurationError
from palquant.sw.graph import MAX_SHUFFLED_GROUPS


def option(default: Any, text: str, allowed: tuple[Any, ...] = (), *, exposed: bool = True) -> Any:
    """A dataclass field with a default, a line of help, and the values allowed if these are few.

    ``exposed`` tells whether it is a command-line option, or follows from other ones.
    """
    metadata = {"help": text, "allowed": allowed, "exposed": exposed}
    return field(default=default, metadata=metadata)


def words(name: str) -> str:
    """A field's name as messages have it, which is that of the command-line option as well."""
    return name.replace("_", " ")


#: What a training learns from: handwritten digits, or folders of image files.
DATASETS = ("digits", "folder")
#: Stems by name: kernel, stride, and whether a 3x3 max-pool of stride 2 follows.
STEMS = {"3x3": (3, 1, False), "7x7": (7, 2, True)}
#: Networks to train of three stages of one block: the name, and the kind of its blocks.
SMALL_NETWORKS = {"small": "basic", "plain": "plain"}
#: All networks to train; the others are those of ``models.ARCHITECTURES``.
NETWORKS = (*SMALL_NETWORKS, "resnet18", "resnet34", "resnet50", "vgg16")
#: How training images of folders are cut out.
CROPS = ("resized", "padded")
#: Arithmetic of the low-precision convolutions in training.
PRECISIONS = ("off", "auto", "bfloat16", "float16")
#: Mean and standard deviation of ImageNet's pixels.
PHOTO_MEAN = (0.485, 0.456, 0.406)
PHOTO_STD = (0.229, 0.224, 0.225)

#: Kinds of blocks.
BLOCKS = ("basic", "bottleneck", "plain")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network of parallel groups. The defaults are the one for 8x8 digits.

    Parameters:
        base_width: Channels of the first stage in each group; doubled from stage to stage.
        groups: Parallel groups G, at least 1; every width is multiplied by it.
        weight_bits: Width of the weights between stem and classifier, 1 to 8.
        activation_bits: Width of the activations between stem and classifier, 1 to 4.
        residual_bits: Width of the residual stream, 8 to 16.
        shuffle: Whether cyclic shuffles stand between the stages (with more than one group).
        channel_shuffle: Whether blocks that change the shape shuffle the groups' channels.
        block: What stages are made of: "basic" and "bottleneck" blocks with identity paths, or
            "plain" convolutions with a max-pool before each stage but the first.
        blocks: Blocks of each stage.
        classes: Number of classes.
        image: Channels, height and width of an image.
        mean: Mean of a pixel per channel, for pixels of 0 to 1.
        std: Standard deviation of a pixel per channel, for pixels of 0 to 1.
        stem_kernel: Height and width of the stem's kernel.
        stem_stride: Stride of the stem.
        stem_pool: Whether a 3x3 max-pool of stride 2 follows the stem.
        stem_bits: Width of the stem's weights: 2, 4 or 8.
        shared_stem: Whether all groups read one stem of the base width, instead of one each.
        classifier_bits: Width of the classifier's weights: 2, 4 or 8.

    Raises:
        ConfigurationError: A value is out of its range; other fields are checked by the layers.
    """

    base_width: int = 16
    groups: int = 2
    weight_bits: int = 2
    activation_bits: int = 2
    residual_bits: int = 16
    shuffle: bool = True
    channel_shuffle: bool = True
    block: str = "basic"
    blocks: tuple[int, ...] = (1, 1, 1)
    classes: int = 10
    image: tuple[int, int, int] = (1, 8, 8)
    mean: tuple[float, ...] = (0.305,)
    std: tuple[float, ...] = (0.376,)
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: bool = False
    stem_bits: int = 8
    shared_stem: bool = False
    classifier_bits: int = 8

    def __post_init__(self) -> None:
        for name in ("base_width", "groups", "classes", "stem_kernel", "stem_stride"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be a positive integer, not "
                                         f"{getattr(self, name)}")  # fmt: skip
        if self.block not in BLOCKS:
            raise ConfigurationError(f"block must be one of {', '.join(BLOCKS)}, not {self.block}")
        if not self.blocks or min(self.blocks) < 1:
            raise ConfigurationError(f"blocks must be positive integers, not {self.blocks}")
        if self.image[1] != self.image[2]:
            raise ConfigurationError(f"images must be square, not {self.image[1]}x{self.image[2]}")
        if self.final_size < 1:
            raise ConfigurationError(f"images of {self.image[1]} pixels are too small for "
                                     f"{len(self.blocks)} {self.block} stages")  # fmt: skip
        if not len(self.mean) == len(self.std) == self.image[0] or min(self.std) <= 0:
            raise ConfigurationError(f"means {self.mean} and standard deviations {self.std} do not "
                                     f"fit images of {self.image[0]} channels")  # fmt: skip

    @property
    def name(self) -> str:
        """Short description, such as ``w16-g2-w2a2``."""
        return (f"w{self.base_width}-g{self.groups}-w{self.weight_bits}a{self.activation_bits}"
                + ("" if self.shuffle or self.groups == 1 else "-noshuffle")
                + ("" if self.channel_shuffle or self.groups == 1 else "-nochannelshuffle")
                + ("-sharedstem" if self.shared_stem and self.groups > 1 else ""))  # fmt: skip

    @property
    def expansion(self) -> int:
        """Channels that a block makes for each channel inside it."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def stem_width(self) -> int:
        """Channels of the stem: of all groups, or of the one that they share."""
        return self.base_width if self.shared_stem else self.base_width * self.groups

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each stage makes, over all groups; plain ones grow to 8 times the base."""
        largest = 3 if self.block == "plain" else len(self.blocks)
        first = self.base_width * self.groups * self.expansion
        return tuple(first << min(i, largest) for i in range(len(self.blocks)))

    @property
    def final_size(self) -> int:
        """Height and width of the last stage's tensors."""
        size = -(-self.image[1] // self.stem_stride)
        if self.stem_pool:
            size = -(-size // 2)
        for _ in range(len(self.blocks) - 1):
            size = size // 2 if self.block == "plain" else -(-size // 2)
        return size

    @property
    def input_scale(self) -> float:
        """Real value of one input code: pixels of 0 to 1 just fit 127 steps either side of 0."""
        return max(max(m, 1 - m) / s for m, s in zip(self.mean, self.std, strict=True)) / 127


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; flat, so that every field can be a command-line option.

    Each field says what it means in its metadata, under ``help``.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    base_width: int = option(16, "Channels of the first stage in each group.")
    groups: int = option(2, "Parallel groups G; every width is multiplied by it.")
    weight_bits: int = option(
        2, "Width of the weights between stem and classifier, 1 to 8.", tuple(range(1, 9))
    )
    activation_bits: int = option(
        2, "Width of the activations between stem and classifier, 1 to 4.", tuple(range(1, 5))
    )
    residual_bits: int = option(16, "Width of the residual stream, 8 to 16.", tuple(range(8, 17)))
    shuffle: bool = option(
        True, "Whether cyclic shuffles stand between the stages (with more than one group)."
    )
    channel_shuffle: bool = option(
        True, "Whether blocks that change the shape shuffle the groups' channels."
    )
    stem_bits: int = option(8, "Width of the stem's weights: 2, 4 or 8.", (2, 4, 8))
    shared_stem: bool = option(
        False, "Whether all groups read one stem of the base width, instead of one each."
    )
    classifier_bits: int = option(8, "Width of the classifier's weights: 2, 4 or 8.", (2, 4, 8))
    architecture: str = option(
        "small",
        f"The network: {', '.join(NETWORKS)}; small is three stages of one block, plain three of "
        "one convolution without an identity path.",
        NETWORKS,
    )
    stem: str = option(
        "3x3", "Stem: 3x3 of stride 1, or 7x7 of stride 2 and a max-pool.", tuple(STEMS)
    )
    dataset: str = option("digits", "What it learns from.", DATASETS, exposed=False)
    image_size: int = option(8, "Height and width of the network's images.")
    classes: int = option(10, "Number of classes.", exposed=False)
    epochs: int = option(30, "Passes over the training images.")
    batch_size: int = option(
        64, "Images per step, over all processes; an incomplete last batch is left out."
    )
    learning_rate: float = option(0.1, "First learning rate of SGD; follows half a cosine to 0.")
    momentum: float = option(0.9, "Momentum of SGD.")
    weight_decay: float = option(1e-4, "Weight decay of SGD.")
    quantizer_learning_rate: float = option(
        1e-4, "First learning rate of Adam, for quantiser parameters."
    )
    augment: bool = option(
        True,
        "Whether training images are changed at random: digits move by up to one pixel, images of "
        "folders are cropped and mirrored.",
    )
    noise: float = option(
        0.0,
        "Standard deviation of the noise on digits, in training and held out; pixels are 0 to 1.",
    )
    crop: str = option(
        "resized",
        "How images of folders are cropped: a random part, resized; or padded by an eighth and "
        "cut.",
        CROPS,
    )
    crop_scale: float = option(0.08, "Smallest share of an image that a resized crop keeps.")
    amp: str = option(
        "off",
        "Mixed precision of the low-precision convolutions in training: off, auto (on CUDA, what "
        "it does best), bfloat16, float16.",
        PRECISIONS,
    )
    gradient_scaling: float = option(
        0.0, "Factor of element-wise gradient scaling (EWGS) in quantisers; 0 is straight-through."
    )
    learned_thresholds: bool = option(
        False, "Whether the steps of activation quantisers are learned one by one (N2UQ)."
    )
    per_channel: bool = option(
        False, "Whether each output channel has its own weight range and output scale."
    )
    distillation: float = option(0.5, "Share of the teacher in the loss, where there is one.")
    temperature: float = option(4.0, "Divides the logits of teacher and student.")
    seed: int = option(0, "Seeds weights, order and augmentation.")
    split_seed: int = option(0, "Chooses the held-out fifth of the digits.")
    threads: int = option(
        1,
        "Threads that PyTorch uses; results are the same for the same number. One is fastest for "
        "the digits.",
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            allowed, value = item.metadata["allowed"], getattr(self, item.name)
            if allowed and value not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ConfigurationError(f"{words(item.name)} must be one of {choices}, not "
                                         f"{value}")  # fmt: skip
        for name in (
            "base_width", "groups", "image_size", "classes", "epochs", "batch_size", "threads"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{words(name)} must be a positive integer, not "
                                         f"{getattr(self, name)}")  # fmt: skip
        for name in (
            "learning_rate", "momentum", "weight_decay", "quantizer_learning_rate",
            "gradient_scaling", "noise",
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{words(name)} must be a number of at least 0, not "
                                         f"{value}")  # fmt: skip
        for name, largest in (("crop_scale", 1.0), ("distillation", 1.0), ("temperature", 100.0)):
            value = getattr(self, name)
            if not 0 < value <= largest:
                raise ConfigurationError(f"{words(name)} must be above 0 and at most {largest:g}, "
                                         f"not {value}")  # fmt: skip
        if self.seed < 0 or self.split_seed < 0:
            raise ConfigurationError("seeds must be at least 0, not "
                                     f"{min(self.seed, self.split_seed)}")  # fmt: skip
        if self.channel_shuffle and self.groups > MAX_SHUFFLED_GROUPS:
            raise ConfigurationError(
                f"{self.groups} groups with a channel shuffle (supported: at most "
                f"{MAX_SHUFFLED_GROUPS}, or no channel shuffle)"
            )
        if self.dataset != "digits" and self.noise:
            raise ConfigurationError("noise is for the digits alone")
        if self.dataset == "digits" and (self.image_size, self.classes) != (8, 10):
            raise ConfigurationError("the digits are images of 8 pixels in 10 classes, not of "
                                     f"{self.image_size} in {self.classes}")  # fmt: skip

    @property
    def network(self) -> NetworkConfig:
        """The network to train."""
        shared = {item.name for item in fields(NetworkConfig)} & set(asdict(self))
        changes: dict[str, Any] = {name: getattr(self, name) for name in shared}
        stem = ("stem_kernel", "stem_stride", "stem_pool")
        changes |= dict(zip(stem, STEMS[self.stem], strict=True))
        images = ("image", "mean", "std")
        if self.dataset == "folder":
            shape = (3, self.image_size, self.image_size)
            changes |= dict(zip(images, (shape, PHOTO_MEAN, PHOTO_STD), strict=True))
        else:
            changes |= {name: getattr(NetworkConfig, name) for name in images}
        if self.architecture in SMALL_NETWORKS:
            return NetworkConfig(block=SMALL_NETWORKS[self.architecture], **changes)
        # Only here: networks need PyTorch, and configurations are read without it.
        from palquant.golden.models import ARCHITECTURES

        return ARCHITECTURES[self.architecture](**changes)

    @property
    def name(self) -> str:
        """Short description, such as ``w16-g2-w2a2`` or ``resnet18-w64-g2-w2a2``."""
        prefix = "" if self.architecture == "small" else f"{self.architecture}-"
        return prefix + self.network.name
