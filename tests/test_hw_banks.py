"""Each tag has its bank, which keeps what was written to it and nothing else."""

from amaranth import Module, Signal
from post_bench import trace

from palquant.hw.banks import ConfigurationBanks
from palquant.hw.layouts import Configuration
from palquant.hw.presets import geometry

NAMES = ("steps", "first_row", "raw")


def test_fields_are_looked_up_by_tag():
    m = Module()
    configuration = Configuration(geometry("tiny")).create()
    banks = ConfigurationBanks(geometry("tiny"), m, configuration, NAMES)
    assert banks.names == NAMES == tuple(banks.select(Signal()))
    tag = Signal()
    looked_up = [Signal.like(value) for value in banks.select(tag).values()]
    m.d.comb += [s.eq(v) for s, v in zip(looked_up, banks.select(tag).values(), strict=True)]
    (steps,) = banks.select(tag, "steps").values()
    m.d.comb += (alone := Signal(6)).eq(steps)

    def write(bank, steps, first_row, raw):
        fields = {"layer": 4095, "steps": steps, "first_row": first_row, "raw": raw}
        port = configuration
        return [(port.valid, 1), (port.tag, bank), (port.fields, fields)]

    idle = [(configuration.valid, 0)]
    cycles = [
        write(0, 5, -7, 1),
        write(1, 63, 4095, 0),
        [*idle, (tag, 0)],
        [(tag, 1)],
        [*write(1, 9, -4096, 1)],
        [*idle, (tag, 1)],
        [(tag, 0)],
    ]
    seen = trace(m, cycles, [*looked_up, alone])
    old, new = [63, 4095, 0, 63], [9, -4096, 1, 9]
    assert seen[2:] == [[5, -7, 1, 5], old, old, new, [5, -7, 1, 5]]
