"""The boards' table, and the constraints that are made of it."""

import pytest

from palquant.errors import ConfigurationError
from palquant.hw.bitstream import constraints
from palquant.hw.boards import BAUD, BOARDS, board
from palquant.hw.place_and_route import DEVICES
from palquant.hw.presets import PRESETS


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_can_be_built(name):
    item = board(name)
    assert item.name == name
    assert item.preset in PRESETS
    assert item.device in DEVICES
    assert item.clock_hz % BAUD == 0
    assert item.divisor >= 4
    assert item.memory_bytes == item.memory_rows * item.geometry.bus_bits // 8


@pytest.mark.parametrize("name", [name for name in BOARDS if BOARDS[name].loop])
def test_loops_keep_to_their_ranges(name):
    """ECP5 data sheet (FPGA-DS-02012), sysCLOCK PLL timing."""
    item = board(name)
    compared = item.oscillator_hz / item.loop.divider
    assert 3.125e6 <= compared <= 400e6
    assert 400e6 <= item.clock_hz * item.loop.output <= 800e6
    assert item.clock_hz == compared * item.loop.feedback


def test_pins_of_the_ulx3s():
    lines = constraints(board("ulx3s")).splitlines()
    assert 'LOCATE COMP "clk" SITE "G2";' in lines
    assert 'LOCATE COMP "rx" SITE "M1";' in lines
    assert 'LOCATE COMP "tx" SITE "L4";' in lines
    assert 'LOCATE COMP "led" SITE "B2";' in lines
    assert 'IOBUF PORT "rx" PULLMODE=UP IO_TYPE=LVCMOS33;' in lines
    assert 'LOCATE COMP "wifi_gpio0" SITE "L2";' in lines
    assert 'FREQUENCY PORT "clk" 25 MHZ;' in lines


def test_unknown_boards_are_refused():
    with pytest.raises(ConfigurationError, match="no board is called 'pynq' \\(boards: ulx3s"):
        board("pynq")
