"""From a trained network to the integer graph: trace it, and ask each layer for its integers.

The layers of this package are leaves of the trace; whatever else a network calls is refused by
name. Nodes are named after the modules that they come from. What a node is made of comes from the
functions that the network's own eval mode evaluates: ``to_int`` for weights, ``requantization``
for M, B and Sh, and the bisected chain of layers for thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from palquant.errors import ModelError, RangeError, UnsupportedLayerError
from palquant.golden.convolution import ParallelConvolution, WideConvolution
from palquant.golden.fixed_point import Requantization, ResidualStream
from palquant.golden.hosted import ResidualInput
from palquant.golden.layers import (
    BatchNormAffine,
    ChannelPermutation,
    ChannelRepeat,
    CodeQuantizer,
    Logits,
    MaxPool,
    ResidualAdd,
    SumPool,
)
from palquant.golden.quantize import InputQuantizer, Integers
from palquant.golden.thresholds import bisect_thresholds
from palquant.sw import graph as ir


def export(model: nn.Module, **metadata: Any) -> ir.Graph:
    """The integer graph of a network of this package's layers.

    Parameters:
        model: Trained or calibrated network; its eval mode is what is exported.
        metadata: Entries for the graph's metadata, beside those found in the model: quantiser
            parameters, bits and groups, and the real ``step`` of every residual tensor.

    Raises:
        UnsupportedLayerError: The network calls something that cannot be exported; names the
            module.
        ModelError: A layer was never initialised, or holds NaN or infinity; names the entry.
        RangeError: A requantization does not fit its registers; names module and channel.
    """
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ModelError(f"{name} holds NaN or infinity")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _Exporter(model).graph(metadata)
    finally:
        model.train(training)


@dataclass(frozen=True)
class _Image:
    """The image itself, before the input quantiser."""


@dataclass(frozen=True)
class _Whole:
    """An integer tensor of the graph, as a layer passes it on in ``Integers``.

    Parameters:
        tensor: Name of the node that makes it.
        step: Real value of one unit.
        low: Smallest value per channel, zero point subtracted, int64, shape (C,) or (1,).
        high: Largest value per channel.
        correction: As in ``Integers``.
    """

    tensor: str
    step: Tensor
    low: Tensor
    high: Tensor
    correction: Tensor | float = 0.0


@dataclass(frozen=True)
class _Real:
    """A real-valued function of an integer tensor of the graph.

    Parameters:
        tensor: Name of the node that makes the integers.
        function: Integers (K, C, 1, 1), float64, to real values, as eval mode computes them.
        low: Smallest integer per channel, int64, shape (C,), or (1,) if channels do not differ.
        high: Largest integer per channel.
        stream: Residual stream, if the integers are its values; None for a function of an
            accumulator, which only a quantiser can take up.
    """

    tensor: str
    function: Callable[[Tensor], Tensor]
    low: Tensor
    high: Tensor
    stream: ResidualStream | None


_Value = _Image | _Whole | _Real


class _Tracer(fx.Tracer):
    """Symbolic tracer that does not look into this package's layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in _HANDLERS or super().is_leaf_module(m, module_qualified_name)


