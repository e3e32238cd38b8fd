"""The cycle model against RTL: every cycle of every layer and activity, and every bus beat."""

import dataclasses
import functools

import numpy as np
import pytest
from networks import (
    Builder,
    drawer,
    pooled_network,
    random_network,
    shuffled_network,
    wide_pool_network,
)

from palquant.errors import ExecutionError, InputError
from palquant.hw import isa
from palquant.hw.compute import ComputeEngine
from palquant.hw.isa import Memory, Opcode
from palquant.hw.prefetch import Prefetch
from palquant.hw.presets import PRESETS
from palquant.sim.bus import Bus
from palquant.sim.driver import Simulator
from palquant.sim.predict import Prediction, predict
from palquant.sim.predict_compute import ComputeTiming, Port, Ports, array_latency, pool_latency
from palquant.sim.predict_events import Clock
from palquant.sim.predict_fetch import PrefetchModel
from palquant.sim.predict_transfer import ReadChannel
from palquant.sim.run import profile
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import Input, MaxPool, Normalization, Shape, SumPool
from palquant.sw.header import seal

TINY = PRESETS["tiny"]
#: Little memory: tensors pass through DRAM, layers are cut into tiles, queues are short.
SMALL = dataclasses.replace(
    TINY, name="small", weight_words=256, activation_words=512, output_words=256,
    residual_words=256, parameter_slots=8, queue_depth=2,
)  # fmt: skip
NARROW = dataclasses.replace(SMALL, name="narrow", narrow_rows=True)
BUSES = [Bus(latency=latency) for latency in (1, 50, 150)]


simulator = functools.cache(Simulator)


def measured(image, codes, bus) -> Prediction:
    """What RTL takes, in the words of a prediction."""
    inputs = image.pack_input(codes)
    result = simulator(image.geometry).run(image.data, inputs, image.output_bytes, bus=bus)
    beats = (result.counters[f"{name}_BEATS"] for name in ("READ", "FETCH", "WRITE"))
    return Prediction(profile(image, result), *beats)


def check(image, codes, bus) -> Prediction:
    prediction = predict(image, bus, len(codes))
    assert prediction == measured(image, codes, bus)
    return prediction


@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_random_networks(seed, keep_all):
    b = random_network(drawer(seed))
    image = compile_graph(b.graph(), TINY, keep_all=keep_all)
    for bus in BUSES:
        check(image, b.codes, bus)


@pytest.mark.parametrize("machine", [SMALL, NARROW], ids=lambda machine: machine.name)
@pytest.mark.parametrize("keep_all", [False, True])
def test_little_memory(keep_all, machine):
    """Transfers beside computations: they wait for memory ports, tokens and queues."""
    b = shuffled_network()
    image = compile_graph(b.graph(), machine, keep_all=keep_all)
    found = set()
    for bus in BUSES:
        found |= check(image, b.codes, bus).profile.activity.keys()
    assert found > {"ACTIVATIONS", "DRAIN"}


@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("pools", [[(3, 2, 1)], [(2, 2), (3, 2, 1)]], ids=str)
def test_strips_read_by_windows(pools, keep_all):
    """Rows of strips forwards and backwards, stores row by row beside the computation."""
    b = pooled_network(21, *pools)
    image = compile_graph(b.graph(), SMALL, keep_all=keep_all)
    assert any(f.get("input_row_step", 0) >> (isa.ADDRESS_BITS - 1)
               for _, _, f in Emulator(SMALL, image.data).program)  # fmt: skip
    for bus in BUSES:
        check(image, b.codes, bus)


@pytest.mark.parametrize("machine", [SMALL, NARROW], ids=lambda machine: machine.name)
@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("kind", [MaxPool, SumPool])
def test_slices_of_channels(kind, keep_all, machine):
    """A row of a transfer for each pixel: bursts of a few beats. Values are the reference's."""
    b = wide_pool_network(kind)
    machine = dataclasses.replace(machine, residual_words=96, output_words=512)
    image = compile_graph(b.graph(), machine, keep_all=keep_all)
    assert any(opcode is Opcode.LOAD and f["memory"] == Memory.RESIDUAL and f["rows"] > 1
               for _, opcode, f in Emulator(machine, image.data).program)  # fmt: skip
    for bus in BUSES:
        check(image, b.codes, bus)
    inputs = image.pack_input(b.codes)
    result = simulator(machine).run(image.data, inputs, image.output_bytes)
    assert require_equal(compare_outputs(image, result.outputs, b.values)) > 0


def test_many_images():
    b = random_network(drawer(3))
    check(compile_graph(b.graph(), TINY), np.concatenate([b.codes] * 3), Bus(latency=50))


def test_a_layer_of_the_benchmark():
    """3x3, 64 channels per group, two groups, 28x28, on kilomac."""
    b = Builder(drawer(1))
    b.codes = b.rng.integers(0, 4, (1, 128, 28, 28), np.uint8)
    norm = Normalization((0.0,) * 128, (1.0,) * 128, 1.0)
    codes = b.add(
        Input(name="codes", shape=Shape(128, 28, 28), bits=2, zero_point=0, normalization=norm)
    )
    b.quantize("result", b.convolution("conv", codes, 128, 2, groups=2), 2)
    check(compile_graph(b.graph(), PRESETS["kilomac"]), b.codes, Bus(latency=50))


