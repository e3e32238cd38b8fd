"""Fields that a layer's shape decides, and layers for which a field is too narrow."""

import pytest
from networks import Builder, drawer

from palquant.errors import UnsupportedLayerError
from palquant.hw.isa import Opcode
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import Add, Clamp

TINY = PRESETS["tiny"]


def scattered(groups, second_bits):
    """A layer that scatters an 8-bit code and another one over all groups."""
    b = Builder(drawer(1))
    channels = 8 * groups
    x = b.affine("r0", b.convolution("stem", b.start(1, 2, 2), channels, 8))
    codes = b.quantize("q", x, 2)
    down = b.affine("r1", b.convolution("down", codes, channels, 2, groups=groups))
    r = b.affine("r2", b.convolution("conv", codes, channels, 2, groups=groups))
    total = b.add(Add(name="sum", a=b.shuffle("shuffled", r, groups), b=down))
    b.add(Clamp(name="first", input=total))
    if second_bits == 8:
        b.add(Clamp(name="second", input=total))
    else:
        b.quantize("second", total, second_bits)
    return b


@pytest.mark.parametrize("keep_all", [True, False])
def test_more_steps_than_their_field_holds_are_refused(keep_all):
    with pytest.raises(
        UnsupportedLayerError,
        match=r"conv: writes codes of 8 and 8 bits, scattered over 8 groups, which takes 64 memory "
        r"steps for each beat \(supported: at most 63\)$",
    ):
        compile_graph(scattered(8, 8).graph(), TINY, keep_all)


@pytest.mark.parametrize(("groups", "second_bits", "steps"), [(7, 8, 56), (8, 4, 48)])
def test_fewer_groups_or_narrower_codes_fit(groups, second_bits, steps):
    b = scattered(groups, second_bits)
    image = compile_graph(b.graph(), TINY)
    emulator = Emulator(TINY, image.data)
    computes = [f for _, opcode, f in emulator.program if opcode is Opcode.COMPUTE]
    assert max(f["steps"] for f in computes) == steps
    output = emulator.run(image.pack_input(b.codes))
    require_equal(compare_outputs(image, output, b.values))
