"""A stand-in for Vivado: its Tcl commands as far as our scripts use them, in a Tcl interpreter.

Objects are their names. Options, names and directions that Vivado would refuse are refused here;
what a command does is no more than what the checks need.
"""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from palquant.hw.ip_xact import NAME_SPACES

try:
    import tkinter
except ModuleNotFoundError:  # some systems ship Python without it
    tkinter = None

#: Command -> its options: without a value, with one.
OPTIONS = {
    "create_project": ("-force", "-part"),
    "close_project": ("", ""),
    "current_project": ("", ""),
    "current_fileset": ("", ""),
    "get_files": ("", ""),
    "get_runs": ("", ""),
    "add_files": ("-norecurse", "-fileset"),
    "update_compile_order": ("", "-fileset"),
    "update_ip_catalog": ("", ""),
    "create_bd_design": ("", ""),
    "create_bd_cell": ("", "-type -vlnv"),
    "apply_bd_automation": ("", "-rule -config"),
    "set_property": ("", "-dict"),
    "get_property": ("", ""),
    "get_bd_cells": ("", ""),
    "get_bd_pins": ("", ""),
    "get_bd_intf_pins": ("", ""),
    "get_bd_addr_spaces": ("", ""),
    "get_bd_addr_segs": ("", ""),
    "connect_bd_net": ("", ""),
    "connect_bd_intf_net": ("", ""),
    "assign_bd_address": ("-force", "-offset -range -target_address_space"),
    "regenerate_bd_layout": ("", ""),
    "validate_bd_design": ("", ""),
    "save_bd_design": ("", ""),
    "make_wrapper": ("-top", "-files"),
    "launch_runs": ("", "-to_step -jobs"),
    "wait_on_run": ("", ""),
    "write_hw_platform": ("-fixed -include_bit -force", "-file"),
    "create_clock": ("", "-name -period"),
    "get_ports": ("", ""),
    "ipgui::add_param": ("", "-name -parent"),
    "ipgui::add_page": ("", "-name"),
    "ipx::package_project": ("-import_files -force", "-root_dir -vendor -library -taxonomy"),
    "ipx::current_core": ("", ""),
    "ipx::associate_bus_interfaces": ("", "-busif -clock"),
    "ipx::get_memory_maps": ("-quiet", "-of_objects"),
    "ipx::get_address_blocks": ("-quiet", "-of_objects"),
    "ipx::add_register": ("", ""),
    "ipx::add_field": ("", ""),
    "ipx::create_xgui_files": ("", ""),
    "ipx::update_checksums": ("", ""),
    "ipx::check_integrity": ("", ""),
    "ipx::save_core": ("", ""),
}  # fmt: skip
#: Inputs that Vivado gives a value if nothing is connected.
OPTIONAL = {"resets/aux_reset_in", "resets/mb_debug_sys_rst", "resets/dcm_locked"}


def spirit(path):
    """A path of IP-XACT elements, as ElementTree wants it."""
    return "/".join(f"{{{NAME_SPACES['spirit']}}}{name}" for name in path.split("/"))


def processor(settings):
    """Pins and interfaces of processing_system7, and its address segments."""
    pins = {"FCLK_CLK0": "out", "FCLK_RESET0_N": "out"}
    interfaces = {"DDR": "external", "FIXED_IO": "external"}
    if settings.get("CONFIG.PCW_USE_M_AXI_GP0") == "1":
        pins["M_AXI_GP0_ACLK"], interfaces["M_AXI_GP0"] = "in", "master"
    if settings.get("CONFIG.PCW_USE_S_AXI_HP0") == "1":
        pins["S_AXI_HP0_ACLK"], interfaces["S_AXI_HP0"] = "in", "slave"
    if settings.get("CONFIG.PCW_USE_FABRIC_INTERRUPT") == "1" and (
        settings.get("CONFIG.PCW_IRQ_F2P_INTR") == "1"
    ):
        pins["IRQ_F2P"] = "in"
    return pins, interfaces, ["S_AXI_HP0/HP0_DDR_LOWOCM"], ["Data"]


