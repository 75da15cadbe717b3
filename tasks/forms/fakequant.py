"""Fake quantization by torchao's PT2E: make a model that rounds as its int8 form will, and make that form of it.

BatchNorm is folded into the convolutions before training starts (Nagel et al. 2021, A white paper on neural network
quantization, section 5.2), so that weights are trained as they will be rounded. The exported graph is that of
evaluation, in which dropout and stochastic depth are off.
"""

from __future__ import annotations

import copy
import logging
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

WEIGHTS = {"u8s8": 127, "u8s8-reduced": 64, "s8s8": 127}
"""Setting -> largest int8 weight. Without VNNI, a CPU adds two products of a byte and a weight in 16 bits, which
overflows with 8-bit weights and not with 7-bit ones."""
LAYERS = ("conv2d.default", "linear.default")
"""Operators with weights; this and the following are names in torch.ops.aten."""
ARITHMETIC = ("add.Tensor", "add_.Tensor", "mul.Tensor", "mul_.Tensor", "cat.default")
"""Operators that combine activations."""
POOLING = ("avg_pool2d.default",)
MOVING = (
    "max_pool2d.default",
    "flatten.using_ints",
    "reshape.default",
    "view.default",
    "permute.default",
    "transpose.int",
)
"""Operators that only move values, whose output has the range of their input."""
ACTIVATION_FUNCTIONS = ("relu.default", "relu_.default", "relu6.default", "hardtanh.default", "hardtanh_.default")
"""Functions that an int8 kernel applies to its own output, so that nothing is rounded before them."""


def _load_library() -> None:
    """Import torchao, without the warnings that a user can do nothing about."""
    # This one says that Triton is missing, also on a CPU.
    logging.getLogger("torchao.kernel.intmm").setLevel(logging.ERROR)
    # With torch 2.15, this one is about how torchao registers its own constants.
    pytree = logging.getLogger("torch.utils._pytree")
    level = pytree.level
    pytree.setLevel(logging.ERROR)
    try:
        import torchao.quantization.pt2e  # noqa: F401
    finally:
        pytree.setLevel(level)


def _specs(setting: str) -> tuple[Any, Any]:
    """Return torchao's specifications for activations and for weights in one of records.QAT_SETTINGS."""
    import torch
    from torchao.quantization.pt2e import (
        FakeQuantize,
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    if setting == "s8s8":
        # The fused kernel is not for symmetric ranges: torchao 0.18's trains with a scale that is off by 1/127 from the
        # one that convert_pt2e writes.
        separate = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
        activations = QuantizationSpec(torch.int8, separate, -128, 127, torch.per_tensor_symmetric)
    else:
        fused = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
        activations = QuantizationSpec(torch.uint8, fused, 0, 255, torch.per_tensor_affine)
    # All weights are seen in every step, so that their range is the present one and no average.
    per_channel = FakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0)
    largest = WEIGHTS[setting]
    weights = QuantizationSpec(torch.int8, per_channel, -largest, largest, torch.per_channel_symmetric, 0)
    return activations, weights


def _operators(names: tuple[str, ...]) -> tuple[Any, ...]:
    """Return operators of torch.ops.aten by their names."""
    import torch

    operators = []
    for name in names:
        packet, overload = name.split(".")
        operators.append(getattr(getattr(torch.ops.aten, packet), overload))
    return tuple(operators)


def _annotate(graph: fx.Graph, activations: Any, weights: Any) -> None:
    """Mark, for every operator that ONNX Runtime has in int8, which of its inputs and output are quantized.

    They are convolutions and linear layers; additions, products and concatenations of activations; average pooling; and
    operators that only move values.
    """
    import torch
    from torchao.quantization.pt2e.quantizer import SharedQuantizationSpec

    layers = _operators(LAYERS)
    arithmetic = _operators(ARITHMETIC)
    pooling = _operators(POOLING)
    moving = _operators(MOVING)
    quantized: set[fx.Node] = set()
    """Nodes whose output is quantized."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        operands = node.args[0] if node.target is torch.ops.aten.cat.default else node.args[:2]
        if node.target in layers:
            # A weight that is computed (weight standardization) is quantized where it comes out.
            inputs = {node.args[0]: activations, node.args[1]: weights}
            quantized.add(_mark_with_activation_function(node, inputs, activations))
        elif node.target in arithmetic and all(map(_is_activation, operands)):
            inputs = dict.fromkeys(operands, activations)
            quantized.add(_mark_with_activation_function(node, inputs, activations))
        elif node.target in pooling:
            quantized.add(_mark_with_activation_function(node, {node.args[0]: activations}, activations))
        elif node.target in moving and node.args[0] in quantized:
            _mark(node, {node.args[0]: activations}, SharedQuantizationSpec((node.args[0], node)))
            quantized.add(node)


def _is_activation(value: Any) -> bool:
    """Return whether an operand is an activation, and no number, weight, or tensor of integers."""
    from torch.fx import Node

    return isinstance(value, Node) and value.op != "get_attr" and value.meta["val"].is_floating_point()


def _mark_with_activation_function(node: fx.Node, inputs: dict[fx.Node, Any], output: Any) -> fx.Node:
    """Mark a node and the activation function that alone uses it as one; return the node with the quantized output."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None or user.target not in _operators(ACTIVATION_FUNCTIONS):
        _mark(node, inputs, output)
        return node
    _mark(node, inputs, None)
    _mark(user, {}, output)
    return user


def _mark(node: fx.Node, inputs: dict[fx.Node, Any], output: Any) -> None:
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    # torchao reads the annotation of a node under this key.
    node.meta["quantization_annotation"] = QuantizationAnnotation(inputs, output)


def fake_quantized(model: nn.Module, example: Tensor, setting: str) -> nn.Module:
    """Return a model that computes with the rounding of its int8 form; `example` is a batch of two.

    In training mode the ranges of activations are moving averages over the batches; in evaluation mode they stay.
    """
    _load_library()
    import torch
    from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import Quantizer

    class Placement(Quantizer):
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            _annotate(model.graph, *_specs(setting))
            return model

        def validate(self, model: fx.GraphModule) -> None:
            """Accept every model: operators without an annotation stay fp32."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        self.training = mode
        for module in self.modules():
            if isinstance(module, FakeQuantizeBase):
                module.enable_observer(mode)
        return self

    program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    # Unlike prepare_qat_pt2e, prepare_pt2e folds BatchNorm into the convolutions.
    prepared = prepare_pt2e(program.module(), Placement())
    # The folded BatchNorm layers are unused now.
    prepared.delete_all_unused_submodules()
    # An exported graph has one mode only, and torchao refuses to switch it. Here the mode of the observers is switched.
    prepared.train = MethodType(train, prepared)
    prepared.eval = MethodType(lambda self: self.train(False), prepared)
    return prepared


def int8_form(prepared: nn.Module) -> nn.Module:
    """Return the int8 form of a model that `fake_quantized` returned, whether or not it was trained since.

    Its weights are int8, and quantize-dequantize operators (Q/DQ) stand around the activations. `prepared` itself is
    not changed.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    return convert_pt2e(copy.deepcopy(prepared))
