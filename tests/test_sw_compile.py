"""Random networks: every tensor that a compiled image makes in the emulator is the reference's."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from networks import Builder, drawer, random_network

from palquant.errors import CapacityError, RangeError, UnsupportedLayerError
from palquant.golden.config import NetworkConfig
from palquant.golden.export import export
from palquant.golden.random_network import random_network as random_golden_network
from palquant.golden.reference import run
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import Opcode
from palquant.hw.presets import PRESETS
from palquant.sim.scoreboard import compare_outputs, require_equal
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import Add, Convolution, Graph, Permute, Quantize, Relu
from palquant.sw.passes import identity_permutations

TINY = PRESETS["tiny"]
GEOMETRIES = {
    "tiny": TINY,
    "kilomac": PRESETS["kilomac"],
    # more input lanes than units, and the other way round
    "wide in": dataclasses.replace(TINY, name="wide in", tin=16, lanes=4),
    "wide out": dataclasses.replace(TINY, name="wide out", tout=32, lanes=8),
    # so little memory that tensors pass through DRAM and layers are cut into tiles
    "small": dataclasses.replace(
        TINY,
        name="small",
        weight_words=256,
        activation_words=512,
        output_words=256,
        residual_words=192,
        parameter_slots=8,
    ),
}


def emulate(image, codes, seed=0):
    emulator = Emulator(image.geometry, image.data, seed)
    return emulator.run(image.pack_input(codes)), emulator


@pytest.mark.parametrize("name", GEOMETRIES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_emulator_equals_reference(name, data):
    builder = random_network(lambda low, high: data.draw(st.integers(low, high)))
    try:
        image = compile_graph(builder.graph(), GEOMETRIES[name])
    except (CapacityError, RangeError):
        assert name in ("small", "kilomac")  # little memory, thresholds of 24 bits
        reject()
    output, _ = emulate(image, builder.codes)
    assert require_equal(compare_outputs(image, output, builder.values)) > 0


@pytest.mark.parametrize("shuffle", [False, True])
def test_more_than_eight_groups_where_no_channels_are_shuffled(shuffle):
    """A lane's group takes three bits, and counts only where lanes are scattered."""
    config = NetworkConfig(base_width=4, groups=9, shuffle=shuffle, channel_shuffle=False)
    graph = export(random_golden_network(config, 1))
    codes = np.random.default_rng(2).integers(0, 256, (2, 1, 8, 8), np.uint8)
    output, _ = emulate(image := compile_graph(graph, TINY), codes)
    assert require_equal(compare_outputs(image, output, run(graph, codes))) > 0


def test_every_tensor_is_in_the_manifest():
    builder = random_network(drawer(7))
    image = compile_graph(builder.graph(), TINY)
    made = {name for layer in image.layers for name in layer.outputs}
    assert set(image.tensors) == made


def test_without_keeping_all_only_results_are_stored():
    builder = residual_pair()
    image = compile_graph(builder.graph(), TINY, keep_all=False)
    assert set(image.tensors) == {builder.nodes[-1].name}
    output, _ = emulate(image, builder.codes)
    require_equal(compare_outputs(image, output, builder.values))


def residual_pair(groups=2, channels=16, size=6, residual_bits=16):
    b = Builder(drawer(3), residual_bits=residual_bits)
    x = b.affine("r0", b.convolution("stem", b.start(1, size, size), channels, 8))
    codes = b.quantize("q", x, 2)
    r = b.affine("r1", b.convolution("conv", codes, channels, 2, groups=groups))
    b.add(Add(name="sum", a=r, b=x))
    return b


def test_weights_that_fit_are_loaded_once_before_all_images():
    image = compile_graph(residual_pair().graph(), TINY)
    header = isa.IMAGE_HEADER.decode(image.data[: isa.HEADER_BYTES])
    assert header["body_offset"] > header["program_offset"]
    program = Emulator(TINY, image.data).program
    body = [op for offset, op, _ in program if offset >= header["body_offset"]]
    assert body.count(Opcode.LOAD) == 1  # the input
    assert Opcode.BARRIER not in body


