"""Every word of every memory step, cycle by cycle, against the definition of a beat's writes."""

import random
from itertools import product

import pytest
from post_bench import small_geometry, trace_writer

from palquant.hw import isa
from palquant.hw.code_writer import CodeWriter
from palquant.hw.threshold_search import search_cycles

MEMORIES = ("activation", "output")
GEOMETRIES = [
    small_geometry("square", tin=4, tout=4, lanes=4),
    small_geometry("narrow words", tin=4, tout=8, lanes=2),
    small_geometry("wide words", tin=16, tout=4, lanes=2),
    small_geometry("one beat", tin=8, tout=2, lanes=2),
]


def steps_of_beat(geometry, fields, place, codes, groups):
    """What a beat writes: for each step, for each memory, (address, {lane: digit}) or None."""
    chunk, row, column, beat = place
    word, lane = divmod(
        fields["first_lane"] + chunk * geometry.tout + beat * geometry.lanes, geometry.tin
    )
    for group in range(fields["scatter_groups"]):
        lists = {memory: [] for memory in MEMORIES}
        for number, memory in product((1, 2), MEMORIES):
            names = ("bits", "row_stride", "pixel_stride", "group_stride")
            code = {name: fields[f"code{number}_{name}"] for name in names}
            count = isa.digits(code["bits"])
            if not fields[f"code{number}_to_{memory}"] or fields["raw"]:
                continue
            for digit in range(count):
                address = (
                    fields[f"code{number}_{memory}_address"]
                    + row * code["row_stride"]
                    + column * code["pixel_stride"]
                    + word * count
                    + digit
                    + group * code["group_stride"]
                ) % (1 << isa.ADDRESS_BITS)
                lanes = {
                    lane + k: codes[number - 1][k] >> (2 * digit) & 3
                    for k in range(geometry.lanes)
                    if fields["scatter_groups"] == 1 or groups[k] == group
                }
                lists[memory].append((address, lanes))
        for step in range(max(1, *(len(items) for items in lists.values()))):
            yield {
                memory: items[step] if step < len(items) else None
                for memory, items in lists.items()
            }


def random_fields(rng, geometry, **fixed):
    """Fields of a COMPUTE that this writer looks at."""
    fields = {
        "raw": 0,
        "scatter_groups": rng.choice((1, 1, 2, 3, 4, 8)),
        "first_lane": rng.randrange(0, geometry.tin, geometry.lanes),
    }
    for number in (1, 2):
        fields[f"code{number}_bits"] = rng.choice((0, 1, 2, 3, 4, 8))
        for memory in MEMORIES:
            fields[f"code{number}_to_{memory}"] = rng.randint(0, 1)
            fields[f"code{number}_{memory}_address"] = rng.randrange(1 << 20)
        fields[f"code{number}_row_stride"] = rng.randrange(1 << 20)
        fields[f"code{number}_pixel_stride"] = rng.randrange(1 << 16)
        fields[f"code{number}_group_stride"] = rng.randrange(1 << 12)
    return fields | fixed


def run(geometry, instructions, rng, early=0):
    """Compare every cycle of both ports with the steps that the beats call for.

    Parameters:
        geometry: Sizes.
        instructions: (tag, fields, (chunks, rows, columns)); each tag has one set of fields.
        rng: Source of codes, groups, slots and gaps.
        early: Cycles by which the second beat comes too early, which must be an overrun.
    """
    dut = CodeWriter(geometry)

    def draw(fields):
        return [
            [rng.randrange(1 << fields[f"code{n}_bits"]) for _ in range(geometry.lanes)]
            for n in (1, 2)
        ]

    ports = [[getattr(dut, name).enable, getattr(dut, name).address, getattr(dut, name).mask]
             for name in MEMORIES]  # fmt: skip
    data = [list(getattr(dut, name).data) for name in MEMORIES]
    seen, expected = trace_writer(
        dut, dut.codes, [ports, data], instructions, rng, draw, steps_of_beat, early
    )
    if early:
        return sum(overrun for _, overrun in seen)
    for cycle, ((words, digits), overrun) in enumerate(seen):
        assert not overrun
        for name, (enable, address, mask), numbers in zip(MEMORIES, words, digits, strict=True):
            want = expected.get(cycle, {}).get(name)
            assert bool(enable) == (want is not None), (cycle, name)
            if want:
                lanes = {k: numbers[k] for k in range(geometry.tin) if mask >> k & 1}
                assert (address, lanes) == want, (cycle, name)
    return sum(word is not None for words in expected.values() for word in words.values())


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.name)
@pytest.mark.parametrize("seed", range(6))
def test_random_instructions_alternate(geometry, seed):
    rng = random.Random(seed)
    words = 0
    while not words:
        first, second = (random_fields(rng, geometry) for _ in range(2))
        instructions = [
            (0, first, (2, 2, 2)),
            (1, second, (3, 1, 2)),
            (0, first, (2, 2, 2)),
            (1, second, (3, 1, 2)),
        ]
        words = run(geometry, instructions, rng)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("bits", [(2, 0), (2, 2), (8, 8), (3, 8), (0, 1)])
def test_all_steps_of_two_tensors(bits, groups):
    """Both tensors to both memories, or each to its own."""
    geometry = GEOMETRIES[1]
    rng = random.Random(groups)
    common = {"scatter_groups": groups, "code1_bits": bits[0], "code2_bits": bits[1]}
    both = {f"code{n}_to_{memory}": 1 for n in (1, 2) for memory in MEMORIES}
    own = both | {"code1_to_output": 0, "code2_to_activation": 0}
    first = random_fields(rng, geometry, **common, **both)
    second = random_fields(rng, geometry, **common, **own)
    steps = [isa.beat_steps(fields, geometry) for fields in (first, second)]
    digits = [isa.digits(width) for width in bits]
    least = search_cycles(bits)
    assert steps == [max(least, sum(digits) * groups), max(least, max(digits) * groups)]
    assert run(geometry, [(0, first, (1, 1, 3)), (1, second, (1, 1, 3))], rng)


def test_raw_results_write_no_codes():
    geometry = GEOMETRIES[0]
    rng = random.Random(1)
    fields = random_fields(rng, geometry, raw=1, scatter_groups=1, code1_bits=8, code1_to_output=1)
    assert run(geometry, [(0, fields, (1, 2, 2))], rng) == 0


def test_overrun():
    """A beat that comes a cycle before the last step of its predecessor is reported."""
    geometry = GEOMETRIES[0]
    fields = random_fields(
        random.Random(2), geometry, scatter_groups=2, code1_bits=4, code1_to_output=1
    )
    steps = isa.beat_steps(fields, geometry)
    assert steps >= 4
    assert run(geometry, [(0, fields, (1, 1, 2))], random.Random(3), early=1) == 1
