"""Each layer against the formula that it stands for, in training and in eval mode."""

import pytest
import torch
import torch.nn.functional as F

from palquant.errors import ConfigurationError
from palquant.golden.fixed_point import ResidualStream
from palquant.golden.layers import (
    BatchNormAffine,
    CodeQuantizer,
    CyclicShuffle,
    Logits,
    MaxPool,
    ResidualAdd,
    SumPool,
    channel_shuffle,
    group_rotation,
)
from palquant.golden.quantize import Integers


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


def stream_with(peak, bits=16):
    stream = ResidualStream(bits)
    stream.peak.fill_(peak)
    return stream


def random_norm(stream=None, channels=6):
    norm = BatchNormAffine(channels, stream)
    with torch.no_grad():
        norm.weight.normal_()
        norm.weight[0] = 0
        norm.bias.normal_()
    return norm


def accumulators(channels=6, count=8):
    return Integers(torch.randint(-300, 300, (count, channels, 5, 5)).float(), torch.tensor(0.013))


def test_batch_norm_trains_like_the_usual_one():
    norm, x = random_norm(), accumulators()
    usual = torch.nn.BatchNorm2d(6)
    usual.load_state_dict(norm.state_dict(), strict=False)
    assert torch.equal(norm(x), usual(x.values * x.step))
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(norm, name), getattr(usual, name))
    norm.eval()
    expected = usual.eval().double()((x.values * x.step.double()).double())
    assert norm(x).dtype == torch.float64
    assert torch.allclose(norm(x), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_batch_norm_into_the_stream_rounds_and_saturates(bits):
    stream = stream_with(2.0, bits)
    norm, x = random_norm(stream), accumulators()
    norm.running_var.fill_(1.3)
    stream.eval()
    fixed = norm.eval()(x)
    units = fixed / stream.step
    assert torch.equal(units, units.round())
    assert units.max() == stream.limit
    assert units.min() == -stream.limit - 1
    # Half a unit of rounding; M has 15 bits at least, so that it adds a unit to the largest values.
    line = stream.saturate(norm.normalise(x))
    assert ((fixed - line).abs() <= 1.5 * stream.step).all()
    integers = norm.requantization(x.step)
    exact = (x.values.long() * integers.scale.reshape(-1, 1, 1)
             + integers.offset.reshape(-1, 1, 1)) >> integers.shift.reshape(-1, 1, 1)  # fmt: skip
    assert torch.equal(units.long(), exact.clamp(-stream.limit - 1, stream.limit))


def test_training_rounds_to_the_same_stream():
    stream = ResidualStream(8)
    norm, x = random_norm(stream), accumulators()
    y = norm(x)
    assert torch.equal(y / stream.step, (y / stream.step).round())
    assert y.abs().max() <= stream.limit * stream.step
    y.square().sum().backward()
    assert norm.weight.grad.abs().max() > 0


def test_output_scale_of_zero_gives_the_constant():
    stream = stream_with(8.0)
    norm = random_norm(stream).eval()
    norm.running_mean.normal_()
    stream.eval()
    x = Integers(torch.full((1, 6, 1, 1), 77.0), torch.tensor(0.0))
    assert ((norm(x) - norm.normalise(x)).abs() <= 0.51 * stream.step).all()


def test_addition_saturates():
    stream = stream_with(1.0, 8).eval()
    top = stream.limit * stream.step
    add = ResidualAdd(stream).eval()
    a = torch.tensor([top, -top, 0.5])
    assert add(a, a).tolist() == [top, -top - stream.step, 1.0 if top >= 1 else top]
    stream.train()
    add.train()(a, a)
    assert stream.observed() == 2 * top  # the sum counts for the range


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (12, 3), (16, 4), (6, 1)])
def test_permutations_by_definition(channels, groups):
    x = torch.arange(channels).float().reshape(1, channels, 1, 1)
    per_group = channels // groups
    shuffled = channel_shuffle(channels, groups)(x).flatten().tolist()
    rotated = group_rotation(channels, groups)(x).flatten().tolist()
    for new in range(channels):
        assert shuffled[new] == (new % groups) * per_group + new // groups
        group, place = divmod(new, per_group)
        assert rotated[new] == (group + 1) % groups * per_group + place


def test_cyclic_shuffle_is_its_formula():
    stream = ResidualStream(16)
    module = CyclicShuffle(8, stream, groups=2, weight_bits=2, activation_bits=2)
    x = torch.randn(4, 8, 3, 3).relu()
    module(x)
    module.eval()
    stream.eval()
    x = stream.round(x).double()
    turned = torch.cat([x[:, 4:], x[:, :4]], 1)
    expected = x + module.affine(module.conv(turned)).relu()
    assert torch.equal(module(x), stream.saturate(expected))
    assert not torch.equal(module(x), x)


def test_pools():
    stream = stream_with(4.0, 8).eval()
    x = stream.round(torch.randn(2, 3, 7, 7)).double()
    assert torch.equal(MaxPool(3, 2, 1)(x), F.max_pool2d(x, 3, 2, 1))
    negative = -x.abs() - stream.step
    assert MaxPool(3, 2, 1)(negative).max() < 0  # padding never wins
    sums, step, _ = SumPool(3, stream, stride=2)(x)
    assert torch.equal(sums, sums.round())
    integers = (x / stream.step).round()
    assert torch.equal(sums, integers.unfold(2, 3, 2).unfold(3, 3, 2).sum((-2, -1)))
    assert torch.allclose(sums * step, F.avg_pool2d(x, 3, 2))  # real values: a step of 1/9
    assert SumPool(7, stream)(x).values.shape == (2, 3, 1, 1)


def test_code_quantizer_rounds_and_clamps():
    layer = CodeQuantizer(2)
    layer.peak.fill_(2.55)
    step = torch.tensor(0.004)
    x = torch.arange(-300, 1100).float().reshape(-1, 1, 1, 1).expand(-1, 2, 1, 1)
    codes, unit, _ = layer.eval()(Integers(x, step))
    assert float(unit) == pytest.approx(0.01)
    assert torch.equal(codes, codes.round())
    assert codes.min() == 0
    assert codes.max() == 255
    assert ((codes - (x * 0.4).clamp(0, 255)).abs() <= 0.5 + 0.01).all()
    trained, _, _ = layer.train()(Integers(x[:800], step))
    assert trained.max() <= 255


def test_logits_add_the_rounded_bias():
    layer = Logits(3)
    layer.bias.data.copy_(torch.tensor([0.1, -2.0, 1e-5]))
    x = Integers(torch.randint(-1000, 1000, (5, 3, 1, 1)).float(), torch.full((1, 3, 1, 1), 0.003))
    expected = (x.values * x.step).flatten(1) + layer.bias
    assert torch.allclose(layer(x), expected)
    assert layer.eval()(x).shape == (5, 3)
    assert ((layer(x) - expected).abs() <= 0.0015 + 1e-6).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MaxPool(3, 2, 2),
            "^padding 2 of a max-pool must be at most half its kernel of 3$",
        ),
        (lambda: CodeQuantizer(4, 8), r"^8-bit codes through 8 bits \(supported: 9 to 16\)$"),
    ],
)
def test_refuses_settings_out_of_range(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
