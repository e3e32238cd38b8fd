"""The race check against all pairs of a program, and with tokens taken out of compiled programs."""

import copy
import random
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from instructions import TINY, compute, load, random_instruction, store
from networks import drawer, random_network

from palquant.errors import InstructionError
from palquant.hw import isa
from palquant.hw.isa import Base, Memory, Opcode
from palquant.sw import compile as compile_module
from palquant.sw.accesses import accesses
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.races import check_races
from palquant.sw.schedule import insert_tokens

ENGINES = {Opcode.LOAD: "load", Opcode.COMPUTE: "compute", Opcode.STORE: "store"}


def placed(*instructions):
    """Instructions (or opcodes of BARRIERs) with offsets and all fields, and END."""
    program = []
    offset = isa.UNIT_BYTES
    for item in (*instructions, Opcode.END):
        data = isa.encode(item) if isinstance(item, Opcode) else item.encode()
        opcode, fields, _ = isa.decode(data)
        program.append((offset, opcode, fields))
        offset += len(data)
    return program


def check(program, body=0):
    check_races(program, program[body][0], TINY)


def token_pairs(program):
    """(giving instruction, taking instruction, giver, taker) of each token."""
    pairs = []
    for giver in ENGINES.values():
        for taker in ENGINES.values():
            gives, takes = (
                [
                    index
                    for index, (_, opcode, fields) in enumerate(program)
                    if ENGINES.get(opcode) == mine and fields[f"{what}_{other}"]
                ]
                for what, mine, other in (("signal", giver, taker), ("wait", taker, giver))
            )
            pairs += [(a, b, giver, taker) for a, b in zip(gives, takes, strict=True)]
    return pairs


def racing_pairs(program):
    """Every pair of instructions that conflict and are not ordered: from all pairs, slowly."""
    # Events: bit 2i is the start of instruction i, bit 2i + 1 its completion.
    waits = {}
    for giver, taker, *_ in token_pairs(program):
        waits.setdefault(taker, []).append(giver)
    before = []  # all events before the start of an instruction
    until = []  # all events up to its completion
    engines = {}
    fence = 0
    for index, (_, opcode, fields) in enumerate(program):
        if opcode not in ENGINES:
            fence = (1 << 2 * index) - 1
            before.append(fence)
            until.append(fence)
            continue
        mine = engines.setdefault(opcode, [])
        start = fence
        for giver in waits.get(index, []):
            start |= until[giver]
        if mine:
            start |= before[mine[-1]] | 1 << 2 * mine[-1]
        if opcode is Opcode.COMPUTE:
            for complete in mine[-1:] if fields["drain"] else mine[-2:-1]:
                start |= until[complete]
        before.append(start)
        complete = start | 3 << 2 * index
        if mine:
            complete |= until[mine[-1]]
        until.append(complete)
        mine.append(index)
    touched = [accesses(opcode, fields, TINY) for _, opcode, fields in program]
    pairs = set()
    for later, second in enumerate(touched):
        for earlier, first in enumerate(touched[:later]):
            if before[later] >> (2 * earlier + 1) & 1:
                continue
            same = program[earlier][1] is program[later][1]
            if same and program[later][1] is not Opcode.COMPUTE:
                continue
            if any(
                a.conflicts(b) and (not same or (a.write and not b.write))
                for a in first
                for b in second
            ):
                pairs.add((earlier, later))
    return pairs


MESSAGE = re.compile(
    r"\w+ at offset (0x[0-9a-f]+) \(layer \d+\) may begin before \w+ at offset (0x[0-9a-f]+) "
    r"\(layer \d+\) is complete: nothing orders what they do to bytes 0x[0-9a-f]+ to 0x[0-9a-f]+ "
    r"of the (\w+ memory|\w+ region in DRAM)$"
)


def require_same_verdict(program):
    """The check finds one of the racing pairs, or none if there is none; says which it was."""
    pairs = racing_pairs(program)
    try:
        check(program)
    except InstructionError as error:
        later, earlier = (int(number, 16) for number in MESSAGE.match(str(error)).groups()[:2])
        offsets = [item[0] for item in program]
        assert (offsets.index(earlier), offsets.index(later)) in pairs
        return True
    assert not pairs
    return False


