"""cocotb tests of the copy engine, for the tests of the runner: some pass, some must not."""

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, Timer
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam
from copy_engine import Offset

from palquant.sim.cocotb_runner import bench_parameters

SOURCE, TARGET = 0x100, 0x8000


async def _start(dut):
    Clock(dut.clk, 10, unit="ns", impl="gpi").start()
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=1 << 16)
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 8)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    return ram, host


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def copies(dut):
    ram, host = await _start(dut)
    data = random.Random(bench_parameters()["contents"]).randbytes(4096)
    ram.write(SOURCE, data)
    for offset, value in (
        (Offset.SOURCE, SOURCE),
        (Offset.TARGET, TARGET),
        (Offset.BEATS, len(data) // 8),
        (Offset.START, 1),
    ):
        await host.write_dword(offset, value)
    await RisingEdge(dut.irq)
    assert ram.read(TARGET, len(data)) == data


@cocotb.test()
async def shows_power_on_values(dut):
    _, host = await _start(dut)
    words = [await host.read_dword(offset) for offset in (Offset.SCRATCH, Offset.NEXT_SCRATCH)]
    print(f"SCRATCH {words[0]} {words[1]} SEED {cocotb.RANDOM_SEED}")


@cocotb.test()
async def only_ports_are_visible(dut):
    assert {"clk", "irq", "m_axi_araddr"} <= {handle._name for handle in dut}
    assert not hasattr(dut, "length")


@cocotb.test()
async def fails(dut):
    assert dut.irq.value == 2, "this cannot be"


@cocotb.test()
async def hangs(dut):
    while True:
        await Timer(1, unit="us")
