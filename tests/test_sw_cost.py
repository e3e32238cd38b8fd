"""Costs of groups: beats are those that the emulator counts, cycles never less than the words."""

import dataclasses

import pytest
from networks import pooled_network, shuffled_network, strided_network

from palquant.hw.isa import Opcode, Source, result_words
from palquant.hw.presets import PRESETS
from palquant.sim.bus import Bus
from palquant.sim.predict import predict
from palquant.sw import emit as emit_module
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.plan import Planner

#: Weights of groups come anew for each tile, over a bus that they nearly fill.
BUSY = dataclasses.replace(
    PRESETS["tiny"], name="busy", bus_bits=32, weight_words=256, activation_words=1024,
    output_words=256, residual_words=1024, parameter_slots=16,
)  # fmt: skip
LITTLE = dataclasses.replace(
    PRESETS["tiny"], name="little", activation_words=512, output_words=512, residual_words=256
)


@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize("weight_words", [64, 1024])
@pytest.mark.parametrize(
    "make",
    [shuffled_network, lambda: pooled_network(21, (3, 2, 1), (2, 2)), lambda: strided_network(20)],
)
def test_the_estimate_is_of_what_is_moved_and_computed(make, weight_words, keep_all, monkeypatch):
    estimates = {}

    class Noted(Planner):
        def begin(self, first):
            group, tiling = super().begin(first)
            estimates[first] = self.cost.estimate(group, tiling)
            return group, tiling

    monkeypatch.setattr(emit_module, "Planner", Noted)
    b = make()
    machine = dataclasses.replace(LITTLE, weight_words=weight_words)
    image = compile_graph(b.graph(), machine, keep_all=keep_all)
    emulator = Emulator(machine, image.data)
    emulator.run(image.pack_input(b.codes[:1]))
    counts = emulator.statistics
    computes = [f for _, opcode, f in emulator.program if opcode is Opcode.COMPUTE]
    words = 0
    for f in computes:
        beats = machine.beats if f["source"] == Source.POOL else 1
        results = f["output_rows"] * f["output_columns"] * f["output_chunks"]
        words += results * beats * result_words(f)
    assert sum(beats for _, beats in estimates.values()) == counts.beats_read + counts.beats_written
    assert sum(cycles for cycles, _ in estimates.values()) >= words


@pytest.mark.parametrize(("channels", "bus_bits"), [(32, 32), (64, 32), (64, 64)])
@pytest.mark.parametrize("longest", [2, 3])
def test_the_estimate_of_groups_whose_weights_come_anew(channels, bus_bits, longest, monkeypatch):
    """As many layers join as can, whether it pays or not."""
    estimates = {}

    def form(planner, first):
        left = len(planner.network.layers) - first
        group, tiling = planner._longest(first, min(longest, left))
        layers = [(each.layer, planner.constants.segments(each.layer)) for each in group.members]
        once, often = (planner.constants.beats(layers, n) for n in (1, len(tiling.spans)))
        if len(group.members) > 1 and often != once:
            last = first + len(group.members)
            estimates[first, last] = planner.cost.estimate(group, tiling)[0]
        return group, tiling

    monkeypatch.setattr(Planner, "_form", form)
    machine = dataclasses.replace(BUSY, bus_bits=bus_bits)
    b = shuffled_network(16, channels=channels)
    layers = predict(compile_graph(b.graph(), machine, keep_all=False), Bus()).profile.layers
    assert estimates
    for (first, last), cycles in estimates.items():
        assert cycles == pytest.approx(sum(layer.cycles for layer in layers[first:last]), rel=0.08)