def reprogrammed(image, change):
    """The image with another program: behind all its data, so that no address moves.

    ``change`` takes and returns opcode and fields of each instruction.
    """
    emulator = Emulator(image.geometry, image.data)
    program = change([(opcode, fields) for _, opcode, fields in emulator.program])
    code = b"".join(isa.LAYOUTS[opcode].encode(fields) for opcode, fields in program)
    body = image.data[isa.HEADER_BYTES :]
    body += bytes(-(isa.HEADER_BYTES + len(body)) % isa.UNIT_BYTES)
    offset = isa.HEADER_BYTES + len(body)
    header = emulator.header | {"program_offset": offset, "body_offset": offset}
    return dataclasses.replace(image, data=seal(header, body + code))


def test_barriers():
    b = random_network(drawer(2))
    image = compile_graph(b.graph(), TINY)
    barrier = (Opcode.BARRIER, {"opcode": Opcode.BARRIER})

    def with_barriers(program):
        assert len(program) > 8
        return [item for index, each in enumerate(program)
                for item in ([barrier] if index % 4 == 3 else []) + [each]]  # fmt: skip

    slower = check(reprogrammed(image, with_barriers), b.codes, Bus(latency=20))
    assert slower.profile.cycles > predict(image, Bus(latency=20), len(b.codes)).profile.cycles


def test_a_program_that_waits_for_itself_is_refused():
    image = compile_graph(random_network(drawer(2)).graph(), TINY)

    def silent(program):
        return [(opcode, fields | {"signal_compute": 0}) for opcode, fields in program]

    with pytest.raises(ExecutionError, match="the program waits for itself"):
        predict(reprogrammed(image, silent), Bus(latency=20))


@pytest.mark.parametrize(
    ("bus", "images", "text"),
    [
        (Bus(stall=0.1), 1, "fixed latency only"),
        (Bus(interleave=True), 1, "fixed latency only"),
        (Bus(mute={"R": 0}), 1, "fixed latency only"),
        (Bus(latency=0), 1, "latency must be at least 1, not 0"),
        (Bus(), 0, "images must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_predicted_is_refused(bus, images, text):
    image = compile_graph(random_network(drawer(2)).graph(), TINY)
    with pytest.raises(InputError, match=text):
        predict(image, bus, images)


@pytest.mark.parametrize("machine", PRESETS.values(), ids=lambda machine: machine.name)
def test_sizes_and_latencies_are_the_gatewares(machine):
    engine, prefetch = ComputeEngine(machine), Prefetch(machine)
    assert (array_latency(machine), pool_latency(machine)) == (
        engine.array_latency,
        engine.pool_latency,
    )
    clock = Clock()
    model = PrefetchModel(clock, ReadChannel(clock, Ports(), 1), machine)
    assert (model.depth, model.burst_beats) == (prefetch.depth, prefetch.burst_beats)
    del engine, prefetch


def timing(start, paced=0, **fields) -> ComputeTiming:
    everything = {field.name: 0 for field in isa.COMPUTE.fields} | {
        "kernel_rows": 1, "kernel_columns": 1, "input_chunks": 1, "input_digits": 1,
        "weight_digits": 1, "output_rows": 1, "output_columns": 1, "output_chunks": 1,
        "scatter_groups": 1, "steps": 1,
    }  # fmt: skip
    return ComputeTiming(PRESETS["kilomac"], everything | fields, start, paced)


def test_results_are_paced():
    """Three words a result against two beats of three steps; the first waits for the last."""
    each = timing(100, paced=110, kernel_columns=3, output_columns=5, steps=3)
    assert (each.words, each.finish) == (15, 110 + 4 * 6)
    assert each.stalled == each.finish + 1 - 100 - 15
    assert each.paced == each.finish + 6


def test_beats_take_what_the_datapath_leaves():
    """Against a walk over all cycles, across two COMPUTEs."""
    first = timing(0, output_columns=20, residual_out=1, steps=4)
    second = timing(first.finish + 40, output_columns=30, residual_out=1, steps=2)
    ports = Ports()
    assert ports.add(first) == ports.add(second) == [Port.RESIDUAL_WRITE]
    busy = [set(each.busy(Port.RESIDUAL_WRITE).tolist()) for each in (first, second)]
    assert [len(cycles) for cycles in busy] == [40, 60]
    assert max(busy[0]) < min(busy[1])
    for start in range(0, second.complete + 10, 7):
        for beats in (1, 2, 5, 90):
            cycle, left = start - 1, beats
            while left:
                cycle += 1
                left -= cycle not in busy[0] | busy[1]
            assert ports.last(Port.RESIDUAL_WRITE, start, beats) == cycle
            assert ports.last(Port.RESIDUAL_READ, start, beats) == start + beats - 1
