"""Requantization and the residual stream, against plain integers and real lines."""

import copy
import math
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from palquant.errors import ConfigurationError, ModelError, RangeError
from palquant.golden.fixed_point import (
    PeakObserver,
    Requantization,
    ResidualStream,
    derive_requantization,
)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_requantization_is_an_arithmetic_shift_with_saturation():
    scale = torch.tensor([32767, -32768, 3, 0, 1])
    offset = torch.tensor([2**31 - 1, -(2**31), -1, -7, 2**30])
    shift = torch.tensor([31, 20, 1, 0, 31])
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-(2**27), 2**27, (40, 5, 3, 2), generator=generator)
    values[:20] >>= 18
    for bits in (8, 16):
        found = Requantization(scale, offset, shift, bits)(values.float())
        assert found.dtype == torch.float64
        for (n, c, y, x), value in _elements(values.float()):
            exact = (int(value) * int(scale[c]) + int(offset[c])) >> int(shift[c])
            limit = 1 << (bits - 1)
            assert found[n, c, y, x] == min(max(exact, -limit), limit - 1)


def _elements(tensor):
    return ((index, tensor[index]) for index in _indices(tensor.shape))


def _indices(shape):
    grids = torch.cartesian_prod(*(torch.arange(size) for size in shape))
    return (tuple(row) for row in grids.tolist())


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_derived_integers_follow_the_line_and_fit_their_registers(bits):
    generator = torch.Generator().manual_seed(bits)
    count = 400
    sign = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    gain = sign * 10 ** (torch.rand(count, generator=generator).double() * 7 - 5)
    center = torch.randn(count, generator=generator).double() * 500
    value = torch.randn(count, generator=generator).double() * 2 ** (bits - 3)
    found = derive_requantization(gain, center, value, bits)
    assert found.scale.min() >= -(2**15)
    assert found.scale.max() < 2**15
    assert found.offset.min() >= -(2**31)
    assert found.offset.max() < 2**31
    assert found.shift.min() >= 0
    assert found.shift.max() <= 31
    x = torch.randint(-3000, 3000, (50, count, 1, 1), generator=generator).double()
    line = gain * (x[:, :, 0, 0] - center) + value
    limit = 1 << (bits - 1)
    result = found(x)[:, :, 0, 0]
    # Half a unit of rounding, and half a unit of M and of B at the shift that was found.
    slack = 0.5 + (0.5 * (x[:, :, 0, 0] - center).abs() + 1) / 2.0**found.shift
    assert ((result - line.clamp(-limit, limit - 1)).abs() <= slack).all()
    # The shift is the largest possible one: at the next, M or B would not fit.
    power = 2.0 ** (found.shift + 1)
    next_scale = torch.round(gain * power)
    next_offset = torch.round(value * power - next_scale * center) + power / 2
    too_large = (next_scale.abs() > 2**15 - 1) | (next_offset.abs() > 2**31 - 1)
    assert (too_large | (found.shift == 31)).all()
    assert (found.shift.unique().numel()) > 10


def test_a_gain_beyond_the_register_turns_about_the_center():
    # Next to no variance: only x = -50 occurs, and its image must be right.
    found = derive_requantization(column(1e5, -1e5), column(-50, -50), column(1234, -77.4), 16)
    assert found.scale.tolist() == [32767, -32768]
    assert found.shift.tolist() == [0, 0]
    assert found(torch.full((1, 2, 1, 1), -50.0)).flatten().tolist() == [1234, -77]
    assert found(torch.full((1, 2, 1, 1), -48.0)).flatten().tolist() == [32767, -32768]


def test_the_offset_has_room_for_the_correction():
    gain, center, value = column(0.5, 0.5), column(0, 0), column(0, 0)
    correction = column(0, -300_000)
    found = derive_requantization(gain, center, value, 16, correction)
    assert found.shift[0] > found.shift[1] > 0
    stored = found.offset + found.scale * correction.long()
    assert stored.min() >= -(2**31)
    # Without room the second channel would have had the first one's integers, and overflowed.
    assert found.offset[0] + found.scale[0] * correction[1].long() < -(2**31)
    x = torch.arange(-50, 50).double().reshape(-1, 1, 1, 1).expand(-1, 2, 1, 1)
    assert torch.equal(found(x)[:, 0], found(x)[:, 1])


def test_zero_gain_is_the_constant():
    found = derive_requantization(column(0, 0, 0), column(1e9, -3, 0), column(2.5, -2.5, 0.49), 8)
    assert found.scale.tolist() == [0, 0, 0]
    for x in (-1e6, 0, 1e6):
        assert found(torch.full((1, 3, 1, 1), x)).flatten().tolist() == [3, -2, 0]  # half up


