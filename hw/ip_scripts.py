"""Tcl scripts and constraints of the IP package, for Vivado.

Each script is a head of settings that depend on the machine, and a body that does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from palquant.hw.carry_chain import Technology
from palquant.hw.config import Geometry
from palquant.hw.ip_wrapper import CLOCK, IP_MODULE, MANAGER, SUBORDINATE
from palquant.hw.ip_xact import (
    ACCESS,
    ADDRESS_BLOCK,
    DESCRIPTION,
    DISPLAY_NAME,
    LIBRARY,
    VENDOR,
    access,
    families,
    identifier,
    ip_version,
)
from palquant.hw.registers import ADDRESS_BITS, REGISTER_BITS, REGISTERS

#: What a script is told: a text, a number, or a list of texts.
Setting = str | int | Sequence[str]
#: Where the block design puts the registers: the first address of those that Vivado gives to user
#: IP behind port GP0 of Zynq-7000.
REGISTERS_ADDRESS = 0x43C0_0000
#: The clock that scripts and constraints ask for, unless they are edited.
CLOCK_MHZ = 100
#: Data width of the widest Zynq-7000 port to its memory.
_PORT_BITS = 64

_PACKAGE_BODY = """
# A project for the length of this script; Vivado's packager warns of projects in memory.
set work [file join [pwd] palquant_packaging]
create_project -force palquant_packaging $work -part $part
set sources {}
foreach name $verilog { lappend sources [file join $here $name] }
add_files -norecurse $sources
add_files -fileset constrs_1 -norecurse [list [file join $here $constraints]]
set_property USED_IN {out_of_context} [get_files $constraints]
set_property top $module [current_fileset]
update_compile_order -fileset sources_1

# The attributes of the ports say which interfaces there are.
ipx::package_project -root_dir $here -vendor $vendor -library $library -taxonomy /UserIP \\
    -import_files -force
set core [ipx::current_core]
set_property name $module $core
set_property version $version $core
set_property core_revision $revision $core
set_property display_name $display_name $core
set_property description $description $core
set_property vendor_display_name palquant $core
set_property supported_families $families $core
ipx::associate_bus_interfaces -busif $manager -clock $clock $core
ipx::associate_bus_interfaces -busif $subordinate -clock $clock $core

# The packager makes a memory map of a subordinate, with one block; older versions may not.
set map [ipx::get_memory_maps -quiet $subordinate -of_objects $core]
if {$map eq ""} { set map [ipx::add_memory_map $subordinate $core] }
set block [ipx::get_address_blocks -quiet $address_block -of_objects $map]
if {$block eq ""} { set block [ipx::add_address_block $address_block $map] }
set_property range $range $block
set_property usage register $block
foreach {name offset access fields} $registers {
    set register [ipx::add_register $name $block]
    set_property address_offset $offset $register
    set_property size $register_bits $register
    set_property access $access $register
    foreach {field_name shift bits field_access} $fields {
        set field [ipx::add_field $field_name $register]
        set_property bit_offset $shift $field
        set_property bit_width $bits $field
        set_property access $field_access $field
    }
}

ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::check_integrity $core
ipx::save_core $core
close_project
file delete -force $work
"""

_DESIGN_BODY = """
create_project $name [file join [pwd] $name] -part $part
if {$board_part ne ""} { set_property board_part $board_part [current_project] }
set_property ip_repo_paths [list $here] [current_project]
update_ip_catalog
create_bd_design $name

# The processor, as the board's preset has it, with a port to the registers (GP0), a port from the
# accelerator to the memory (HP0), a clock, and an interrupt.
create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7:5.5 processor
apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 -config [list \\
    make_external "FIXED_IO, DDR" apply_board_preset [expr {$board_part ne ""}] \\
    Master Disable Slave Disable] [get_bd_cells processor]
set_property -dict [list \\
    CONFIG.PCW_USE_M_AXI_GP0 1 \\
    CONFIG.PCW_USE_S_AXI_HP0 1 \\
    CONFIG.PCW_S_AXI_HP0_DATA_WIDTH $memory_bits \\
    CONFIG.PCW_EN_CLK0_PORT 1 \\
    CONFIG.PCW_EN_RST0_PORT 1 \\
    CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $clock_mhz \\
    CONFIG.PCW_USE_FABRIC_INTERRUPT 1 \\
    CONFIG.PCW_IRQ_F2P_INTR 1] [get_bd_cells processor]

create_bd_cell -type ip -vlnv $accelerator accelerator
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset:5.0 resets
# Both ports of the processor are AXI3: these convert.
foreach cell {to_registers to_memory} {
    create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect:1.0 $cell
    set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 1] [get_bd_cells $cell]
}

foreach {from to} {
    processor/M_AXI_GP0 to_registers/S00_AXI
    to_registers/M00_AXI accelerator/S_AXI
    accelerator/M_AXI to_memory/S00_AXI
    to_memory/M00_AXI processor/S_AXI_HP0
} { connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to] }
foreach {from to} {
    processor/FCLK_CLK0 processor/M_AXI_GP0_ACLK
    processor/FCLK_CLK0 processor/S_AXI_HP0_ACLK
    processor/FCLK_CLK0 resets/slowest_sync_clk
    processor/FCLK_CLK0 to_registers/aclk
    processor/FCLK_CLK0 to_memory/aclk
    processor/FCLK_CLK0 accelerator/aclk
    processor/FCLK_RESET0_N resets/ext_reset_in
    resets/interconnect_aresetn to_registers/aresetn
    resets/interconnect_aresetn to_memory/aresetn
    resets/peripheral_aresetn accelerator/aresetn
    accelerator/irq processor/IRQ_F2P
} { connect_bd_net [get_bd_pins $from] [get_bd_pins $to] }

