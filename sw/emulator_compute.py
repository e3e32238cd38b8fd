"""What COMPUTE does: array or pooling, post-processor, writes; vectorised over images and pixels.

Axes are named in comments: B images, O output chunks, Y and X output rows and columns, T the tout
channels of a chunk, K the taps of a dot product (kernel rows, kernel columns, chunks, lanes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from palquant.errors import ExecutionError
from palquant.hw import isa
from palquant.hw.config import Geometry
from palquant.hw.isa import PoolOperation, Source
from palquant.sw.digits import split_digits
from palquant.sw.memories import Memories

if TYPE_CHECKING:
    from palquant.sw.emulator import Statistics

Ints = npt.NDArray[np.int64]
Fields = dict[str, int]


def saturate(values: Ints, bits: int) -> Ints:
    """Clip to the signed range of ``bits`` bits."""
    return np.clip(values, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


class ComputeUnit:
    """Executes COMPUTE instructions on a batch's memories.

    Parameters:
        geometry: The machine.
        memories: Its on-chip memories.
        statistics: Where saturations are counted.
    """

    def __init__(self, geometry: Geometry, memories: Memories, statistics: Statistics) -> None:
        self.geometry = geometry
        self.memories = memories
        self.statistics = statistics
        self._products: Ints | None = None  # P that a hold left, (B, T)
        self._sums: Ints | None = None  # S likewise, (B,)

    def execute(self, f: Fields) -> None:
        """Run one instruction.

        Raises:
            ExecutionError: A field combination, address or value that the machine does not allow.
        """
        self._check(f)
        if f["source"] == Source.POOL:
            values = self._pool(f)
        else:
            products, sums = self._array(f)
            if f["hold"]:
                self._products, self._sums = products[:, 0, 0, 0], sums[:, 0, 0, 0]
                return
            self._products = self._sums = None
            beta = (sums << f["beta_shift"]) - (sums if f["beta_minus"] else 0)
            values = (products << f["alpha_shift"]) - beta[..., None]
            self._require_range(values, self.geometry.value_bits, "alpha * P - beta * S")
        self._post(f, values)

    def _check(self, f: Fields) -> None:
        g = self.geometry
        tile = f["output_rows"], f["output_columns"], f["output_chunks"]
        window = f["kernel_rows"], f["kernel_columns"]
        if min(tile) < 1 or min(window) < 1:
            raise ExecutionError(f"empty output {tile} or window {window}")
        expected = isa.beat_steps(f, g)
        if f["steps"] < expected:
            raise ExecutionError(f"steps is {f['steps']}, expected at least {expected}")
        if not 1 <= f["scatter_groups"] <= 8:
            raise ExecutionError(f"scatter_groups is {f['scatter_groups']}, expected 1 to 8")
        if (f["affine"] or f["residual"]) and not 8 <= f["saturation_bits"] <= g.residual_bits:
            raise ExecutionError(
                f"saturation_bits is {f['saturation_bits']}, expected 8 to {g.residual_bits}"
            )
        if (f["accumulate"] or f["hold"]) and (tile != (1, 1, 1) or f["source"] == Source.POOL):
            raise ExecutionError("accumulate and hold take one ARRAY result of one chunk")
        if f["accumulate"] and self._products is None:
            raise ExecutionError("accumulate, but no COMPUTE has left accumulators")
        if f["residual"] and f["source"] == Source.POOL:
            raise ExecutionError("a pooled value takes no residual: one read port serves both")
        if f["raw"] and (f["residual_out"] != 1 or f["scatter_groups"] != 1 or not f["affine"]):
            raise ExecutionError("raw needs affine and residual_out, and scatters nothing")
        if f["first_lane"] % g.lanes or f["first_lane"] >= g.tin:
            raise ExecutionError(
                f"first_lane is {f['first_lane']}, expected a multiple of {g.lanes} below {g.tin}"
            )
        if f["source"] == Source.ARRAY:
            for name in ("input_digits", "weight_digits"):
                if f[name] not in (1, 2, 4):
                    raise ExecutionError(f"{name} is {f[name]}, expected 1, 2 or 4")
            if not 1 <= f["last_lanes"] <= g.tin or f["input_chunks"] < 1:
                raise ExecutionError(
                    f"last_lanes is {f['last_lanes']} of {g.tin}, input_chunks is "
                    f"{f['input_chunks']}"
                )
            if f["digit_sum_last"] > f["digit_sum_first"]:
                raise ExecutionError("digit_sum_last exceeds digit_sum_first")
            if f["digit_sum_first"] > f["input_digits"] + f["weight_digits"] - 2:
                raise ExecutionError(f"no digits sum to {f['digit_sum_first']}")

    def _require_range(self, values: Ints, bits: int, label: str, signed: bool = True) -> None:
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        if values.size and (values.min() < low or values.max() > high):
            raise ExecutionError(
                f"{label} reaches {values.min()}..{values.max()}, outside the "
                f"register's {low}..{high}"
            )

    def _window(self, f: Fields) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Word address of each tap's first word, and whether the tap lies inside.

        Both have shape (Y, X, kernel rows, kernel columns).
        """
        oy, ox, ky, kx = np.meshgrid(
            np.arange(f["output_rows"]),
            np.arange(f["output_columns"]),
            np.arange(f["kernel_rows"]),
            np.arange(f["kernel_columns"]),
            indexing="ij",
        )
        address = (
            f["input_origin"]
            + oy * f["input_row_stride"]
            + ox * f["input_pixel_stride"]
            + ky * f["input_row_step"]
            + kx * f["input_pixel_step"]
        )
        row = f["first_row"] + oy * f["stride_rows"] + ky
        column = f["first_column"] + ox * f["stride_columns"] + kx
        inside = (
            (row >= 0) & (row < f["input_rows"]) & (column >= 0) & (column < f["input_columns"])
        )
        return address, inside

    def _gather(self, address: Ints, inside: npt.NDArray[np.bool_], depth: int, label: str) -> Ints:
        """Wrapped addresses, padding set to 0; refuses an inside tap beyond the memory."""
        wrapped = np.where(inside, address % (1 << self.geometry.address_bits), 0)
        if wrapped.max(initial=0) >= depth:
            raise ExecutionError(f"reads {label} word {wrapped.max()} of {depth}")
        return wrapped

    def _array(self, f: Fields) -> tuple[Ints, Ints]:
        """P of shape (B, O, Y, X, T) and S of shape (B, O, Y, X)."""
        g = self.geometry
        batch = len(self.memories.activation)
        chunks = f["input_chunks"]
        taps = f["kernel_rows"] * f["kernel_columns"] * chunks
        window, inside = self._window(f)
        address = window[..., None] + np.arange(chunks) * f["input_digits"]
        inside = np.broadcast_to(inside[..., None], address.shape)
        used = np.ones((chunks, g.tin), bool)
        used[-1, f["last_lanes"] :] = False
        planes = []  # activation digits, each (B * Y * X, K)
        for i in range(f["input_digits"]):
            where = self._gather(address + i, inside, g.activation_words, "activation")
            words = self.memories.activation[:, where]  # (B, Y, X, kr, kc, chunks, tin)
            pad = (used * ((f["pad_code"] >> (2 * i)) & 3)).astype(np.uint8)
            words = np.where(inside[..., None], words, pad)
            planes.append(words.reshape(-1, taps * g.tin).astype(np.float32))
        # A digit product is at most 9: sums of K of them are exact in float32 below 2^24.
        exact = np.float32 if taps * g.tin * 9 < 1 << 24 else np.float64
        shape = (batch, f["output_rows"], f["output_columns"])
        results, sums = [], []
        for chunk in range(f["output_chunks"]):
            product = np.zeros((len(planes[0]), g.tout), np.int64)
            total = np.zeros(len(planes[0]), np.int64)
            if f["accumulate"]:
                assert self._products is not None
                assert self._sums is not None
                product, total = self._products.copy(), self._sums.copy()
            for s in range(f["digit_sum_first"], f["digit_sum_last"] - 1, -1):
                if s != f["digit_sum_first"] or (f["accumulate"] and f["shift_first"]):
                    product, total = product * 4, total * 4
                for j in range(
                    max(0, s - f["input_digits"] + 1), min(f["weight_digits"] - 1, s) + 1
                ):
                    start = f["weight_address"] + chunk * f["weight_chunk"] + j * f["weight_plane"]
                    if start + taps > g.weight_words:
                        raise ExecutionError(
                            f"reads weight word {start + taps - 1} of {g.weight_words}"
                        )
                    weights = self.memories.weight[start : start + taps]  # (words, T, lanes)
                    columns = weights.transpose(0, 2, 1).reshape(-1, g.tout)
                    matrix: npt.NDArray[Any] = columns.astype(exact)
                    plane: npt.NDArray[Any] = planes[s - j].astype(exact, copy=False)
                    product = product + (plane @ matrix).astype(np.int64)
                    if j == 0:
                        total = total + plane.sum(axis=1, dtype=np.float64).astype(np.int64)
            results.append(product.reshape(*shape, g.tout))
            sums.append(total.reshape(shape))
        p, s_ = np.stack(results, axis=1), np.stack(sums, axis=1)
        self._require_range(p, g.accumulator_bits, "P", signed=False)
        self._require_range(s_, g.activation_sum_bits, "S", signed=False)
        return p, s_

    def _pool(self, f: Fields) -> Ints:
        """Reduced residual windows, shape (B, O, Y, X, T)."""
        g = self.geometry
        window, inside = self._window(f)
        beats = np.arange(f["output_chunks"] * g.beats)
        address = window[..., None] + beats
        inside = np.broadcast_to(inside[..., None], address.shape)
        where = self._gather(address, inside, g.residual_words, "residual")
        values = self.memories.residual[:, where].astype(
            np.int64
        )  # (B, Y, X, kr, kc, beats, lanes)
        if f["pool_operation"] == PoolOperation.MAX:
            lowest = -(1 << (g.residual_bits - 1))
            reduced = np.where(inside[..., None], values, lowest).max(axis=(3, 4))
        else:
            reduced = np.where(inside[..., None], values, 0).sum(axis=(3, 4))
            self._require_range(reduced, g.pool_bits, "the pool sum")
        batch, rows, columns = reduced.shape[:3]
        chunked = reduced.reshape(batch, rows, columns, f["output_chunks"], g.tout)
        result: Ints = chunked.transpose(0, 3, 1, 2, 4)
        return result

    def _post(self, f: Fields, v: Ints) -> None:
        """Affine, ReLU, residual, ReLU, quantisers and writes for values (B, O, Y, X, T)."""
        g = self.geometry
        chunks = f["output_chunks"]
        slot = f["parameter_slot"]
        if slot + chunks * g.beats > g.parameter_slots:
            raise ExecutionError(
                f"reads parameter slot {slot + chunks * g.beats - 1} of {g.parameter_slots}"
            )
        rows = self.memories.parameter[slot : slot + chunks * g.beats].astype(np.int64)
        # (slots, rows, lanes) -> (rows, O, 1, 1, T), to broadcast over pixels
        rows = rows.reshape(chunks, g.beats, -1, g.lanes).transpose(2, 0, 1, 3)
        rows = rows.reshape(len(rows), chunks, 1, 1, g.tout)
        control = _control(rows[isa.ROW_CONTROL])
        valid = control["valid"].astype(bool)
        if f["affine"]:
            v = (v * control["scale"] + rows[isa.ROW_OFFSET]) >> control["shift"]
            if f["raw"]:
                self._write_raw(f, np.where(valid, v, 0))
                return
            v = self._saturate(v, f["saturation_bits"], valid)
        if f["relu_before"]:
            v = np.maximum(v, 0)
        if f["residual"]:
            index = self._residual_index(f, "residual_in", 1)
            v = v + self.memories.residual[:, index].astype(np.int64).reshape(v.shape)
            v = self._saturate(v, f["saturation_bits"], valid)
        if f["relu_after"]:
            v = np.maximum(v, 0)
        codes = [self._quantize(f, n, v, rows, control, valid) for n in (1, 2)]
        groups = np.broadcast_to(control["group"], v.shape[1:])
        if f["residual_out"]:
            self._write_residual(f, np.where(valid, v, 0), groups)
        for n, code in enumerate(codes, start=1):
            if code is not None:
                self._write_codes(f, n, code, groups)

    def _saturate(self, v: Ints, bits: int, valid: npt.NDArray[np.bool_]) -> Ints:
        clipped = saturate(v, bits)
        self.statistics.saturations += int(((clipped != v) & valid).sum())
        return clipped

    def _quantize(
        self,
        f: Fields,
        number: int,
        v: Ints,
        rows: Ints,
        control: dict[str, Ints],
        valid: npt.NDArray[np.bool_],
    ) -> Ints | None:
        bits = f[f"code{number}_bits"]
        if bits == 0:
            return None
        if bits == 8:
            return np.where(valid, np.clip(v, 0, 255), 0)
        most = self.geometry.threshold_levels
        if not 1 <= bits <= most:
            raise ExecutionError(f"code{number}_bits is {bits}, expected 0 to {most} or 8")
        # Lanes without a channel give code 0 whatever they hold: -beta * S can be any number.
        checked = np.where(valid, v, 0)
        self._require_range(checked, self.geometry.threshold_bits, "a value to be quantised")
        v = np.where(control[f"negate{number}"].astype(bool), -v, v)
        tree = isa.THRESHOLD_ROWS[number - 1]
        thresholds = np.stack([rows[tree[p]] for p in range(1, 1 << bits)])  # (positions, O,1,1,T)
        position = np.ones_like(v)
        chunk = np.arange(v.shape[1])[:, None, None, None]
        lane = np.arange(v.shape[4])
        for _ in range(bits):
            threshold = thresholds[position - 1, chunk, 0, 0, lane]
            position = 2 * position + (v >= threshold)
        return np.where(valid, position - (1 << bits), 0)

    def _residual_index(self, f: Fields, prefix: str, words_per_beat: int) -> Ints:
        """Residual word of each result beat, shape (O, Y, X, beats)."""
        g = self.geometry
        chunk, row, column, beat = np.meshgrid(
            np.arange(f["output_chunks"]),
            np.arange(f["output_rows"]),
            np.arange(f["output_columns"]),
            np.arange(g.beats),
            indexing="ij",
        )
        index = (
            f[f"{prefix}_address"]
            + row * f[f"{prefix}_row_stride"]
            + column * f[f"{prefix}_pixel_stride"]
            + (chunk * g.beats + beat) * words_per_beat
        ) % (1 << self.geometry.address_bits)
        if index.max() + words_per_beat > g.residual_words:
            raise ExecutionError(
                f"{prefix} reaches residual word {index.max()} of {g.residual_words}"
            )
        return index

    def _write_raw(self, f: Fields, v: Ints) -> None:
        """The low 32 bits of each result as ``raw_planes`` residual words, low bits first."""
        g = self.geometry
        self._require_range(v, g.result_bits, "a raw result")
        index = self._residual_index(f, "residual_out", g.raw_planes)
        beats = v.reshape(*v.shape[:-1], g.beats, g.lanes)
        for plane in range(g.raw_planes):
            part = (beats >> (plane * g.residual_bits)).astype(self.memories.residual.dtype)
            self.memories.residual[:, index + plane] = part

    def _write_residual(self, f: Fields, v: Ints, groups: Ints) -> None:
        g = self.geometry
        index = self._residual_index(f, "residual_out", 1)[..., None]  # (O, Y, X, beats, 1)
        if f["scatter_groups"] > 1:
            groups = groups.reshape(*groups.shape[:-1], g.beats, g.lanes)
            self._check_groups(f, groups)
            index = (index + groups * f["residual_out_group_stride"]) % (
                1 << self.geometry.address_bits
            )
        if index.max() >= g.residual_words:
            raise ExecutionError(f"writes residual word {index.max()} of {g.residual_words}")
        beats = v.reshape(*v.shape[:-1], g.beats, g.lanes)
        self.memories.residual[:, index, np.arange(g.lanes)] = beats

    def _check_groups(self, f: Fields, groups: Ints) -> None:
        if groups.max() >= f["scatter_groups"]:
            raise ExecutionError(
                f"a lane is scattered to group {groups.max()} of {f['scatter_groups']}"
            )

    def _write_codes(self, f: Fields, number: int, code: Ints, groups: Ints) -> None:
        """Digits of one code tensor into activation memory, output buffer, or both."""
        g = self.geometry
        prefix = f"code{number}_"
        count = isa.digits(f[prefix + "bits"])
        chunk, row, column, lane = np.meshgrid(
            np.arange(f["output_chunks"]),
            np.arange(f["output_rows"]),
            np.arange(f["output_columns"]),
            np.arange(g.tout),
            indexing="ij",
        )
        element = f["first_lane"] + chunk * g.tout + lane
        offset = (
            row * f[prefix + "row_stride"]
            + column * f[prefix + "pixel_stride"]
            + element // g.tin * count
        )
        if f["scatter_groups"] > 1:
            self._check_groups(f, groups)
            offset = offset + groups * f[prefix + "group_stride"]
        for digit, plane in enumerate(split_digits(code, count)):
            for name in ("activation", "output"):
                if not f[f"{prefix}to_{name}"]:
                    continue
                memory = getattr(self.memories, name)
                wrap = 1 << self.geometry.address_bits
                index = (f[f"{prefix}{name}_address"] + offset + digit) % wrap
                if index.max() >= memory.shape[1]:
                    raise ExecutionError(f"writes {name} word {index.max()} of {memory.shape[1]}")
                memory[:, index, element % g.tin] = plane


def _control(row: Ints) -> dict[str, Ints]:
    """Fields of PARAMETER_CONTROL rows, each of the row's shape."""
    result = {}
    for item in isa.PARAMETER_CONTROL.fields:
        value = (row >> isa.PARAMETER_CONTROL.offsets[item.name]) & ((1 << item.bits) - 1)
        result[item.name] = np.where(value > item.max, value - (1 << item.bits), value)
    return result
