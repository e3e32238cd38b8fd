"""Two processes learn from a batch what one learns from all of it."""

import numpy as np
import pytest
import torch
from processes import in_processes
from torch import Tensor

from palquant.errors import ConfigurationError, InputError, PalquantError
from palquant.golden import distributed
from palquant.golden.batch_norm import synchronised_batch_norm
from palquant.golden.convolution import ParallelConvolution
from palquant.golden.distributed import Process, choose_device, join_processes
from palquant.golden.fixed_point import PeakObserver
from palquant.golden.improvements import improve
from palquant.golden.layers import BatchNormAffine
from palquant.golden.quantize import Integers


def batch():
    """A batch (8, 6, 5, 5), double precision, of channels with different statistics."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 6, 5, 5, generator=generator, dtype=torch.float64)
    return x * torch.arange(1, 7).reshape(-1, 1, 1) + 3


def learn(process: Process) -> dict[str, np.ndarray]:
    """Everything that layers learn from their share of the batch."""
    x = batch()[process.share(8)]
    found: dict[str, Tensor] = {
        "mean": distributed.mean(x),
        "means": distributed.mean(x, (0, 2, 3)),
        "deviation": distributed.standard_deviation(x),
        "smallest": distributed.smallest(x.min()),
        "largest": distributed.largest(x.max()),
        "total": distributed.total(x.sum()),
    }
    observer = PeakObserver()
    observer.observe(x)
    found["peak"] = observer.peak
    for name, per_channel in (("shared", False), ("channels", True)):
        torch.manual_seed(0)
        layer = torch.nn.Sequential(ParallelConvolution(6, 4, 3, padding=1)).double()
        improve(layer, per_channel=per_channel, gradient_scaling=0.1)
        layer.double()
        real = x.clone().requires_grad_()
        sums = layer[0](real)
        (sums.values * sums.step).square().mean().backward()
        found[f"{name}.x"] = real.grad / process.count
        for key, parameter in layer.named_parameters():
            found[f"{name}.{key}"] = parameter.detach()
            found[f"{name}.{key}.grad"] = distributed.total(parameter.grad) / process.count
    norm = BatchNormAffine(6).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6))
    real = x.clone().requires_grad_()
    y = norm(Integers(real, torch.tensor(0.5, dtype=torch.float64)))
    (y * batch()[process.share(8)].sin()).mean().backward()
    found |= {"norm.y": y.detach(), "norm.x": real.grad / process.count}
    found |= {f"norm.{key}": value for key, value in norm.state_dict().items()}
    for key, parameter in norm.named_parameters():
        found[f"norm.{key}.grad"] = distributed.total(parameter.grad) / process.count
    found["rank"] = torch.tensor(distributed.broadcast({"rank": process.rank})["rank"])
    return {name: value.numpy() for name, value in found.items()}


def fail_in_the_second(process: Process) -> list[str]:
    """Process 1 has a third item that it cannot make; what each process meets."""

    def items():
        yield from (1, 2)
        if process.rank:
            raise InputError("no third")
        yield 3

    met = []
    try:
        met += [str(item) for item in distributed.each_together([5, 6], process.device)]
        for item in distributed.each_together(items(), process.device):
            met.append(str(item))
    except PalquantError as error:
        met.append(f"{type(error).__name__}: {error}")
    met.append(str(float(distributed.total(torch.tensor(1.0)))))  # they still understand each other
    return met


def test_what_ends_one_process_ends_all():
    first, second = in_processes(2, fail_in_the_second)
    gone = "ToolError: another process of this training has ended; its own line says why"
    assert first == ["5", "6", "1", "2", gone, "2.0"]
    assert second == ["5", "6", "1", "2", "InputError: no third", "2.0"]


def observe_in_the_second(process: Process) -> list[str]:
    """Process 1 sees what is no activation; what each process meets, and what its peak is then."""
    met = []
    for value in (float("nan"), float("inf"), -float("inf"), 2.0):
        observer = PeakObserver()
        try:
            observer.observe(torch.tensor([1.0, value if process.rank else 0.5]))
        except PalquantError as error:
            met.append(f"{type(error).__name__}: {error}")
        met.append(str(float(observer.peak)))
    return met


def test_an_activation_that_is_no_number_ends_all_in_the_same_place():
    first, second = in_processes(2, observe_in_the_second)
    problem = "ModelError: an activation that PeakObserver reads is NaN or infinite"
    assert first == second == [*3 * [problem, "0.0"], "2.0"]


def test_two_processes_learn_what_one_does():
    both = in_processes(2, learn)
    alone = learn(Process(0, 1, torch.device("cpu")))
    split = ("shared.x", "channels.x", "norm.y", "norm.x")  # of each process's own images
    for name, value in alone.items():
        found = [process[name] for process in both]
        if name in split:
            found = [np.concatenate(found)]
        for one in found:
            np.testing.assert_allclose(one, value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert alone["shared.0.quantize_weight.lower"].shape == ()
    assert alone["channels.0.quantize_weight.lower"].shape == (4, 1, 1, 1)


def test_batch_norm_is_that_of_pytorch():
    x, weight, bias = batch(), torch.rand(6, dtype=torch.float64), torch.rand(6).double()
    results = []
    for function in (torch.nn.functional.batch_norm, synchronised_batch_norm):
        mean, variance = torch.ones(6).double(), torch.full((6,), 2.0).double()
        inputs = [v.clone().requires_grad_() for v in (x, weight, bias)]
        if function is synchronised_batch_norm:
            y = function(inputs[0], mean, variance, *inputs[1:], 0.3, 1e-3)
        else:
            y = function(inputs[0], mean, variance, *inputs[1:], True, 0.3, 1e-3)
        (y * x.cos()).sum().backward()
        results.append([y.detach(), mean, variance, *(v.grad for v in inputs)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_shares_make_up_the_batch():
    shares = [Process(rank, 4, torch.device("cpu")).share(12) for rank in range(4)]
    assert [i for share in shares for i in range(12)[share]] == list(range(12))
    assert [Process(rank, 4, torch.device("cpu")).writes for rank in range(4)] == [True] + 3 * [
        False
    ]


def test_alone_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join_processes("cpu") as process:
        assert process == Process(0, 1, torch.device("cpu"))
        assert distributed.process_count() == 1
        assert distributed.broadcast("x") == "x"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("WORLD_SIZE", "x", "WORLD_SIZE is 'x', expected an integer from 1 on, as torchrun sets"),
        ("WORLD_SIZE", "0", "WORLD_SIZE is '0', expected an integer from 1 on"),
        ("LOCAL_RANK", "x", "LOCAL_RANK is 'x', expected an integer from 0 on"),
        ("RANK", "1", "RANK is 1, expected less than WORLD_SIZE, 1$"),
    ],
)
def test_variables_of_the_launcher_are_checked(monkeypatch, name, text, message):
    for other in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, text)
    with (
        pytest.raises(ConfigurationError, match=f"^the environment variable {message}"),
        join_processes("cpu"),
    ):
        raise AssertionError("joined")


@pytest.mark.parametrize(
    ("gpus", "name", "rank", "expected"),
    [
        (0, "auto", 0, "cpu"),
        (0, "cpu", 3, "cpu"),
        (2, "cpu", 0, "cpu"),
        (2, "auto", 1, "cuda:1"),
        (2, "cuda", 0, "cuda:0"),
        (0, "cuda", 0, "^device cuda: PyTorch finds no GPU; its build .* may have no CUDA$"),
        (2, "auto", 2, "^process 2 of this machine has no GPU of its own: there are 2$"),
    ],
)
def test_devices(monkeypatch, gpus, name, rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if expected.startswith("^"):
        with pytest.raises(ConfigurationError, match=expected):
            choose_device(name, rank)
    else:
        assert str(choose_device(name, rank)) == expected