assign_bd_address -offset $registers_address -range $registers_range \\
    -target_address_space [get_bd_addr_spaces processor/Data] \\
    [get_bd_addr_segs accelerator/$registers_segment] -force
assign_bd_address -target_address_space [get_bd_addr_spaces accelerator/$manager] \\
    [get_bd_addr_segs processor/S_AXI_HP0/HP0_DDR_LOWOCM] -force

regenerate_bd_layout
validate_bd_design
save_bd_design
set wrapper [make_wrapper -files [get_files $name.bd] -top]
add_files -norecurse [list $wrapper]
set_property top ${name}_wrapper [current_fileset]
update_compile_order -fileset sources_1

if {$build} {
    launch_runs impl_1 -to_step write_bitstream -jobs $jobs
    wait_on_run impl_1
    if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} { error "impl_1 has failed" }
    set slack [get_property STATS.WNS [get_runs impl_1]]
    puts "worst slack: $slack ns"
    if {$slack < 0} { error "too slow for $clock_mhz MHz: lower clock_mhz" }
    write_hw_platform -fixed -include_bit -force -file [file join [pwd] $name.xsa]
}
"""


def _quoted(value: Setting) -> str:
    """A value as a word of Tcl; the braces in ours are balanced."""
    text = str(value) if isinstance(value, str | int) else " ".join(value)
    return f"{{{text}}}"


def _script(head: str, settings: Mapping[str, Setting], body: str) -> str:
    lines = [head, "set here [file dirname [file normalize [info script]]]"]
    lines += [f"set {name} {_quoted(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n" + body


def _register_list() -> str:
    lines = [""]
    for register in REGISTERS.values():
        fields = " ".join(
            f"{item.name} {shift} {item.bits} {ACCESS[item.access]}"
            for item, shift in register.fields.values()
        )
        lines.append(f"    {register.name} {register.offset:#05x} {access(register)} {{{fields}}}")
    return "\n".join([*lines, ""])


def package_script(
    geometry: Geometry,
    *,
    version: str,
    part: str,
    technology: Technology | None,
    sources: Sequence[str],
    constraints: str,
) -> str:
    """Tcl by which Vivado itself makes the component of the IP's files.

    Parameters:
        geometry: Sizes of the machine.
        version: The package's version, of three numbers.
        part: The FPGA.
        technology: What the array is made of; None for adders that any tool understands.
        sources: Names of the Verilog files, the top module's last.
        constraints: Name of the constraints for synthesis out of context.
    """
    title = f"geometry {geometry.name}"
    settings: dict[str, Setting] = {
        "part": part,
        "module": IP_MODULE,
        "verilog": sources,
        "constraints": constraints,
        "vendor": VENDOR,
        "library": LIBRARY,
        "version": ip_version(version)[0],
        "revision": ip_version(version)[1],
        "display_name": f"{DISPLAY_NAME}, {title}",
        "description": f"{DESCRIPTION}, {title}",
        "families": [f"{family} Beta" for family in families(technology)],
        "manager": MANAGER,
        "subordinate": SUBORDINATE,
        "clock": CLOCK,
        "address_block": ADDRESS_BLOCK,
        "range": 1 << ADDRESS_BITS,
        "register_bits": REGISTER_BITS,
        "registers": _register_list(),
    }
    head = (
        "# Lets Vivado make component.xml anew, of the Verilog beside this script:\n"
        "# vivado -mode batch -source FILE. Generated."
    )
    return _script(head, settings, _PACKAGE_BODY)


def design_script(geometry: Geometry, *, version: str, part: str) -> str:
    """Tcl that makes a project with the IP beside the processor of a Zynq-7000.

    Parameters:
        geometry: Sizes of the machine.
        version: The package's version, of three numbers.
        part: The FPGA, a Zynq-7000.
    """
    choices: dict[str, Setting] = {
        "part": part,
        "board_part": "",
        "clock_mhz": CLOCK_MHZ,
        "build": 0,
        "jobs": 2,
    }
    settings: dict[str, Setting] = {
        "name": "palquant_system",
        "accelerator": identifier(version),
        "memory_bits": min(geometry.bus_bits, _PORT_BITS),
        "registers_address": f"{REGISTERS_ADDRESS:#010x}",
        "registers_range": f"{(1 << ADDRESS_BITS) // 1024}K",
        "registers_segment": f"{SUBORDINATE}/{ADDRESS_BLOCK}",
        "manager": MANAGER,
    }
    head = (
        "# Makes a project of the accelerator and a Zynq-7000's processor, in the current folder:\n"
        "# vivado -mode batch -source FILE. Generated, for Vivado 2020.1 and later.\n"
        "#\n"
        "# To choose: board_part, such as tul.com.tw:pynq-z2:part0:1.0, whose preset sets memory\n"
        "# and pins (empty: Vivado's defaults, which fit no board); clock_mhz; build, which 1\n"
        "# makes go on to the bitstream and the hardware platform; jobs, how many run at a time."
    )
    return _script(head, choices | settings, _DESIGN_BODY)


def constraints_text() -> str:
    """Constraints for synthesis of the IP by itself; in a design, the clock's source says it."""
    return (
        "# The clock where the IP is synthesised out of context. Generated.\n"
        f"create_clock -name {CLOCK} -period {1000 / CLOCK_MHZ:.3f} [get_ports {CLOCK}]\n"
    )


def dialogue_script() -> str:
    """Tcl of the dialogue in which Vivado sets an IP's parameters: it has none but its name."""
    return (
        "proc init_gui { IPINST } {\n"
        '  ipgui::add_param $IPINST -name "Component_Name"\n'
        '  ipgui::add_page $IPINST -name "Page 0"\n'
        "}\n"
    )
