"""Waveforms: recorded where the headers are installed, refused with their names where not."""

import struct

import pytest
from copy_engine import BASE, SIZE, build, sample, steps, verilog

from palquant.errors import ToolError
from palquant.sim.execute import execute
from palquant.sim.toolchain import find_toolchain, require_wave_headers

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


def test_a_build_without_waveforms_says_so(tmp_path):
    with pytest.raises(ToolError, match="this build records no waveforms"):
        execute(build(), [], base=BASE, size=SIZE, waves=tmp_path / "waves.fst")