def test_a_tensor_larger_than_the_memory_is_cut_into_tiles():
    builder = residual_pair(size=24)
    image = compile_graph(builder.graph(), GEOMETRIES["small"])
    output, emulator = emulate(image, builder.codes)
    require_equal(compare_outputs(image, output, builder.values))
    computes = [f for _, opcode, f in emulator.program if opcode is Opcode.COMPUTE]
    assert max(f["output_rows"] for f in computes) < 24
    assert emulator.statistics.beats_read > 0


def test_a_row_that_fits_nowhere_names_the_memory():
    builder = residual_pair(size=24)
    small = dataclasses.replace(GEOMETRIES["small"], residual_words=32)
    with pytest.raises(
        CapacityError,
        match="stem: one output row at a time needs 48 words of residual memory; "
        "geometry small has 32",
    ):
        compile_graph(builder.graph(), small)


@pytest.mark.parametrize(("weight_words", "parts"), [(72, 1), (36, 4), (18, 8)])
@pytest.mark.parametrize(("bits", "stride"), [(2, 1), (4, 2), (8, 1)])
def test_results_are_cut_by_input_channels_where_weights_do_not_fit(
    weight_words, parts, bits, stride
):
    """72 words of one digit hold the weights of one output chunk for 64 channels of a group."""
    weight_words *= bits // 2
    b = Builder(drawer(3))
    x = b.affine("r0", b.convolution("stem", b.start(1, 5, 4), 128, 8, kernel=(1, 1),
                                     padding=(0, 0)))  # fmt: skip
    codes = b.quantize("q", x, 4)
    acc = b.convolution("conv", codes, 32, bits, groups=2, stride=(stride, stride))
    y = b.affine("r1", acc)
    if stride == 1:
        identity = b.affine("r2", b.convolution("skip", codes, 32, 2, groups=2, kernel=(1, 1),
                                                padding=(0, 0)))  # fmt: skip
        y = b.add(Add(name="sum", a=y, b=identity))
    b.quantize("result", y, 2)
    machine = dataclasses.replace(TINY, weight_words=weight_words)
    image = compile_graph(b.graph(), machine)
    output, emulator = emulate(image, b.codes)
    assert require_equal(compare_outputs(image, output, b.values)) > 0
    index = [layer.name for layer in image.layers].index("conv")
    computes = [f for _, opcode, f in emulator.program
                if opcode is Opcode.COMPUTE and f["layer"] == index]  # fmt: skip
    chunks, pixels = 4, b.values["conv"].shape[2] * b.values["conv"].shape[3]
    sums = bits // 2 + 1
    assert len(computes) == (chunks * pixels * parts * sums if parts > 1 else chunks)
    assert len([f for f in computes if not f["hold"]]) == (chunks * pixels if parts > 1 else chunks)


def test_a_tap_that_exceeds_the_weight_memory_is_refused():
    builder = residual_pair(channels=64)
    small = dataclasses.replace(TINY, weight_words=16)
    text = "conv: one output chunk needs 18 words of weight memory at least; geometry tiny has 16"
    with pytest.raises(CapacityError, match=text):
        compile_graph(builder.graph(), small)


REFUSAL = re.compile(r"(?P<layer>.*): .* needs (?P<words>\d+) words of (?P<memory>\w+) memory")


def refusal(graph: Graph, machine: Geometry) -> dict[str, str]:
    """Layer, memory and words of a refusal; empty if the network is compiled."""
    try:
        compile_graph(graph, machine)
    except CapacityError as error:
        text = str(error)
    else:
        return {}
    found = REFUSAL.match(text)
    assert found, text
    return found.groupdict()


@pytest.mark.parametrize(
    ("weight_words", "activation", "output", "residual"), [(16, 128, 64, 128), (256, 32, 32, 32)]
)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_size_that_a_refusal_names_does_and_less_does_not(
    weight_words, activation, output, residual, data
):
    graph = random_network(lambda low, high: data.draw(st.integers(low, high))).graph()
    machine = dataclasses.replace(
        TINY, name="small", weight_words=weight_words, activation_words=activation,
        output_words=output, residual_words=residual, parameter_slots=8,
    )  # fmt: skip
    refused = refusal(graph, machine)
    if not refused:
        reject()
    field = f"{refused['memory']}_words"
    words = int(refused["words"])
    granule = (
        machine.activation_words_per_row if field in ("activation_words", "output_words") else 1
    )
    less = refusal(graph, dataclasses.replace(machine, **{field: words - granule}))
    assert less  # this memory still, or another one that is too small as well
    if less["layer"] == refused["layer"] and less["memory"] == refused["memory"]:
        assert less["words"] == refused["words"]
    enough = refusal(graph, dataclasses.replace(machine, **{field: words}))
    assert (enough.get("layer"), enough.get("memory")) != (refused["layer"], refused["memory"])


