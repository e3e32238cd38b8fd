"""A network whose stem and classifier stay in floating point, on the host.

What remains is the integer network between them: it starts with the residual stream of the first
stage and ends with the exact sums of the last pooling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palquant.golden.config import NetworkConfig
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.layers import Logits
from palquant.golden.models import ResidualNetwork


class ResidualInput(nn.Module):
    """Real features to the residual stream that the accelerator's input holds.

    Evaluates :class:`~palquant.sw.graph.Normalization` in float64; the division is one by a power
    of two.

    Parameters:
        shape: Channels, height and width of the features of one image.
        stream: Residual stream that they enter (borrowed).
    """

    def __init__(self, shape: tuple[int, int, int], stream: ResidualStream) -> None:
        super().__init__()
        self._stream = (stream,)
        self.shape = shape

    @property
    def stream(self) -> ResidualStream:
        """Residual stream that the features enter."""
        return self._stream[0]

    def forward(self, features: Tensor) -> Tensor:
        """Residual (N, C, H, W) of real features, float32; float64 in eval mode."""
        self.stream.observe(features)
        low, high = -self.stream.limit - 1, self.stream.limit
        values = torch.round(features.double() / self.stream.step).clamp(low, high)
        residual = values * self.stream.step
        return residual.to(features.dtype) if self.training else residual


class HostedNetwork(ResidualNetwork):
    """The network of a configuration between its stem and its classifier.

    Parameters:
        config: The whole network.
        shape: Channels, height and width of what the stem makes.
    """

    def __init__(self, config: NetworkConfig, shape: tuple[int, int, int]) -> None:
        super().__init__(config)
        del self.stem, self.classifier
        stream = self.streams[0]
        assert isinstance(stream, ResidualStream)
        self.features = ResidualInput(shape, stream)
        del self.input
        self.result = Logits(config.widths[-1])

    def forward(self, features: Tensor) -> Tensor:
        """Averages (N, C) of the last stage, of features (N, C', H, W) of the stem, float32."""
        x = self.features(features)
        for name in self.body:
            x = self.get_submodule(name)(x)
        averages: Tensor = self.result(self.pool(x))
        return averages
