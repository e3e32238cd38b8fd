"""Networks of Brevitas, and hand-made QONNX graphs, for the tests of import and export."""

import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brevitas.nn as qnn
    from brevitas.export import export_qonnx as brevitas_export
    from brevitas.quant import (
        Int8ActPerTensorFixedPoint,
        Int8ActPerTensorFloat,
        Int8WeightPerChannelFloat,
        Int8WeightPerTensorFixedPoint,
        Int8WeightPerTensorFloat,
        Uint8ActPerTensorFixedPoint,
        Uint8ActPerTensorFloat,
    )

#: Quantisers of weights, of signed and of unsigned activations; the first have powers of two.
FIXED = (Int8WeightPerTensorFixedPoint, Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint)
FLOAT = (Int8WeightPerTensorFloat, Int8ActPerTensorFloat, Uint8ActPerTensorFloat)
PER_CHANNEL = (Int8WeightPerChannelFloat, Int8ActPerTensorFloat, Uint8ActPerTensorFloat)


class Layers:
    """Quantised layers of one kind."""

    def __init__(self, bits, kind):
        self.bits = bits
        self.weight, self.signed, self.unsigned = kind

    def convolution(self, inputs, outputs, kernel=3, bits=None, **window):
        return qnn.QuantConv2d(
            inputs, outputs, kernel, padding=kernel // 2, weight_quant=self.weight,
            weight_bit_width=bits or self.bits, **{"bias": False, **window},
        )  # fmt: skip

    def relu(self, bits=None):
        return qnn.QuantReLU(act_quant=self.unsigned, bit_width=bits or self.bits)

    def identity(self, bits):
        return qnn.QuantIdentity(act_quant=self.signed, bit_width=bits)

    def linear(self, inputs, outputs, bits=None, **options):
        return qnn.QuantLinear(
            inputs, outputs, weight_quant=self.weight, weight_bit_width=bits or self.bits,
            **{"bias": True, **options},
        )  # fmt: skip


class Plain(nn.Module):
    """Convolutions with max-pools before and behind quantisers, and a hidden linear layer."""

    def __init__(self, layers, channels=8):
        super().__init__()
        self.body = nn.Sequential(
            layers.identity(8),
            layers.convolution(3, channels, bits=8), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.MaxPool2d(2), layers.relu(),
            layers.convolution(channels, channels, bias=True), nn.BatchNorm2d(channels),
            layers.relu(), nn.MaxPool2d(3, 2, 1),
            layers.convolution(channels, 12), nn.BatchNorm2d(12), layers.relu(),
            nn.Flatten(),
            layers.linear(12 * 4, 16, bias=False), nn.BatchNorm1d(16), layers.relu(),
            layers.linear(16, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x)


def shuffle(x, groups):
    """Reshape, transpose, reshape."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Residual(nn.Module):
    """Grouped convolutions, a rotation of the groups, a channel shuffle and a quantised sum."""

    def __init__(self, layers, groups=2, channels=8):
        super().__init__()
        self.groups = groups
        self.input = layers.identity(8)
        self.stem = layers.convolution(3, channels, bits=8)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = layers.relu()
        self.conv1 = layers.convolution(channels, channels, groups=groups)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = layers.relu()
        self.conv2 = layers.convolution(channels, 2 * channels, groups=groups, stride=2)
        self.norm2 = nn.BatchNorm2d(2 * channels)
        self.down = layers.convolution(channels, 2 * channels, 1, groups=groups, stride=2)
        self.norm3 = nn.BatchNorm2d(2 * channels)
        self.shared = layers.identity(4)  # both addends on one scale
        self.relu2 = layers.relu()
        self.conv4 = layers.convolution(2 * channels, 2 * channels, groups=groups)
        self.norm4 = nn.BatchNorm2d(2 * channels)
        self.relu4 = layers.relu()
        self.last = layers.linear(2 * channels, 10, bits=4)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(self.input(x))))
        size = x.shape[1] // self.groups  # rotation: output group g is input group g + 1
        y = torch.cat([x[:, size:], x[:, :size]], dim=1)
        y = self.relu1(self.norm1(self.conv1(y)))
        y = shuffle(self.shared(self.norm2(self.conv2(y))), self.groups)
        x = self.relu2(y + self.shared(self.norm3(self.down(x))))
        x = self.relu4(self.norm4(self.conv4(x)))
        return self.last(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Doubled(nn.Module):
    """QuantEltwiseAdd of 8 bits on tensors that are quantised already, and an average between."""

    def __init__(self, layers, channels=8):
        super().__init__()
        self.input = layers.identity(8)
        self.stem = layers.convolution(3, channels, bits=8)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = layers.relu()
        self.conv = layers.convolution(channels, channels)
        self.norm1 = nn.BatchNorm2d(channels)
        self.narrow = layers.identity(4)
        self.add = qnn.QuantEltwiseAdd(input_quant=layers.signed, output_quant=layers.signed)
        self.relu1 = layers.relu()
        self.pool = nn.AvgPool2d(2)
        self.pooled = layers.relu()
        self.last = layers.linear(channels * 16, 10, bits=4)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(self.input(x))))
        x = self.relu1(self.add(self.narrow(self.norm1(self.conv(x))), x))
        return self.last(torch.flatten(self.pooled(self.pool(x)), 1))


class BasicBlock(nn.Module):
    """Two convolutions; both addends on one scale."""

    def __init__(self, layers, inputs, outputs, stride, groups):
        super().__init__()
        addend = layers.identity(4)
        self.body = nn.Sequential(
            layers.convolution(inputs, outputs, stride=stride, groups=groups),
            nn.BatchNorm2d(outputs), layers.relu(),
            layers.convolution(outputs, outputs, groups=groups), nn.BatchNorm2d(outputs), addend,
        )  # fmt: skip
        self.identity = nn.Sequential(addend)
        if inputs != outputs:
            down = layers.convolution(inputs, outputs, 1, stride=stride, groups=groups)
            self.identity = nn.Sequential(down, nn.BatchNorm2d(outputs), addend)
        self.relu = layers.relu()

    def forward(self, x):
        return self.relu(self.body(x) + self.identity(x))


class ResNet18(nn.Module):
    """Four stages of two blocks behind a stem of 8 bits."""

    def __init__(self, layers, groups=2, width=8):
        super().__init__()
        stages = [
            BasicBlock(layers, width << max(0, stage - (not block)), width << stage,
                       2 if stage and not block else 1, groups)
            for stage in range(4) for block in range(2)
        ]  # fmt: skip
        self.body = nn.Sequential(
            layers.identity(8), layers.convolution(3, width, bits=8), nn.BatchNorm2d(width),
            layers.relu(), *stages,
        )  # fmt: skip
        self.last = layers.linear(8 * width, 10, bits=8)

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(self.body(x), 1)
        return self.last(torch.flatten(x, 1))


class FloatResidual(nn.Module):
    """Unquantised floats are added, as in the released networks."""

    def __init__(self, layers, channels=8):
        super().__init__()
        self.input = layers.identity(8)
        self.stem = layers.convolution(3, channels, bits=8)
        self.norm = nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = layers.relu(), layers.relu(4)
        self.conv = layers.convolution(channels, channels)
        self.norm1 = nn.BatchNorm2d(channels)
        self.last = layers.linear(channels, 10, bits=4)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.stem(self.input(x))))
        x = nn.functional.relu(x + self.norm1(self.conv(self.relu1(x))))
        return self.last(torch.flatten(self.relu2(nn.functional.adaptive_avg_pool2d(x, 1)), 1))


def images(seed, count, size=8, channels=3):
    """float32 images that come from bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), np.uint8)
    return pixels.astype(np.float32) / np.float32(255)


