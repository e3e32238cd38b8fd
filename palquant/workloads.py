"""Networks for benchmarks: ImageNet structures of random weights, made once and kept."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palquant import golden, sw
from palquant.golden.config import NetworkConfig
from palquant.golden.data import synthetic_images
from palquant.golden.models import ARCHITECTURES
from palquant.golden.random_network import calibrated_graph
from palquant.sim.build import cache_folder, digest, package_sources
from palquant.sw.graph import Graph
from palquant.sw.model import load_model, save_model

#: Images that statistics and quantiser ranges come from.
CALIBRATION_IMAGES = 2


@dataclass(frozen=True)
class Workload:
    """One network of a benchmark.

    Parameters:
        architecture: Name in ``golden.models.ARCHITECTURES``.
        groups: Parallel groups G.
        bits: Width of weights and activations between stem and classifier.
        stem_bits: Width of the stem's weights; its activations have 8 bits.
        shared_stem: Whether all groups read one stem.
        size: Height and width of the image.
        base_width: Channels of the first stage in each group.
        seed: Of weights and images.
    """

    architecture: str = "resnet18"
    groups: int = 2
    bits: int = 2
    stem_bits: int = 8
    shared_stem: bool = False
    size: int = 224
    base_width: int = 64
    seed: int = 0

    @property
    def stem(self) -> str:
        """Width of the stem's activations and weights, such as ``8x8`` or ``8x2 shared``."""
        return f"8x{self.stem_bits}{' shared' if self.shared_stem else ''}"

    @property
    def network(self) -> str:
        """Short name, such as ``resnet18 W2A2 G=2``."""
        return f"{self.architecture} W{self.bits}A{self.bits} G={self.groups}"

    def config(self) -> NetworkConfig:
        """The network's configuration."""
        return ARCHITECTURES[self.architecture](
            self.groups,
            base_width=self.base_width,
            weight_bits=self.bits,
            activation_bits=self.bits,
            stem_bits=self.stem_bits,
            shared_stem=self.shared_stem,
            image=(3, self.size, self.size),
        )

    def images(self, count: int = 1) -> npt.NDArray[np.uint8]:
        """Images that the network was not calibrated with, uint8 of shape (N, C, H, W)."""
        return synthetic_images(count, self.config().image, seed=self.seed + 1)


def workload_graph(workload: Workload) -> Graph:
    """The network of a workload as an integer graph, calibrated now or earlier.

    Raises:
        OutputError: The cache folder cannot be written.
    """
    parts = [repr(workload).encode(), *package_sources(golden, sw)]
    parts += [importlib.metadata.version(name).encode() for name in ("torch", "numpy")]
    path = cache_folder() / f"{digest(parts)}.npz"
    if not path.is_file():
        config = workload.config()
        images = synthetic_images(CALIBRATION_IMAGES, config.image, workload.seed)
        graph = calibrated_graph(config, workload.seed, images, name=workload.network)
        save_model(graph, path)
    return load_model(path)
