"""The client against a device in Python, over a line that loses, damages and invents bytes."""

import random
import re
from pathlib import Path

import numpy as np
import pytest

from palquant.errors import ExecutionError, InputError
from palquant.hw import link
from palquant.hw.link import Command, LinkStatus
from palquant.sw.link import FrameDecoder, LinkClient, checksum, encode_frame

DOCUMENT = Path(__file__).parents[1] / "docs/host-link.md"
END, ESC = link.END, link.ESC
WORD = link.WORD_BYTES


def request(command, tag, address, words=(), *, count=None):
    """A request's payload; ``count`` overrides the number of words."""
    header = {
        "command": command,
        "tag": tag,
        "words": len(words) if count is None else count,
        "address": address,
    }
    data = b"".join(header[field.name].to_bytes(field.bytes, "little") for field in link.REQUEST)
    return data + b"".join(word.to_bytes(WORD, "little") for word in words)


def answer(status, tag=0, words=()):
    """An answer's payload."""
    return bytes([status, tag]) + b"".join(word.to_bytes(WORD, "little") for word in words)


class Device:
    """The link and a memory behind it, as the protocol defines them.

    Parameters:
        memory: Byte address to word. Anything else gives a bus error.
    """

    def __init__(self, memory):
        self.memory = memory
        self.written = []
        self._frame, self._state, self._escaped = bytearray(), "idle", False
        self._last = (b"", b"")

    def pause(self):
        """Nothing arrives for longer than the time-out; returns the payloads of answers."""
        return self._give_up() if self._state == "frame" else []

    def damage(self):
        """A byte was lost on the line."""
        return self._give_up() if self._state != "dropped" else []

    def _give_up(self):
        self._state = "dropped"
        return [answer(LinkStatus.TRUNCATED)]

    def feed(self, data):
        """Take bytes in; returns the payloads of answers."""
        return [found for byte in data for found in self._byte(byte)]

    def _byte(self, byte):
        found, legal = [], not self._escaped or byte in (link.ESC_END, link.ESC_ESC)
        if not legal and self._state != "dropped":
            found = self._give_up()
        if byte == END:
            frame, whole = bytes(self._frame), self._state == "frame"
            self._frame.clear()
            self._state, self._escaped = "idle", False
            return [self.execute(frame)] if whole and legal else found
        if self._state == "idle":
            self._state = "frame"
        if not self._escaped and byte == ESC:
            self._escaped = True
        else:
            if self._escaped:
                byte = END if byte == link.ESC_END else ESC
            self._escaped = False
            self._frame.append(byte)
        return found

    def execute(self, frame):
        """The answer to a frame, checksum included."""
        if len(frame) > link.FRAME_BYTES:
            return answer(LinkStatus.LENGTH)
        if checksum(frame) != link.CHECKSUM_RESIDUE:
            return answer(LinkStatus.CHECKSUM)
        if len(frame) < link.HEADER_BYTES:
            return answer(LinkStatus.LENGTH)
        command, tag, count = frame[:3]
        address = int.from_bytes(frame[3:7], "little")
        if command not in (Command.READ, Command.WRITE):
            return answer(LinkStatus.COMMAND, tag)
        data = frame[link.HEADER_BYTES : -link.CHECKSUM_BYTES]
        expected = WORD * count if command == Command.WRITE else 0
        if count > link.MAX_WORDS or len(frame) < link.HEADER_BYTES + link.CHECKSUM_BYTES:
            return answer(LinkStatus.LENGTH)
        if len(data) != expected:
            return answer(LinkStatus.LENGTH)
        if address % WORD:
            return answer(LinkStatus.ADDRESS, tag)
        if frame == self._last[0]:
            return self._last[1]
        status, words = self._access(command, address, count, data)
        found = answer(status, tag, words if status == LinkStatus.OK else ())
        self._last = (frame, found) if command == Command.WRITE else (b"", b"")
        return found

    def _access(self, command, address, count, data):
        words = []
        for number in range(count):
            place = (address + WORD * number) % (1 << 32)
            if place not in self.memory:
                return LinkStatus.BUS, words
            if command == Command.READ:
                words.append(self.memory[place])
            else:
                word = int.from_bytes(data[WORD * number :][:WORD], "little")
                self.written.append((place, word))
                self.memory[place] = word
        return LinkStatus.OK, words


