"""``palquant bitstream`` and ``palquant host``: a whole board, down to its serial pins."""

import dataclasses
import json
import os

import numpy as np
import pytest

from palquant.board import SerialTransport
from palquant.cli import main
from palquant.golden.data import load_digits_split
from palquant.hw import boards
from palquant.hw.link import END
from palquant.sim.board import SimulatedBoard
from palquant.sim.board_build import build_simulated_board
from palquant.sw.board import BoardDriver
from palquant.sw.image import load_image
from palquant.sw.link import LinkClient
from palquant.sw.normalize import input_values

TRAIN = ["train", "--base-width", "4", "--epochs", "1", "--quiet"]
#: The ULX3S with a smaller machine, and with a line ten times as fast to simulate.
SMALL = dataclasses.replace(boards.BOARDS["ulx3s"], name="small", preset="tiny")
FAST_BAUD = 10 * boards.BAUD


@pytest.fixture(autouse=True)
def small_board(monkeypatch):
    monkeypatch.setitem(boards.BOARDS, "small", SMALL)
    monkeypatch.setattr(boards, "BAUD", FAST_BAUD)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A network compiled for boards and for another machine, and images."""
    folder = tmp_path_factory.mktemp("board")
    assert main([*TRAIN, "-o", str(folder / "digits")]) == 0
    model = str(folder / "digits" / "model.npz")
    for name in ("ulx3s", "tiny"):
        assert main(["compile", model, "--geometry", name, "-o", str(folder / name)]) == 0
    split = load_digits_split()
    np.save(folder / "images.npy", split.test_images[:2])
    np.save(folder / "labels.npy", split.test_labels[:2])
    return folder


def host(workspace, *options):
    return main(["host", str(workspace / "tiny"), "--board", "small", "--quiet",
                 "--input", str(workspace / "images.npy"), *options])  # fmt: skip


def test_digits_over_a_simulated_boards_serial_line(workspace, capsys):
    report_file = workspace / "host.json"
    status = host(workspace, "--simulate", "--labels", str(workspace / "labels.npy"),
                  "--json", str(report_file))  # fmt: skip
    assert status == 0
    report = json.loads(report_file.read_text())
    assert report["simulated"]
    assert report["mismatches"] == 0
    assert report["values_compared"] > 10_000  # every tensor is stored
    assert len(report["predictions"]) == len(report["cycles"]) == 2
    assert 0 <= report["top1"] <= 1
    assert "0 mismatches" in capsys.readouterr().out


def test_the_line_stays_usable_whatever_is_on_it(workspace):
    """Noise of all kinds, and then an image."""
    target, image = SMALL, load_image(workspace / "tiny")
    simulator = build_simulated_board(target, image.data)
    rng = np.random.default_rng(0)
    with SimulatedBoard(simulator, divisor=target.divisor) as simulated:
        port = SerialTransport(simulated.terminal)
        port.write(rng.bytes(300))
        port.write(bytes([END, 1, 7, 4]))  # the beginning of a READ, and then silence
        port.write(bytes([END]) * 5 + bytes([END, 99, 1, 1, 0, 0, 0, 0, 0xAA, 0xBB, END]))
        driver = BoardDriver(LinkClient(port, timeout_s=60), image, target.memory_bytes)
        driver.identify()
        assert driver.holds_image()  # the bitstream has it
        images = np.load(workspace / "images.npy")
        (region,) = image.pack_input(input_values(images[:1], image.graph))
        output = driver.run(region)
        port.close()
    assert image.predict(output[None]).shape == (1,)


def test_a_port_or_a_simulation(workspace, capsys):
    assert host(workspace) == 1
    assert host(workspace, "--simulate", "--port", "/dev/null") == 1
    assert capsys.readouterr().err.count("give either --port, or --simulate") == 2


def test_a_netlist_that_is_none_is_refused(workspace, capsys):
    assert host(workspace, "--port", "/dev/null", "--netlist", "top.v") == 1
    assert "--netlist is for --simulate alone" in capsys.readouterr().err
    assert host(workspace, "--simulate", "--netlist", "/nowhere/top.v") == 1
    assert "/nowhere/top.v: cannot read the netlist: No such file" in capsys.readouterr().err
    other = workspace / "other.v"
    other.write_text("module other(); endmodule")
    assert host(workspace, "--simulate", "--netlist", str(other)) == 1
    assert "has no module palquant_board" in capsys.readouterr().err


def test_a_port_that_is_none_is_named(workspace, capsys):
    assert host(workspace, "--port", "/nowhere/tty") == 1
    assert "/nowhere/tty: cannot open this serial port" in capsys.readouterr().err
    plain = workspace / "plain"
    plain.write_text("")
    assert host(workspace, "--port", str(plain)) == 1
    assert f"{plain}: cannot open this serial port" in capsys.readouterr().err


def test_a_silent_port_is_given_up(workspace, capsys, monkeypatch):
    monkeypatch.setattr("palquant.board.ANSWER_SECONDS", 0.05)
    first, second = os.openpty()
    try:
        assert host(workspace, "--port", os.ttyname(second)) == 1
    finally:
        os.close(first)
        os.close(second)
    assert "no answer" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["host", "bitstream"])
def test_an_image_for_another_machine_is_refused(workspace, tmp_path, capsys, command):
    others = {
        "host": ["--simulate", "--input", str(workspace / "images.npy")],
        "bitstream": ["-o", str(tmp_path / "out")],
    }
    arguments = [command, str(workspace / "tiny"), "--board", "ulx3s", *others[command]]
    assert main(arguments) == 1
    assert "compiled for tiny; the ulx3s needs --geometry ulx3s" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_board_is_refused(workspace, tmp_path, capsys):
    arguments = ["bitstream", str(workspace / "ulx3s"), "--board", "pynq", "-o", str(tmp_path)]
    assert main(arguments) == 1
    assert "no board is called 'pynq' (boards: ulx3s" in capsys.readouterr().err
