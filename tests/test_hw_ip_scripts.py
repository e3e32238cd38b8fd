"""The Tcl scripts run against stand-ins for Vivado's commands, and do what they are for."""

import re

import pytest
from vivado import Vivado

from palquant.hw.ip_package import CONSTRAINTS, SOURCES, package
from palquant.hw.ip_scripts import REGISTERS_ADDRESS, constraints_text, design_script
from palquant.hw.presets import geometry
from palquant.hw.registers import REGISTERS

TINY = geometry("tiny")
PART = "xc7z010clg400-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("ip") / "a package"  # names with spaces are names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palquant.hw.ip_package.verilog", lambda *_: "module palquant();\n")
        package(TINY, place, version="1.2.3", part=PART)
    return place


@pytest.fixture
def vivado(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Vivado(tmp_path)


def edited(folder, **choices):
    """The block design's script with other choices at its top, beside the package's."""
    text = (folder / "block_design.tcl").read_text()
    for name, value in choices.items():
        text, count = re.subn(rf"(?m)^set {name} {{.*}}$", f"set {name} {{{value}}}", text)
        assert count == 1
    path = folder / "edited.tcl"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["block_design.tcl", "package_ip.tcl", "xgui.tcl", CONSTRAINTS])
def test_brackets_close_in_order(folder, name):
    """What can be said where there is no Tcl interpreter."""
    open_ones = []
    for line in (folder / name).read_text().splitlines():
        for character in "" if line.lstrip().startswith("#") else line:
            if character in "{[":
                open_ones.append("}]"["{[".index(character)])
            elif character in "}]":
                assert open_ones.pop() == character, line
    assert not open_ones


def test_design_is_validated_and_has_a_top(vivado, folder):
    vivado.source(folder / "block_design.tcl")
    assert vivado.called("create_project")[0][0]["-part"] == PART
    assert len(vivado.called("validate_bd_design")) == 1
    assert vivado.properties["sources_1"]["top"] == "palquant_system_wrapper"
    assert not vivado.called("launch_runs")
    assert vivado.cells["accelerator"][0] == "palquant.org:accelerator:palquant_ip:1.2"
    assert vivado.cells["processor"][1]["CONFIG.PCW_S_AXI_HP0_DATA_WIDTH"] == "64"


def test_design_connects_processor_and_accelerator(vivado, folder):
    vivado.source(folder / "block_design.tcl")
    assert set(vivado.interface_nets) == {
        ("processor/M_AXI_GP0", "to_registers/S00_AXI"),
        ("to_registers/M00_AXI", "accelerator/S_AXI"),
        ("accelerator/M_AXI", "to_memory/S00_AXI"),
        ("to_memory/M00_AXI", "processor/S_AXI_HP0"),
    }
    drivers = {sink: source for source, sink in vivado.nets}
    assert drivers["processor/IRQ_F2P"] == "accelerator/irq"
    assert drivers["accelerator/aresetn"] == "resets/peripheral_aresetn"
    clocks = {sink for sink in drivers if re.search("clk", sink, re.IGNORECASE)}
    assert len(clocks) == 6
    assert {drivers[sink] for sink in clocks} == {"processor/FCLK_CLK0"}


def test_design_assigns_both_addresses(vivado, folder):
    vivado.source(folder / "block_design.tcl")
    registers = vivado.addresses.pop(("processor/Data", "accelerator/S_AXI/reg0"))
    assert int(registers["-offset"], 0) == REGISTERS_ADDRESS == 0x43C00000
    assert registers["-range"] == "4K"
    assert list(vivado.addresses) == [("accelerator/M_AXI", "processor/S_AXI_HP0/HP0_DDR_LOWOCM")]