def smartconnect(settings):
    """Pins and interfaces of smartconnect."""
    interfaces = {f"S{k:02}_AXI": "slave" for k in range(int(settings["CONFIG.NUM_SI"]))}
    interfaces |= {f"M{k:02}_AXI": "master" for k in range(int(settings["CONFIG.NUM_MI"]))}
    return {"aclk": "in", "aresetn": "in"}, interfaces, [], []


def resets(settings):
    """Pins of proc_sys_reset."""
    names = ("slowest_sync_clk", "ext_reset_in", "aux_reset_in", "mb_debug_sys_rst", "dcm_locked")
    outputs = ("interconnect_aresetn", "peripheral_aresetn", "peripheral_reset")
    return {**dict.fromkeys(names, "in"), **dict.fromkeys(outputs, "out")}, {}, [], []


def packaged(folder):
    """VLNV of the IP in a repository folder, and its cell."""
    root = ET.parse(folder / "component.xml").getroot()
    name = ":".join(root.findtext(spirit(key)) for key in ("vendor", "library", "name", "version"))
    pins, interfaces = {}, {}
    for bus in root.findall(spirit("busInterfaces/busInterface")):
        mode = "master" if bus.find(spirit("master")) is not None else "slave"
        if bus.find(spirit("busType")).get(spirit("name")) == "aximm":
            interfaces[bus.findtext(spirit("name"))] = mode
        else:
            port = bus.findtext(spirit("portMaps/portMap/physicalPort/name"))
            pins[port] = "out" if mode == "master" else "in"
    segments = [
        f"{item.findtext(spirit('name'))}/{item.findtext(spirit('addressBlock/name'))}"
        for item in root.findall(spirit("memoryMaps/memoryMap"))
    ]
    spaces = [
        item.findtext(spirit("name")) for item in root.findall(spirit("addressSpaces/addressSpace"))
    ]
    return name, lambda settings: (pins, interfaces, segments, spaces)


