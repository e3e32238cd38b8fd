"""The machines that ``palquant explore`` chooses from: sizes of array, bus and memories that fit.

Memories are what most machines are bound by, so their depths aim at the device's block RAM: of all
depths that fit into a share of it, some of those that leave no room for a deeper memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palquant.cost_model import CostModel
from palquant.cost_parts import array_levels
from palquant.errors import GeometryError
from palquant.hw.block_ram import map_memory
from palquant.hw.config import Geometry
from palquant.hw.fpga import Area
from palquant.hw.isa import Memory
from palquant.hw.memory_shapes import DEPTHS, block_rams, scratchpad_shape
from palquant.hw.place_and_route import Device
from palquant.hw.presets import PRESETS
from palquant.needs import depth

__all__ = ["Candidate", "Space", "array_registers", "candidates", "shares"]

#: Most that either side of the array may be longer than the other.
_LONGEST = 2
#: Resources of an area, and what nextpnr calls them.
RESOURCES = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "dsp": "MULT18X18D"}


@dataclass(frozen=True)
class Space:
    """What is tried.

    Parameters:
        sides: Of the array.
        lanes: Of the post-processor.
        bus_bits: Widths of the bus.
        parameter_slots: Depths of the parameter memory.
        weights: Depths of the weight memory, in words.
        multiples: Depths of the other memories, as multiples of what the network needs at least.
        budgets: Shares of the device's block RAM that memories may take.
        splits: Ways to divide a budget among the memories.
    """

    sides: tuple[int, ...] = (8, 16, 32, 64)
    lanes: tuple[int, ...] = (4, 8, 16, 32)
    bus_bits: tuple[int, ...] = (32, 64, 128)
    parameter_slots: tuple[int, ...] = (16, 32)
    weights: tuple[int, ...] = (128, 256, 512, 1024)
    multiples: tuple[float, ...] = (1, 1.25, 1.5, 2, 3, 4, 6, 8)
    budgets: tuple[float, ...] = (0.5, 0.75, 1.0)
    splits: int = 3


@dataclass(frozen=True)
class Candidate:
    """A machine that fits.

    Parameters:
        geometry: Its sizes.
        area: What it takes.
        fmax_mhz: Its clock frequency.
        share: Largest share of any of the device's resources.
    """

    geometry: Geometry
    area: Area
    fmax_mhz: float
    share: float


def shares(area: Area, device: Device) -> dict[str, float]:
    """Share of each of a device's resources that an area takes."""
    return {
        name: getattr(area, name) / device.resources[resource]
        for name, resource in RESOURCES.items()
    }


def array_registers(geometry: Geometry, model: CostModel, mhz: float | None) -> Geometry:
    """The machine with as few registers in its array as keep the array from slowing it down.

    Parameters:
        geometry: The machine.
        model: Of clock frequencies.
        mhz: What the machine is clocked with; None is as fast as it can be.
    """
    levels, _ = array_levels(geometry)
    found = geometry
    best = 0.0
    for count in range(1, levels):
        tried = dataclasses.replace(geometry, array_registers=count)
        reached = model.fmax_mhz(tried) if mhz is None else model.array_fmax_mhz(tried)
        if reached > best:
            found, best = tried, reached
        if mhz is not None and reached >= mhz:
            break
    return found


def candidates(
    space: Space,
    widths: Mapping[str, int],
    contents: Mapping[Memory, int],
    device: Device,
    model: CostModel,
    mhz: float | None,
    refused: Counter[str],
) -> Iterator[Candidate]:
    """All machines of a space that fit a device.

    Parameters:
        space: What is tried.
        widths: Of registers, as the network needs them.
        contents: Digits or residuals that the network needs of each memory at least.
        device: The device.
        model: Of area and clock.
        mhz: What machines are clocked with; None is as fast as each can be.
        refused: Counts those that do not fit, by the resource that they have too little of.
    """
    for tin, tout, lanes, bus, slots in itertools.product(
        space.sides, space.sides, space.lanes, space.bus_bits, space.parameter_slots
    ):
        # A slot is one beat of an output chunk, and half of the memory is for the next chunks.
        if max(tin, tout) > _LONGEST * min(tin, tout) or slots < 2 * (tout // lanes or 1):
            continue
        sizes: dict[str, Any] = {
            **widths, "tin": tin, "tout": tout, "lanes": lanes, "bus_bits": bus,
            "parameter_slots": slots,
        }  # fmt: skip
        try:
            base = dataclasses.replace(PRESETS["tiny"], name=f"{tin}x{tout}", **sizes)
        except GeometryError:
            continue
        base = array_registers(base, model, mhz)
        least = _deep(base, [levels[0] for levels in _levels(space, base, contents).values()])
        over = [name for name, share in shares(model.area(least), device).items() if share > 1]
        if over:
            refused[over[0]] += 1
            continue
        fixed = block_rams(least) - sum(
            map_memory(scratchpad_shape(least, memory)).blocks for memory in DEPTHS
        )
        for geometry in _splits(space, base, contents, device.resources["DP16KD"], fixed):
            area = model.area(geometry)
            found = shares(area, device)
            over = [name for name, share in found.items() if share > 1]
            if over:
                refused[over[0]] += 1
                continue
            yield Candidate(
                geometry, area, mhz or model.fmax_mhz(geometry, area), max(found.values())
            )


def _deep(
    geometry: Geometry, words: Sequence[int], memories: Iterable[Memory] = tuple(DEPTHS)
) -> Geometry:
    """The machine with other depths of its memories."""
    depths: dict[str, Any] = {
        DEPTHS[memory]: depth for memory, depth in zip(memories, words, strict=True)
    }
    return dataclasses.replace(geometry, **depths)


def _levels(
    space: Space, base: Geometry, contents: Mapping[Memory, int]
) -> dict[Memory, list[int]]:
    """Depths that are tried of each memory, the least first."""
    return {
        memory: list(space.weights)
        if memory is Memory.WEIGHT
        else [depth(base, memory, contents[memory] * multiple) for multiple in space.multiples]
        for memory in DEPTHS
    }


def _splits(
    space: Space, base: Geometry, contents: Mapping[Memory, int], available: int, fixed: int
) -> list[Geometry]:
    """Depths of the memories, for each budget those that leave the least block RAM unused."""
    levels = {
        memory: [
            (words, map_memory(scratchpad_shape(_deep(base, [words], [memory]), memory)).blocks)
            for words in depths
        ]
        for memory, depths in _levels(space, base, contents).items()
    }
    found: dict[tuple[int, ...], None] = {}
    choices = list(itertools.product(*levels.values()))
    for budget in space.budgets:
        fitting = [
            tuple(words for words, _ in choice)
            for choice in choices
            if fixed + sum(blocks for _, blocks in choice) <= budget * available
        ]
        deepest = sorted(_maximal(fitting), key=lambda words: -math.prod(words))
        found.update(dict.fromkeys(deepest[: space.splits]))
    return [_deep(base, words) for words in found]


def _maximal(found: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those that no other one is at least as deep as in every memory."""
    kept: list[tuple[int, ...]] = []
    for words in sorted(found, key=lambda item: -math.prod(item)):
        if not any(all(a >= b for a, b in zip(other, words, strict=True)) for other in kept):
            kept.append(words)
    return kept
