"""What the tests of the post-processor's blocks share: stimuli, and parameters as bus beats."""

from itertools import product

from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

from palquant.hw import isa
from palquant.hw.addresses import Advance
from palquant.hw.config import PARAMETER_BITS, PARAMETER_ROWS, Geometry
from palquant.hw.isa import Memory


def small_geometry(name, **sizes):
    """A geometry as small as the constraints allow, but for what ``sizes`` says."""
    return Geometry(
        **{
            "name": name,
            "tin": 4,
            "tout": 4,
            "lanes": 2,
            "bus_bits": 32,
            "accumulator_bits": 26,
            "activation_sum_bits": 20,
            "threshold_bits": 24,
            "residual_bits": 16,
            "weight_words": 16,
            "activation_words": 1024,
            "output_words": 1024,
            "residual_words": 1024,
            "parameter_slots": 8,
            **sizes,
        }
    )


def simulate(dut: Elaboratable, bench, *background):
    """Run ``bench`` to its end, with the background benches beside it."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for process in background:
        simulator.add_testbench(process, background=True)
    simulator.add_testbench(bench)
    simulator.run()


def trace(dut, cycles, outputs):
    """Drive a block and record its outputs.

    Parameters:
        dut: The block.
        cycles: For each cycle the (port, value) pairs that change in it.
        outputs: Ports, or lists of ports, to sample.

    Returns:
        For each cycle the sampled values, as integers in the structure of ``outputs``.
    """
    seen = []

    def sample(ctx, port):
        if isinstance(port, list):
            return [sample(ctx, item) for item in port]
        return ctx.get(port)

    async def bench(ctx):
        for changes in cycles:
            for port, value in changes:
                ctx.set(port, value)
            seen.append(sample(ctx, outputs))
            await ctx.tick()

    simulate(dut, bench)
    return seen


def bank_writes(port, banks):
    """Cycles that write configuration banks, one for each tag, and then close the port."""
    cycles = [
        [(port.valid, 1), (port.tag, tag), (port.fields, fields)]
        for tag, fields in enumerate(banks)
    ]
    return [*cycles, [(port.valid, 0), (port.tag, 0), (port.fields, {})]]


def parameter_words(geometry, slots):
    """Bus beats (address, data) of parameter slots, given as ``{slot: {row: lane values}}``."""
    mask = (1 << PARAMETER_BITS) - 1
    beats_per_row = geometry.parameter_bits_per_row // geometry.bus_bits
    for slot, rows in slots.items():
        for row, lanes in rows.items():
            word = sum((value & mask) << (PARAMETER_BITS * i) for i, value in enumerate(lanes))
            for part in range(beats_per_row):
                address = (slot * PARAMETER_ROWS + row) * beats_per_row + part
                yield address, (word >> (part * geometry.bus_bits)) % (1 << geometry.bus_bits)


def parameter_writes(port, geometry, slots):
    """Cycles that write parameter slots through a ``LoadWrite`` port, and then close it."""
    cycles = [
        [
            (port.valid, 1),
            (port.memory, Memory.PARAMETER),
            (port.address, address),
            (port.data, data),
        ]
        for address, data in parameter_words(geometry, slots)
    ]
    return [*cycles, [(port.valid, 0)], [], []]


def control_row(lanes):
    """Values of a control row, given each lane's fields."""
    return [int.from_bytes(isa.PARAMETER_CONTROL.encode(fields), "little") for fields in lanes]


