"""Graphs with graphs, and an import with the executor, for the tests of import and export."""

import dataclasses
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from qonnx.core.onnx_exec import execute_onnx

from palquant.golden.reference import run
from palquant.sw.graph import Convolution, Logits
from palquant.sw.normalize import to_codes


def assert_same(first, second):
    """Every node, name, attribute and array, and their order."""
    assert [node.name for node in first] == [node.name for node in second]
    for a, b in zip(first, second, strict=True):
        assert type(a) is type(b)
        for item in dataclasses.fields(a):
            x, y = getattr(a, item.name), getattr(b, item.name)
            if isinstance(x, np.ndarray):
                assert isinstance(y, np.ndarray), (a.name, item.name)
                assert x.dtype == y.dtype, (a.name, item.name)
                np.testing.assert_array_equal(x, y, err_msg=f"{a.name}.{item.name}")
            else:
                assert x == y, (a.name, item.name)
    assert first.metadata == second.metadata


#: The executor's rounding, relative to the sum of all magnitudes that it adds.
ROUNDING = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-15}


def differences(imported, pixels):
    """Graph tensor -> values that differ from the executor's tensor, in its units.

    Integers must be equal. Real logits may differ by :data:`ROUNDING`, and their largest one may
    be another where two differ by no more than that; both are counted for the graph's output.

    Also returns the reference's values, and the number of values that were compared.
    """
    source, graph = imported.source, imported.graph
    values = run(graph, to_codes(pixels, graph.input))
    found, count, last = {}, 0, graph.output.name
    for at in range(len(pixels)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensors = execute_onnx(source.wrapper, {source.input: pixels[at : at + 1]}, True)
        for name, meaning in imported.real.items():
            if name == last:
                continue
            own = values[name][at]
            found[name] = found.get(name, 0) + _other_integers(own, tensors[name], meaning)
            count += own.size
        theirs, own = tensors[source.output], values[last][at]
        assert imported.result.name == last
        assert theirs.shape == source.shape(source.output)
        assert theirs.size == own.size
        if isinstance(graph.output, Logits):
            wrong = _other_logits(graph, {name: v[at : at + 1] for name, v in values.items()},
                                  theirs)  # fmt: skip
        else:
            meaning = imported.result.scale, imported.result.offset
            wrong = _other_integers(own, theirs, meaning)
        found[last] = found.get(last, 0) + wrong
        count += own.size
    assert last in found
    return {name: wrong for name, wrong in found.items() if wrong}, values, count


def _other_integers(own, theirs, meaning):
    """How many integers (C, H, W) are not those of the executor's real values."""
    scale, offset = (np.broadcast_to(v, len(own))[:, None, None] for v in meaning)
    theirs = np.asarray(theirs, np.float64).reshape(own.shape)
    return int((np.rint((theirs - offset) / scale).astype(np.int64) != own).sum())


def _other_logits(graph, values, theirs):
    """How many real logits of one image are not the executor's, and one for another class."""
    own = graph.output.real(values[graph.output.name])[0]
    bound = ROUNDING[theirs.dtype] * _magnitudes(graph, values)[0]
    theirs = theirs.astype(np.float64).reshape(own.shape)
    wrong = int((np.abs(own - theirs) > bound).sum())
    *_, second, first = np.sort(np.concatenate([own, own[:1] - np.inf]), axis=0)
    clear = first - second > 2 * bound.max(axis=0)
    return wrong + int((clear & (own.argmax(axis=0) != theirs.argmax(axis=0))).sum())


def _magnitudes(graph, values):
    """Sum of the magnitudes of all that is added to a real logit, shape (N, C, H, W)."""
    node, sums = graph.output, graph[graph.output.input]
    values = torch.from_numpy(np.abs(values[sums.input] - graph.types[sums.input].zero_point))
    if isinstance(sums, Convolution):
        levels = np.abs(sums.alpha * sums.weight.astype(np.int64) - sums.beta)
        weight = torch.from_numpy(levels).double()
        total = F.conv2d(values.double(), weight, None, sums.stride, sums.padding, 1,
                                     sums.groups)  # fmt: skip
    else:
        total = F.avg_pool2d(values.double(), sums.kernel, sums.stride, sums.padding,
                                         divisor_override=1)  # fmt: skip
    columns = node.offset, 0 if node.rest is None else node.rest
    offset, rest = (np.abs(np.broadcast_to(v, len(node.scale))) for v in columns)
    magnitudes = (offset * node.scale + rest)[:, None, None]
    return total.numpy() * node.scale[:, None, None] + magnitudes
