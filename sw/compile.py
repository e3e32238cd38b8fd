"""From an integer graph to a memory image."""

from __future__ import annotations

import itertools

import numpy as np

from palquant.errors import CapacityError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.deadlock import check_deadlock
from palquant.sw.emit import Emitter
from palquant.sw.graph import Convolution, Graph
from palquant.sw.header import read_header, seal
from palquant.sw.image import LayerRecord, MemoryImage
from palquant.sw.layer import Layer
from palquant.sw.network import PlacedNetwork, place_network
from palquant.sw.races import check_races
from palquant.sw.schedule import Instruction, Step, insert_tokens, order_steps
from palquant.sw.tile import Policy

#: Largest share of a memory that one tensor may keep: tried in this order until all layers fit.
RESIDENT_SHARES = (1.0, 0.5, 0.25, 0.0)
#: Constants start at a multiple of this, so that bursts are not cut more often than necessary.
CONSTANT_ALIGNMENT = 256


def compile_graph(graph: Graph, geometry: Geometry, keep_all: bool = True) -> MemoryImage:
    """Compile a network.

    Parameters:
        graph: The network.
        geometry: The machine.
        keep_all: Store every tensor to DRAM, so that each can be compared; otherwise only the
            result and what does not fit on chip.

    Raises:
        UnsupportedLayerError: A layer that the machine cannot execute.
        RangeError: A register that could overflow.
        CapacityError: A layer that fits no tiling.
    """
    network = place_network(graph, geometry)
    emitter, steps = _emit(network, keep_all)
    prologue, body = _resident_constants(steps, geometry), order_steps(steps)
    insert_tokens(body)
    data = _link(prologue, body, emitter)
    _check(data, geometry)
    layouts = network.layouts
    return MemoryImage(
        geometry=geometry,
        data=data,
        graph=graph,
        input=layouts[graph.input.name],
        gathered=network.lowered.gathered.name if network.lowered.gathered else None,
        tensors={name: (layouts[name], at) for name, at in emitter.transfers.offsets.items()},
        layers=[_record(network, layer) for layer in network.layers],
        output_bytes=emitter.transfers.output_bytes,
    )


def _emit(network: PlacedNetwork, keep_all: bool) -> tuple[Emitter, list[Step]]:
    """Emit with as much on chip as possible; the last policy's refusal is the final one."""
    for slices, share in itertools.product((False, True), RESIDENT_SHARES):
        emitter = Emitter(network, Policy(share, keep_all, slices))
        try:
            return emitter, emitter.emit()
        except CapacityError as error:
            refusal = error
    raise refusal


def _resident_constants(steps: list[Step], geometry: Geometry) -> list[Instruction]:
    """Take the loads of weights and parameters out of the steps if all of them fit on chip.

    They then are loaded once, before the first image of a doorbell.
    """
    moved = [load for step in steps for load in step.loads if _is_constant(load)]
    ends: dict[int, int] = {}
    for load in moved:  # rings hand out rising addresses until they start over
        chip = load.accesses[0]
        if chip.low < ends.get(load.fields["memory"], 0):
            return []
        ends[load.fields["memory"]] = chip.high
    for step in steps:
        step.loads = [load for load in step.loads if not _is_constant(load)]
    return moved


def _is_constant(load: Instruction) -> bool:
    return load.fields["memory"] in (Memory.WEIGHT, Memory.PARAMETER)


def _check(data: bytes, geometry: Geometry) -> None:
    """Prove what the machine relies on, from nothing but the image's bytes."""
    header = read_header(data, geometry)
    body, offset = header["body_offset"], header["program_offset"]
    program = []
    opcode = Opcode.ILLEGAL
    while opcode is not Opcode.END:
        opcode, fields, end = isa.decode(data, offset)
        program.append((offset, opcode, fields))
        offset = end
    check_races(program, body, geometry)
    for start in {header["program_offset"], body}:
        check_deadlock([item[1:] for item in program if item[0] >= start], geometry)


def _link(prologue: list[Instruction], body: list[Instruction], emitter: Emitter) -> bytes:
    """Lay out header, program and constants, and resolve the constants' offsets."""
    network = emitter.network
    barrier = [isa.encode(Opcode.BARRIER)] if prologue else []

    def size(items: list[Instruction]) -> int:
        return sum(isa.LAYOUTS[item.opcode].size // 8 for item in items)

    start = isa.HEADER_BYTES
    body_offset = start + size(prologue) + sum(map(len, barrier))
    end = body_offset + size(body) + isa.UNIT_BYTES
    constants = -(-end // CONSTANT_ALIGNMENT) * CONSTANT_ALIGNMENT
    for item in prologue + body:
        if item.opcode is Opcode.LOAD and item.fields["base"] == Base.IMAGE:
            item.fields["dram_offset"] += constants
    code = b"".join(
        [item.encode() for item in prologue]
        + barrier
        + [item.encode() for item in body]
        + [isa.encode(Opcode.END)]
    )
    header = {
        "geometry": emitter.geometry.identity,
        "program_offset": start,
        "body_offset": body_offset,
        "input_bytes": network.layouts[network.graph.input.name].bytes,
        "output_bytes": emitter.transfers.output_bytes,
    }
    filling = bytes(constants - end)
    return seal(header, code + filling + b"".join(emitter.constants.data.chunks))


def _record(network: PlacedNetwork, layer: Layer) -> LayerRecord:
    node = layer.operation
    macs = passes = 0
    if isinstance(node, Convolution):
        pixels = layer.shape.height * layer.shape.width
        macs = int(np.prod(node.weight.shape)) * pixels
        source = network.graph.types[network.stored(layer.input)]
        passes = isa.digits(node.weight_bits) * isa.digits(source.bits)
    shuffled = (
        layer.permutation is not None
        or layer.input in network.lowered.aliases
        or any(code.permutation is not None for code in layer.codes)
    )
    return LayerRecord(layer.name, layer.quantized, shuffled, macs, passes, tuple(layer.outputs))
