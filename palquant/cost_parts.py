"""The parts of an accelerator, and which of its sizes the area of each depends on.

Each part can be synthesised by itself in seconds. What a part takes is a sum of features of the
geometry, each with a coefficient that is fitted to measured parts (:mod:`palquant.cost_fit`). A
feature is physical: so many bits of adders, of multiplexers, of registers. What belongs to no part
is a part of its own that is only seen in whole accelerators: control, the wiring between parts, and
the writer of residuals, on which synthesis by itself fails (Yosys 0.70).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from amaranth.lib import wiring

from palquant.hw.affine import Affine
from palquant.hw.array import MacArray
from palquant.hw.beats import BeatSequencer
from palquant.hw.bit_heap import Level, plan_sum
from palquant.hw.block_ram import MemoryShape, map_memory
from palquant.hw.buffers import Scratchpad
from palquant.hw.carry_chain import Technology
from palquant.hw.chained_array import ChainedMacArray
from palquant.hw.code_writer import CodeWriter
from palquant.hw.compute import ComputeEngine
from palquant.hw.config import DIGIT_BITS, Geometry
from palquant.hw.correction import Correction
from palquant.hw.fetch import FetchUnit
from palquant.hw.heap_sum import registered_levels
from palquant.hw.isa import Memory
from palquant.hw.least_area import unit_positions
from palquant.hw.load import LoadEngine
from palquant.hw.memory_shapes import parameter_shapes, prefetch_shape, scratchpad_shape
from palquant.hw.parameters import ParameterMemory
from palquant.hw.pool import PoolingUnit
from palquant.hw.quantize import Quantize
from palquant.hw.sequencer import Sequencer
from palquant.hw.store import StoreEngine
from palquant.hw.top import Accelerator

Features = Mapping[str, float]

#: What the array of the model is made of: what ``palquant bench area`` measures on the ECP5.
TECHNOLOGY = Technology.ECP5
#: Names of the array, which can be looked at alone, of what is in no part, and of the whole.
ARRAY, REST, WHOLE = "array", "rest", "accelerator"


@dataclass(frozen=True)
class Part:
    """A block that is measured by itself.

    Parameters:
        name: As in the data file and in reports.
        make: The block of a geometry.
        features: What its look-up tables and flip-flops are sums of; a constant is added to them.
        count: How many of them an accelerator has.
    """

    name: str
    make: Callable[[Geometry], wiring.Component]
    features: Callable[[Geometry], Features]
    count: int = 1


def _array_plan(g: Geometry) -> tuple[tuple[Level, ...], int]:
    """Levels of chains of a unit, and cycles from its operands to their sum."""
    weights = tuple(
        i + j for _ in range(g.tin) for i in range(DIGIT_BITS) for j in range(DIGIT_BITS)
    )
    # A register more: that of the operands, or of the accumulator's controls.
    return plan_sum(weights, TECHNOLOGY.rows).levels, g.array_registers + 1


def array_levels(g: Geometry) -> tuple[int, int]:
    """Levels of chains between an array's operands and its accumulators, and their registers."""
    levels, latency = _array_plan(g)
    return len(levels), min(latency, len(levels))


def _array(g: Geometry) -> Features:
    levels, latency = _array_plan(g)
    registered = registered_levels(len(levels), min(latency, len(levels)))
    held = sum(len(levels[number].weights) for number in registered)
    return {
        "chain positions": g.tout * unit_positions(g, TECHNOLOGY),
        "units": g.tout,
        "registered bits": g.tout * (held + 2 * g.accumulator_bits),
        "delayed weight bits": max(latency - len(levels), 0) * g.weight_bits_per_word,
    }


def _bus(g: Geometry) -> Features:
    return {"bus bits": g.bus_bits}


