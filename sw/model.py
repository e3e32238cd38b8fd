"""The MODEL file: one integer graph with its metadata, readable without executing code.

A model file is a NumPy ``.npz`` archive: the entry ``graph`` is UTF-8 JSON (as uint8) that lists
the nodes with their scalar attributes, and each array attribute is an entry ``NODE/ATTRIBUTE``.
What the host computes, if anything, is described likewise, its arrays in ``host.PART.ATTRIBUTE``.
It is read with ``allow_pickle=False``.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from palquant.errors import GraphError, ModelError, in_words
from palquant.files import write_bytes
from palquant.kinds import instead_of_model
from palquant.sw.graph import (
    OPERATIONS,
    Graph,
    HostClassifier,
    HostEnds,
    HostStem,
    Node,
    Normalization,
    Shape,
)

FORMAT = "palquant-model"
VERSION = 1

_NESTED: dict[str, type] = {"shape": Shape, "normalization": Normalization, "image": Shape}
#: Parts of a network that the host computes.
_HOST: dict[str, type] = {"stem": HostStem, "classifier": HostClassifier}


def save_model(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write ``graph`` to ``path``, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    nodes = [
        {"operation": type(node).__name__} | _scalars(node, f"{node.name}/", arrays)
        for node in graph
    ]
    document = {"format": FORMAT, "version": VERSION, "nodes": nodes, "metadata": graph.metadata}
    if graph.host is not None:
        document["host"] = {
            part: _scalars(getattr(graph.host, part), f"host.{part}.", arrays) for part in _HOST
        }
    arrays["graph"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    write_bytes(path, stream.getbuffer())


def _scalars(instance: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """A dataclass's attributes for JSON; puts its arrays into ``arrays``."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(instance):
        value = getattr(instance, item.name)
        if isinstance(value, np.ndarray):
            arrays[prefix + item.name] = value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[item.name] = dataclasses.asdict(value)
        elif value is not None:  # what is not there is the default
            found[item.name] = value
    return found


def load_model(path: str | os.PathLike[str]) -> Graph:
    """Read a model file.

    Raises:
        ModelError: The file is missing, is no model file, is damaged, or has missing, extra,
            wrongly typed or non-finite entries; the message names the entry.
    """
    target = Path(path)
    try:
        with target.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # NumPy would advise to execute code from it
                raise ValueError("no archive of arrays")
        archive = np.load(target, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        hint = instead_of_model(target) if isinstance(error, IsADirectoryError) else None
        raise ModelError(
            f"{target}: {hint or f'cannot read: {error.strerror or error}'}"
        ) from error
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise _no_model(target, error) from error
    try:
        document = json.loads(arrays.pop("graph").tobytes())
        if document["format"] != FORMAT:
            raise ModelError(f"{target}: format is {document['format']!r}, expected {FORMAT!r}")
        if document["version"] != VERSION:
            raise ModelError(f"{target}: version {document['version']}, expected {VERSION}")
        nodes = [_read_node(target, entry, arrays) for entry in document["nodes"]]
        host = _read_host(target, document["host"], arrays) if "host" in document else None
        metadata = document["metadata"]
        if not isinstance(metadata, dict):
            raise ModelError(f"{target}: metadata is {metadata!r}, expected an object")
    except GraphError as error:
        raise ModelError(f"{target}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise _no_model(target, error) from error
    if arrays:
        raise ModelError(f"{target}: entry {min(arrays)!r} belongs to no node")
    try:
        return Graph(nodes, metadata, host)
    except GraphError as error:
        raise ModelError(f"{target}: {error}") from error


def _no_model(target: Path, error: Exception) -> ModelError:
    """What a file is instead of a model, or why it cannot be read as one."""
    hint = instead_of_model(target)
    return ModelError(
        f"{target}: {hint or f'is no model of palquant, or is damaged ({in_words(error)})'}"
    )


def _read_node(target: Path, entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Node:
    """One node from its JSON entry and arrays; takes the arrays that it uses out of ``arrays``."""
    cls = OPERATIONS.get(entry["operation"])
    if cls is None:
        raise ModelError(f"{target}: unknown operation {entry['operation']!r}")
    values = {key: value for key, value in entry.items() if key != "operation"}
    name = values.get("name", "?")
    node: Node = _read(target, cls, values, name, "/", arrays)
    return node


def _read_host(target: Path, entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> HostEnds:
    """What the host computes, from its JSON entry and arrays."""
    if unknown := sorted(set(entry) - set(_HOST)):
        raise ModelError(f"{target}: host has an unknown part {unknown[0]!r}")
    parts = {
        part: _read(target, cls, dict(entry[part]), f"host.{part}", ".", arrays)
        for part, cls in _HOST.items()
    }
    return HostEnds(**parts)


def _read(
    target: Path, cls: Any, values: dict[str, Any], name: str, mark: str,
    arrays: dict[str, np.ndarray],
) -> Any:  # fmt: skip
    """A dataclass from its attributes in JSON and arrays, which it takes out of ``arrays``."""
    for item in dataclasses.fields(cls):
        key = f"{name}{mark}{item.name}"
        if key in arrays:
            array = arrays.pop(key)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelError(f"{target}: {key} holds NaN or infinity")
            values[item.name] = array
        elif item.name in _NESTED:
            nested = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values[item.name].items()
            }
            values[item.name] = _NESTED[item.name](**nested)
        elif item.name not in values and item.default is dataclasses.MISSING:
            raise ModelError(f"{target}: {key} is missing")
        elif isinstance(values.get(item.name), list):
            values[item.name] = tuple(values[item.name])
    known = {item.name for item in dataclasses.fields(cls)}
    extra = sorted(set(values) - known)
    if extra:
        raise ModelError(f"{target}: {name} has an unknown attribute {extra[0]!r}")
    return cls(**values)
