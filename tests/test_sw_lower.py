"""What is fused, and which tensors exist at all."""

import pytest
from networks import Builder, drawer

from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator


@pytest.mark.parametrize("stored", [False, True])
def test_a_residual_that_only_quantisers_read_through_a_permutation(stored):
    """It need not be stored; its codes take the permutation over."""
    b = Builder(drawer(1))
    x = b.affine("r", b.convolution("stem", b.start(1, 4, 4), 16, 8))
    mixed = b.rotation("mixed", x, 2)
    if stored:
        b.affine("again", x)
    b.quantize("q1", mixed, 2)
    b.quantize("q2", mixed, 4)
    image = compile_graph(b.graph(), PRESETS["tiny"])
    assert ("r" in image.tensors) == stored
    output = Emulator(image.geometry, image.data).run(image.pack_input(b.codes))
    assert require_equal(compare_outputs(image, output, b.values)) > 0
