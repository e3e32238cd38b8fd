"""The image header: sealing an image with its size and CRC, and checking both again."""

from __future__ import annotations

import zlib

from palquant.errors import ImageError, InstructionError
from palquant.hw import isa
from palquant.hw.config import Geometry


def seal(header: dict[str, int], body: bytes) -> bytes:
    """Header and body as one image, magic, version, size and CRC filled in."""
    size = isa.HEADER_BYTES + len(body)
    fields = header | {"magic": isa.MAGIC, "version": isa.VERSION, "image_bytes": size, "crc": 0}
    data = isa.IMAGE_HEADER.encode(fields) + body
    return isa.IMAGE_HEADER.encode(fields | {"crc": zlib.crc32(data)}) + body


def read_header(data: bytes, geometry: Geometry, label: str = "image") -> dict[str, int]:
    """Decode a header and check magic, version, geometry and sizes, as the fetch unit does.

    Parameters:
        data: The image.
        geometry: The machine that is to run it.
        label: What to call the image in messages.

    Raises:
        ImageError: Says what was found and what was expected.
    """
    if len(data) < isa.HEADER_BYTES:
        raise ImageError(f"{label}: {len(data)} bytes, less than a header of {isa.HEADER_BYTES}")
    try:
        header = isa.IMAGE_HEADER.decode(data[: isa.HEADER_BYTES])
    except InstructionError as error:
        raise ImageError(f"{label}: {error}: the image is corrupted") from error
    _expect(header, label, magic=isa.MAGIC, version=isa.VERSION)
    if header["geometry"] != geometry.identity:
        raise ImageError(
            f"{label}: built for geometry {header['geometry']:#010x}, but {geometry.name} is "
            f"{geometry.identity:#010x}"
        )
    try:
        isa.IMAGE_HEADER.require_held(header, geometry)
    except InstructionError as error:
        raise ImageError(f"{label}: {error}") from error
    return header


def check_image(data: bytes, geometry: Geometry, label: str = "image") -> dict[str, int]:
    """Like :func:`read_header`, and check size and CRC over the whole image as well.

    Raises:
        ImageError: Says what was found and what was expected.
    """
    header = read_header(data, geometry, label)
    if header["image_bytes"] != len(data):
        raise ImageError(
            f"{label}: holds {len(data)} bytes, but its header says {header['image_bytes']}: "
            "truncated or corrupted"
        )
    cleared = isa.IMAGE_HEADER.encode(header | {"crc": 0}) + data[isa.HEADER_BYTES :]
    if zlib.crc32(cleared) != header["crc"]:
        raise ImageError(
            f"{label}: CRC-32 is {zlib.crc32(cleared):#010x}, the header says "
            f"{header['crc']:#010x}: the image is corrupted"
        )
    return header


def _expect(header: dict[str, int], label: str, **expected: int) -> None:
    for name, value in expected.items():
        if header[name] != value:
            raise ImageError(f"{label}: {name} is {header[name]:#x}, expected {value:#x}")
