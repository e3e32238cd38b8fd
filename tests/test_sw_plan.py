"""Layers join where that saves the bus traffic, and nothing that fits on chip leaves it."""

import dataclasses

import pytest
from networks import Builder, drawer, shuffled_network

from palquant.errors import CapacityError
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.fuse import Group
from palquant.sw.graph import Add

TINY = PRESETS["tiny"]


def traffic(builder, machine):
    """Bus beats of one image, and the tensors that go to DRAM."""
    image = compile_graph(builder.graph(), machine, keep_all=False)
    emulator = Emulator(machine, image.data)
    outputs = emulator.run(image.pack_input(builder.codes[:1]))
    expected = {name: values[:1] for name, values in builder.values.items()}
    require_equal(compare_outputs(image, outputs, expected))
    counts = emulator.statistics
    return counts.beats_read + counts.beats_written, set(image.tensors)


@pytest.mark.parametrize("weight_words", [64, 256, 1024])
@pytest.mark.parametrize(("activation_words", "residual_words"), [(256, 192), (512, 384)])
@pytest.mark.parametrize(("size", "groups", "channels"), [(8, 1, 32), (12, 2, 16), (16, 2, 8)])
def test_joining_never_costs_the_bus(
    size, groups, channels, activation_words, residual_words, weight_words, monkeypatch
):
    b = shuffled_network(size, groups, channels)
    machine = dataclasses.replace(
        TINY, activation_words=activation_words, residual_words=residual_words,
        output_words=256, weight_words=weight_words,
    )  # fmt: skip
    together, _ = traffic(b, machine)
    monkeypatch.setattr(Group, "joins", lambda group, member: False)
    try:
        apart, _ = traffic(b, machine)
    except CapacityError:
        return  # fits as strips alone
    assert together <= apart


@pytest.mark.parametrize(("name", "size", "channels"), [("tiny", 16, 24), ("kilomac", 32, 64)])
def test_what_is_read_with_a_halo_as_well_stays(name, size, channels):
    """y = x + conv3x3(quantize(x)): the codes have a halo, so nothing joins, and x must stay."""
    b = Builder(drawer(3))
    x = b.affine("x", b.convolution("stem", b.start(1, size, size), channels, 8))
    acc = b.convolution("conv", b.quantize("codes", x, 2), channels, 2)
    b.add(Add(name="y", a=b.affine("branch", acc), b=x))
    _, stored = traffic(b, PRESETS[name])
    assert stored == {"y"}


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(
    ("kernel", "padding", "stride"),
    [((1, 1), (2, 2), (1, 1)), ((3, 3), (5, 5), (1, 1)), ((2, 2), (3, 3), (2, 2))],
)
def test_strips_of_nothing_but_padding(kernel, padding, stride, share, monkeypatch):
    monkeypatch.setattr("palquant.sw.compile.RESIDENT_SHARES", (share,))
    b = Builder(drawer(3))
    stem = b.convolution("stem", b.start(4, 9, 9), 16, 8, kernel=(1, 1), padding=(0, 0))
    codes = b.quantize("codes", b.affine("x", stem), 2)
    b.affine("y", b.convolution("conv", codes, 16, 2, kernel=kernel, stride=stride,
                                padding=padding))  # fmt: skip
    traffic(b, dataclasses.replace(TINY, activation_words=256, output_words=128,
                                   residual_words=128))  # fmt: skip
