"""What a COMPUTE's loops mean, written down plainly, and random instructions to try it on."""

from palquant.hw import isa
from palquant.hw.isa import PoolOperation, Source

WRAP = 1 << isa.ADDRESS_BITS


def digit(code, position):
    return (code >> (2 * position)) & 3


def words(geometry, f):
    """The words of an instruction in the order in which they are issued, as dictionaries.

    ``address`` is None where the word is padding; ``pad`` is what the array sees then, a digit
    for each lane. ``begins`` and ``ends`` say that a result starts or is complete.
    """
    result = []
    pooling = f["source"] == Source.POOL
    for chunk in range(f["output_chunks"]):
        for oy in range(f["output_rows"]):
            for ox in range(f["output_columns"]):
                pixel = pool_words if pooling else array_words
                result += pixel(geometry, f, chunk, oy, ox)
    result[-1]["last"] = 1
    return result


def tap(geometry, f, oy, ox, ky, kx):
    """Word address of a tap's first word, and whether the tap lies inside the input."""
    row = f["first_row"] + oy * f["stride_rows"] + ky
    column = f["first_column"] + ox * f["stride_columns"] + kx
    address = (
        f["input_origin"]
        + oy * f["input_row_stride"]
        + ox * f["input_pixel_stride"]
        + ky * f["input_row_step"]
        + kx * f["input_pixel_step"]
    )
    return address, 0 <= row < f["input_rows"] and 0 <= column < f["input_columns"]


def array_words(geometry, f, chunk, oy, ox):
    result = []
    for total in range(f["digit_sum_first"], f["digit_sum_last"] - 1, -1):
        begins_sum = True
        for j in range(f["weight_digits"]):
            i = total - j
            if not 0 <= i < f["input_digits"]:
                continue
            for ky in range(f["kernel_rows"]):
                for kx in range(f["kernel_columns"]):
                    address, inside = tap(geometry, f, oy, ox, ky, kx)
                    for k in range(f["input_chunks"]):
                        lanes = f["last_lanes"] if k == f["input_chunks"] - 1 else geometry.tin
                        pad = [digit(f["pad_code"], i)] * lanes + [0] * (geometry.tin - lanes)
                        position = (ky * f["kernel_columns"] + kx) * f["input_chunks"] + k
                        first = not result
                        result.append(
                            {
                                "source": Source.ARRAY,
                                "address": (address + k * f["input_digits"] + i) % WRAP
                                if inside
                                else None,
                                "pad": pad,
                                "weight": (
                                    f["weight_address"]
                                    + chunk * f["weight_chunk"]
                                    + j * f["weight_plane"]
                                    + position
                                )
                                % WRAP,
                                "clear": int(first and not f["accumulate"]),
                                "shift": int(
                                    (f["accumulate"] and f["shift_first"]) if first else begins_sum
                                ),
                                "count": int(j == 0),
                                "emit": 0,
                                "last": 0,
                            }
                        )
                        begins_sum = False
    result[-1]["emit"] = 1
    return result


def pool_words(geometry, f, chunk, oy, ox):
    result = []
    for beat in range(geometry.beats):
        window = []
        for ky in range(f["kernel_rows"]):
            for kx in range(f["kernel_columns"]):
                address, inside = tap(geometry, f, oy, ox, ky, kx)
                word = (address + chunk * geometry.beats + beat) % WRAP
                window.append(
                    {
                        "source": Source.POOL,
                        "address": word if inside else None,
                        "clear": int(not window),
                        "sum": int(f["pool_operation"] == PoolOperation.SUM),
                        "emit": 0,
                        "last": 0,
                    }
                )
        window[-1]["emit"] = 1
        result += window
    return result


def random_loops(geometry, rng, **fixed):
    """An instruction's fields, random where they matter to the loops; small in its extents."""
    f = {item.name: 0 for item in isa.COMPUTE.fields}
    for item in isa.COMPUTE.fields:
        if item.name.endswith(("_step", "_stride", "_origin")) or item.name.startswith("weight_"):
            f[item.name] = rng.randint(item.min, item.max)
    f |= {
        "opcode": isa.Opcode.COMPUTE,
        "source": rng.choice([Source.ARRAY, Source.ARRAY, Source.POOL]),
        "pool_operation": rng.choice(list(PoolOperation)),
        "kernel_rows": rng.choice([1, 1, 2, 3, 5]),
        "kernel_columns": rng.choice([1, 1, 2, 3, 7]),
        "input_chunks": rng.choice([1, 1, 2, 3]),
        "input_rows": rng.randint(1, 6),
        "input_columns": rng.randint(1, 6),
        "first_row": rng.randint(-3, 2),
        "first_column": rng.randint(-3, 2),
        "stride_rows": rng.randint(0, 3),
        "stride_columns": rng.randint(0, 3),
        "output_rows": rng.randint(1, 3),
        "output_columns": rng.randint(1, 3),
        "output_chunks": rng.choice([1, 1, 2, 3]),
        "last_lanes": rng.randint(1, geometry.tin),
        "pad_code": rng.randrange(256),
        "steps": rng.choice([1, 1, 2, 5]),
        "scatter_groups": rng.choice([1, 1, 2]),
        "layer": rng.randrange(1 << 12),
    }
    f["input_digits"] = rng.choice([1, 1, 2, 4])
    f["weight_digits"] = rng.choice([1, 1, 2, 4])
    highest = f["input_digits"] + f["weight_digits"] - 2
    f["digit_sum_last"] = rng.choice([0, 0, rng.randint(0, highest)])
    f["digit_sum_first"] = rng.choice([highest, rng.randint(f["digit_sum_last"], highest)])
    return f | fixed
