"""The whole machine on the fast driver: programs that copy, programs that are wrong."""

import numpy as np
import pytest

from palquant.errors import ExecutionError, InputError
from palquant.hw import isa
from palquant.hw.isa import Base, Memory, Opcode
from palquant.hw.presets import PRESETS
from palquant.hw.registers import Activity, ErrorCode, Stall
from palquant.hw.transfer import STORABLE
from palquant.sim.bus import Bus
from palquant.sim.driver import Simulator
from palquant.sim.execute import TIMELINE_ENGINES, Dump, execute
from palquant.sim.programs import assemble, blocked, copy_program, faults
from palquant.sw.emulator import Emulator
from palquant.sw.regions import IMAGE_ADDRESS, Regions

GEOMETRY = PRESETS["tiny"]
#: Cycles from the doorbell's acceptance to the first counted one, and from the last to the line.
UNCOUNTED = 5
NOTHING = np.zeros((1, 64), np.uint8)


@pytest.fixture(scope="module")
def simulator():
    return Simulator(GEOMETRY)


def run(simulator, program, **options):
    return simulator.run(program.image, program.inputs, program.outputs.shape[1], **options)


def poison(simulator, result, bus):
    """What the output regions held before the run."""
    regions, images = result.regions, len(result.outputs)
    dump = Dump(regions.output, images * regions.output_stride)
    report = execute(simulator.executable, [dump], base=regions.base, size=regions.size, bus=bus)
    return report.dumps[0].reshape(images, -1)[:, : result.outputs.shape[1]]