class Vivado:
    """Runs scripts and records what they did.

    Parameters:
        folder: Where projects would be made.
        slack_ns: What the implementation says of its timing.
    """

    def __init__(self, folder, slack_ns="0.5"):
        self.folder, self.slack_ns = folder, slack_ns
        self.calls, self.files, self.cells, self.properties = [], [], {}, {}
        self.nets, self.interface_nets, self.addresses, self.registers = [], [], {}, {}
        self.catalog = {
            "xilinx.com:ip:processing_system7:5.5": processor,
            "xilinx.com:ip:smartconnect:1.0": smartconnect,
            "xilinx.com:ip:proc_sys_reset:5.0": resets,
        }
        self.failure = None
        if tkinter is None:
            pytest.skip("no Tcl interpreter: tkinter is not installed (Debian package python3-tk)")
        self.tcl = tkinter.Tcl()
        self.tcl.eval("namespace eval ipx {}; namespace eval ipgui {}")
        for name in OPTIONS:
            self.tcl.createcommand(name, lambda *words, name=name: self._call(name, words))

    def source(self, path):
        """Run a script; the first refusal is raised."""
        try:
            self.tcl.eval(f"source {{{path}}}")
        except tkinter.TclError:
            if self.failure:
                raise self.failure from None
            raise

    def _call(self, name, words):
        try:
            flags, valued = (set(text.split()) for text in OPTIONS[name])
            options, rest, words = {}, [], list(map(str, words))
            while words:
                word = words.pop(0)
                if re.match(r"-[a-z]", word):
                    assert word in flags | valued, f"{name} has no option {word}"
                    options[word] = words.pop(0) if word in valued else True
                else:
                    rest.append(word)
            self.calls.append((name, options, rest))
            run = getattr(self, name.replace("::", "_"), None)
            return "" if run is None else run(options, *rest) or ""
        except BaseException as error:
            self.failure = error
            raise

    def called(self, name):
        """Options and other words of each call of a command."""
        return [(options, rest) for called, options, rest in self.calls if called == name]

    def _cell(self, path):
        cell, _, rest = path.partition("/")
        vlnv, settings = self.cells[cell]
        return self.catalog[vlnv](settings), rest

    # Projects.

    def current_project(self, options):
        return "project"

    def current_fileset(self, options):
        return "sources_1"

    def get_files(self, options, name):
        return name

    def get_runs(self, options, name):
        return name

    def get_property(self, options, name, of):
        return {"PROGRESS": "100%", "STATS.WNS": self.slack_ns}[name]

    def add_files(self, options, *lists):
        for item in lists:
            for path in self.tcl.splitlist(item):
                assert Path(path).is_file(), path
                self.files.append(path)

    def set_property(self, options, *rest):
        if "-dict" in options:
            (of,), words = rest, self.tcl.splitlist(options["-dict"])
            pairs = dict(zip(words[::2], words[1::2], strict=True))
        else:
            name, value, of = rest
            pairs = {name: value}
        self.properties.setdefault(of, {}).update(pairs)
        if of in self.cells:
            self.cells[of][1].update(pairs)

    def update_ip_catalog(self, options):
        for folder in self.tcl.splitlist(self.properties["project"]["ip_repo_paths"]):
            name, cell = packaged(Path(folder))
            self.catalog[name] = cell

    # Block designs.

    def create_bd_cell(self, options, name):
        assert options["-vlnv"] in self.catalog, options["-vlnv"]
        assert name not in self.cells
        self.cells[name] = (options["-vlnv"], {})
        return name

    def get_bd_cells(self, options, name):
        assert name in self.cells, name
        return name

    def get_bd_pins(self, options, path):
        (pins, *_), name = self._cell(path)
        assert name in pins, path
        return path

    def get_bd_intf_pins(self, options, path):
        (_, interfaces, *_), name = self._cell(path)
        assert name in interfaces, path
        return path

    def get_bd_addr_segs(self, options, path):
        (_, _, segments, _), name = self._cell(path)
        assert name in segments, path
        return path

    def get_bd_addr_spaces(self, options, path):
        (*_, spaces), name = self._cell(path)
        assert name in spaces, path
        return path

    def connect_bd_net(self, options, source, sink):
        for path, direction in ((source, "out"), (sink, "in")):
            (pins, *_), name = self._cell(path)
            assert pins[name] == direction, path
        assert sink not in [taken for _, taken in self.nets], sink
        self.nets.append((source, sink))

    def connect_bd_intf_net(self, options, source, sink):
        for path, mode in ((source, "master"), (sink, "slave")):
            (_, interfaces, *_), name = self._cell(path)
            assert interfaces[name] == mode, path
            assert path not in sum(self.interface_nets, ()), path
        self.interface_nets.append((source, sink))

    def assign_bd_address(self, options, segment):
        self.addresses[options["-target_address_space"], segment] = options

    def validate_bd_design(self, options):
        sinks = {sink for _, sink in self.nets}
        ends = set(sum(self.interface_nets, ()))
        for cell, (vlnv, settings) in self.cells.items():
            pins, interfaces, _, _ = self.catalog[vlnv](settings)
            inputs = {f"{cell}/{name}" for name, way in pins.items() if way == "in"}
            assert inputs <= sinks | OPTIONAL, inputs - sinks
            wanted = {f"{cell}/{name}" for name, mode in interfaces.items() if mode != "external"}
            assert wanted <= ends, wanted - ends

    def make_wrapper(self, options):
        assert self.called("save_bd_design")
        path = self.folder / f"{Path(options['-files']).stem}_wrapper.v"
        path.write_text("")
        return str(path)

    # The packager.

    def ipx_package_project(self, options):
        folder = Path(options["-root_dir"])
        assert all(Path(path).parent == folder for path in self.files)
        text = (folder / f"{self.properties['sources_1']['top']}.v").read_text()
        found = re.findall(r'INFO = "xilinx.com:\w+:(\w+):1.0 (\w+) \w+"', text)
        self.buses = {bus: definition for definition, bus in found}

    def ipx_current_core(self, options):
        return "core"

    def ipx_associate_bus_interfaces(self, options, core):
        assert self.buses[options["-busif"]] == "aximm"
        assert self.buses[options["-clock"]] == "clock"

    def ipx_get_memory_maps(self, options, name):
        assert name in self.buses
        return f"{options['-of_objects']}/{name}"

    def ipx_get_address_blocks(self, options, name):
        return f"{options['-of_objects']}/{name}"

    def ipx_add_register(self, options, name, block):
        assert name not in self.registers
        self.registers[name] = []
        return f"{block}/{name}"

    def ipx_add_field(self, options, name, register):
        self.registers[register.rpartition("/")[2]].append(name)
        return f"{register}/{name}"