def test_an_overflow_names_layer_channel_and_register():
    builder = residual_pair()
    narrow = dataclasses.replace(TINY, accumulator_bits=12, pool_bits=12)
    with pytest.raises(RangeError, match=r"stem: channel \d+ can reach \d+, .* accumulator P"):
        compile_graph(builder.graph(), narrow)


def test_residuals_wider_than_the_machine_are_refused():
    builder = residual_pair(residual_bits=16)
    narrow = dataclasses.replace(TINY, residual_bits=8)
    with pytest.raises(RangeError, match="residuals of 16 bits, but geometry tiny stores 8"):
        compile_graph(builder.graph(), narrow)


def test_a_permutation_across_groups_before_a_convolution_is_refused():
    b = residual_pair()
    b.nodes = b.nodes[:3]
    codes = b.quantize("codes", "r0", 2)
    mixed = b.shuffle("mixed", codes, 2)
    b.convolution("conv", mixed, 16, 2, groups=2)
    b.affine("out", "conv")
    with pytest.raises(UnsupportedLayerError, match="conv: the channels of its group 0 are spread"):
        compile_graph(b.graph(), TINY)


def test_an_operation_out_of_order_is_refused():
    b = residual_pair()
    b.add(Relu(name="relu", input="sum"))
    b.add(Add(name="again", a="relu", b="sum"))
    with pytest.raises(UnsupportedLayerError, match="relu"):
        compile_graph(b.graph(), TINY)


def test_an_accumulator_without_a_consumer_is_refused():
    b = residual_pair()
    codes = b.quantize("more", "sum", 2)
    b.convolution("last", codes, 8, 2)
    with pytest.raises(
        UnsupportedLayerError, match="last: an accumulator cannot be stored for the network's end"
    ):
        compile_graph(b.graph(), TINY)


def test_three_quantisers_of_one_residual():
    """Two leave with the result, the third is a requantization of its own."""
    b = residual_pair()
    for bits in (2, 3, 4):
        b.quantize(f"codes{bits}", "sum", bits)
    image = compile_graph(b.graph(), TINY)
    output, _ = emulate(image, b.codes)
    require_equal(compare_outputs(image, output, b.values))
    assert {"codes2", "codes3", "codes4"} <= set(image.tensors)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_identity_permutations_take_the_same_work(groups):
    b = Builder(drawer(groups))
    x = b.affine("r0", b.convolution("stem", b.start(1, 5, 5), 8 * groups, 8))
    codes = b.rotation("rotated", b.quantize("q", x, 2), groups)
    b.affine("r1", b.convolution("conv", codes, 8 * groups, 2, groups=groups))
    graph = b.graph()
    plain, changed = identity_permutations(graph)
    assert changed
    assert not identity_permutations(plain)[1]
    assert all(
        np.array_equal(n.permutation, np.arange(8 * groups))
        for n in plain
        if isinstance(n, Permute)
    )
    programs = []
    for each in (graph, plain):
        image = compile_graph(each, TINY)
        programs.append(
            [
                (op, f.get("output_chunks"), f.get("input_chunks"))
                for _, op, f in Emulator(TINY, image.data).program
            ]
        )
    assert programs[0] == programs[1]


def test_graphs_of_one_convolution_and_quantiser():
    """No residual, no affine: thresholds are compared with the accumulator itself."""
    b = Builder(drawer(11))
    b.quantize("codes", b.convolution("conv", b.start(3, 4, 5), 9, 4), 4)
    image = compile_graph(b.graph(), TINY)
    output, _ = emulate(image, b.codes)
    require_equal(compare_outputs(image, output, b.values))
    assert isinstance(b.nodes[-1], Quantize)
    assert isinstance(b.nodes[-2], Convolution)
    assert isinstance(b.graph(), Graph)
