"""What network a released state dictionary holds, and whether it is the one that was named."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from palquant.errors import ConfigurationError, ModelError
from palquant.golden.checkpoint import load_state
from palquant.golden.released_network import QuantizedConv2d, ReleasedResNet, Structure
from palquant.golden.released_options import STRUCTURES

#: Entries whose shapes tell widths, groups and classes, and how many dimensions they have.
_TELLING = {"conv1.weight": 4, "layer1.0.conv1.weight": 4, "fc.weight": 2}
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")


def load_released(
    state: Mapping[str, Tensor],
    source: str,
    architecture: str,
    groups: int,
    *,
    weight_bits: int = 2,
    activation_bits: int = 2,
) -> ReleasedResNet:
    """The network of a released state dictionary, in eval mode.

    Parameters:
        state: Parameters by name, without ``module.``.
        source: Where they come from, for messages.
        architecture: Name in ``released_options.STRUCTURES``.
        groups: Parallel groups G.
        weight_bits: Width of the weights between stem and classifier.
        activation_bits: Width of the activations there.

    Raises:
        ConfigurationError: There is no such architecture, or a width or G is out of range.
        ModelError: The dictionary holds another architecture or another G (which it names), an
            entry is missing, extra or of another shape, or holds NaN, infinity or a negative
            variance, or a quantiser's range is empty.
    """
    if architecture not in STRUCTURES:
        raise ConfigurationError(f"no released format of {architecture!r} (supported: "
                                 f"{', '.join(STRUCTURES)})")  # fmt: skip
    if groups < 1 or not (1 <= weight_bits <= 8 and 1 <= activation_bits <= 4):
        raise ConfigurationError(
            f"{groups} groups of {weight_bits}-bit weights and {activation_bits}-bit activations "
            "(supported: at least 1 group, 1 to 8 bits, 1 to 4 bits)"
        )
    for name, dimensions in _TELLING.items():
        if name not in state:
            raise ModelError(f"{source}: entry {name!r} is missing; this is no released ResNet")
        if state[name].dim() != dimensions or not state[name].numel():
            raise ModelError(f"{source}: {name} has shape {tuple(state[name].shape)}, expected "
                             f"{dimensions} dimensions, none of them 0")  # fmt: skip
    found = looks_like(state)
    if found not in (None, architecture):
        raise ModelError(f"{source}: looks like a {found}, not like a {architecture}")
    _check_groups(state, source, groups)
    structure = Structure(
        architecture=architecture,
        groups=groups,
        base_width=len(state["conv1.weight"]) // groups,
        classes=len(state["fc.weight"]),
        channels=state["conv1.weight"].shape[1],
        weight_bits=weight_bits,
        activation_bits=activation_bits,
    )
    network = ReleasedResNet(structure).eval()
    load_state(network, _same_types(network, state), source)
    _check_parameters(network, source)
    return network


def looks_like(state: Mapping[str, Tensor]) -> str | None:
    """The architecture whose blocks the dictionary holds, or None if it is no known one."""
    blocks: dict[int, set[int]] = {stage: set() for stage in range(1, 5)}
    for name in state:
        found = _BLOCK.match(name)
        if found:
            blocks[int(found[1])].add(int(found[2]))
    counts = tuple(len(blocks[stage]) for stage in sorted(blocks))
    kind = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    return next((name for name, known in STRUCTURES.items() if known == (kind, counts)), None)


def _check_groups(state: Mapping[str, Tensor], source: str, groups: int) -> None:
    """Refuse another G than that of the file: stage 1 begins with as many channels as it makes."""
    outputs, inputs, *_ = state["layer1.0.conv1.weight"].shape
    stem = len(state["conv1.weight"])
    if outputs != stem or outputs % inputs:
        raise ModelError(f"{source}: layer1.0.conv1.weight has shape "
                         f"{tuple(state['layer1.0.conv1.weight'].shape)}, which does not fit a "
                         f"stem of {stem} channels")  # fmt: skip
    if outputs // inputs != groups:
        raise ModelError(f"{source}: has G={outputs // inputs}, not G={groups}")


def _same_types(network: ReleasedResNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with every number in the type that the network keeps it in.

    Half or double precision and integer flags are as good as what was released.
    """
    wanted = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    return {
        name: tensor.to(wanted[name])
        if name in wanted and (tensor.is_floating_point() or tensor.dim() < 2)
        else tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
def _check_parameters(network: ReleasedResNet, source: str) -> None:
    """Refuse what has the right shape, but cannot be meant."""
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            variance = module.running_var
            assert variance is not None
            if (variance < 0).any():
                raise ModelError(f"{source}: {name}.running_var holds a negative variance")
        elif isinstance(module, QuantizedConv2d):
            for upper, lower in (("uW", "lW"), ("uA", "lA")):
                ends = float(getattr(module, upper)), float(getattr(module, lower))
                if ends[0] == ends[1]:
                    raise ModelError(f"{source}: {name}: {upper} and {lower} are both {ends[0]:g}, "
                                     "an empty range; was it trained?")  # fmt: skip
