"""What a released checkpoint can be, and what it is turned into: names and widths, no PyTorch."""

from __future__ import annotations

#: Kind of blocks and blocks of each stage, by name of the architecture.
STRUCTURES = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
}
#: Where stem and classifier are computed: on the accelerator in 8 bits, or on the host in floats.
STEMS = ("accelerator", "host")
#: Widths that a released checkpoint, which does not tell its own, is taken to have.
BITS = {"weight": 2, "activation": 2, "residual": 16}