class Line:
    """A transport to a device.

    Parameters:
        device: The device.
        spoil: What becomes of bytes on their way, for each direction ("there", "back").
        chunk: Most bytes that are read at once.
    """

    def __init__(self, device, spoil=lambda direction, data: data, chunk=1000):
        self.device, self.spoil, self.chunk = device, spoil, chunk
        self.arrived = bytearray()
        self.frames = 0

    def write(self, data):
        self.frames += 1
        for payload in self.device.feed(self.spoil("there", data)):
            self.arrived += self.spoil("back", encode_frame(payload))

    def read(self, maximum, timeout_s):
        assert timeout_s > 0
        if not self.arrived:
            self._answers(self.device.pause())
        size = min(maximum, self.chunk)
        data, self.arrived = bytes(self.arrived[:size]), self.arrived[size:]
        return data

    def _answers(self, payloads):
        for payload in payloads:
            self.arrived += encode_frame(payload)


def memory(words, base=0x1000, seed=0):
    rng = random.Random(seed)
    return {base + WORD * k: rng.getrandbits(32) for k in range(words)}


@pytest.mark.parametrize("words", [0, 1, 2, link.MAX_WORDS, link.MAX_WORDS + 1, 300])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_words_come_back_in_requests_of_any_number(words, chunk):
    device = Device(memory(400))
    client = LinkClient(Line(device, chunk=chunk))
    values = np.random.default_rng(1).integers(0, 1 << 32, words, np.uint32)
    steps = []
    client.write(0x1010, values, steps.append)
    assert device.written == [(0x1010 + WORD * k, int(v)) for k, v in enumerate(values)]
    back = client.read(0x1010, words, steps.append)
    assert back.dtype == np.uint32
    np.testing.assert_array_equal(back, values)
    size = WORD * link.MAX_WORDS
    expected = [*range(size, WORD * words, size), WORD * words] if words else []
    assert steps == expected * 2


def test_frames_are_taken_apart_in_pieces_of_any_size():
    rng = random.Random(3)
    payloads = [rng.randbytes(rng.randrange(60)) + bytes([END, ESC]) for _ in range(50)]
    stream = b"".join(encode_frame(payload) for payload in payloads)
    decoder, found = FrameDecoder(), []
    while stream:
        size = rng.randrange(1, 40)
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == payloads


