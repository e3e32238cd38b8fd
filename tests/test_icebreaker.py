"""The iCEBreaker: a machine for an iCE40UP5K, from a network to its serial pins."""

import dataclasses
import json

import numpy as np
import pytest

from palquant.cli import main
from palquant.errors import CapacityError, InputError, InstructionError, RangeError
from palquant.golden.config import NetworkConfig
from palquant.golden.data import load_digits_split
from palquant.golden.random_network import calibrated_graph
from palquant.golden.reference import run as run_reference
from palquant.hw import isa
from palquant.hw.bitstream import constraints
from palquant.hw.boards import board
from palquant.hw.place_and_route import DEVICES
from palquant.hw.presets import geometry
from palquant.sim.driver import Simulator
from palquant.sim.predict import predict
from palquant.sim.run import run_emulator
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.model import save_model
from palquant.sw.normalize import to_codes
from palquant.sw.regions import Regions

GEOMETRY = geometry("icebreaker")
#: What all networks for it have: no residual additions, 2-bit weights, narrow residuals.
NETWORK = {
    "base_width": 4, "block": "plain", "blocks": (1, 1), "residual_bits": 12,
    "stem_bits": 2, "classifier_bits": 2, "shuffle": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return load_digits_split().train_images[:64]


def graph_of(images, **changes):
    return calibrated_graph(NetworkConfig(**NETWORK | changes), 1, images)


@pytest.mark.parametrize(
    "changes", [{}, {"groups": 1}, {"base_width": 8, "blocks": (1, 1, 1)}], ids=str
)
@pytest.mark.parametrize("keep_all", [False, True])
def test_every_value_equals_the_reference(images, changes, keep_all):
    graph = graph_of(images, **changes)
    image = compile_graph(graph, GEOMETRY, keep_all=keep_all)
    codes = to_codes(images[:1], graph.input)
    expected = run_reference(graph, codes)
    require_equal(compare_outputs(image, run_emulator(image, images[:1]), expected))
    result = Simulator(GEOMETRY).run(image.data, image.pack_input(codes), image.output_bytes)
    assert require_equal(compare_outputs(image, result.outputs, expected)) > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"block": "basic"}, "makes 2 tensors of codes, but geometry icebreaker writes 1"),
        ({"activation_bits": 4}, "codes of 4 bits, but geometry icebreaker has thresholds for 2"),
        ({"stem_bits": 8}, "weights of 8 bits, but geometry icebreaker multiplies by 1 of their"),
        ({"shuffle": True}, "adds a residual, which geometry icebreaker does not do"),
    ],
)
def test_networks_that_it_cannot_run_are_refused(images, changes, text):
    with pytest.raises(RangeError, match=text):
        compile_graph(graph_of(images, **changes), GEOMETRY)


def test_values_and_addresses_that_it_does_not_hold_are_refused():
    with pytest.raises(InstructionError, match=r"stride_rows is 8; geometry icebreaker holds 0..7"):
        isa.COMPUTE.require_held({"stride_rows": 8}, GEOMETRY)
    with pytest.raises(CapacityError, match="addresses of geometry icebreaker have 17 bits"):
        Regions.place(GEOMETRY, 1 << 16, 1 << 12, 1 << 16, 1)


def test_its_cycles_are_not_predicted(images):
    with pytest.raises(InputError, match="geometry icebreaker cannot be predicted"):
        predict(compile_graph(graph_of(images), GEOMETRY))


def test_what_changes_no_image_changes_no_identity():
    for change in ({"overlap": True}, {"checks": True}, {"diagnosis": True, "watchdog_bits": 32}):
        changes = change if "overlap" not in change else change | {"beat_cycles": 1}
        same = dataclasses.replace(GEOMETRY, **changes)
        assert (same.identity == GEOMETRY.identity) is ("overlap" not in change)
    tiny = geometry("tiny")
    assert dataclasses.replace(tiny, address_bits=14).identity != tiny.identity


def test_pins():
    lines = constraints(board("icebreaker")).splitlines()
    assert "set_io clk 35" in lines
    assert "set_io -pullup yes rx 6" in lines
    assert "set_io -pullup yes tx 9" in lines
    assert "set_io led 11" in lines
    assert "set_frequency clk 12" in lines


def test_a_network_for_it_is_trained(tmp_path):
    """The commands of docs/boards.md, with one epoch: the model compiles, and classifies."""
    out, image = tmp_path / "plain", str(tmp_path / "image")
    train = ["train", "--architecture", "plain", "--base-width", "8", "--no-shuffle",
             "--residual-bits", "12", "--stem-bits", "2", "--classifier-bits", "2",
             "--epochs", "1", "--quiet", "-o", str(out)]  # fmt: skip
    assert main(train) == 0
    compile_ = ["compile", str(out / "model.npz"), "--geometry", "icebreaker", "--result-only"]
    assert main([*compile_, "-o", image]) == 0
    found = tmp_path / "report.json"
    simulate = ["simulate", image, "--backend", "emulator", "--json", str(found),
                "--input", str(out / "heldout_images.npy"),
                "--labels", str(out / "heldout_labels.npy")]  # fmt: skip
    assert main(simulate) == 0
    assert json.loads(found.read_text())["top1"] > 0.5


@pytest.mark.timeout(3600)
def test_bitstream_and_its_netlist(images, tmp_path):
    """All of it fits and is fast enough, and the cells that were placed compute a digit."""
    save_model(graph_of(images), tmp_path / "model.npz")
    np.save(tmp_path / "images.npy", images[:1])
    image, output = str(tmp_path / "image"), tmp_path / "bitstream"
    model = str(tmp_path / "model.npz")
    assert main(["compile", model, "--geometry", "icebreaker", "-o", image]) == 0
    build = ["bitstream", "--board", "icebreaker", image, "-o", str(output), "--quiet"]
    assert main(build) == 0
    report = json.loads((output / "report.json").read_text())
    assert report["fmax_mhz"] >= report["clock_mhz"] == 12
    for name, item in report["resources"].items():
        assert item["used"] <= DEVICES["ice40up5k"].resources.get(name, item["available"])
    assert report["resources"]["ICESTORM_SPRAM"]["used"] == 4
    netlist = str(output / "palquant_board_netlist.v")
    found = tmp_path / "host.json"
    run = ["host", image, "--board", "icebreaker", "--simulate", "--netlist", netlist, "--quiet",
           "--input", str(tmp_path / "images.npy"), "--json", str(found)]  # fmt: skip
    assert main(run) == 0
    compared = json.loads(found.read_text())
    assert compared["mismatches"] == 0
    assert compared["values_compared"] > 1000
