"""Waveforms: recorded where the headers are installed, refused with their names where not."""

import struct

import pytest
from copy_engine import BASE, SIZE, build, sample, steps, verilog

from palquant.errors import ExecutionError, OutputError, ToolError
from palquant.sim.bus import Bus
from palquant.sim.execute import execute
from palquant.sim.toolchain import find_toolchain, require_wave_headers
from palquant.sim.waves import is_whole

TIME_PER_CYCLE = 10


def _span(path):
    """First and last time in an FST file: big-endian, behind block type and length."""
    header = path.read_bytes()[:25]
    assert header[0] == 0  # FST_BL_HDR
    return struct.unpack(">QQ", header[9:])


def _signals(path):
    """Number of signals in an FST file, inner ones included."""
    return struct.unpack(">Q", path.read_bytes()[57:65])[0]


def _recording_is_possible():
    try:
        require_wave_headers(find_toolchain())
    except ToolError:
        return False
    return True


def _run(folder, **options):
    path = folder / "waves.fst"
    report = execute(
        build(waves=True), steps(sample(8000), 1000), base=BASE, size=SIZE, waves=path, **options
    )
    return report, path


def test_waveforms_show_the_cycles_asked_for(tmp_path):
    if not _recording_is_possible():
        with pytest.raises(ToolError, match=r"recording waveforms needs the C header"):
            build(waves=True)
        return
    report, path = _run(tmp_path)
    assert _span(path) == (0, report.cycles * TIME_PER_CYCLE - TIME_PER_CYCLE // 2)
    short, path = _run(tmp_path, waves_window=(100, 199))
    start = short.runs[0].start
    assert _span(path) == (
        (start + 100) * TIME_PER_CYCLE,
        (start + 199) * TIME_PER_CYCLE + TIME_PER_CYCLE // 2,
    )
    plain = execute(build(), steps(sample(8000), 1000), base=BASE, size=SIZE)
    assert plain.runs == report.runs == short.runs
    ports = verilog().partition(");")[0].count("put ")
    assert _signals(path) > ports


def test_waveforms_of_a_failed_run_are_kept_and_whole(tmp_path):
    if not _recording_is_possible():
        with pytest.raises(ToolError, match="C header"):
            build(waves=True)
        return
    path = tmp_path / "waves.fst"
    path.write_bytes(b"old")
    with pytest.raises(ExecutionError, match="no interrupt within 50 cycles"):
        _run(tmp_path, cycle_limit=50)
    assert is_whole(path)
    contents = path.read_bytes()
    with pytest.raises(OutputError, match=r"no whole waveforms; .* none of the cycles to record$"):
        _run(tmp_path, waves_window=(10**9, 10**9 + 1))
    with pytest.raises(ToolError, match="the simulator refused"):
        _run(tmp_path, bus=Bus(latency=-1))
    assert path.read_bytes() == contents
    cut = tmp_path / "cut"
    for length in (0, 5, 329, 330, 331, len(contents) // 2, len(contents) - 1):
        cut.write_bytes(contents[:length])
        assert not is_whole(cut), length
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cut", "waves.fst"]


@pytest.mark.parametrize(
    ("blocks", "whole"),
    [
        ([(0, 8), (8, 30), (3, 9), (6, 8)], True),
        ([(0, 8), (1, 30), (4, 8)], True),
        ([(0, 8), (8, 30), (3, 9)], False),
        ([(0, 8), (6, 30)], False),
        ([(0, 8), (8, 30), (6, 30), (8, 7)], False),
        ([], False),
    ],
)
def test_a_whole_file_has_changes_and_names(tmp_path, blocks, whole):
    path = tmp_path / "waves.fst"
    path.write_bytes(
        b"".join(
            bytes([kind, *length.to_bytes(8, "big")]) + bytes(max(0, length - 8))
            for kind, length in blocks
        )
    )
    assert is_whole(path) is whole


def test_a_build_without_waveforms_says_so(tmp_path):
    with pytest.raises(ToolError, match="this build records no waveforms"):
        execute(build(), [], base=BASE, size=SIZE, waves=tmp_path / "waves.fst")
