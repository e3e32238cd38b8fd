"""Bounds are reached: one step narrower, and the layer is refused."""

import dataclasses

import numpy as np
import pytest

from palquant.errors import RangeError
from palquant.hw.presets import PRESETS
from palquant.sw.graph import Convolution, Kind, Shape, SumPool, TensorType
from palquant.sw.layer import AffineStep, CodeOutput, Layer
from palquant.sw.ranges import prove_ranges

TINY = PRESETS["tiny"]
CODES = TensorType(Kind.CODES, 8)


def convolution(weight, affine=None, codes=(), bits=8):
    weight = np.asarray(weight, np.uint8).reshape(len(weight), -1, 1, 1)
    node = Convolution(name="conv", input="x", weight=weight, weight_bits=bits, alpha=1, beta=128)
    return Layer("conv", node, "x", Shape(weight.shape[1], 1, 1), Shape(len(weight), 1, 1),
                 affine=affine, codes=list(codes), saturation_bits=16 if affine else 0)  # fmt: skip


def affine(scale, offset, shift, bits=16):
    arrays = (np.array([value]) for value in (scale, offset, shift))
    return AffineStep(*arrays, bits)


def test_bounds_of_a_convolution_are_those_of_its_weights():
    ranges = prove_ranges(convolution([[0, 255], [128, 128]]), CODES, TINY)
    assert ranges.low.tolist() == [-128 * 255, 0]
    assert ranges.high.tolist() == [127 * 255, 0]
    assert ranges.correction.tolist() == [0, 0]


def test_a_zero_point_is_corrected_per_channel():
    signed = TensorType(Kind.CODES, 8, 128)
    ranges = prove_ranges(convolution([[0, 255], [130, 128]]), signed, TINY)
    assert ranges.correction.tolist() == [-128 * (255 - 256), -128 * 2]


@pytest.mark.parametrize(
    ("register", "field", "bits"),
    [("accumulator P", "accumulator_bits", 17), ("activation sum S", "activation_sum_bits", 9)],
)
def test_accumulators(register, field, bits):
    layer = convolution([[1, 1], [255, 255]])  # P up to 130050, S up to 510
    widths = {"accumulator_bits": 30, "pool_bits": 12, field: bits}
    prove_ranges(layer, CODES, dataclasses.replace(TINY, **widths))
    widths[field] = bits - 1
    text = rf"conv: channel \d can reach \d+, outside 0\.\.\d+ of the {register} register"
    with pytest.raises(RangeError, match=rf"{text} \({bits - 1} bits\)"):
        prove_ranges(layer, CODES, dataclasses.replace(TINY, **widths))


@pytest.mark.parametrize(
    ("scale", "offset", "register"), [(1 << 15, 0, "scale M"), (1, 1 << 31, "offset B")]
)
def test_requantization_constants(scale, offset, register):
    prove_ranges(convolution([[1]], affine(scale - 1, 0, 0)), CODES, TINY)
    with pytest.raises(RangeError, match=f"of the {register} register"):
        prove_ranges(convolution([[1]], affine(scale, offset, 0)), CODES, TINY)


def test_raw_results_must_fit_32_bits():
    layer = convolution([[255]], affine(1, (1 << 31) - 1 - 127 * 255, 0))
    layer.logits = "logits"
    prove_ranges(layer, CODES, TINY)
    layer = convolution([[255]], affine(1, (1 << 31) - 127 * 255, 0))
    layer.logits = "logits"
    with pytest.raises(RangeError, match="of the raw result register"):
        prove_ranges(layer, CODES, TINY)


def test_thresholds_must_hold_one_more_than_the_largest_value():
    code = CodeOutput("c", 1, np.zeros((1, 1), np.int64), np.zeros(1, bool))
    layer = convolution([[0]], codes=[code])  # -32640..0
    prove_ranges(layer, CODES, dataclasses.replace(TINY, threshold_bits=17))
    with pytest.raises(RangeError, match="of the threshold register"):
        prove_ranges(layer, CODES, dataclasses.replace(TINY, threshold_bits=15))


def test_pool_sums():
    node = SumPool(name="pool", input="r", kernel=(4, 4), stride=(1, 1))
    layer = Layer("pool", node, "r", Shape(1, 4, 4), Shape(1, 1, 1), affine=affine(1, 0, 0))
    layer.saturation_bits = 16
    source = TensorType(Kind.RESIDUAL, 16)
    prove_ranges(layer, source, dataclasses.replace(TINY, pool_bits=20))
    with pytest.raises(RangeError, match="of the pool sum register"):
        prove_ranges(layer, source, dataclasses.replace(TINY, pool_bits=19))
