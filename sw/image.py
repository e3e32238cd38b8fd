"""The memory image on disk: ``image.bin``, ``image.hex``, ``manifest.json``, ``model.npz``.

``image.bin`` is what the machine finds in DRAM: header, program, weights and parameters. It is
read-only; the network's input and output (which also holds tensors that do not fit on chip, or
that are kept for comparison) are regions of their own, one for each image. The manifest says
where every tensor lies, so that nobody needs to know the compiler to read a result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palquant.errors import ImageError, OutputError, PalquantError, in_words
from palquant.files import replace_folder
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.kinds import instead_of_image
from palquant.sw.formats import hexadecimal
from palquant.sw.graph import Convolution, Graph, Kind, Logits, Shape, TensorType
from palquant.sw.header import check_image
from palquant.sw.layout import TensorLayout
from palquant.sw.lower import im2col
from palquant.sw.model import load_model, save_model
from palquant.sw.place import Placement

FORMAT = "palquant-image"
#: The file set; a folder that holds anything else is not ours to replace.
FILES = ("image.bin", "image.hex", "manifest.json", "model.npz")
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LayerRecord:
    """What the manifest says of one layer.

    Attributes:
        name: The layer's name.
        quantized: Whether it is one of the low-precision layers.
        shuffle: Whether it reads or writes through a channel permutation.
        macs: Multiply-accumulates of one image, padding taps included.
        passes: Digit passes: a layer takes at least ``macs * passes / peak`` cycles.
        outputs: Names of the tensors that it makes.
    """

    name: str
    quantized: bool
    shuffle: bool
    macs: int
    passes: int
    outputs: tuple[str, ...]


@dataclass(eq=False)
class MemoryImage:
    """A compiled network.

    Parameters:
        geometry: The machine that it is compiled for.
        data: Bytes of ``image.bin``.
        graph: The network, for reference and metadata.
        input: Layout of the input region.
        gathered: Convolution whose windows the input region holds (im2col), or None.
        tensors: Tensor name -> (layout, byte offset in the output region), in execution order.
        layers: Layer records by layer index.
        output_bytes: Size of one image's output region.
    """

    geometry: Geometry
    data: bytes
    graph: Graph
    input: TensorLayout
    gathered: str | None
    tensors: dict[str, tuple[TensorLayout, int]]
    layers: list[LayerRecord]
    output_bytes: int

    @property
    def input_bytes(self) -> int:
        """Size of one image's input region."""
        return self.input.bytes

    def pack_input(self, codes: npt.NDArray[Any]) -> Bytes:
        """Input integers (N, C, H, W) as input regions, uint8 of shape (N, input_bytes)."""
        if self.gathered is not None:
            node = self.graph[self.gathered]
            assert isinstance(node, Convolution)
            codes = im2col(codes, node, self.graph.input.zero_point)
        return self.input.pack(codes)

    def unpack(self, output: Bytes, tensor: str) -> npt.NDArray[np.int64]:
        """One tensor (N, C, H, W) out of output regions of shape (N, output_bytes)."""
        layout, offset = self.tensors[tensor]
        return layout.unpack(np.ascontiguousarray(output[:, offset : offset + layout.bytes]))

    def predict(self, output: Bytes) -> npt.NDArray[np.int64]:
        """Class of each image from output regions: the largest real logit."""
        node = self.graph.output
        if not isinstance(node, Logits):
            raise ImageError(f"the network ends with {type(node).__name__}, not with logits")
        logits = node.real(self.unpack(output, node.name)[:, :, 0, 0])
        if self.graph.host is not None:
            logits = self.graph.host.classifier.logits(logits)
        classes: npt.NDArray[np.int64] = logits.argmax(axis=1)
        return classes


