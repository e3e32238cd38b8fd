# amaranth: UnusedElaboratable=no
"""The machine's memories: what a geometry makes of each, without elaborating anything.

Left out are those of a few words, queues of instructions above all: they never become block RAM.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from palquant.hw.block_ram import MemoryShape, map_memory
from palquant.hw.buffers import Scratchpad
from palquant.hw.config import PARAMETER_BITS, Geometry
from palquant.hw.decode import fetched_beat
from palquant.hw.isa import Memory
from palquant.hw.layouts import PARAMETER_CONTROL
from palquant.hw.prefetch import Prefetch
from palquant.hw.presets import PRESETS

__all__ = [
    "DEPTHS",
    "block_rams",
    "memory_shapes",
    "parameter_shapes",
    "prefetch_shape",
    "scratchpad_shape",
]

#: Names of a geometry's depths, by memory.
DEPTHS = {
    Memory.WEIGHT: "weight_words",
    Memory.ACTIVATION: "activation_words",
    Memory.RESIDUAL: "residual_words",
    Memory.OUTPUT: "output_words",
}
#: Fields of a slot's control row, and how often each is stored where each has a memory.
_CONTROL_FIELDS = {"scale": 1, "shift": 1, "valid": 1, "negate1": 1, "negate2": 1, "group": 2}


def scratchpad_shape(geometry: Geometry, memory: Memory) -> MemoryShape:
    """One of the memories that LOAD, STORE and the datapath share."""
    g = geometry
    sizes = (g.tin, g.tout, g.lanes, g.bus_bits, g.residual_bits)
    return _scratchpad_shape(memory, getattr(g, DEPTHS[memory]), g.narrow_rows, *sizes)


@cache
def _scratchpad_shape(memory: Memory, words: int, narrow: bool, *sizes: int) -> MemoryShape:
    """The same from all that it depends on: making the memory takes milliseconds."""
    names = ("tin", "tout", "lanes", "bus_bits", "residual_bits")
    # Other depths only have to be legal.
    changes: dict[str, Any] = dict.fromkeys(DEPTHS.values(), 1 << 12)
    changes |= {DEPTHS[memory]: words, **dict(zip(names, sizes, strict=True))}
    geometry = dataclasses.replace(PRESETS["tiny"], burst_beats=1, narrow_rows=narrow, **changes)
    pad = Scratchpad(geometry, memory)
    return MemoryShape(
        memory.name.lower(), pad.storage.depth, pad.row_bits, pad.row_bits // pad.lane_bits
    )


@cache
def _prefetch_shape(bus_bits: int, prefetch_units: int, overlap: bool) -> MemoryShape:
    geometry = dataclasses.replace(
        PRESETS["tiny"], bus_bits=bus_bits, lanes=8, burst_beats=1, prefetch_units=prefetch_units,
        overlap=overlap, queue_depth=1,
    )  # fmt: skip
    # A buffer keeps its first word in a register.
    return MemoryShape("prefetch", Prefetch(geometry).depth - 1, fetched_beat(geometry).size)


def prefetch_shape(geometry: Geometry) -> MemoryShape:
    """What the fetch unit reads ahead into."""
    return _prefetch_shape(geometry.bus_bits, geometry.prefetch_units, geometry.overlap)


def parameter_shapes(geometry: Geometry) -> tuple[MemoryShape, ...]:
    """The memories that parameters are kept in, fields of all lanes and thresholds of each."""
    g = geometry
    per_beat = g.bus_bits // PARAMETER_BITS
    parts = g.lanes // per_beat
    unused = {f"negate{tensor + 1}" for tensor in range(g.code_tensors, 2)}
    stored = {name: number for name, number in _CONTROL_FIELDS.items() if name not in unused}
    bits = {name: PARAMETER_CONTROL[name].width for name in stored}
    bits["scale"] = min(bits["scale"], g.scale_bits)
    if g.settles:  # they share one memory
        stored, bits = {"control": 1}, {"control": sum(bits.values())}
    shapes = [
        MemoryShape(name, g.parameter_slots, per_beat * bits[name], count=parts * number)
        for name, number in stored.items()
    ]
    shapes.append(MemoryShape("offset", g.parameter_slots, per_beat * g.offset_bits, count=parts))
    # A slot's first threshold is read by all lanes at once; the further ones lane by lane, from a
    # memory that has room for position 0 and 1 of the search tree as well.
    width, tensors, levels = g.threshold_bits, g.code_tensors, g.threshold_levels
    shapes.append(
        MemoryShape("threshold", g.parameter_slots, per_beat * width, count=tensors * parts)
    )
    if levels > 1:
        depth = g.parameter_slots * tensors << levels
        shapes.append(MemoryShape("thresholds", depth, width, count=g.lanes))
    return tuple(shapes)


def memory_shapes(geometry: Geometry) -> tuple[MemoryShape, ...]:
    """All memories of the machine that have more than a few words."""
    pads = [scratchpad_shape(geometry, memory) for memory in Memory if memory != Memory.PARAMETER]
    return (*pads, *parameter_shapes(geometry), prefetch_shape(geometry))


def block_rams(geometry: Geometry) -> int:
    """Block RAMs of the whole machine on the ECP5."""
    return sum(shape.count * map_memory(shape).blocks for shape in memory_shapes(geometry))
