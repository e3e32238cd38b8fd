"""State dictionaries that are not the network that was named are refused with the reason."""

import pytest
import torch
from released import state_of, trained

from palquant.errors import ConfigurationError, ModelError
from palquant.golden.released_network import ReleasedResNet, Structure
from palquant.golden.released_options import STRUCTURES
from palquant.golden.released_structure import load_released, looks_like


def state(**changes):
    found = state_of(trained()) | changes
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def load(found, architecture="resnet18", groups=2, **bits):
    return load_released(found, "file.pth", architecture, groups, **bits)


@pytest.mark.parametrize("architecture", STRUCTURES)
@pytest.mark.parametrize(("groups", "width", "classes", "channels"), [(1, 8, 7, 3), (3, 4, 10, 1)])
def test_widths_and_classes_follow_from_the_parameters(
    architecture, groups, width, classes, channels
):
    structure = Structure(architecture, groups, width, classes, channels)
    model = ReleasedResNet(structure)
    found = model.state_dict()
    for name in found:
        if name.endswith((".uW", ".uA")):
            found[name].fill_(1)
    assert looks_like(found) == architecture
    assert load(found, architecture, groups).structure == structure


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_other_precisions_are_converted(dtype):
    found = {name: tensor.to(dtype) for name, tensor in state().items()}
    loaded = load(found).state_dict()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, found[name].to(tensor.dtype))
    assert loaded["conv1.weight"].dtype == torch.float32


def test_integer_flags_are_as_good_as_real_ones():
    found = state(**{"layer1.0.conv1.init": torch.tensor([0]),
                     "layer1.0.conv1.bkwd_scaling_factorW": torch.tensor(0)})  # fmt: skip
    assert not load(found).training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv1.weight": None}, "entry 'conv1.weight' is missing; this is no released ResNet"),
        ({"fc.weight": torch.ones(3)}, r"fc.weight has shape \(3,\), expected 2 dimensions"),
        ({"layer4.1.bn2.weight": None}, "entry 'layer4.1.bn2.weight' is missing$"),
        ({"layer1.0.conv1.uW": None, "fc.bias": None}, r"'fc.bias' is missing \(and 1 more\)"),
        ({"shuffle2.conv1.0.weight": None}, "'shuffle2.conv1.0.weight' is missing"),
        ({"layer1.0.conv1.bias": torch.ones(8)}, "entry 'layer1.0.conv1.bias' is unknown"),
        ({"fc.bias": torch.ones(11)}, r"fc.bias is float32 of shape \(11,\), expected float32 of "
                                      r"shape \(10,\)"),
        ({"layer2.0.conv1.weight": torch.ones(16, 8, 3, 3)},
         r"layer2.0.conv1.weight is .*\(16, 8, 3, 3\), expected .*\(16, 4, 3, 3\)"),
        ({"layer1.0.conv1.weight": torch.ones(8, 3, 3, 3)}, "does not fit a stem of 8 channels"),
        ({"conv1.weight": torch.ones(16, 3, 7, 7)}, "does not fit a stem of 16 channels"),
        ({"bn1.weight": torch.full((8,), torch.nan)}, "bn1.weight holds NaN or infinity"),
        ({"fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}, "fc.bias holds NaN or inf"),
        ({"bn1.running_var": -torch.ones(8)}, "bn1.running_var holds a negative variance"),
        ({"layer3.0.conv2.uA": torch.tensor(1.5), "layer3.0.conv2.lA": torch.tensor(1.5)},
         "layer3.0.conv2: uA and lA are both 1.5, an empty range; was it trained?"),
        ({"conv1.weight": torch.ones(8, 3, 7, 7, dtype=torch.int64)},
         "conv1.weight is int64 of shape"),
    ],
)  # fmt: skip
def test_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ModelError, match=f"^file.pth: .*{message}"):
        load(state(**changes))


@pytest.mark.parametrize("groups", [1, 3, 4])
def test_another_number_of_groups_is_named(groups):
    with pytest.raises(ModelError, match=f"file.pth: has G=2, not G={groups}$"):
        load(state(), groups=groups)


@pytest.mark.parametrize("stated", ["resnet34", "resnet50"])
def test_another_architecture_is_named(stated):
    with pytest.raises(ModelError, match=f"looks like a resnet18, not like a {stated}$"):
        load(state(), stated)


def test_a_network_that_is_none_of_these_names_the_first_entry_that_does_not_fit():
    found = {name: tensor for name, tensor in state().items() if not name.startswith("layer4.1.")}
    assert looks_like(found) is None
    with pytest.raises(ModelError, match=r"'layer4.1.bn1.bias' is missing \(and 27 more\)"):
        load(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "vgg16"}, "no released format of 'vgg16'"),
        ({"groups": 0}, "0 groups of 2-bit weights"),
        ({"weight_bits": 9}, "9-bit weights"),
        ({"activation_bits": 5}, "5-bit activations"),
    ],
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(ConfigurationError, match=message):
        load(state(), **options)
