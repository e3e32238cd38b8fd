"""Whole networks through reference, emulator and RTL: every value of every tensor is equal.

Memories on chip and off are poisoned before each run, and the bus stalls at random.
"""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from networks import (
    Builder,
    basic_block,
    drawer,
    pooled_network,
    random_network,
    shuffled_network,
    strided_network,
)  # fmt: skip

from palquant.errors import CapacityError, RangeError
from palquant.hw.carry_chain import Technology
from palquant.hw.config import Geometry
from palquant.hw.generate import verilog
from palquant.hw.isa import ADDRESS_BITS, Opcode
from palquant.hw.presets import PRESETS
from palquant.sim.build import build_driver
from palquant.sim.bus import Bus
from palquant.sim.driver import Simulator
from palquant.sim.run import profile
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.accesses import adds_in_place
from palquant.sw.compile import RESIDENT_SHARES, compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import Add, Convolution, Input, Normalization, Quantize, Shape
from palquant.sw.image import MemoryImage

TINY = PRESETS["tiny"]
#: Little memory: tensors pass through DRAM, layers are cut into tiles, queues are short.
SMALL = dataclasses.replace(
    TINY, name="small", weight_words=256, activation_words=512, output_words=256,
    residual_words=256, parameter_slots=8, queue_depth=2,
)  # fmt: skip
#: More input lanes than units, 8-bit residuals, short bursts.
MIXED = dataclasses.replace(
    TINY, name="mixed", tin=16, residual_bits=8, residual_words=8192, burst_beats=4
)
#: More units than input lanes, fewer post-processor lanes than both, a narrow bus.
WIDE = dataclasses.replace(
    TINY, name="wide", tout=16, lanes=4, bus_bits=32, output_words=4096, residual_words=8192
)


def check(machine: Geometry, builder: Builder, image: MemoryImage, bus: Bus) -> None:
    """Compare emulator and RTL with the reference's values, and account for every cycle."""
    inputs = image.pack_input(builder.codes)
    emulated = Emulator(machine, image.data, bus.seed).run(inputs)
    require_equal(compare_outputs(image, emulated, builder.values))
    result = Simulator(machine).run(image.data, inputs, image.output_bytes, bus=bus)
    assert require_equal(compare_outputs(image, result.outputs, builder.values)) > 0
    cycles = profile(image, result)
    # the machine's own counters: every cycle has exactly one cause
    causes = [name for name in result.counters if name in cycles.activity]
    assert sum(result.counters[name] for name in causes) == result.counters["CYCLES"]
    assert {name: result.counters[name] for name in causes if result.counters[name]} == {
        name: count for name, count in cycles.activity.items() if count and name != "OUTSIDE"
    }
    assert cycles.activity["OUTSIDE"] == result.cycles - result.counters["CYCLES"]


def random_check(machine: Geometry, data: st.DataObject) -> None:
    builder = random_network(
        lambda low, high: data.draw(st.integers(low, high)), machine.residual_bits
    )
    # Where nothing may stay on chip, layers pass strips to each other.
    shares = data.draw(st.sampled_from([RESIDENT_SHARES, (0.0,)]))
    try:
        with mock.patch("palquant.sw.compile.RESIDENT_SHARES", shares):
            image = compile_graph(builder.graph(), machine, keep_all=data.draw(st.booleans()))
    except (CapacityError, RangeError):
        # little memory, or none to stay in; thresholds of 24 bits
        assert machine in (SMALL, PRESETS["kilomac"]) or shares == (0.0,)
        reject()
    stall = data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    seed = data.draw(st.integers(0, 1000))
    check(machine, builder, image, Bus(latency=data.draw(st.integers(1, 80)), stall=stall,
                                       seed=seed, interleave=data.draw(st.booleans())))  # fmt: skip


QUICK = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    # Shrinking reruns the simulation hundreds of times; the failing draw is printed all the same.
    "phases": (Phase.explicit, Phase.reuse, Phase.generate),
}


@settings(max_examples=60, **QUICK)
@given(data=st.data())
def test_random_networks_on_tiny(data):
    random_check(TINY, data)


@pytest.mark.parametrize("machine", [SMALL, MIXED, WIDE], ids=lambda machine: machine.name)
@settings(max_examples=20, **QUICK)
@given(data=st.data())
def test_random_networks_on_other_geometries(machine, data):
    random_check(machine, data)


@settings(max_examples=4, **QUICK)
@given(data=st.data())
def test_random_networks_on_kilomac(data):
    random_check(PRESETS["kilomac"], data)


