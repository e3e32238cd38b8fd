"""The board driver against a board of memory, registers and the emulator."""

import numpy as np
import pytest
from networks import shuffled_network

from palquant.errors import CapacityError, ExecutionError
from palquant.hw import isa
from palquant.hw.presets import geometry
from palquant.hw.registers import IDENTIFICATION, LINK_ADDRESS, REGISTERS, ErrorCode
from palquant.sw.board import BoardDriver, place
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator

MACHINE = geometry("tiny")
MEMORY = 1 << 17


class Board:
    """What the link's client reaches on a board, down to errors that are asked for."""

    def __init__(self, machine=MACHINE):
        self.memory = bytearray(b"\xa5" * MEMORY)
        self.registers = {"GEOMETRY": machine.identity, "STATUS": 0, **IDENTIFICATION}
        self.code = ErrorCode.NONE
        self.written = []
        self.polls = 0

    def read(self, address, words, progress=None):
        if address < LINK_ADDRESS:
            return np.frombuffer(bytes(self.memory[address : address + 4 * words]), "<u4")
        (name,) = (n for n, r in REGISTERS.items() if r.offset == address - LINK_ADDRESS)
        if name == "STATUS" and self.polls:
            self.polls -= 1
            return np.array([REGISTERS[name].encode(busy=1)], np.uint32)
        return np.array([self.registers.get(name, 0)], np.uint32)

    def write(self, address, words, progress=None):
        words = np.asarray(words, "<u4")
        if address < LINK_ADDRESS:
            self.written.append((address, 4 * len(words)))
            self.memory[address : address + 4 * len(words)] = words.tobytes()
            if progress:
                progress(4 * len(words))
            return
        (name,) = (n for n, r in REGISTERS.items() if r.offset == address - LINK_ADDRESS)
        self.registers[name] = int(words[0])
        if name == "CONTROL" and REGISTERS[name].decode(int(words[0]))["start"]:
            self.start()
        elif name == "CONTROL":
            self.registers["STATUS"] = 0

    def start(self):
        self.polls = 3
        if self.code:
            self.registers["STATUS"] = REGISTERS["STATUS"].encode(error=1, code=self.code)
            return
        at = self.registers["IMAGE_ADDRESS"]
        header = isa.IMAGE_HEADER.decode(bytes(self.memory[at : at + isa.HEADER_BYTES]))
        first, size = self.registers["INPUT_ADDRESS"], header["input_bytes"]
        inputs = np.frombuffer(bytes(self.memory[first : first + size]), np.uint8)
        image = bytes(self.memory[at : at + header["image_bytes"]])
        (output,) = Emulator(MACHINE, image).run(inputs[None])
        where = self.registers["OUTPUT_ADDRESS"]
        self.memory[where : where + len(output)] = output.tobytes()
        self.registers["STATUS"] = REGISTERS["STATUS"].encode(done=1)
        self.registers["CYCLES_LOW"], self.registers["CYCLES_HIGH"] = 5, 2


@pytest.fixture(scope="module")
def image():
    return compile_graph(shuffled_network().graph(), MACHINE)


def inputs_of(image, count):
    rng = np.random.default_rng(3)
    shape = (count, *(getattr(image.graph.input.shape, n) for n in ("channels", "height", "width")))
    return image.pack_input(rng.integers(0, 256, shape))


def test_images_run_as_on_the_emulator(image):
    board = Board()
    driver = BoardDriver(board, image, MEMORY)
    driver.identify()
    assert not driver.holds_image()
    done = []
    driver.load(done.append)
    assert done[-1] == len(image.data) - isa.HEADER_BYTES
    assert driver.holds_image()
    regions = inputs_of(image, 2)
    outputs = np.stack([driver.run(region) for region in regions])
    np.testing.assert_array_equal(outputs, Emulator(MACHINE, image.data).run(regions))
    assert driver.cycles() == 5 + (2 << 32)
    assert bytes(board.memory[: len(image.data)]) == image.data


def test_a_load_that_was_interrupted_is_not_taken_for_the_image(image):
    board = Board()
    driver = BoardDriver(board, image, MEMORY)
    driver.load()

    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        driver.load(interrupt)
    assert not driver.holds_image()


def test_regions_fit_or_are_refused(image):
    regions = place(image, MEMORY)
    assert regions.image == 0
    starts = [regions.image, regions.input, regions.output, regions.size]
    sizes = [len(image.data), image.input_bytes, image.output_bytes]
    for start, size, following in zip(starts, sizes, starts[1:], strict=False):
        assert start + size <= following
        assert following - start - size < MACHINE.bus_bytes
    assert place(image, regions.size) == regions
    with pytest.raises(CapacityError, match="--result-only takes less"):
        place(image, regions.size - 1)


@pytest.mark.parametrize("name", ["ID", "VERSION", "GEOMETRY"])
def test_another_machine_is_refused(image, name):
    board = Board()
    board.registers[name] ^= 1
    with pytest.raises(ExecutionError, match=f"register {name} is .* is another bitstream loaded"):
        BoardDriver(board, image, MEMORY).identify()


def test_errors_of_the_accelerator_are_told_and_cleared(image):
    board = Board()
    driver = BoardDriver(board, image, MEMORY)
    driver.load()
    board.code = ErrorCode.OPCODE
    with pytest.raises(ExecutionError, match="stopped: OPCODE: Unknown or illegal instruction"):
        driver.run(inputs_of(image, 1)[0])
    assert REGISTERS["CONTROL"].decode(board.registers["CONTROL"])["reset"]


def test_a_board_that_is_never_done_is_given_up(image, monkeypatch):
    board = Board()
    monkeypatch.setattr(board, "start", lambda: None)
    driver = BoardDriver(board, image, MEMORY, patience_s=0.05)
    with pytest.raises(ExecutionError, match=r"not done after 0\.05 s"):
        driver.run(inputs_of(image, 1)[0])