def test_design_takes_a_board_and_builds(vivado, folder):
    vivado.source(edited(folder, board_part="vendor:board:part0:1.0", build=1, clock_mhz=125))
    assert vivado.properties["project"]["board_part"] == "vendor:board:part0:1.0"
    (options, _), *_ = vivado.called("apply_bd_automation")
    words = vivado.tcl.splitlist(options["-config"])
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "make_external": "FIXED_IO, DDR",
        "apply_board_preset": "1",
        "Master": "Disable",
        "Slave": "Disable",
    }
    assert vivado.cells["processor"][1]["CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ"] == "125"
    assert vivado.called("launch_runs")[0][0]["-to_step"] == "write_bitstream"
    assert vivado.called("write_hw_platform")[0][0]["-file"].endswith("/palquant_system.xsa")


def test_design_that_is_too_slow_is_no_success(vivado, folder):
    vivado.slack_ns = "-0.1"
    with pytest.raises(Exception, match="too slow for 100 MHz"):
        vivado.source(edited(folder, build=1))
    assert not vivado.called("write_hw_platform")


@pytest.mark.parametrize(
    ("before", "behind", "message"),
    [
        ("accelerator/irq ", "accelerator/interrupt ", "accelerator/interrupt"),
        ("    resets/interconnect_aresetn to_memory/aresetn\n", "", "to_memory/aresetn"),
        ("CONFIG.PCW_IRQ_F2P_INTR 1", "CONFIG.PCW_IRQ_F2P_INTR 0", "IRQ_F2P"),
        ("    to_memory/M00_AXI processor/S_AXI_HP0\n", "", "S_AXI_HP0"),
        ("regenerate_bd_layout", "regenerate_layout", "invalid command"),
        ("assign_bd_address -offset", "assign_bd_address -base", "has no option -base"),
    ],
)
def test_mistakes_in_a_design_are_noticed(vivado, folder, before, behind, message):
    text = (folder / "block_design.tcl").read_text()
    assert before in text
    path = folder / "mistake.tcl"
    path.write_text(text.replace(before, behind))
    with pytest.raises(Exception, match=message):
        vivado.source(path)


def test_packager_gets_the_files_and_the_registers(vivado, folder):
    vivado.source(folder / "package_ip.tcl")
    names = [*SOURCES, CONSTRAINTS]
    assert vivado.files == [str(folder / name) for name in names]
    assert vivado.properties[CONSTRAINTS] == {"USED_IN": "out_of_context"}
    assert vivado.registers == {
        register.name: list(register.fields) for register in REGISTERS.values()
    }
    block = "core/S_AXI/reg0"
    assert vivado.properties[block] == {"range": "4096", "usage": "register"}
    for register in REGISTERS.values():
        properties = vivado.properties[f"{block}/{register.name}"]
        assert int(properties["address_offset"], 0) == register.offset
        for name, (item, shift) in register.fields.items():
            found = vivado.properties[f"{block}/{register.name}/{name}"]
            assert (found["bit_offset"], found["bit_width"]) == (str(shift), str(item.bits))
    core = vivado.properties["core"]
    assert (core["name"], core["version"], core["core_revision"]) == ("palquant_ip", "1.2", "3")
    assert vivado.calls[-2][0] == "ipx::save_core"


def test_clock_is_constrained(vivado, folder):
    vivado.source(folder / CONSTRAINTS)
    ((options, _),) = vivado.called("create_clock")
    assert options == {"-name": "aclk", "-period": "10.000"}
    assert "[get_ports aclk]" in constraints_text()


def test_dialogue_runs(vivado, folder):
    vivado.source(folder / "xgui.tcl")
    vivado.tcl.eval("init_gui instance")
    assert vivado.called("ipgui::add_param") == [({"-name": "Component_Name"}, ["instance"])]


def test_port_to_the_memory_is_no_wider_than_there_is():
    def width(name):
        text = design_script(geometry(name), version="1.2.3", part=PART)
        return re.search(r"^set memory_bits {(\d+)}$", text, re.MULTILINE)[1]

    assert geometry("kilomac").bus_bits == 128
    assert (width("tiny"), width("kilomac")) == ("64", "64")
