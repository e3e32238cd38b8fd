"""What the tests of the post-processor's blocks share: stimuli, and parameters as bus beats."""

from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

from palquant.hw import isa
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
