"""Networks that start with a residual and end with pooled sums: what hosts leave to the machine.

Every value of every tensor is equal in reference, emulator and RTL, on chip or through DRAM.
"""

import dataclasses

import numpy as np
import pytest
from networks import Builder, basic_block, cyclic_shuffle, drawer

from palquant.hw.isa import Base, Memory, Opcode
from palquant.hw.presets import PRESETS
from palquant.sim.bus import Bus
from palquant.sim.driver import Simulator
from palquant.sim.predict import predict
from palquant.sim.run import profile
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import Input, Kind, Logits, MaxPool, Normalization, Shape, SumPool

TINY = PRESETS["tiny"]
#: Little memory: the input is loaded strip by strip, for each layer that reads it.
SMALL = dataclasses.replace(
    TINY, name="small", weight_words=256, activation_words=512, output_words=256,
    residual_words=256, parameter_slots=8, queue_depth=2,
)  # fmt: skip
#: More units than input lanes, fewer post-processor lanes than both, a narrow bus.
WIDE = dataclasses.replace(
    TINY, name="wide", tout=16, lanes=4, bus_bits=32, output_words=4096, residual_words=8192
)
MACHINES = {machine.name: machine for machine in (TINY, SMALL, WIDE)}


def residual_input(b, channels, height, width, bits, images=2):
    """A network input that holds residuals of the whole range, its ends included."""
    b.residual_bits = bits
    limit = 1 << (bits - 1)
    b.codes = b.rng.integers(-limit, limit, (images, channels, height, width), np.int16)
    b.codes.ravel()[:2] = -limit, limit - 1
    norm = Normalization((0.0,) * channels, (1.0,) * channels, 1.0)
    return b.add(
        Input(name="features", shape=Shape(channels, height, width), bits=bits, zero_point=0,
              normalization=norm, residual=True)
    )  # fmt: skip


def pooled_sums(b, source):
    """The last pooling's exact sums, as raw results."""
    size = b.values[source].shape[2:]
    total = b.add(SumPool(name="pool", input=source, kernel=size, stride=(1, 1)))
    channels = b.values[source].shape[1]
    offset, scale = np.zeros(channels, np.int64), np.full(channels, 0.5)
    return b.add(Logits(name="result", input=total, offset=offset, scale=scale))


def check(machine, b, image, bus):
    """Compare emulator and RTL with the reference, and the cycles with their prediction."""
    inputs = image.pack_input(b.codes)
    emulated = Emulator(machine, image.data, bus.seed).run(inputs)
    require_equal(compare_outputs(image, emulated, b.values))
    result = Simulator(machine).run(image.data, inputs, image.output_bytes, bus=bus)
    assert require_equal(compare_outputs(image, result.outputs, b.values)) > 0
    return result


def input_loads(image):
    """Memories that the program loads the input region into."""
    program = Emulator(image.geometry, image.data).program
    return [Memory(f["memory"]) for _, opcode, f in program
            if opcode is Opcode.LOAD and f["base"] == Base.INPUT]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "seed"),
    [*(("tiny", seed) for seed in range(4)), ("small", 1), ("small", 2), ("wide", 0), ("wide", 3)],
)
def test_every_value_of_residual_networks(name, seed):
    machine = MACHINES[name]
    b = Builder(drawer(seed))
    groups = (1, 2, 3, 2)[seed]
    width = groups * (8, 5, 4, 16)[seed]
    x = residual_input(b, width, 6, (6, 5, 7, 1)[seed], (16, 8, 12, 16)[seed])
    x = basic_block(b, "block1", x, width, groups, 1)  # adds the input itself
    if groups > 1:
        x = cyclic_shuffle(b, "shuffle", x, groups)
    x = basic_block(b, "block2", x, 2 * width, groups, 2)
    pooled_sums(b, x)
    image = compile_graph(b.graph(), machine, keep_all=seed % 2 == 0)
    assert set(input_loads(image)) == {Memory.RESIDUAL}
    assert len(np.unique(b.values["result"])) > width
    check(machine, b, image, Bus(latency=20, stall=0.2, seed=seed, interleave=True))


def test_an_input_that_does_not_fit_on_chip_is_loaded_where_it_is_read():
    b = Builder(drawer(6))
    x = residual_input(b, 16, 24, 24, 16)
    basic_block(b, "block", x, 16, 2, 1)
    small, large = (compile_graph(b.graph(), machine) for machine in (SMALL, TINY))
    assert small.input.words > SMALL.residual_words
    assert len(input_loads(small)) > len(input_loads(large)) == 1
    for machine, image in ((SMALL, small), (TINY, large)):
        check(machine, b, image, Bus(latency=30, stall=0.1, seed=3))


@pytest.mark.parametrize("result", ["pooled", "max-pool", "codes"])
def test_whatever_may_read_a_residual_may_read_the_input(result):
    b = Builder(drawer(9))
    x = residual_input(b, 12, 6, 6, 12)
    match result:
        case "pooled":
            pooled_sums(b, x)
        case "max-pool":
            b.add(MaxPool(name="result", input=x, kernel=(3, 3), stride=(2, 2), padding=(1, 1)))
        case _:
            b.quantize("result", x, 4)
    check(TINY, b, compile_graph(b.graph(), TINY), Bus(latency=20, stall=0.2, seed=1))


def test_cycles_are_predicted_and_every_further_image_is_right():
    b = Builder(drawer(11))
    x = residual_input(b, 16, 8, 8, 16, images=3)
    pooled_sums(b, basic_block(b, "block", x, 32, 2, 2))
    image = compile_graph(b.graph(), TINY)
    check(TINY, b, image, Bus(latency=20, stall=0.3, seed=2))
    bus = Bus(latency=50)
    result = Simulator(TINY).run(image.data, image.pack_input(b.codes[:1]), image.output_bytes,
                                 bus=bus)  # fmt: skip
    found = [layer.cycles for layer in profile(image, result).layers]
    assert found == [layer.cycles for layer in predict(image, bus).profile.layers]


def test_the_result_may_be_a_residual():
    b = Builder(drawer(5))
    x = residual_input(b, 8, 4, 4, 16)
    total = b.add(SumPool(name="pool", input=x, kernel=(4, 4), stride=(1, 1)))
    b.affine("result", total)
    image = compile_graph(b.graph(), TINY)
    assert image.graph.types["result"].kind is Kind.RESIDUAL
    check(TINY, b, image, Bus(latency=20, seed=4))