def give_token(program, giver, taker):
    """Add a token between two instructions, unless it would be one too many for either."""
    a, b = program[giver], program[taker]
    if isinstance(a, Opcode) or isinstance(b, Opcode) or a.opcode is b.opcode:
        return
    signal, wait = f"signal_{ENGINES[b.opcode]}", f"wait_{ENGINES[a.opcode]}"
    if not a.fields.get(signal) and not b.fields.get(wait):
        a.fields[signal] = b.fields[wait] = 1


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), ordered=st.booleans())
def test_the_verdict_is_that_of_all_pairs(seed, ordered):
    rng = random.Random(seed)
    program = [random_instruction(rng) for _ in range(rng.randint(2, 25))]
    if ordered:  # as the compiler does it
        insert_tokens(program)
        assert not require_same_verdict(placed(*program))
        return
    for item in program:
        if item.opcode is Opcode.COMPUTE:
            item.fields["drain"] = rng.randrange(2)
    for index in range(len(program)):
        if rng.random() < 0.1:
            program.insert(index, Opcode.BARRIER)
    for _ in range(rng.randint(0, 2 * len(program))):
        first, second = sorted(rng.sample(range(len(program)), 2))
        give_token(program, first, second)
    require_same_verdict(placed(*program))


@pytest.fixture(scope="module")
def compiled():
    """Programs of compiled networks, with the index of the body's first instruction."""
    found = []
    for seed in range(8):
        image = compile_graph(random_network(drawer(seed)).graph(), TINY, keep_all=seed % 2 == 0)
        emulator = Emulator(TINY, image.data)
        offsets = [item[0] for item in emulator.program]
        found.append((emulator.program, offsets.index(emulator.header["body_offset"])))
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_program_without_one_of_its_tokens_is_refused(compiled, data):
    program, _ = data.draw(st.sampled_from(compiled))
    program = copy.deepcopy(program)
    check(program)
    tokens = token_pairs(program)
    assume(tokens)
    giver, taker, a, b = data.draw(st.sampled_from(tokens))
    program[giver][2][f"signal_{b}"] = 0
    program[taker][2][f"wait_{a}"] = 0
    assert require_same_verdict(program) == bool(racing_pairs(program))


def test_most_tokens_are_needed(compiled):
    """A token can be redundant (others order the same pair), but not one in three is."""
    needed = total = 0
    for program, _ in compiled:
        for giver, taker, a, b in token_pairs(program)[::7]:
            damaged = copy.deepcopy(program)
            damaged[giver][2][f"signal_{b}"] = 0
            damaged[taker][2][f"wait_{a}"] = 0
            needed += require_same_verdict(damaged)
            total += 1
    assert total >= 30
    assert 3 * needed >= 2 * total


def refused(program):
    """Whether the race check finds that a COMPUTE may begin too early."""
    try:
        check(program)
    except InstructionError as error:
        return bool(re.search(r"COMPUTE .* may begin before COMPUTE .*", str(error)))
    return False


def test_a_program_without_a_drain_that_it_needs_is_refused(compiled):
    """Between layers one may be there for equal cycles alone: ``Instruction.reads_from``."""
    needed = total = 0
    for program, _ in compiled:
        before = None
        for index, (_, opcode, fields) in enumerate(program):
            if opcode is not Opcode.COMPUTE:
                continue
            if fields.get("drain") and total < 60:
                damaged = copy.deepcopy(program)
                damaged[index][2]["drain"] = 0
                found = refused(damaged)
                assert found or fields["layer"] != before
                needed += found
                total += 1
            before = fields["layer"]
    assert total >= 8
    assert 2 * needed >= total


@pytest.mark.parametrize("field", ["drain", "wait_load"])
def test_the_compiler_refuses_its_own_mistakes(monkeypatch, field):
    def forgetful(program):
        insert_tokens(program)
        named = [field] if field == "drain" else [field, "signal_compute"]
        for name, opcode in zip(named, (Opcode.COMPUTE, Opcode.LOAD), strict=False):
            having = (item for item in program if item.opcode is opcode and item.fields.get(name))
            list(having)[-1].fields[name] = 0

    monkeypatch.setattr(compile_module, "insert_tokens", forgetful)
    graph = random_network(drawer(0)).graph()
    with pytest.raises(InstructionError, match=r"COMPUTE at offset .* may begin before .* compl"):
        compile_graph(graph, TINY)


def prologue_and_body(*body):
    """A body behind a prologue that loads weight words 0 and 1, and the index of its start."""
    return placed(load(Memory.WEIGHT, 0, beats=4), Opcode.BARRIER, *body), 2