def _describe(layout: TensorLayout, offset: int) -> dict[str, Any]:
    return {
        "name": layout.name,
        "kind": layout.type.kind.value,
        "bits": layout.type.bits,
        "zero_point": layout.type.zero_point,
        "shape": dataclasses.asdict(layout.shape),
        "offset": offset,
        "bytes": layout.bytes,
        "row_bytes": layout.row_bytes,
        "word_bytes": layout.word_bytes,
        "pixel_words": layout.pixel_words,
        "groups": layout.placement.groups,
        "span": layout.placement.span,
        "channel_slots": layout.placement.slot.tolist(),
    }


def _layout(entry: dict[str, Any], geometry: Geometry) -> TensorLayout:
    slots = np.array(entry["channel_slots"], np.int64)
    groups, span = int(entry["groups"]), int(entry["span"])
    if span < 1 or not np.array_equal(np.unique(slots), np.sort(slots)):
        raise ValueError(f"{entry['name']}: span {span}, or two channels in one place")
    if slots.size and not 0 <= slots.min() <= slots.max() < groups * span:
        raise ValueError(f"{entry['name']}: a channel lies outside {groups} groups of {span}")
    placement = Placement(groups, span, slots // span, slots % span)
    kind = TensorType(Kind(entry["kind"]), entry["bits"], entry["zero_point"])
    return TensorLayout(entry["name"], kind, Shape(**entry["shape"]), placement, geometry)


def manifest(image: MemoryImage) -> dict[str, Any]:
    """The manifest as a JSON-serialisable dictionary, its checksums still missing."""
    header = isa.IMAGE_HEADER.decode(image.data[: isa.HEADER_BYTES])
    normalization = dataclasses.asdict(image.graph.input.normalization)
    result = image.graph.output
    logits = result if isinstance(result, Logits) else None
    rest = None if logits is None else logits.rest
    return {
        "format": FORMAT,
        "version": isa.VERSION,
        "geometry": dataclasses.asdict(image.geometry),
        "geometry_identity": image.geometry.identity,
        "network": image.graph.metadata,
        "regions": {
            "image": {"bytes": len(image.data), "header": header},
            "input": {"bytes_per_image": image.input_bytes},
            "output": {"bytes_per_image": image.output_bytes},
        },
        "input": {
            **_describe(image.input, 0),
            "image_shape": dataclasses.asdict(image.graph.image_shape),
            "host_stem": image.graph.host is not None,
            "image_dtypes": ["float32", "uint8"],
            "normalization": normalization,
            "gathered_by": image.gathered,
        },
        "output": {
            "tensor": result.name,
            "scales": None if logits is None else logits.scale.tolist(),
            "rests": None if rest is None else rest.tolist(),
            "host_classifier": image.graph.host is not None,
        },
        "tensors": [_describe(layout, offset) for layout, offset in image.tensors.values()],
        "layers": [dataclasses.asdict(layer) for layer in image.layers],
    }


def _checksums(document: dict[str, Any], files: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of the other files, and of the manifest itself without its checksums."""
    rest = {key: value for key, value in document.items() if key != "checksums"}
    canonical = json.dumps(rest, sort_keys=True).encode()
    parts = {"manifest.json": canonical, **files}
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(parts.items())}


def save_image(image: MemoryImage, directory: str | os.PathLike[str]) -> None:
    """Write the file set into ``directory``, whole or not at all.

    An older image in the same directory is replaced as a whole; other files make it refuse.

    Raises:
        OutputError: The directory cannot be written, or holds something else.
    """
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: exists and is no directory")
    with replace_folder(target) as aside:
        if target.is_dir() and any(path.name not in FILES for path in target.iterdir()):
            raise OutputError(f"{target}: holds other files; name an empty or a new directory")
        (aside / "image.bin").write_bytes(image.data)
        (aside / "image.hex").write_text(hexadecimal(image.data, image.geometry.bus_bytes))
        save_model(image.graph, aside / "model.npz")
        document = manifest(image)
        files = {name: (aside / name).read_bytes() for name in ("image.bin", "model.npz")}
        document["checksums"] = _checksums(document, files)
        (aside / "manifest.json").write_text(json.dumps(document, indent=1) + "\n")


def load_image(directory: str | os.PathLike[str]) -> MemoryImage:
    """Read a file set and verify it.

    Raises:
        ImageError: A file is missing, truncated, corrupted, or does not belong to the others.
    """
    target = Path(directory)
    label = str(target / "manifest.json")
    if hint := instead_of_image(target):
        raise ImageError(f"{target}: {hint}")
    if not target.is_dir():
        problem = "is no folder" if target.exists() else "there is no such folder"
        raise ImageError(f"{target}: {problem}; expected a memory image (palquant compile)")
    try:
        data = (target / "image.bin").read_bytes()
        model = (target / "model.npz").read_bytes()
        text = (target / "manifest.json").read_text()
    except OSError as error:
        raise ImageError(f"{error.filename}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ImageError(f"{label}: is no text: {error}") from error
    try:
        document = json.loads(text)
        if document["format"] != FORMAT or document["version"] != isa.VERSION:
            raise ImageError(
                f"{label}: format {document['format']!r} version {document['version']}, expected "
                f"{FORMAT!r} version {isa.VERSION}"
            )
        geometry = Geometry(**document["geometry"])
        check_image(data, geometry, str(target / "image.bin"))
        found = _checksums(document, {"image.bin": data, "model.npz": model})
        for name, digest in found.items():
            if document["checksums"][name] != digest:
                raise ImageError(f"{target / name}: differs from its SHA-256 in the manifest")
        image = _assemble(document, geometry, data, load_model(target / "model.npz"))
    except PalquantError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ImageError(
            f"{label}: is no manifest of a memory image, or is damaged ({in_words(error)})"
        ) from error
    _check_consistency(image, label)
    return image


def _assemble(
    document: dict[str, Any], geometry: Geometry, data: bytes, graph: Graph
) -> MemoryImage:
    tensors = {
        entry["name"]: (_layout(entry, geometry), int(entry["offset"]))
        for entry in document["tensors"]
    }
    layers = [
        LayerRecord(**entry | {"outputs": tuple(entry["outputs"])}) for entry in document["layers"]
    ]
    return MemoryImage(
        geometry=geometry,
        data=data,
        graph=graph,
        input=_layout(document["input"], geometry),
        gathered=document["input"]["gathered_by"],
        tensors=tensors,
        layers=layers,
        output_bytes=int(document["regions"]["output"]["bytes_per_image"]),
    )


def _check_consistency(image: MemoryImage, label: str) -> None:
    """Refuse a manifest whose parts contradict each other, whatever its checksums say."""

    def require(condition: bool, text: str) -> None:
        if not condition:
            raise ImageError(f"{label}: {text}")

    names = {node.name for node in image.graph}
    require(bool(image.layers), "lists no layer")
    require(image.graph.output.name in image.tensors, "does not say where the result lies")
    header = isa.IMAGE_HEADER.decode(image.data[: isa.HEADER_BYTES])
    for name, size in (("input", image.input_bytes), ("output", image.output_bytes)):
        found = header[f"{name}_bytes"]
        require(size == found, f"{name} region of {size} bytes, image.bin's header says {found}")
    for name, (layout, offset) in image.tensors.items():
        require(name in names, f"tensor {name!r} is not in the model")
        shape, kind = image.graph.shapes[name], image.graph.types[name]
        require(layout.shape == shape, f"{name} has shape {layout.shape}, the model has {shape}")
        require(layout.type == kind, f"{name} has type {layout.type}, the model has {kind}")
        end = offset + layout.bytes
        require(offset >= 0 and end <= image.output_bytes,
                f"{name} lies at {offset}..{end} of {image.output_bytes} bytes")  # fmt: skip
    made = {name for layer in image.layers for name in layer.outputs}
    require(set(image.tensors) <= made, "holds a tensor that no layer makes")
    if image.gathered is not None:
        node = image.graph[image.gathered] if image.gathered in names else None
        require(isinstance(node, Convolution), f"{image.gathered!r} is no convolution")
