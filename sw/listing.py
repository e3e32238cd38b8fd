"""Human-readable listings: a network's nodes, an image's layers, tensors and instructions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from palquant.hw import isa
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw.graph import Convolution, Graph, Node, Quantize
from palquant.sw.host import HostEnds
from palquant.sw.image import MemoryImage


def node_rows(graph: Graph) -> list[tuple[str, str, str, str, str]]:
    """Name, operation, inputs, shape and type of each node."""
    rows = []
    for node in graph:
        shape, kind = graph.shapes[node.name], graph.types[node.name]
        size = f"{shape.channels}x{shape.height}x{shape.width}"
        rows.append(
            (
                node.name,
                _operation(node),
                ", ".join(node.inputs),
                size,
                f"{kind.kind.value} {kind.bits}",
            )
        )
    return rows


def host_line(host: HostEnds) -> str:
    """What the host computes before and behind the network."""
    outputs, inputs, height, width = host.stem.weight.shape
    classes, features = host.classifier.weight.shape
    return (
        f"on the host, in floating point: stem {inputs}->{outputs} {height}x{width}/"
        f"{host.stem.stride}, classifier {features}->{classes}"
    )


def _operation(node: Node) -> str:
    name = type(node).__name__
    if isinstance(node, Convolution):
        outputs, inputs, height, width = node.weight.shape
        return (
            f"{name} {inputs}->{outputs} {height}x{width}/{node.stride[0]} g{node.groups} "
            f"{node.weight_bits} bit"
        )
    if isinstance(node, Quantize):
        return f"{name} {node.bits} bit"
    return name


def image_basics(image: MemoryImage) -> dict[str, Any]:
    """What an image is, in a few figures; multiply-accumulates are those of one input."""
    return {
        "geometry": image.geometry.name,
        "image_bytes": len(image.data),
        "instructions": sum(1 for _ in _program(image)),
        "layer_count": len(image.layers),
        "macs": sum(layer.macs for layer in image.layers),
        "tensor_count": len(image.tensors),
    }


def program_lines(image: MemoryImage) -> Iterator[str]:
    """One line for each instruction: offset, opcode, tokens, and the fields that are not 0."""
    for offset, opcode, fields in _program(image):
        yield f"{offset:#08x}  {opcode.name:8}{_describe(image, opcode, fields)}"


def _program(image: MemoryImage) -> Iterator[tuple[int, Opcode, dict[str, int]]]:
    """Offset, opcode and fields of each instruction."""
    offset = isa.IMAGE_HEADER.decode(image.data[: isa.HEADER_BYTES])["program_offset"]
    while True:
        opcode, fields, end = isa.decode(image.data, offset)
        yield offset, opcode, fields
        if opcode is Opcode.END:
            return
        offset = end


def _describe(image: MemoryImage, opcode: Opcode, fields: dict[str, int]) -> str:
    if opcode in (Opcode.BARRIER, Opcode.END):
        return ""
    tokens = [
        name.replace("_", " ")
        for name, value in fields.items()
        if value and name.startswith(("wait_", "signal_"))
    ]
    header = {item.name for item in isa.HEADER}
    rest: dict[str, int | str] = {
        name: value for name, value in fields.items() if value and name not in header
    }
    if opcode in (Opcode.LOAD, Opcode.STORE):
        rest["memory"] = Memory(fields["memory"]).name.lower()
        rest["base"] = Base(fields["base"]).name.lower()
    words = " ".join(f"{name}={value}" for name, value in rest.items())
    layer = image.layers[fields["layer"]].name
    return f"{layer}  [{', '.join(tokens)}]  {words}"
