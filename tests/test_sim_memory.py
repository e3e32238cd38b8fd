"""The memory model and the fast driver, with a machine so small that all is known about it."""

import numpy as np
import pytest
from copy_engine import BASE, SIZE, TARGET, Fault, Offset, build, copy, sample, steps

from palquant.errors import ExecutionError, ToolError
from palquant.sim.execute import (
    TIMELINE_ENGINES,
    Bus,
    Dump,
    Load,
    Read,
    Reset,
    Start,
    Write,
    execute,
)

LATENCY = 20
# States of the copy engine, which are its activities.
ADDRESS, READ, REQUEST, WRITE, RESPONSE = range(1, 6)


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
def test_copies_on_every_bus_width(bits):
    data = sample(40_000 // (bits // 8) * (bits // 8))
    report = copy(data, bits=bits, bus=Bus(stall=0.2, seed=bits))
    np.testing.assert_array_equal(report.dumps[0], data)
    beats = len(data) * 8 // bits
    assert report.traffic.read_beats == report.traffic.write_beats == beats
    assert report.traffic.read_bursts == report.traffic.write_bursts >= beats / 256
    assert report.traffic.error_responses == 0


@pytest.mark.parametrize("latency", [1, 7, LATENCY])
def test_latency_is_exact(latency):
    report = copy(sample(8 * 100), bus=Bus(latency=latency))
    spent = {entry.activity: entry.cycles for entry in report.runs[0].activity}
    # One burst: the address is accepted in the second cycle of its state, data follows without
    # a gap after `latency`; the response comes `latency` cycles after the last data.
    assert spent == {
        ADDRESS: 2, READ: latency - 1 + 100, REQUEST: 2, WRITE: 100, RESPONSE: latency,
    }  # fmt: skip
    assert report.runs[0].cycles == sum(spent.values())


def test_runs_are_reproducible_and_stalls_depend_on_the_seed():
    data = sample(8000)
    cycles = [copy(data, bus=Bus(stall=0.3, seed=seed)).runs[0].cycles for seed in (1, 1, 2)]
    assert cycles[0] == cycles[1] != cycles[2]
    assert cycles[0] > copy(data, bus=Bus(seed=1)).runs[0].cycles


def test_stalls_slow_down_by_their_probability():
    data = sample(80_000)
    times = [
        sum(e.cycles for e in copy(data, bus=Bus(stall=p)).runs[0].activity if e.activity == WRITE)
        for p in (0.0, 0.5)
    ]
    assert 1.9 < times[1] / times[0] < 2.1


@pytest.mark.parametrize("interleave", [False, True])
def test_data_of_two_identifiers_is_interleaved_on_request(interleave):
    data = sample(8 * 5000)
    plan = [Write(Offset.SPLIT, 1), *steps(data, 5000), Read(Offset.SWITCHES)]
    bus = Bus(interleave=interleave, seed=5, latency=50)
    report = execute(build(), plan, base=BASE, size=SIZE, bus=bus)
    np.testing.assert_array_equal(report.dumps[0], data)
    in_order = 2 * report.traffic.write_bursts  # there and back once for each pair of bursts
    switches = report.reads[-1]
    assert switches > 1000 if interleave else 0 < switches <= in_order


def test_poison_of_memory_and_registers_depends_on_the_seed():
    def run(seed):
        dump = [Read(Offset.SCRATCH), Read(Offset.NEXT_SCRATCH), Dump(BASE, SIZE)]
        return execute(build(), dump, base=BASE, size=SIZE, bus=Bus(seed=seed))

    first, again, other = run(3), run(3), run(4)
    np.testing.assert_array_equal(first.dumps[0], again.dumps[0])
    assert first.reads == again.reads
    assert len({*first.reads, *other.reads}) == 4
    # Random bytes: none is more frequent than others by much.
    assert np.bincount(first.dumps[0], minlength=256).max() < 1.2 * SIZE / 256
    assert np.count_nonzero(first.dumps[0] == other.dumps[0]) < 1.2 * SIZE / 256


def test_what_is_loaded_is_all_that_is_not_poison():
    data = sample(64)
    report = execute(
        build(), [Load(BASE + 64, data), Dump(BASE, 192)], base=BASE, size=192, bus=Bus(seed=1)
    )
    poison = execute(build(), [Dump(BASE, 192)], base=BASE, size=192, bus=Bus(seed=1)).dumps[0]
    np.testing.assert_array_equal(report.dumps[0][64:128], data)
    np.testing.assert_array_equal(np.delete(report.dumps[0], np.s_[64:128]),
                                  np.delete(poison, np.s_[64:128]))  # fmt: skip


def test_a_write_is_visible_at_its_response_and_not_before():
    """The interrupt comes with the last data; a host that reads then must see old data."""
    data = sample(8 * 10)
    early = copy(data, fault=Fault.EARLY_INTERRUPT, bus=Bus(latency=200))
    assert early.runs[0].outstanding == 1
    assert not (early.dumps[0] == data).all()
    assert copy(data, bus=Bus(latency=200)).runs[0].outstanding == 0


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault.WITHDRAW, "the read address changed or was withdrawn"),
        (Fault.CHANGE, "the read address changed or was withdrawn"),
        (Fault.DROP_DATA, "write data changed or was withdrawn"),
        (Fault.EARLY_LAST, "WLAST came with beat 243 of 244"),
        (Fault.NO_LAST, "no WLAST with beat 244"),
        (Fault.CROSS, "AR burst at 0x40000900: 256 beats cross a 4 KiB boundary"),
        (Fault.NARROW, "a beat is not as wide as the bus"),
        (Fault.UNALIGNED, "AR burst at 0x40000101: address is not aligned"),
        (Fault.WRAP, "burst type is not INCR"),
    ],
)
def test_protocol_violations_are_named(fault, text):
    data = sample(8 * (500 if fault is not Fault.CROSS else 2000))
    source = BASE + 0x100
    if fault in (Fault.EARLY_LAST, Fault.NO_LAST):
        data, source = data[: 244 * 8], BASE + 12 * 8  # one burst
    plan = steps(data, len(data) // 8, source=source, fault=fault)
    with pytest.raises(ExecutionError, match=text) as caught:
        execute(build(), plan, base=BASE, size=SIZE, bus=Bus(stall=0.5, seed=1))
    assert "\n" not in str(caught.value)
    assert "run 0, cycle" in str(caught.value)


def test_error_responses():
    data = sample(8 * 600)
    read = copy(data, bus=Bus(read_error=BASE + 0x100 + 8 * 300 + 5))
    assert read.reads[1] == 1
    changed = np.flatnonzero(read.dumps[0] != data)
    assert set(changed) <= set(range(300 * 8, 301 * 8))
    assert len(changed) > 0
    write = copy(data, bus=Bus(write_error=TARGET + 8 * 300 + 5))
    assert write.reads[1] == 1
    bad = (write.dumps[0] != data).reshape(-1, 8).any(axis=1)
    assert not bad[:256].any()
    assert bad[256:].sum() > 200  # the burst with the error is lost


def test_accesses_outside_the_memory_are_answered_with_errors():
    data = sample(8 * 10)
    plan = [step for step in steps(data, 10, target=BASE + SIZE) if not isinstance(step, Dump)]
    report = execute(build(), plan, base=BASE, size=SIZE)
    assert report.reads[1] == 1
    assert report.traffic.error_responses == 1


@pytest.mark.parametrize(
    ("channel", "activity", "engine"),
    [("AR", ADDRESS, "load"), ("R", READ, "load"), ("AW", REQUEST, "store"), ("W", WRITE, "store"),
     ("B", RESPONSE, "store")],
)  # fmt: skip
def test_a_silent_memory_ends_at_the_cycle_limit(channel, activity, engine):
    text = rf"no interrupt within 3000 cycles .*activity {activity}, .*{engine} engine busy"
    with pytest.raises(ExecutionError, match=text):
        copy(sample(800), bus=Bus(mute={channel: 0}), cycle_limit=3000)


def test_a_memory_can_fall_silent_later():
    with pytest.raises(ExecutionError, match="activity 2"):
        copy(sample(8 * 600), bus=Bus(mute={"R": 300}), cycle_limit=3000)


def test_registers_that_do_not_answer_or_refuse():
    with pytest.raises(ExecutionError, match="writing register 0xc was not answered in 10000"):
        copy(sample(800), fault=Fault.NO_ANSWER)
    with pytest.raises(ExecutionError, match="reading register 0x40 was answered with response 2"):
        execute(build(), [Read(0x40)], base=BASE, size=SIZE)
    twice = [*steps(sample(80), 10)[:7], Start(Offset.START, 1)]
    with pytest.raises(ExecutionError, match="the interrupt is high before writing register 0xc"):
        execute(build(), twice, base=BASE, size=SIZE)


def test_runs_follow_one_another_and_reset_clears_the_machine():
    first, second = sample(800, 1), sample(800, 2)
    plan = [
        *steps(first, 100),
        Reset(),
        Read(Offset.SOURCE),
        *steps(second, 100, target=TARGET + 0x1000),
        Dump(TARGET, 800),
    ]
    report = execute(build(), plan, base=BASE, size=SIZE)
    assert report.reads[3] == 0
    assert len(report.runs) == 2
    np.testing.assert_array_equal(report.dumps[1], second)
    np.testing.assert_array_equal(report.dumps[2], first)
    assert report.runs[0].cycles == report.runs[1].cycles
    assert report.runs[1].start > report.runs[0].start + report.runs[0].cycles


def test_activity_and_timeline_tell_the_same():
    report = copy(sample(8 * 600), bus=Bus(stall=0.3, seed=9), timeline=True)
    run = report.runs[0]
    assert sum(entry.cycles for entry in run.activity) == run.cycles
    assert {entry.layer for entry in run.activity} == {7}
    compute = report.timeline[report.timeline["engine"] == TIMELINE_ENGINES.index("compute")]
    assert (compute["first"][0], compute["last"][-1]) == (0, run.cycles - 1)
    np.testing.assert_array_equal(compute["first"][1:], compute["last"][:-1] + 1)
    lengths = compute["last"] - compute["first"] + 1
    for entry in run.activity:
        mine = compute["activity"] == entry.activity
        assert lengths[mine].sum() == entry.cycles
        assert compute["first"][mine].min() == entry.first
        assert compute["last"][mine].max() == entry.last
    for engine, layer, states in (("load", 7, (ADDRESS, READ)),
                                  ("store", 8, (REQUEST, WRITE, RESPONSE))):  # fmt: skip
        mine = report.timeline[report.timeline["engine"] == TIMELINE_ENGINES.index(engine)]
        busy = (mine["last"] - mine["first"] + 1).sum()
        assert busy == sum(e.cycles for e in run.activity if e.activity in states)
        assert (mine["layer"] == layer).all()


def test_progress_is_reported_while_the_machine_runs():
    seen = []
    report = copy(
        sample(1 << 16),
        bus=Bus(latency=10_000),
        progress=lambda *now: seen.append(now),
        progress_seconds=1e-6,
    )
    assert len(seen) == report.runs[0].cycles >> 14
    assert seen == [((i + 1) << 14, 7) for i in range(len(seen))]


def test_memory_contents_from_arrays_bytes_and_files(tmp_path):
    data = sample(96)
    path = tmp_path / "data.bin"
    data.tofile(path)
    words = data.view(np.uint32)
    plan = [Load(BASE, path), Load(BASE + 96, data.tobytes()), Load(BASE + 192, words),
            Load(BASE + 288, data[::-1][::-1]), Dump(BASE, 384)]  # fmt: skip
    report = execute(build(), plan, base=BASE, size=SIZE)
    np.testing.assert_array_equal(report.dumps[0], np.tile(data, 4))


@pytest.mark.parametrize(
    ("plan", "bus", "text"),
    [
        ([Load(BASE + SIZE - 8, bytes(16))], Bus(), "16 bytes at 0x401ffff8 are outside"),
        ([Dump(BASE - 8, 8)], Bus(), "8 bytes at 0x3ffffff8 are outside"),
        ([], Bus(stall=1.0), "'1.0' is not a probability below 1"),
        ([], Bus(latency=0), "--latency is at least 1"),
        ([], Bus(mute={"Q": 1}), "no channel is called 'Q'"),
        ([Write(-4, 0)], Bus(), "'-4' is not a number"),
    ],
)
def test_requests_that_make_no_sense_are_refused(plan, bus, text):
    with pytest.raises(ToolError, match=text):
        execute(build(), plan, base=BASE, size=SIZE, bus=bus)


def test_a_missing_executable_is_a_tool_error(tmp_path):
    with pytest.raises(ToolError, match="cannot run the simulator"):
        execute(tmp_path / "none", [], base=BASE, size=SIZE)