@pytest.mark.parametrize(
    "bus",
    [Bus(), Bus(latency=1), Bus(latency=150), Bus(stall=0.5, interleave=True),
     Bus(stall=0.9, latency=3), Bus(interleave=True, latency=60)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_programs_copy_every_byte_and_nothing_else(simulator, bus, seed):
    program = copy_program(GEOMETRY, seed=seed)
    bus = Bus(**vars(bus) | {"seed": seed})
    result = run(simulator, program, bus=bus)
    expected = np.where(program.written, program.outputs, poison(simulator, result, bus))
    np.testing.assert_array_equal(result.outputs, expected)
    assert result.status.code is ErrorCode.NONE
    assert result.status.images_done == len(program.inputs)


def test_counters_agree_with_what_the_bus_and_the_trace_saw(simulator):
    program = copy_program(GEOMETRY, seed=5)
    result = run(simulator, program, bus=Bus(stall=0.3, seed=5), timeline=True)
    counters = result.counters
    assert counters["READ_BEATS"] == program.read_beats
    assert counters["WRITE_BEATS"] == program.written_beats == result.traffic.write_beats
    assert counters["READ_BEATS"] + counters["FETCH_BEATS"] == result.traffic.read_beats
    assert counters["SATURATIONS"] == 0
    assert sum(counters[activity.name] for activity in Activity) == counters["CYCLES"]
    assert result.cycles == counters["CYCLES"] + UNCOUNTED
    seen = {
        activity.name: sum(e.cycles for e in result.activity if e.activity == activity)
        for activity in Activity
    }
    assert seen == {activity.name: counters[activity.name] for activity in Activity}
    layers = set(range(1, 7))  # one for each tile; the table's is 0
    for engine in ("load", "store"):
        mine = result.timeline[result.timeline["engine"] == TIMELINE_ENGINES.index(engine)]
        assert layers <= set(mine["layer"].tolist()) <= layers | {0}


def test_equal_seeds_make_equal_runs(simulator):
    program = copy_program(GEOMETRY, seed=6)
    cycles = [run(simulator, program, bus=Bus(stall=0.4, seed=seed)).cycles for seed in (1, 1, 2)]
    assert cycles[0] == cycles[1] != cycles[2]


def test_nothing_depends_on_values_at_power_on(simulator):
    program = copy_program(GEOMETRY, seed=12)
    results = [run(simulator, program, bus=Bus(seed=seed)) for seed in range(5)]
    assert len({result.cycles for result in results}) == 1
    assert len({tuple(result.counters.items()) for result in results}) == 1


@pytest.mark.parametrize("memory", STORABLE, ids=lambda memory: memory.name)
def test_on_chip_memories_start_with_poison(simulator, memory):
    """A program that stores what it never wrote sees random bytes, others with another seed."""
    beats = 128
    store = {"memory": memory, "base": Base.OUTPUT, "rows": 1, "row_beats": beats}
    units = [isa.encode(Opcode.STORE, **store), isa.encode(Opcode.END)]
    size = beats * GEOMETRY.bus_bytes
    image = assemble(GEOMETRY, units, output_bytes=size)
    seen = [simulator.run(image, NOTHING, size, bus=Bus(seed=seed)).outputs for seed in (1, 1, 2)]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).mean() > 0.9
    assert len(np.unique(seen[0])) > 200


def test_many_images_with_one_doorbell(simulator):
    program = copy_program(GEOMETRY, seed=7, tiles=1, images=200)
    result = run(simulator, program)
    np.testing.assert_array_equal(
        result.outputs[:, program.written], program.outputs[:, program.written]
    )


def test_a_body_may_change_what_the_prologue_brought(simulator):
    """Each image stores what the one before it loaded: the emulator does the same."""
    place = {"memory": Memory.RESIDUAL, "rows": 1, "row_beats": 2}
    units = [
        isa.encode(Opcode.LOAD, **place, base=Base.IMAGE, dram_offset=isa.HEADER_BYTES),
        isa.encode(Opcode.BARRIER),
        isa.encode(Opcode.STORE, **place, base=Base.OUTPUT, signal_load=1),
        isa.encode(Opcode.LOAD, **place, base=Base.INPUT, wait_store=1),
        isa.encode(Opcode.END),
    ]
    image = assemble(GEOMETRY, units, body=2)
    inputs = np.arange(5 * 64, dtype=np.uint8).reshape(5, 64)
    moved = 2 * GEOMETRY.bus_bytes
    seen = simulator.run(image, inputs, 64).outputs[:, :moved]
    assert seen[0].tobytes() == units[0][:moved]
    np.testing.assert_array_equal(seen[1:], inputs[:-1, :moved])
    np.testing.assert_array_equal(Emulator(GEOMETRY, image).run(inputs)[:, :moved], seen)


@pytest.mark.parametrize("fault", faults(GEOMETRY), ids=lambda fault: fault.name)
def test_faulty_programs_are_refused_with_code_and_place(simulator, fault):
    bus = Bus(stall=0.2, seed=1)
    result = simulator.run(fault.image, NOTHING, 64, bus=bus, check=False)
    assert result.status.code is fault.code
    assert result.status.error_address == fault.address
    assert result.status.images_done == 0
    np.testing.assert_array_equal(result.outputs, poison(simulator, result, bus))


def test_errors_are_raised_in_one_line(simulator):
    fault = next(fault for fault in faults(GEOMETRY) if fault.name == "opcode 15")
    text = r"the machine stopped after \d+ cycles: OPCODE: .* at offset 0x60, 0 images done; fetch "
    with pytest.raises(ExecutionError, match=text) as caught:
        simulator.run(fault.image, NOTHING, 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("region", "option", "code"),
    [("image", "read_error", ErrorCode.READ_RESPONSE),
     ("input", "read_error", ErrorCode.READ_RESPONSE),
     ("output", "write_error", ErrorCode.WRITE_RESPONSE)],
)  # fmt: skip
def test_error_responses_are_reported(simulator, region, option, code):
    program = copy_program(GEOMETRY, seed=8)
    regions = Regions.place(
        GEOMETRY, len(program.image), program.inputs.shape[1], program.outputs.shape[1], 3
    )
    used = {"image": [40], "input": np.flatnonzero(program.read),
            "output": np.flatnonzero(program.written)}  # fmt: skip
    bus = Bus(**{option: getattr(regions, region) + int(used[region][-1])})
    result = run(simulator, program, bus=bus, check=False)
    assert result.status.code is code


@pytest.mark.parametrize(
    ("channel", "unit", "stall"),
    [("AR", "fetch", Stall.ADDRESS), ("R", "fetch", Stall.DATA), ("AW", "store", Stall.ADDRESS),
     ("W", "store", Stall.DATA), ("B", "store", Stall.RESPONSE)],
)  # fmt: skip
def test_a_silent_memory_is_noticed_by_the_watchdog(simulator, channel, unit, stall):
    program = copy_program(GEOMETRY, seed=9)
    result = run(simulator, program, bus=Bus(mute={channel: 0}), watchdog=500, check=False)
    assert result.status.code is ErrorCode.WATCHDOG
    assert result.status.stall[unit] is stall


def test_a_missing_token_is_noticed_by_the_watchdog(simulator):
    result = simulator.run(blocked(GEOMETRY), NOTHING, 64, watchdog=500, check=False)
    assert result.status.code is ErrorCode.WATCHDOG
    assert result.status.error_address == isa.HEADER_BYTES
    assert result.status.stall["store"] is Stall.LOAD
    assert result.status.stall["fetch"] is Stall.DRAIN


def test_without_a_watchdog_the_cycle_limit_ends_the_run(simulator):
    with pytest.raises(ExecutionError, match="no interrupt within 2000 cycles"):
        simulator.run(blocked(GEOMETRY), NOTHING, 64, watchdog=0, cycle_limit=2000)


def test_the_image_may_be_a_file_and_regions_are_where_they_are_said_to_be(simulator, tmp_path):
    program = copy_program(GEOMETRY, seed=10)
    path = tmp_path / "image.bin"
    path.write_bytes(program.image + bytes(1 << 20))  # larger than its header says: no matter
    result = simulator.run(path, program.inputs, program.outputs.shape[1])
    np.testing.assert_array_equal(
        result.outputs[:, program.written], program.outputs[:, program.written]
    )
    regions = result.regions
    assert regions.image == regions.base == IMAGE_ADDRESS
    assert regions.input >= regions.image + path.stat().st_size
    assert regions.output >= regions.input + len(program.inputs) * regions.input_stride
    end = regions.output + len(program.inputs) * regions.output_stride
    assert regions.base + regions.size >= end
    assert not any(
        value % GEOMETRY.bus_bytes for name, value in vars(regions).items() if name != "size"
    )


def test_inputs_that_do_not_fill_the_bus_are_spaced(simulator):
    """One image's inputs end in the middle of a beat; the next begins with a beat of its own."""
    program = copy_program(GEOMETRY, seed=11)
    inputs = program.inputs[:, :-1]
    result = simulator.run(program.image, inputs, program.outputs.shape[1], check=False)
    assert result.status.code is ErrorCode.NONE
    assert result.regions.input_stride == program.inputs.shape[1]
    moved = (result.outputs != program.outputs) & program.written
    assert moved.sum(axis=1).max() <= 1


@pytest.mark.parametrize(
    "inputs", [np.zeros(64, np.uint8), np.zeros((1, 64), np.int8), np.zeros((1, 8, 8), np.uint8)]
)
def test_inputs_of_the_wrong_kind_are_refused(simulator, inputs):
    with pytest.raises(InputError, match=r"inputs must be uint8 of shape \(images, bytes\), not"):
        simulator.run(copy_program(GEOMETRY).image, inputs, 64)


@pytest.mark.parametrize(
    ("region", "columns", "output_bytes"), [("input", 63, 64), ("output", 64, 72)]
)
def test_regions_are_those_of_the_image(simulator, tmp_path, region, columns, output_bytes):
    path = tmp_path / "image.bin"
    path.write_bytes(assemble(GEOMETRY, [isa.encode(Opcode.END)]))
    inputs = np.zeros((1, columns), np.uint8)
    for image in (path, path.read_bytes(), np.fromfile(path, np.uint8)):
        with pytest.raises(InputError, match=rf"{region} regions of \d+ bytes; the image needs 64"):
            simulator.run(image, inputs, output_bytes)


def test_an_image_that_is_not_there_is_refused(simulator, tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none"):
        simulator.run(tmp_path / "none", NOTHING, 64)


def test_a_bare_loop_goes_the_same_way_beside_the_run(simulator):
    """Its model shows the same after each turn, else the simulator complains."""
    program = copy_program(GEOMETRY, seed=13)
    alone = run(simulator, program, bus=Bus(stall=0.3, seed=4))
    assert alone.bare_seconds == 0
    for turn in (1, 500, 10 * alone.cycles):
        result = run(simulator, program, bus=Bus(stall=0.3, seed=4), replay=turn)
        assert result.cycles == alone.cycles
        assert np.array_equal(result.outputs, alone.outputs)
        assert result.bare_seconds > 0