def export_brevitas(network, path, seed=0, size=8):
    """Let statistics see some images, and write the network as QONNX."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            module.weight.data[::4] *= -1  # gains of both signs
            nn.init.normal_(module.bias, 0.4, 0.3)
            module.momentum = 0.5
    network.train()
    with torch.no_grad():
        for step in range(8):
            network(torch.from_numpy(images(step, 16, size)))
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        brevitas_export(network, torch.from_numpy(images(9, 1, size)), export_path=str(path))
    return path


class Onnx:
    """Writes a hand-made graph, node by node."""

    def __init__(self, shape=(1, 4, 6, 6), opset=17):
        self.opset = opset
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        self.nodes, self.constants = [], []
        self.last = "x"

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, operator, *inputs, name=None, **attributes):
        """Append a node; constants are given as arrays."""
        name = name or f"t{len(self.nodes)}"
        named = [i if isinstance(i, str) else self.constant(i, i.dtype) for i in inputs]
        domain = ""
        if operator in ("Quant", "BipolarQuant", "MultiThreshold", "Trunc"):
            domain = "qonnx.custom_op.general"
        self.nodes.append(
            helper.make_node(operator, named, [name], name=name, domain=domain, **attributes)
        )
        self.last = name
        return name

    def quant(self, x, scale, zero, bits, signed, narrow=0, mode="ROUND", name=None):
        x = x if isinstance(x, str) else self.constant(x)
        parameters = [np.asarray(v, np.float32) for v in (scale, zero, bits)]
        return self.node("Quant", x, *parameters, name=name, signed=signed, narrow=narrow,
                         rounding_mode=mode)  # fmt: skip

    def start(self, scale=1 / 128, bits=8):
        """Quantise the input."""
        return self.quant("x", scale, 0.0, bits, 1)

    def model(self):
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [self.input], [output], self.constants)
        imports = [helper.make_opsetid("", self.opset),
                   helper.make_opsetid("qonnx.custom_op.general", 1)]  # fmt: skip
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def save(self, path):
        onnx.save(self.model(), path)
        return path
