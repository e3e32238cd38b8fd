"""An imported network has the released parameters, all of them, and calibrated ranges."""

import pytest
import torch
from released import calibration_images, trained

from palquant.golden.config import PHOTO_MEAN, PHOTO_STD
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.layers import BatchNormAffine
from palquant.golden.models import calibrate
from palquant.golden.released_convert import calibrate_converted, convert, network_config
from palquant.golden.released_network import QuantizedConv2d

CASES = [("resnet18", 2, 4, 40), ("resnet18", 1, 8, 40), ("resnet50", 2, 4, 15)]


def converted(case, stem="accelerator"):
    released = trained(*case)
    config = network_config(released, 32, PHOTO_MEAN, PHOTO_STD, 16)
    return released, convert(released, config, stem)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("stem", ["accelerator", "host"])
def test_every_parameter_arrives(case, stem):
    released, network = converted(case, stem)
    ours = [m for m in network.modules() if isinstance(m, ParallelConvolution)]
    theirs = [m for m in released.modules() if isinstance(m, QuantizedConv2d)]
    assert len(ours) == len(theirs)
    scales = {float(m.output_scale.detach()) for m in theirs}
    assert scales == {float(m.output_scale.detach()) for m in ours}
    for module in theirs:
        (mine,) = (m for m in ours if m.weight.shape == module.weight.shape
                   and torch.equal(m.weight, module.weight))  # fmt: skip
        assert bool(mine.initialised)
        ranges = (mine.quantize.lower, mine.quantize.upper,
                  mine.quantize_weight.lower, mine.quantize_weight.upper)  # fmt: skip
        wanted = (module.lA, module.uA, module.lW, module.uW)
        assert [float(v.detach()) for v in ranges] == [float(v.detach()) for v in wanted]
        levels = mine.quantize_weight(module.weight).detach() / 3
        assert torch.allclose(levels, module.levels().detach(), atol=1e-6)
    norms = [m for m in network.modules() if isinstance(m, BatchNormAffine)]
    known = [m for m in released.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == len(known) - (stem == "host")
    for name in ("weight", "bias", "running_mean", "running_var"):
        found = torch.cat([getattr(m, name).detach() for m in norms]).sort().values
        start = 1 if stem == "host" else 0
        assert known[0] is released.bn1
        wanted = torch.cat([getattr(m, name).detach() for m in known[start:]]).sort().values
        assert torch.equal(found, wanted)


def test_both_ends_arrive():
    released, network = converted(CASES[0])
    assert torch.equal(network.stem.conv.weight, released.conv1.weight)
    assert torch.equal(network.classifier.conv.weight.flatten(1), released.fc.weight)
    assert torch.equal(network.classifier.logits.bias, released.fc.bias)
    assert not network.training


def test_calibration_ends_where_another_pass_changes_nothing():
    _, network = converted(CASES[0])
    images = torch.from_numpy(calibration_images())
    calibrate_converted(network, [images])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calibrate(network, [images], statistics=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_calibration_changes_no_parameter_and_forgets_no_peak():
    _, network = converted(CASES[0])
    images = torch.from_numpy(calibration_images())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calibrate_converted(network, [images * 1.5] + [images * 0.1] * 20)
    peaks = {name for name in before if name.endswith(".peak")}
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - peaks)
    assert all(float(after[name]) > 0 for name in peaks)
    large = {name: float(after[name]) for name in peaks}
    calibrate_converted(network, [images * 0.1] * 20)
    assert {name: float(after[name]) for name in peaks} == large
