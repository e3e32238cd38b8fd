"""Which 16-bit type the low-precision convolutions compute in while training, if any.

Codes and levels of a few bits are exact in either type; sums and gradients are rounded. Everything
else (quantisers, batch normalisation, the residual stream, stem and classifier) stays as it is,
and so does evaluation, which is the integer network.
"""

from __future__ import annotations

import torch


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The type that a configuration means on a device.

    Parameters:
        name: "off", "bfloat16", "float16", or "auto": on a GPU bfloat16, whose range is that of
            float32, and float16 where the GPU is too old for that; elsewhere nothing.
        device: Where the training runs.

    Returns:
        The type, or None for float32 throughout.
    """
    if name == "auto":
        if device.type != "cuda":
            return None
        # Emulation is slower than float32.
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float16
    return {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def make_scaler(precision: torch.dtype | None, device: torch.device) -> torch.amp.GradScaler:
    """What keeps gradients within the range of float16; does nothing for other types."""
    return torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