class _Exporter:
    """Walks the trace of a network and appends graph nodes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.nodes: list[ir.Node] = []
        self.called: set[str] = set()
        self.steps: dict[str, float] = {}
        self.quantizers: dict[str, dict[str, Any]] = {}
        self.repeats: dict[str, ir.Repeat] = {}  # by name; nodes once something reads them as such

    def graph(self, metadata: dict[str, Any]) -> ir.Graph:
        """Trace, convert every call, check."""
        label = type(self.model).__name__
        try:
            trace = _Tracer().trace(self.model)
        except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UnsupportedLayerError(f"{label}: cannot be traced: {error}") from error
        for node in reversed(trace.nodes):
            if node.op not in ("placeholder", "output") and not node.users:
                trace.erase_node(node)
        values: dict[fx.Node, _Value] = {}
        result: object = None
        for node in trace.nodes:
            if node.op == "placeholder":
                if values:
                    raise UnsupportedLayerError(f"{label}: takes a second argument {node.name!r} "
                                                "(supported: images only)")  # fmt: skip
                values[node] = _Image()
            elif node.op == "output":
                result = values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
            else:
                values[node] = self._call(node, values)
        if not isinstance(result, _Whole | _Real) or result.tensor != self.nodes[-1].name:
            raise UnsupportedLayerError(f"{label}: must return one tensor, that of its last layer")
        if isinstance(result, _Real) and result.stream is None:
            raise UnsupportedLayerError(f"{label}: returns real values (supported: integers, or "
                                        "residuals of a stream)")  # fmt: skip
        found = {"name": label, "steps": self.steps, "quantizers": self.quantizers}
        return ir.Graph(self.nodes, found | self._widths() | metadata)

    def _widths(self) -> dict[str, int]:
        """Groups and bits of the low-precision layers, each the largest that occurs."""
        layers = [m for m in self.model.modules() if isinstance(m, ParallelConvolution)]
        return {
            "groups": max((m.groups for m in layers), default=1),
            "weight_bits": max((m.quantize_weight.bits for m in layers), default=8),
            "activation_bits": max((m.quantize.bits for m in layers), default=8),
        }

    def _call(self, node: fx.Node, values: dict[fx.Node, _Value]) -> _Value:
        """Convert one call of the trace."""
        if node.op != "call_module":
            stack = node.meta.get("nn_module_stack") or {}
            where = list(stack)[-1] if stack else type(self.model).__name__
            raise UnsupportedLayerError(f"{where}: calls {node.op.removeprefix('call_')} "
                                        f"{_name(node.target)!r}, which is no layer of "
                                        "palquant.golden")  # fmt: skip
        path = str(node.target)
        module = self.model.get_submodule(path)
        if path in self.called:
            raise UnsupportedLayerError(f"{path}: is called twice (supported: once, since its node "
                                        "bears its name)")  # fmt: skip
        self.called.add(path)
        if type(module) not in _HANDLERS:
            supported = ", ".join(sorted(cls.__name__ for cls in _HANDLERS))
            raise UnsupportedLayerError(f"{path}: {type(module).__name__} is not supported "
                                        f"(supported: {supported})")  # fmt: skip
        kinds, handler = _HANDLERS[type(module)]
        operands = [*node.args, *node.kwargs.values()]
        arguments = [values[v] for v in operands if isinstance(v, fx.Node)]
        found = [type(v) for v in arguments]
        if len(arguments) != len(operands) or found != (kinds or found[:1]):
            raise UnsupportedLayerError(f"{path}: {type(module).__name__} takes {_list(kinds)}, "
                                        f"found {_list(found)}")  # fmt: skip
        try:
            result: _Value = handler(self, path, module, *arguments)
        except (ModelError, RangeError) as error:
            raise type(error)(f"{path}: {error}") from error
        return result

    def _append(self, node: ir.Node) -> str:
        made = {each.name for each in self.nodes}
        for name in dict.fromkeys(node.inputs):
            if name in self.repeats and name not in made:
                self._append(self.repeats[name])
        self.nodes.append(node)
        return node.name

    def _residual(self, tensor: str, stream: ResidualStream) -> _Real:
        step = stream.step
        self.steps[tensor] = step
        low, high = torch.tensor([-stream.limit - 1]), torch.tensor([stream.limit])
        return _Real(tensor, lambda v: v * step, low, high, stream)

    def _stream_of(self, path: str, *values: _Real) -> ResidualStream:
        """The one residual stream of all ``values``."""
        streams = [value.stream for value in values]
        if streams[0] is None or any(stream is not streams[0] for stream in streams):
            raise UnsupportedLayerError(f"{path}: needs residuals of one stream, but reads "
                                        + " and ".join(v.tensor for v in values))  # fmt: skip
        return streams[0]

    def input(self, path: str, module: InputQuantizer, _: _Image) -> _Whole:
        norm = ir.Normalization(module.mean, module.std, module.scale)
        node = ir.Input(
            name=path, shape=ir.Shape(*module.shape), bits=module.bits,
            zero_point=module.zero_point, normalization=norm,
        )  # fmt: skip
        low = torch.tensor([-module.zero_point])
        step = torch.tensor(module.scale, dtype=torch.float64)
        high = low + (1 << module.bits) - 1
        return _Whole(self._append(node), step, low, high, -float(module.zero_point))

    def residual_input(self, path: str, module: ResidualInput, _: _Image) -> _Real:
        channels = module.shape[0]
        norm = ir.Normalization((0.0,) * channels, (1.0,) * channels, module.stream.step)
        node = ir.Input(
            name=path, shape=ir.Shape(*module.shape), bits=module.stream.bits, zero_point=0,
            normalization=norm, residual=True,
        )  # fmt: skip
        self._append(node)
        return self._residual(path, module.stream)

    def wide_convolution(self, path: str, module: WideConvolution, x: _Whole) -> _Whole:
        codes = module.quantize_weight.to_int(module.weight)
        sums = self._convolution(
            path, module, x.tensor, codes, module.step(x.step), (x.low, x.high)
        )
        return replace(sums, correction=module.correction(x.correction))

    def parallel_convolution(self, path: str, module: ParallelConvolution, x: _Real) -> _Whole:
        quantize, weights = module.quantize, module.quantize_weight
        if not module.initialised:
            raise ModelError("was never initialised: train or calibrate the network first")
        if (quantize.lower == quantize.upper).any() or (weights.lower == weights.upper).any():
            raise ModelError("a quantiser's range is empty")
        thresholds, negate = bisect_thresholds(
            lambda v: quantize(x.function(v)), x.low, x.high, quantize.steps
        )
        name = f"{path}.quantize"
        node = ir.Quantize(
            name=name, input=x.tensor, bits=quantize.bits,
            thresholds=thresholds.numpy(), negate=negate.numpy(),
        )  # fmt: skip
        repeat = self.repeats.get(x.tensor) if len(thresholds) == 1 else None
        if repeat is not None:  # channels that groups share are quantised once
            node = replace(node, name=f"{name}.shared", input=repeat.input)
        self.quantizers[path] = {
            "activation_bits": quantize.bits,
            "activation_lower": float(quantize.lower),
            "activation_upper": float(quantize.upper),
            "weight_bits": weights.bits,
            "weight_lower": _numbers(weights.lower),
            "weight_upper": _numbers(weights.upper),
            "output_scale": _numbers(module.output_scale),
        }
        limits = (torch.tensor([0]), torch.tensor([quantize.steps]))
        codes = weights.to_int(module.weight)
        source = self._append(node)
        if repeat is not None:
            source = self._append(ir.Repeat(name=name, input=source, times=repeat.times))
        return self._convolution(path, module, source, codes, module.step, limits)

    def _convolution(
        self, path: str, module: ParallelConvolution | WideConvolution, source: str,
        codes: Tensor, step: Tensor, limits: tuple[Tensor, Tensor],
    ) -> _Whole:  # fmt: skip
        weights = module.quantize_weight
        node = ir.Convolution(
            name=path,
            input=source,
            weight=codes.numpy(),
            weight_bits=next(bits for bits in (2, 4, 8) if weights.bits <= bits),
            alpha=weights.alpha,
            beta=weights.beta,
            groups=module.groups,
            stride=(module.stride, module.stride),
            padding=(module.padding, module.padding),
            quantized=isinstance(module, ParallelConvolution),
        )
        levels = weights.alpha * codes.long() - weights.beta
        extremes = torch.stack([levels * limits[0], levels * limits[1]])  # (2, O, I, KH, KW)
        low, high = extremes.amin(0).sum((1, 2, 3)), extremes.amax(0).sum((1, 2, 3))
        # A padding tap adds 0, which may be outside the range of a tap within the image.
        return _Whole(self._append(node), step, low.clamp(max=0), high.clamp(min=0))

    def batch_norm(self, path: str, module: BatchNormAffine, x: _Whole) -> _Real:
        if module.stream is None:
            channels = len(module.weight)
            return _Real(
                x.tensor, lambda v: module(Integers(v, x.step)),
                x.low.expand(channels), x.high.expand(channels), None,
            )  # fmt: skip
        self._affine(path, x.tensor, module.requantization(x.step, x.correction))
        return self._residual(path, module.stream)

    def _affine(self, name: str, source: str, integers: Requantization) -> None:
        columns = {k: getattr(integers, k).numpy() for k in ("scale", "offset", "shift")}
        self._append(ir.Affine(name=name, input=source, bits=integers.bits, **columns))

    def relu(self, path: str, module: nn.ReLU, x: _Real) -> _Real:
        if x.stream is None:
            return _Real(x.tensor, lambda v: module(x.function(v)), x.low, x.high, None)
        return self._residual(self._append(ir.Relu(name=path, input=x.tensor)), x.stream)

    def add(self, path: str, module: ResidualAdd, a: _Real, b: _Real) -> _Real:
        if self._stream_of(path, a, b) is not module.stream:
            raise UnsupportedLayerError(f"{path}: adds residuals of another stream than its own")
        return self._residual(
            self._append(ir.Add(name=path, a=a.tensor, b=b.tensor)), module.stream
        )

    def permutation(self, path: str, module: ChannelPermutation, x: _Real) -> _Real:
        stream = self._stream_of(path, x)
        node = ir.Permute(name=path, input=x.tensor, permutation=module.permutation.numpy())
        return self._residual(self._append(node), stream)

    def repeat(self, path: str, module: ChannelRepeat, x: _Real) -> _Real:
        stream = self._stream_of(path, x)
        self.repeats[path] = ir.Repeat(name=path, input=x.tensor, times=module.times)
        return self._residual(path, stream)

    def max_pool(self, path: str, module: MaxPool, x: _Real) -> _Real:
        stream = self._stream_of(path, x)
        window = {k: (getattr(module, k),) * 2 for k in ("kernel", "stride", "padding")}
        node = ir.MaxPool(name=path, input=x.tensor, **window)
        return self._residual(self._append(node), stream)

    def sum_pool(self, path: str, module: SumPool, x: _Real) -> _Whole:
        if self._stream_of(path, x) is not module.stream:
            raise UnsupportedLayerError(f"{path}: sums residuals of another stream than its own")
        window = {k: (getattr(module, k),) * 2 for k in ("kernel", "stride")}
        node = ir.SumPool(name=path, input=x.tensor, **window)
        area = module.kernel**2
        step = torch.tensor(module.step, dtype=torch.float64)
        return _Whole(self._append(node), step, area * x.low, area * x.high)

    def code_quantizer(self, path: str, module: CodeQuantizer, x: _Whole) -> _Whole:
        self._affine(f"{path}.affine", x.tensor, module.requantization(x.step))
        node = ir.Clamp(name=path, input=f"{path}.affine")
        step = torch.tensor(module.step, dtype=torch.float64)
        return _Whole(self._append(node), step, torch.tensor([0]), torch.tensor([module.largest]))

    def logits(self, path: str, module: Logits, x: _Whole) -> _Whole:
        scale = x.step.double().reshape(-1).expand(len(module.bias))
        node = ir.Logits(
            name=path, input=x.tensor, scale=scale.numpy().copy(),
            offset=module.offset(x.step).long().numpy(),
        )  # fmt: skip
        return _Whole(self._append(node), x.step, x.low, x.high)

    def identity(self, path: str, module: nn.Identity, x: _Value) -> _Value:
        return x


#: Layer -> kinds of value that it takes, None for any single one, and how it is exported.
_HANDLERS: dict[type[nn.Module], tuple[list[type] | None, Callable[..., _Value]]] = {
    InputQuantizer: ([_Image], _Exporter.input),
    ResidualInput: ([_Image], _Exporter.residual_input),
    WideConvolution: ([_Whole], _Exporter.wide_convolution),
    ParallelConvolution: ([_Real], _Exporter.parallel_convolution),
    BatchNormAffine: ([_Whole], _Exporter.batch_norm),
    nn.ReLU: ([_Real], _Exporter.relu),
    ResidualAdd: ([_Real, _Real], _Exporter.add),
    ChannelPermutation: ([_Real], _Exporter.permutation),
    ChannelRepeat: ([_Real], _Exporter.repeat),
    MaxPool: ([_Real], _Exporter.max_pool),
    SumPool: ([_Real], _Exporter.sum_pool),
    CodeQuantizer: ([_Whole], _Exporter.code_quantizer),
    Logits: ([_Whole], _Exporter.logits),
    nn.Identity: (None, _Exporter.identity),
}


def _numbers(parameter: Tensor) -> Any:
    """A parameter as plain numbers: one, or a list where every channel has its own."""
    return parameter.squeeze().tolist()


def _name(target: object) -> str:
    """Readable name of a called function or method."""
    return str(getattr(target, "__name__", target))


def _list(kinds: Sequence[type] | None) -> str:
    """What values are, in words."""
    if kinds is None:
        return "one value"
    words = {_Image: "the image", _Whole: "integers", _Real: "real values"}
    return " and ".join(words[kind] for kind in kinds) or "nothing"