@pytest.mark.parametrize(
    ("gain", "center", "value"),
    [(1.0, 1e12, 0.0), (math.nan, 0.0, 0.0), (1.0, math.inf, 0.0), (1.0, 0.0, 1e10)],
)
def test_refuses_a_line_without_a_representable_offset(gain, center, value):
    with pytest.raises(RangeError, match=r"^channel 1: .* no 32-bit requantization offset$"):
        derive_requantization(column(1, gain), column(0, center), column(0, value), 16)


def test_observer_forgets_slowly_and_only_looks_when_it_may():
    observer = PeakObserver()
    with pytest.raises(ModelError, match=r"^PeakObserver has no range \(peak 0.0\): train or cal"):
        observer.observed()
    observer.observe(torch.tensor([-4.0, 1.0]))
    assert observer.observed() == 4
    observer.observe(torch.tensor([0.5]))
    assert observer.observed() == pytest.approx(4 * 0.99)
    observer.eval()
    observer.observe(torch.tensor([9.0]))
    assert observer.observed() == pytest.approx(4 * 0.99)
    observer.observing = True
    observer.observe(torch.tensor([9.0]))
    assert observer.observed() == 9
    with pytest.raises(ModelError, match=r"^an activation that PeakObserver reads is NaN or inf"):
        observer.observe(torch.tensor([1.0, math.nan]))


class Conversions(TorchDispatchMode):
    """Counts tensors that become Python numbers, each of which would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(keywords or {}))


def test_a_peak_is_read_once():
    stream, x = ResidualStream(16), torch.linspace(-3, 5, 64)
    with Conversions() as conversions:
        for _ in range(3):
            stream.observe(x)
            stream.saturate(stream.round(x))
    assert conversions.count == 3
    with Conversions() as conversions:
        stream.eval()
        stream.saturate(stream.round(x))
    assert conversions.count == 0


def test_a_peak_that_was_written_is_read_again():
    stream = ResidualStream(16)
    stream.observe(torch.tensor([5.0]))
    assert stream.observed() == 5
    stream.peak.fill_(3.0)
    assert stream.observed() == 3
    stream.peak.mul_(0.5)
    assert stream.observed() == 1.5
    stream.load_state_dict({"peak": torch.tensor(7.0)})
    assert stream.observed() == 7
    stream.peak = torch.tensor(9.0)
    assert stream.observed() == 9
    assert stream.double().observed() == 9
    # Each of the copies goes on alone, through as many writes as the original had seen.
    for copied in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        for value in range(1, 12):
            copied.peak.fill_(value)
            assert copied.observed() == value
            copied.peak.fill_(value + 0.5)
        assert stream.observed() == 9


def test_an_activation_that_is_no_number_leaves_the_peak_as_it_was():
    observer = PeakObserver()
    observer.observe(torch.tensor([2.0]))
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ModelError, match=r"is NaN or infinite$"):
            observer.observe(torch.tensor([1.0, value]))
        assert observer.observed() == 2


@pytest.mark.parametrize("bits", [8, 11, 16])
@pytest.mark.parametrize("peak", [1e-4, 0.75, 1.0, 127.0, 128.0, 32767.0, 1e6])
def test_step_is_the_smallest_power_of_two_that_holds_the_peak(bits, peak):
    stream = ResidualStream(bits)
    stream.peak.fill_(peak)
    assert math.frexp(stream.step)[0] == 0.5
    assert stream.limit * stream.step >= float(stream.peak)
    assert stream.limit * stream.step / 2 < float(stream.peak)


def test_stream_rounds_half_up_and_saturates_with_a_straight_gradient():
    stream = ResidualStream(8).eval()
    stream.peak.fill_(31.0)
    assert stream.step == 0.25
    x = torch.tensor([0.125, -0.125, 0.374, 500, -500, 31.8], requires_grad=True)
    y = stream.round(x)
    assert y.tolist() == [0.25, 0.0, 0.25, 31.75, -32, 31.75]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [1] * 6
    z = stream.saturate(x)
    assert z.tolist() == [0.125, -0.125, x[2].item(), 31.75, -32, 31.75]
    assert torch.autograd.grad(z.sum(), x)[0].tolist() == [1] * 6


@pytest.mark.parametrize("bits", [7, 17])
def test_refuses_other_widths(bits):
    message = rf"^residual stream of {bits} bits \(supported: 8 to 16\)$"
    with pytest.raises(ConfigurationError, match=message):
        ResidualStream(bits)
