"""The host's end of the host link: words to and from the bus of a board, over a serial port.

The protocol is the table of ``palquant.hw.link``; ``docs/host-link.md`` describes it. Any way to
send and to receive bytes will do: a serial port, a socket, a simulation.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from palquant.errors import ExecutionError, InputError
from palquant.hw import link
from palquant.hw.link import Command, LinkStatus

__all__ = ["FrameDecoder", "LinkClient", "Transport", "checksum", "encode_frame"]

Words = npt.NDArray[np.uint32]

_WIDTHS = {1: "B", 4: "I"}
_REQUEST = struct.Struct("<" + "".join(_WIDTHS[field.bytes] for field in link.REQUEST))
_ANSWER = struct.Struct("<" + "".join(_WIDTHS[field.bytes] for field in link.ANSWER))
_WORD = np.dtype("<u4")
_SPACE = 1 << 32  # bytes that an address reaches
_TAGS = 256
#: Bytes of an answer's frame at most, checksum included; more without END is noise.
_ANSWER_BYTES = _ANSWER.size + link.MAX_WORDS * link.WORD_BYTES + link.CHECKSUM_BYTES
#: Bytes that are asked of the transport at once.
_CHUNK = 4096
#: The request was damaged on its way: it was not executed, and is sent once more.
_DAMAGED = frozenset({LinkStatus.LENGTH, LinkStatus.CHECKSUM, LinkStatus.TRUNCATED})


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (link.CHECKSUM_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def checksum(data: bytes) -> int:
    """The 16-bit checksum of some bytes; of bytes that end with theirs: CHECKSUM_RESIDUE."""
    value = link.CHECKSUM_ONES
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ link.CHECKSUM_ONES


def encode_frame(payload: bytes) -> bytes:
    """What goes over the line for a payload: END, it and its checksum with escapes, END."""
    plain = payload + checksum(payload).to_bytes(link.CHECKSUM_BYTES, "little")
    escaped = plain.replace(bytes([link.ESC]), bytes([link.ESC, link.ESC_ESC]))
    escaped = escaped.replace(bytes([link.END]), bytes([link.ESC, link.ESC_END]))
    return bytes([link.END]) + escaped + bytes([link.END])


class FrameDecoder:
    """Payloads from the bytes on the line, in pieces of any size. What is damaged is dropped.

    Parameters:
        limit: Bytes of a frame at most, checksum included; a longer one is dropped.
    """

    def __init__(self, limit: int = _ANSWER_BYTES) -> None:
        self.limit = limit
        self._frame = bytearray()
        self._escaped = False
        self._broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads, without checksum, of the frames that end in ``data``."""
        return list(self._payloads(data))

    def _payloads(self, data: bytes) -> Iterator[bytes]:
        for byte in data:
            if byte == link.END:
                frame, broken = bytes(self._frame), self._broken or self._escaped
                self._frame.clear()
                self._escaped = self._broken = False
                # The residue of fewer bytes than a checksum has is another.
                if not broken and checksum(frame) == link.CHECKSUM_RESIDUE:
                    yield frame[: -link.CHECKSUM_BYTES]
                continue
            if self._escaped:
                self._escaped = False
                self._broken |= byte not in (link.ESC_END, link.ESC_ESC)
                byte = link.END if byte == link.ESC_END else link.ESC
            elif byte == link.ESC:
                self._escaped = True
                continue
            if len(self._frame) == self.limit:
                self._broken = True
            else:
                self._frame.append(byte)


#: Part of the time-out in which an answer comes that is not missing.
_SOON = 4


class Transport(Protocol):
    """A line to the board that carries bytes both ways; pyserial's ``Serial`` is nearly one."""

    def write(self, data: bytes, /) -> object:
        """Send all of ``data``."""

    def read(self, maximum: int, timeout_s: float, /) -> bytes:
        """What has arrived, at most ``maximum`` bytes.

        If nothing has, wait for it; return nothing only when ``timeout_s`` seconds have passed.
        """


