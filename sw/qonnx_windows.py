"""Attributes of convolutions and pools, and what of them the machine cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto

from palquant.sw.graph import Shape, window_extent
from palquant.sw.qonnx_source import attributes, refuse


@dataclass(frozen=True)
class Window:
    """How a window moves over an image: rows, then columns."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    @property
    def area(self) -> int:
        """Pixels of the window."""
        return self.kernel[0] * self.kernel[1]

    def shape(self, source: Shape) -> Shape:
        """What the window makes of an image, channels unchanged."""
        height, width = (
            window_extent(size, k, s, p)
            for size, k, s, p in zip(
                (source.height, source.width), self.kernel, self.stride, self.padding, strict=True
            )
        )
        return Shape(source.channels, height, width)


def whole(shape: Shape) -> Window:
    """The window that is the whole image."""
    size = (shape.height, shape.width)
    return Window(size, size)


def read_window(node: NodeProto, shape: Shape, kernel: Sequence[int] | None = None) -> Window:
    """The window of a convolution or pool.

    Parameters:
        node: The node.
        shape: Shape of the image that it moves over.
        kernel: Size of the kernel, if its weights say so.

    Raises:
        UnsupportedLayerError: An attribute that the machine cannot follow.
    """
    found = attributes(node)
    stated = found.get("kernel_shape", kernel)
    if stated is None:
        refuse(node, "has no kernel_shape (expected 2 numbers)")
    size = _numbers(node, "kernel_shape", stated, 2)
    if kernel is not None and tuple(stated) != tuple(kernel):
        refuse(node, f"states a kernel of {list(stated)}, but its weights are {list(kernel)}")
    dilations = _numbers(node, "dilations", found.get("dilations", [1, 1]), 2)
    if dilations != (1, 1):
        refuse(node, f"has dilations {list(dilations)} (supported: 1)")
    if found.get("ceil_mode", 0):
        refuse(node, "has ceil_mode 1 (supported: 0)")
    stride = _numbers(node, "strides", found.get("strides", [1, 1]), 2)
    if min(*size, *stride) < 1:
        refuse(node, f"has kernel {list(size)} and strides {list(stride)} (expected positive)")
    window = Window(_pair(size), _pair(stride), _padding(node, found, shape, size, stride))
    made = window.shape(shape)
    if min(made.height, made.width) < 1:
        refuse(node, f"has a window of {size[0]}x{size[1]} that does not fit into its input of "
               f"{shape.height}x{shape.width}")  # fmt: skip
    return window


def _padding(
    node: NodeProto,
    found: dict[str, Any],
    shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
) -> tuple[int, int]:
    mode = found.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return 0, 0
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        needed = [
            max(0, (-(-size // s) - 1) * s + k - size)
            for size, k, s in zip((shape.height, shape.width), kernel, stride, strict=True)
        ]
        if needed[0] % 2 or needed[1] % 2:
            refuse(node, f"has auto_pad {mode} with {needed[0]} rows and {needed[1]} columns of "
                   "padding (supported: even numbers, the same on both sides)")  # fmt: skip
        return needed[0] // 2, needed[1] // 2
    if mode != "NOTSET":
        refuse(node, f"has auto_pad {mode} (supported: NOTSET, VALID, SAME_UPPER, SAME_LOWER)")
    top, left, bottom, right = _numbers(node, "pads", found.get("pads", [0, 0, 0, 0]), 4)
    if top != bottom or left != right:
        refuse(node, f"has pads {[top, left, bottom, right]} (supported: the same at top and "
               "bottom, and at left and right)")  # fmt: skip
    if min(top, left) < 0:
        refuse(node, f"has pads {[top, left, bottom, right]} (supported: not negative)")
    return top, left


def _numbers(node: NodeProto, name: str, values: Sequence[int], count: int) -> tuple[int, ...]:
    if len(values) != count:
        refuse(node, f"has {name} {list(values)} (supported: {count} numbers, for images)")
    return tuple(int(value) for value in values)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second