def _memory(*shapes: MemoryShape) -> dict[str, float]:
    """Features of memories: cells of distributed RAM, and logic around cells of either kind."""
    found = dict.fromkeys(
        ("distributed cells", "distributed bits", "bank bits", "block bits", "block enables"), 0.0
    )
    for shape in shapes:
        mapping = map_memory(shape)
        found["distributed cells"] += shape.count * mapping.distributed
        found["bank bits"] += shape.count * (mapping.banks - 1) * shape.width
        if mapping.distributed:
            found["distributed bits"] += shape.count * shape.width
        if mapping.blocks:
            # What makes a word that is read while it is written the old one.
            found["block bits"] += shape.count * shape.width
            found["block enables"] += shape.count * shape.enables
    return found


def _scratchpad(memory: Memory) -> Callable[[Geometry], Features]:
    def features(g: Geometry) -> Features:
        shape = scratchpad_shape(g, memory)
        words = {Memory.WEIGHT: g.weight_bits_per_word, Memory.RESIDUAL: g.residual_bits_per_word}
        word = words.get(memory, g.activation_bits_per_word)
        return {
            **_memory(shape),
            **_bus(g),
            # Words and beats are chosen from a row.
            "word bits": shape.width if shape.width > word else 0,
            "beat bits": shape.width if shape.width > g.bus_bits else 0,
        }

    return features


def _parameters(g: Geometry) -> Features:
    return {**_memory(*parameter_shapes(g)), **_bus(g), "lanes": g.lanes}


def _beats(g: Geometry) -> Features:
    return {
        "lane value bits": g.lanes * g.value_bits,
        "result bits": (g.tout if g.beats > 1 else 0) * g.accumulator_bits,
    }


def _values(g: Geometry) -> Features:
    return {"lane value bits": g.lanes * g.value_bits, "lanes": g.lanes}


def _affine(g: Geometry) -> Features:
    return {**_values(g), "lane residual bits": g.lanes * g.residual_bits}


def _quantize(g: Geometry) -> Features:
    return {**_values(g), "lane threshold bits": g.lanes * g.threshold_bits}


def _code_writer(g: Geometry) -> Features:
    return {"lanes": g.lanes, "word digits": g.tin, "places": g.tin // g.lanes}


def _residuals(g: Geometry) -> Features:
    return {"lanes": g.lanes, "lane residual bits": g.lanes * g.residual_bits}


def _pool(g: Geometry) -> Features:
    return {**_residuals(g), "lane pool bits": g.lanes * g.pool_bits}


def _fetch(g: Geometry) -> Features:
    return {**_bus(g), "distributed cells": map_memory(prefetch_shape(g)).distributed}


def _transfer(g: Geometry) -> Features:
    words = (g.weight_words, g.activation_words, g.residual_words, g.output_words)
    return {**_bus(g), "address bits": sum(math.ceil(math.log2(depth)) for depth in words)}


def _make_scratchpad(memory: Memory, geometry: Geometry) -> wiring.Component:
    return Scratchpad(geometry, memory)


def rest_features(g: Geometry) -> Features:
    """Of what is in no part."""
    return {"bus bits": g.bus_bits, "lane value bits": g.lanes * g.value_bits}


def array(geometry: Geometry, technology: Technology | None) -> wiring.Component:
    """The array, made of a family's chains where it has some."""
    return MacArray(geometry) if technology is None else ChainedMacArray(geometry, technology)


def whole(geometry: Geometry) -> wiring.Component:
    """The accelerator."""
    return Accelerator(geometry, ComputeEngine(geometry, TECHNOLOGY))


PARTS = (
    Part(ARRAY, lambda g: array(g, TECHNOLOGY), _array),
    *(
        Part(f"{memory.name.lower()} memory", partial(_make_scratchpad, memory),
             _scratchpad(memory))
        for memory in Memory if memory is not Memory.PARAMETER
    ),
    Part("beats", BeatSequencer, _beats),
    Part("correction", Correction, _values),
    Part("affine", Affine, _affine),
    Part("parameters", ParameterMemory, _parameters),
    Part("quantize", Quantize, _quantize, 2),
    Part("code writer", CodeWriter, _code_writer),
    Part("pool", PoolingUnit, _pool),
    Part("sequencer", Sequencer, lambda g: {}),
    Part("fetch", FetchUnit, _fetch),
    Part("load", LoadEngine, _transfer),
    Part("store", StoreEngine, _transfer),
)  # fmt: skip
