"""ImageNet networks at 32x32 pixels, whole in RTL on ``tiny``: every value is the reference's."""

import pytest

from palquant.benchmark import Case, measure
from palquant.hw.presets import PRESETS
from palquant.workloads import Workload

TINY = PRESETS["tiny"]

#: ResNet-18 at its full width, all contenders of the speed-up; the others at a smaller one.
WORKLOADS = [
    Workload(groups=1, bits=4, size=32),
    Workload(groups=1, bits=2, size=32),
    Workload(groups=2, bits=2, size=32),
    Workload(groups=3, bits=2, size=32),
    Workload(groups=4, bits=2, size=32),
    Workload(groups=2, bits=2, size=32, stem_bits=4, base_width=16),
    Workload(groups=2, bits=2, size=32, stem_bits=2, base_width=16),
    Workload(groups=2, bits=2, size=32, stem_bits=2, shared_stem=True, base_width=16),
    Workload(groups=3, bits=2, size=32, stem_bits=2, shared_stem=True, base_width=8),
    Workload("resnet50", groups=2, bits=2, size=32, shared_stem=True, base_width=8),
    Workload("resnet34", groups=2, bits=2, size=32, base_width=16),
    Workload("resnet50", groups=1, bits=4, size=32, base_width=8),
    Workload("resnet50", groups=3, bits=2, size=32, base_width=16),
    Workload("vgg16", groups=2, bits=2, size=32, base_width=16),
    Workload("vgg16", groups=4, bits=2, size=32, base_width=8),
]


@pytest.mark.parametrize(
    "workload", WORKLOADS, ids=lambda w: f"{w.network} stem {w.stem} width {w.base_width}"
)
def test_every_value_equals_the_reference_and_every_cycle_the_prediction(workload):
    case = Case(workload, progress=False)
    measured = measure(case, case.compile(TINY))
    assert measured.first_mismatch == ""
    assert measured.mismatches == 0
    image = measured.compiled.image
    made = {name for layer in image.layers for name in layer.outputs}
    assert set(image.tensors) == made
    assert measured.values_compared == sum(case.values[name].size for name in made)
    assert [layer.cycles for layer in measured.profile.layers] == [
        layer.cycles for layer in measured.prediction.profile.layers
    ]
    for layer in image.layers:
        if layer.quantized:
            codes = case.values[case.graph[layer.name].inputs[0]]
            assert len(set(codes.ravel().tolist())) > 1