@pytest.mark.parametrize("weight_bits", [2, 4, 8])
@pytest.mark.parametrize("activation_bits", [2, 4, 8])
@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_all_precision_pairs_and_groups(weight_bits, activation_bits, groups):
    b = Builder(drawer(weight_bits + 16 * activation_bits + groups))
    codes = codes_input(b, (2, groups * 7, 5, 6), activation_bits)
    acc = b.convolution("conv", codes, groups * 9, weight_bits, groups=groups, stride=(1, 2))
    b.affine("result", acc)
    check(TINY, b, compile_graph(b.graph(), TINY), Bus(latency=10, stall=0.1, seed=groups))


def codes_input(b: Builder, shape: tuple[int, int, int, int], bits: int) -> str:
    """A network input that already holds codes."""
    b.codes = b.rng.integers(0, 1 << bits, shape, np.uint8)
    channels = shape[1]
    norm = Normalization((0.0,) * channels, (1.0,) * channels, 1.0)
    return b.add(
        Input(name="codes", shape=Shape(*shape[1:]), bits=bits, zero_point=0, normalization=norm)
    )


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 3), (8, 8)])
def test_all_kernels_strides_and_sizes(kernel, stride, size):
    b = Builder(drawer(kernel + stride))
    x = b.affine("r0", b.convolution("stem", b.start(2, *size), 11, 8))
    codes = b.quantize("codes", x, 2)
    acc = b.convolution("conv", codes, 5, 4, kernel=(kernel, kernel), stride=(stride, stride),
                        padding=(kernel // 2, kernel // 2))  # fmt: skip
    b.quantize("result", acc, 4)
    check(TINY, b, compile_graph(b.graph(), TINY), Bus(latency=30, seed=kernel))


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_uneven_channel_shuffles_scatter_lanes(groups):
    """Few channels per group: words are assembled lane by lane, and counted as such."""
    for seed in range(40):
        b = Builder(drawer(seed))
        x = b.affine("r0", b.convolution("stem", b.start(1, 6, 6), 3 * groups, 8))
        basic_block(b, "block", x, 5 * groups, groups, 2)
        if any(node.name == "block.shuffle" for node in b.nodes):
            break
    image = compile_graph(b.graph(), TINY)
    program = Emulator(TINY, image.data).program
    assert any(f.get("scatter_groups", 0) == groups for _, _, f in program)
    check(TINY, b, image, Bus(latency=20, stall=0.2, seed=seed))


def test_a_layer_of_the_benchmark_keeps_kilomac_busy():
    """3x3, 64 channels per group, two groups, 28x28: from the machine's own counters."""
    machine = PRESETS["kilomac"]
    b = Builder(drawer(1))
    codes = codes_input(b, (1, 128, 28, 28), 2)
    acc = b.convolution("conv", codes, 128, 2, groups=2)
    b.quantize("result", acc, 2)
    image = compile_graph(b.graph(), machine)
    inputs = image.pack_input(b.codes)
    result = Simulator(machine).run(image.data, inputs, image.output_bytes, bus=Bus(latency=50))
    require_equal(compare_outputs(image, result.outputs, b.values))
    node = b.nodes[1]
    assert isinstance(node, Convolution)
    ideal = node.weight.size * 28 * 28 / machine.peak_macs
    assert result.counters["ARRAY"] == ideal
    # whole run, loading the input and storing the result included
    assert ideal / result.counters["CYCLES"] >= 0.9
    assert result.counters["MERGE"] == 0


@pytest.mark.parametrize("keep_all", [False, True])
def test_strips_pass_from_layer_to_layer(keep_all):
    """A shuffle and a downsampling convolution, computed by turns with their neighbours."""
    b = shuffled_network()
    image = compile_graph(b.graph(), SMALL, keep_all=keep_all)
    order = [f["layer"] for _, opcode, f in Emulator(SMALL, image.data).program
             if opcode is Opcode.COMPUTE]  # fmt: skip
    assert order != sorted(order)
    check(SMALL, b, image, Bus(latency=30, stall=0.2, seed=2))


@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize(
    "pools", [[(3, 2, 1)], [(2, 2)], [(3, 2, 1), (2, 2)], [(3, 2), (3, 2, 1)]], ids=str
)
def test_pools_read_strips_by_windows(pools, keep_all):
    """A row that two tiles read stays, and the others lie behind it in the opposite direction."""
    b = pooled_network(21, *pools)
    with mock.patch("palquant.sw.compile.RESIDENT_SHARES", (0.0,)):
        image = compile_graph(b.graph(), SMALL, keep_all=keep_all)
    order = [f["layer"] for _, opcode, f in Emulator(SMALL, image.data).program
             if opcode is Opcode.COMPUTE]  # fmt: skip
    assert order != sorted(order)
    check(SMALL, b, image, Bus(latency=30, stall=0.2, seed=3))


@pytest.mark.parametrize("height", [60, 61])
def test_convolutions_of_stride_2_read_strips_by_windows(height):
    b = strided_network(height, width=30)
    image = compile_graph(b.graph(), TINY)
    assert any(f.get("input_row_step", 0) >> (ADDRESS_BITS - 1)
               for _, _, f in Emulator(TINY, image.data).program)  # fmt: skip
    check(TINY, b, image, Bus(latency=30, stall=0.2, seed=3))


@pytest.mark.parametrize("keep_all", [False, True])
def test_sums_take_the_place_of_the_residuals_that_they_load(keep_all):
    b = Builder(drawer(3))
    x = b.affine("x", b.convolution("stem", b.start(1, 20, 9), 32, 8))
    acc = b.convolution("conv", b.quantize("codes", x, 2), 32, 2, groups=2)
    b.add(Add(name="sum", a=b.affine("branch", acc), b=x))
    image = compile_graph(b.graph(), SMALL, keep_all=keep_all)
    sums = [f for _, opcode, f in Emulator(SMALL, image.data).program
            if opcode is Opcode.COMPUTE and adds_in_place(opcode, f)]  # fmt: skip
    assert len({f["residual_out_address"] for f in sums if f["residual_out"]}) > 2
    check(SMALL, b, image, Bus(latency=30, stall=0.2, seed=4))


@pytest.mark.parametrize("registers", [2, 6])
def test_the_array_in_carry_chains_is_the_same_machine(registers):
    """Values and cycles of a network with sums held over instructions; more registers, the same."""
    machine = dataclasses.replace(SMALL, array_registers=registers)
    b = shuffled_network()
    image = compile_graph(b.graph(), machine)
    inputs, bus = image.pack_input(b.codes), Bus(latency=20, stall=0.1, seed=1)
    chained = verilog(machine, Technology.GENERIC)
    executable = build_driver(chained, label=f"chained array, {registers} registers")
    results = [
        simulator.run(image.data, inputs, image.output_bytes, bus=bus)
        for simulator in (Simulator(machine, executable=executable), Simulator(machine))
    ]
    assert require_equal(compare_outputs(image, results[0].outputs, b.values)) > 0
    assert results[0].cycles == results[1].cycles
    assert results[0].counters == results[1].counters


def test_lanes_without_a_channel_may_hold_any_number():
    """Real sums are small, but -beta * S of a dummy lane exceeds the thresholds' register."""
    b = Builder(drawer(8))
    codes = codes_input(b, (2, 16, 4, 4), 4)
    weight = b.rng.integers(126, 131, (3, 16, 3, 3)).astype(np.uint8)  # -2 to 2
    acc = b.add(
        Convolution(name="conv", input=codes, weight=weight, weight_bits=8, alpha=1, beta=128,
                    groups=1, stride=(1, 1), padding=(1, 1), quantized=True)
    )  # fmt: skip
    thresholds = np.array([[-40, 0, 40]])
    b.add(
        Quantize(name="result", input=acc, thresholds=thresholds, negate=np.array([True]), bits=2)
    )
    machine = dataclasses.replace(TINY, name="narrow thresholds", threshold_bits=14)
    check(machine, b, compile_graph(b.graph(), machine), Bus(latency=20, seed=8))


def test_sums_stay_in_the_array_while_further_weights_arrive():
    """Weights of one output chunk that exceed the memory: input chunks and digit sums by turns."""
    b = Builder(drawer(4))
    codes = codes_input(b, (2, 64, 4, 3), 4)
    acc = b.convolution("conv", codes, 16, 4)
    b.quantize("result", b.affine("affine", acc), 2)
    machine = dataclasses.replace(TINY, name="little weight memory", weight_words=64)
    image = compile_graph(b.graph(), machine)
    assert any(f.get("hold") for _, _, f in Emulator(machine, image.data).program)
    check(machine, b, image, Bus(latency=20, stall=0.2, seed=6))


def test_many_images_behind_one_doorbell():
    builder = random_network(drawer(3))
    builder.codes = np.concatenate([builder.codes] * 3)
    builder.values = {name: np.concatenate([v] * 3) for name, v in builder.values.items()}
    image = compile_graph(builder.graph(), TINY)
    check(TINY, builder, image, Bus(latency=50, stall=0.3, seed=1, interleave=True))