def test_a_body_may_use_what_the_prologue_loads():
    program = [load(Memory.ACTIVATION, 0, base=Base.INPUT), compute(0, activation=0)]
    insert_tokens(program)
    check(*prologue_and_body(*program))


def test_a_body_that_overwrites_the_prologues_weights_is_refused():
    program = [compute(0), load(Memory.WEIGHT, 0, beats=2), compute(0), compute(1)]
    insert_tokens(program)
    with pytest.raises(
        InstructionError,
        match=r"LOAD at offset 0xc0 \(layer 0\) overwrites bytes 0x0 to 0xf of the weight memory, "
        r"which only LOAD at offset 0x20 \(layer 0\) brings, before the body: COMPUTE at offset "
        r"0x60 \(layer 0\) would not find it in the next image",
    ):
        check(*prologue_and_body(*program))


def test_what_the_body_brings_itself_is_no_constant():
    program = [load(Memory.WEIGHT, 0, beats=2), compute(0), compute(1)]
    insert_tokens(program)
    check(*prologue_and_body(*program))


def test_rows_with_gaps_do_not_bring_everything():
    program = [load(Memory.WEIGHT, 0, beats=1), compute(0)]
    program[0].fields |= {"rows": 2, "stride": 3}
    insert_tokens(program)
    with pytest.raises(InstructionError, match="overwrites bytes 0x0 to 0x1f of the weight memory"):
        check(*prologue_and_body(*program))


def test_a_prologue_that_depends_on_the_image_is_refused():
    program = placed(load(Memory.ACTIVATION, 0, base=Base.INPUT), Opcode.BARRIER)
    with pytest.raises(
        InstructionError, match=r"LOAD at offset 0x20 .* touches the input region in DRAM"
    ):
        check(program, 2)


def test_tokens_may_not_cross_the_body_s_beginning():
    program = [load(Memory.WEIGHT, 0), compute(0)]
    insert_tokens(program)
    with pytest.raises(
        InstructionError,
        match="tokens from load to compute are left over before the body begins at offset 0x40",
    ):
        check(placed(*program), 1)


def test_tokens_left_at_the_end_are_refused():
    item = load(Memory.WEIGHT, 0)
    item.fields["signal_store"] = 1
    with pytest.raises(InstructionError, match="from load to store are left over at the program's"):
        check(placed(item))


def test_a_token_that_was_not_given_is_refused():
    waiting, giving = compute(0), load(Memory.WEIGHT, 64)
    waiting.fields["wait_load"] = giving.fields["signal_compute"] = 1
    with pytest.raises(
        InstructionError, match=r"COMPUTE at offset 0x20 .* waits for a token that load has not"
    ):
        check(placed(waiting, giving))


@pytest.mark.parametrize("field", ["wait_store", "signal_store"])
def test_a_token_for_its_own_engine_is_refused(field):
    item = store(0)
    item.fields[field] = 1
    with pytest.raises(InstructionError, match=r"STORE at offset .* with its own engine"):
        check(placed(item))


def test_a_compute_that_overwrites_what_it_reads_is_refused():
    item = compute(0, activation=7)
    item.fields |= {"code1_to_activation": 1, "code1_activation_address": 7}
    with pytest.raises(
        InstructionError, match=r"COMPUTE at offset .* reads and writes bytes 0xe to 0xf of the act"
    ):
        check(placed(item))


def interleaved(start, write):
    """Reads or writes one word of each of three pixels, which are two words apart."""
    item = compute(0)
    where = "residual_out" if write else "residual_in"
    item.fields |= {"output_columns": 3, "residual_out" if write else "residual": 1}
    item.fields |= {f"{where}_address": start, f"{where}_pixel_stride": 2}
    return item


@pytest.mark.parametrize(("start", "drains"), [(0, True), (1, False), (2, True), (6, False)])
def test_a_compute_drains_for_words_that_it_reads_and_not_for_those_between(start, drains):
    program = [interleaved(0, True), interleaved(start, False)]
    insert_tokens(program)
    assert bool(program[1].fields.get("drain")) is drains
    program[1].fields["drain"] = 0
    assert require_same_verdict(placed(*program)) is drains


def test_a_body_offset_inside_an_instruction_is_refused():
    with pytest.raises(InstructionError, match="no instruction stands at the body's offset 0x30"):
        check_races(placed(compute(0)), 0x30, TINY)