def test_damaged_frames_are_dropped_and_the_next_one_is_not():
    rng = random.Random(4)
    decoder = FrameDecoder(limit=70)
    for _ in range(200):
        frame = bytearray(encode_frame(rng.randbytes(30)))
        match rng.randrange(4):
            case 0:
                frame[rng.randrange(1, len(frame) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del frame[rng.randrange(1, len(frame) - 1)]
            case 2:
                frame[-1:] = bytes([ESC, END])
            case 3:
                frame = bytearray(encode_frame(rng.randbytes(69)))  # 2 bytes of checksum
        assert decoder.feed(frame) == []
        assert decoder.feed(encode_frame(b"good")) == [b"good"]


def unreliable(seed, share):
    """Loses, damages and invents bytes in a share of all frames."""
    rng = random.Random(seed)

    def spoil(direction, data):
        if rng.random() >= share:
            return data
        place = rng.randrange(len(data))
        return rng.choice(
            [
                b"",
                data[:place],
                data[place:],
                data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
                rng.randbytes(5) + data,
                data + rng.randbytes(3),
                data + data,
            ]
        )

    return spoil


@pytest.mark.parametrize("seed", range(5))
def test_an_unreliable_line_costs_time_and_nothing_else(seed):
    device = Device(memory(500))
    line = Line(device, unreliable(seed, 0.3))
    client = LinkClient(line, retries=30)
    rng = np.random.default_rng(seed)
    expected = []
    for _ in range(60):
        first, count = int(rng.integers(300)), int(rng.integers(1, 130))
        values = rng.integers(0, 1 << 32, count, np.uint32)
        client.write(0x1000 + WORD * first, values)
        expected += [(0x1000 + WORD * (first + k), int(v)) for k, v in enumerate(values)]
        np.testing.assert_array_equal(client.read(0x1000 + WORD * first, count), values)
    assert device.written == expected, "a WRITE was lost or executed twice"
    assert line.frames > 60 * 4


def test_a_write_whose_answer_is_lost_is_executed_once():
    device, lost = Device(memory(4)), [0]

    def spoil(direction, data):
        if direction == "back" and data[1] == LinkStatus.OK and device.written and lost[0] < 3:
            lost[0] += 1
            return b""
        return data

    client = LinkClient(Line(device, spoil))
    client.write(0x1000, [7])
    assert (device.written, lost) == ([(0x1000, 7)], [3])
    client.write(0x1000, [7])
    assert device.written == [(0x1000, 7)] * 2


def test_a_new_session_is_not_mistaken_for_a_repetition():
    device = Device(memory(4))
    for _ in range(3):
        LinkClient(Line(device)).write(0x1000, [7])
    assert device.written == [(0x1000, 7)] * 3


def test_answers_to_earlier_requests_are_ignored():
    device = Device(memory(8))
    line = Line(device)
    client = LinkClient(line)
    client.synchronize()
    line.arrived += encode_frame(answer(LinkStatus.OK, 99, [1]))
    line.arrived += encode_frame(b"") + encode_frame(b"\x00") + encode_frame(b"\x77\x02")
    line.arrived += encode_frame(answer(LinkStatus.OK, 2))  # a READ's has words
    assert client.read(0x1004, 1) == [device.memory[0x1004]]


def test_answers_to_noise_from_before_are_not_taken_for_the_requests():
    device = Device(memory(8))
    line = Line(device)
    client = LinkClient(line, retries=0)
    for status in (LinkStatus.CHECKSUM, LinkStatus.LENGTH, LinkStatus.TRUNCATED) * 3:
        line.arrived += encode_frame(answer(status))
    assert client.read(0x1004, 1) == [device.memory[0x1004]]


def test_the_bus_refuses():
    client = LinkClient(Line(Device(memory(4))))
    with pytest.raises(ExecutionError, match=r"^link: READ of 3 words at 0x1008: BUS \(The bus"):
        client.read(0x1008, 3)
    with pytest.raises(ExecutionError, match=r"^link: WRITE of 1 words at 0xffc: BUS"):
        client.write(0xFFC, [1])
    assert len(client.read(0x1008, 2)) == 2


def test_nobody_answers():
    lines = [
        (Line(Device({}), lambda direction, data: b""), "no answer, after 3 attempts"),
        (Line(Device({}), lambda direction, data: data[:5] + bytes([END])
              if direction == "there" else data), "CHECKSUM .*, after 3 attempts"),
        (Line(Device({}), lambda direction, data: data[:5]
              if direction == "there" else data), "TRUNCATED .*, after 3 attempts"),
    ]  # fmt: skip
    for line, message in lines:
        client = LinkClient(line, retries=2)
        with pytest.raises(ExecutionError, match=f"link: READ of 0 words at 0x0: {message}"):
            client.write(0, [1])
        assert line.frames == 3


@pytest.mark.parametrize(
    ("address", "words", "message"),
    [
        (2, [1], "1 words at address 0x2; addresses are multiples of 4"),
        (-4, [1], "1 words at address -0x4"),
        (0xFFFFFFFC, [1, 2], "2 words at address 0xfffffffc"),
        (0, [[1]], r"words of shape \(1, 1\) and type int64"),
        (0, [1.0], "type float64"),
        (0, [-1], "a word is outside"),
        (0, [1 << 32], "a word is outside"),
    ],
)
def test_what_cannot_be_sent_is_refused(address, words, message):
    line = Line(Device({}))
    with pytest.raises(InputError, match=message):
        LinkClient(line).write(address, words)
    if np.ndim(words) == 1 and "address" in message:
        with pytest.raises(InputError, match=message):
            LinkClient(line).read(address, len(words))
    assert not line.frames
    with pytest.raises(InputError, match="-1 words at address 0x0"):
        LinkClient(line).read(0, -1)


def test_settings_are_checked():
    for settings in ({"timeout_s": 0}, {"retries": -1}, {"timeout_s": float("nan")}):
        with pytest.raises(InputError, match="link: a time-out of"):
            LinkClient(Line(Device({})), **settings)


def test_the_documented_frames_are_those_of_the_code():
    text = DOCUMENT.read_text()
    frames = [bytes.fromhex(found) for found in re.findall(r"^ {4}((?:[0-9a-f]{2} ?)+)$", text,
                                                          re.MULTILINE)]  # fmt: skip
    words = [0xC0, 0x12345678]
    write = request(Command.WRITE, 1, 0x1000, words)
    read = request(Command.READ, 2, 0x1000, count=2)
    device = Device(memory(2))
    answers = [device.feed(encode_frame(payload))[0] for payload in (write, read)]
    assert answers[1] == answer(LinkStatus.OK, 2, words)
    assert frames == [
        encode_frame(write), encode_frame(answers[0]), encode_frame(read), encode_frame(answers[1]),
    ]  # fmt: skip


def test_the_documented_tables_are_those_of_the_code():
    text = " ".join(DOCUMENT.read_text().split())
    for member in (*Command, *LinkStatus):
        assert f"| {member:d} | `{member.name}` | {member.doc} |" in text
    for header in (link.REQUEST, link.ANSWER):
        for field in header:
            assert f"| {field.name} | {field.bytes} | {field.doc} |" in text
    assert f"at most {link.MAX_WORDS} words" in text
    assert f"more than {link.FRAME_BYTES} bytes" in text