class LinkClient:
    """Reads and writes words on the bus of a board.

    A request whose answer is missing or says that it was damaged is sent again, unchanged: the link
    does not execute a WRITE twice.

    Parameters:
        transport: The line.
        timeout_s: Seconds in which an answer arrives, from when its request was sent; it has to
            cover both frames' time on the line.
        retries: How often a request is sent again at most.

    Raises:
        InputError: ``timeout_s`` is not positive, or ``retries`` is negative.
    """

    def __init__(self, transport: Transport, *, timeout_s: float = 1.0, retries: int = 3) -> None:
        if not timeout_s > 0 or retries < 0:
            raise InputError(
                f"link: a time-out of {timeout_s} s and {retries} retries; "
                "the first must be positive, the second not negative"
            )
        self.timeout_s = timeout_s
        self.retries = retries
        self._transport = transport
        self._decoder = FrameDecoder()
        self._tag = 0
        self._synchronized = False

    def synchronize(self) -> None:
        """Find out whether the link answers, and make it forget the last WRITE.

        Otherwise the first WRITE of a session could be mistaken for the last one of another. Done
        before the first transfer, and before the next one after a failure.

        Raises:
            ExecutionError: There is no answer.
        """
        self._request(Command.READ, 0, 0, b"")
        self._synchronized = True

    def read(
        self, address: int, words: int, progress: Callable[[int], object] | None = None
    ) -> Words:
        """Words from consecutive addresses.

        Parameters:
            address: Byte address of the first, a multiple of 4.
            words: How many.
            progress: Called after each request with the bytes that are done so far.

        Returns:
            Shape (words,).

        Raises:
            InputError: Address and number do not fit into 32 bits, or are no multiple of 4.
            ExecutionError: No answer, or the bus answered with an error.
        """
        parts = [
            self._transfer(Command.READ, start, count, b"")
            for start, count in self._split(address, words, progress)
        ]
        return np.frombuffer(b"".join(parts), _WORD).astype(np.uint32)

    def write(
        self,
        address: int,
        words: npt.ArrayLike,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Words to consecutive addresses, in order.

        Parameters:
            address: Byte address of the first, a multiple of 4.
            words: Shape (n,), integers of 0 to 2^32 - 1.
            progress: Called after each request with the bytes that are done so far.

        Raises:
            InputError: Address and number do not fit into 32 bits, or words are no such integers.
            ExecutionError: No answer, or the bus answered with an error. Words before the one that
                failed are written.
        """
        values = np.asarray(words)
        if values.size == 0:
            values = values.astype(np.uint32)
        if values.ndim != 1 or values.dtype.kind not in "ui":
            raise InputError(
                f"link: words of shape {values.shape} and type {values.dtype}, "
                "expected (n,) integers"
            )
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < 1 << 32:
            raise InputError("link: a word is outside 0..2^32 - 1")
        data = values.astype(_WORD).tobytes()
        for start, count in self._split(address, len(values), progress):
            first = start - address
            part = data[first : first + count * link.WORD_BYTES]
            self._transfer(Command.WRITE, start, count, part)

    def _split(
        self, address: int, words: int, progress: Callable[[int], object] | None
    ) -> Iterator[tuple[int, int]]:
        """Address and number of words of each request; each is done when the next is asked for."""
        size = words * link.WORD_BYTES
        if address % link.WORD_BYTES or min(address, words) < 0 or address + size > _SPACE:
            raise InputError(
                f"link: {words} words at address {address:#x}; addresses are multiples of "
                f"{link.WORD_BYTES} below 2^32"
            )
        for first in range(0, words, link.MAX_WORDS):
            count = min(link.MAX_WORDS, words - first)
            yield address + first * link.WORD_BYTES, count
            if progress is not None:
                progress((first + count) * link.WORD_BYTES)

    def _transfer(self, command: Command, address: int, words: int, data: bytes) -> bytes:
        if not self._synchronized:
            self.synchronize()
        self._synchronized = False  # until this has succeeded
        found = self._request(command, address, words, data)
        self._synchronized = True
        return found

    def _request(self, command: Command, address: int, words: int, data: bytes) -> bytes:
        """Words of the answer to one request."""
        self._tag = (self._tag + 1) % _TAGS
        frame = encode_frame(_REQUEST.pack(command, self._tag, words, address) + data)
        where = f"link: {command.name} of {words} words at {address:#x}"
        expected = words * link.WORD_BYTES if command is Command.READ else 0
        problem = "no answer"
        for _ in range(self.retries + 1):
            self._transport.write(frame)
            answer = self._answer(expected)
            if answer is None:
                problem = "no answer"
                continue
            status, found = answer
            if status == LinkStatus.OK:
                return found
            doc = status.doc.rstrip(".")
            if status not in _DAMAGED:
                raise ExecutionError(f"{where}: {status.name} ({doc})")
            problem = f"{status.name} ({doc})"
        raise ExecutionError(f"{where}: {problem}, after {self.retries + 1} attempts")

    def _answer(self, expected: int) -> tuple[LinkStatus, bytes] | None:
        """Status and words of the request on its way; None: there is no answer.

        An answer that says that a frame was damaged does not say which: it may be to noise from
        before. Then the request's own answer still comes, and soon.
        """
        deadline = time.monotonic() + self.timeout_s
        damaged: tuple[LinkStatus, bytes] | None = None
        while (left := deadline - time.monotonic()) > 0:
            data = self._transport.read(_CHUNK, left)
            if not data:
                break
            for payload in self._decoder.feed(data):
                if len(payload) < _ANSWER.size:
                    continue
                code, tag = _ANSWER.unpack_from(payload)
                words = payload[_ANSWER.size :]
                if code not in LinkStatus.__members__.values():
                    continue
                status = LinkStatus(code)
                if status in _DAMAGED:
                    damaged = status, b""
                    deadline = min(deadline, time.monotonic() + self.timeout_s / _SOON)
                elif tag == self._tag and len(words) == (
                    expected if status == LinkStatus.OK else 0
                ):
                    return status, words
        return damaged