def random_slot(rng, geometry, **fixed):
    """A slot of random parameters: ``{row: lane values}``, and each lane's control fields.

    Thresholds fit the geometry's width; ``fixed`` sets control fields of all lanes.
    """
    bits = {"scale": geometry.scale_bits}
    control = []
    for _ in range(geometry.lanes):
        fields = {}
        for item in isa.PARAMETER_CONTROL.fields:
            width = bits.get(item.name, item.bits)
            low = -(1 << (width - 1)) if item.signed else 0
            fields[item.name] = rng.randint(low, low + (1 << width) - 1)
        control.append(fields | fixed)
    rows = {isa.ROW_CONTROL: control_row(control)}
    rows[isa.ROW_OFFSET] = random_words(rng, geometry.offset_bits, geometry.lanes)
    for tree in isa.THRESHOLD_ROWS:
        for row in tree.values():
            rows[row] = random_words(rng, geometry.threshold_bits, geometry.lanes)
    return rows, control


def random_words(rng, bits, count):
    """Signed numbers of all magnitudes, the extremes of ``bits`` bits among them."""
    words = []
    for _ in range(count):
        width = rng.randint(1, bits)
        low = -(1 << (width - 1))
        words.append(rng.choice((low, -low - 1, rng.randint(low, -low - 1))))
    return words


def advance_of(chunk, row, column, beat):
    """How a beat at this place follows its predecessor in loop order."""
    if beat:
        return Advance.BEAT
    if column:
        return Advance.COLUMN
    if row:
        return Advance.ROW
    return Advance.CHUNK if chunk else Advance.FIRST


def trace_writer(dut, ports, outputs, instructions, rng, draw, steps_of_beat, early=0):
    """Present beats to a block that writes results to memories, and record its outputs.

    Whatever must not be looked at yet, or no longer, changes with every beat. That lanes' groups
    are asked for a cycle before they arrive is checked here.

    Parameters:
        dut: The block.
        ports: Arrays of ports, one port for each lane, that take a beat's values.
        outputs: Ports, or lists of ports, to sample.
        instructions: (tag, fields, (chunks, rows, columns)); each tag has one set of fields.
        rng: Source of groups, slots and gaps.
        draw: Draws the values of one beat, given the fields: a list for each of ``ports``.
        steps_of_beat: What a beat leads to, step by step, given geometry, fields, place (chunk,
            row, column, beat), values and groups.
        early: Cycles by which the next beat comes too early.

    Returns:
        For each cycle the sampled values and whether it is an overrun; the expected steps by
        cycle.
    """
    geometry = dut.geometry
    banks = [{}, {}]
    for tag, fields, _ in instructions:
        banks[tag] = fields
    cycles = bank_writes(dut.configuration, banks)
    expected, late = {}, []
    for tag, fields, extent in instructions:
        for place in product(*map(range, (*extent, geometry.beats))):
            slot = rng.randrange(geometry.parameter_slots)
            groups = [rng.randrange(8) for _ in range(geometry.lanes)]
            values = draw(fields)
            start = len(cycles)
            steps = list(steps_of_beat(geometry, fields, place, values, groups))
            for step, word in enumerate(steps):
                expected[start + dut.LATENCY + step] = word
            advance = advance_of(*place)
            cycles.append([(dut.valid, 1), (dut.tag, tag), (dut.advance, advance)])
            cycles[-1] += [(dut.slot, slot)]
            idle = [(dut.valid, 0), (dut.tag, 1 - tag), (dut.slot, 0)]
            gap = -early if early else rng.choice((0, 0, 0, 1, 3))
            cycles += [idle] * (max(1, len(steps)) - 1 + gap)
            late.append((start + dut.VALUE_DELAY, slot, [*values, groups]))
    cycles += [[(dut.valid, 0)]] * (dut.LATENCY + 1)
    cycles = [list(cycle) for cycle in cycles]
    for cycle, _, numbers in late:
        for lanes, values in zip([*ports, dut.group.data], numbers, strict=True):
            cycles[cycle] += list(zip(lanes, values, strict=True))

    seen = trace(dut, cycles, [outputs, dut.overrun, [dut.group.enable, dut.group.slot]])
    if not early:
        for cycle, slot, _ in late:
            assert seen[cycle - 1][2] == [1, slot], "memories answer in the next cycle"
    return [(sampled, overrun) for sampled, overrun, _ in seen], expected
