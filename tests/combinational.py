"""Which inputs of a component reach its outputs within a cycle: a walk through its netlist."""

from amaranth.hdl import Fragment, Value
from amaranth.hdl._ir import PortDirection, build_netlist
from amaranth.lib.wiring import In


def combinational_paths(component):
    """Walk back from every output, bit by bit, as far as there is no register.

    Returns:
        Each pair (input, output) of port names of which the first reaches the second. The clock,
        which reaches every register, does not count.
    """
    ports = {}
    for path, member, value in component.signature.flatten(component):
        direction = PortDirection.Input if member.flow is In else PortDirection.Output
        ports["__".join(map(str, path))] = (Value.cast(value), direction)
    netlist = build_netlist(Fragment.get(component, None), ports)
    top = netlist.top
    inputs = {
        bit: name for name, (start, width) in top.ports_i.items()
        for bit in range(start, start + width)
    }  # fmt: skip
    found = set()
    for output, value in top.ports_o.items():
        seen, waiting = set(), list(value)
        while waiting:
            net = waiting.pop()
            if net in seen or net.is_const:
                continue
            seen.add(net)
            if net.cell == 0:
                found.add((inputs[net.bit], output))
            else:
                cell = netlist.cells[net.cell]
                waiting += [source for source, _ in cell.comb_edges_to(net.bit)]
    return {(source, output) for source, output in found if source != "clk"}
