"""The protocol of the host link: one table that gateware, client and documentation read.

A host sends a request, the link answers it; both are frames of bytes on a serial line. Frames are
those of SLIP (RFC 1055) with a checksum at the end. This file needs no Amaranth.
"""

from __future__ import annotations

from typing import NamedTuple

from palquant.hw.registers import Documented

#: Ends a frame, and begins one: what came before it since the last END was noise.
END = 0xC0
#: The next byte stands for another one.
ESC = 0xDB
#: Behind ESC: the byte END.
ESC_END = 0xDC
#: Behind ESC: the byte ESC.
ESC_ESC = 0xDD

#: The checksum is CRC-16/X.25, as in HDLC (ISO/IEC 13239), sent low byte first. It is computed from
#: the lowest bit of each byte on, over everything in the frame before it, escapes undone.
CHECKSUM_BITS = 16
CHECKSUM_BYTES = CHECKSUM_BITS // 8
#: x^16 + x^12 + x^5 + 1, highest power last, as it is used when the lowest bit comes first.
CHECKSUM_POLYNOMIAL = 0x8408
#: What the checksum's register starts with, and what it is inverted with at the end.
CHECKSUM_ONES = (1 << CHECKSUM_BITS) - 1
#: The checksum of anything followed by its own checksum.
CHECKSUM_RESIDUE = 0x0F47

#: Bytes of a word, and what addresses are multiples of.
WORD_BYTES = 4


class Field(NamedTuple):
    """One field of a header.

    Parameters:
        name: Name, unique in its header.
        bytes: Width; little-endian.
        doc: Meaning and unit.
    """

    name: str
    bytes: int
    doc: str


#: What a request starts with. The words of a WRITE follow, little-endian.
REQUEST = (
    Field("command", 1, "A member of Command."),
    Field("tag", 1, "Comes back in the answer. Another one for each new request."),
    Field("words", 1, "Words to read or write."),
    Field("address", 4, "Byte address of the first word, a multiple of 4."),
)
#: What an answer starts with. The words of a READ follow if the status is OK, little-endian.
ANSWER = (
    Field("status", 1, "A member of LinkStatus."),
    Field("tag", 1, "The request's, or 0 where the status says so."),
)
HEADER_BYTES = sum(field.bytes for field in REQUEST)
ANSWER_HEADER_BYTES = sum(field.bytes for field in ANSWER)

#: Bytes of a request, checksum included, that the link has room for.
FRAME_BYTES = 255
#: Words of a request at most; it may be 0, which touches nothing on the bus.
MAX_WORDS = (FRAME_BYTES - HEADER_BYTES - CHECKSUM_BYTES) // WORD_BYTES


class Command(Documented):
    """What a request asks for. 0 is no command, so that a cleared line is no request."""

    READ = 1, "Read words from consecutive addresses."
    WRITE = 2, "Write words to consecutive addresses."


class LinkStatus(Documented):
    """How a request ended. From LENGTH on, nothing was understood and the answer's tag is 0."""

    OK = 0, "Done."
    BUS = 1, "The bus answered a word with an error; words behind it were not accessed."
    ADDRESS = 2, "The address is not a multiple of 4. Nothing was done."
    COMMAND = 3, "The command does not exist. Nothing was done."
    LENGTH = 4, "Too short, too long, or not as many words as the header says. Nothing was done."
    CHECKSUM = 5, "The checksum is wrong. Nothing was done."
    TRUNCATED = 6, "A bad escape, a damaged byte, or a pause within the frame. Nothing was done."


def offset(header: tuple[Field, ...], name: str) -> int:
    """Byte offset of a header's field.

    Raises:
        KeyError: It has no field of that name.
    """
    position = 0
    for field in header:
        if field.name == name:
            return position
        position += field.bytes
    raise KeyError(name)
