"""Fake quantization by torchao's PT2E: a model that rounds as its int8 form will, and that form.

BatchNorm is folded into the convolutions before it starts (Nagel et al. 2021, A white paper on neural network
quantization, section 5.2): weights are trained as they will be rounded, and nothing is left to fold afterwards. The
exported graph is that of evaluation, so dropout and stochastic depth are off.
"""

from __future__ import annotations

import copy
import logging
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

WEIGHTS = {"u8s8": 127, "u8s8-reduced": 64, "s8s8": 127}
"""Largest int8 weight. Without VNNI the sum of two products of a byte and an 8-bit weight saturates at 16 bits."""


def _load_library() -> None:
    """Import torchao; torch 2.15 warns of how it registers its own constants, which a user can do nothing about."""
    # warns of a missing Triton, also on a CPU
    logging.getLogger("torchao.kernel.intmm").setLevel(logging.ERROR)
    said = logging.getLogger("torch.utils._pytree")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        import torchao.quantization.pt2e  # noqa: F401
    finally:
        said.setLevel(level)


def _specs(setting: str) -> tuple[Any, Any]:
    """How torchao fake-quantizes (activations, weights) for one of records.QAT_SETTINGS."""
    import torch
    from torchao.quantization.pt2e import (
        FakeQuantize,
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    # Where ranges are symmetric, torchao 0.18's fused kernel trains with another scale than convert_pt2e writes (by
    # 1/127).
    fused = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
    apart = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
    if setting == "s8s8":
        activations = QuantizationSpec(torch.int8, apart, -128, 127, torch.per_tensor_symmetric)
    else:
        activations = QuantizationSpec(torch.uint8, fused, 0, 255, torch.per_tensor_affine)
    # Weights are seen whole in every step: their range is the present one, no average.
    channels = FakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0)
    largest = WEIGHTS[setting]
    return activations, QuantizationSpec(torch.int8, channels, -largest, largest, torch.per_channel_symmetric, 0)


def _annotate(graph: fx.Graph, activations: Any, weights: Any) -> None:
    """Say of every operator that ONNX Runtime has in int8 what of its inputs and output is quantized.

    Convolutions and linear layers; additions, products and concatenations of activations; average pooling. What only
    moves values has the range of its input. An activation function that a convolution's kernel applies belongs to it.
    """
    import torch
    from torch.fx import Node
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, SharedQuantizationSpec

    aten = torch.ops.aten
    layers = (aten.conv2d.default, aten.linear.default)
    several = (aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor, aten.cat.default)
    pooling = (aten.avg_pool2d.default,)
    moving = (
        aten.max_pool2d.default,
        aten.flatten.using_ints,
        aten.reshape.default,
        aten.view.default,
        aten.permute.default,
        aten.transpose.int,
    )
    applied = (aten.relu.default, aten.relu_.default, aten.relu6.default, aten.hardtanh.default, aten.hardtanh_.default)
    done: set[Node] = set()

    def mark(node: Node, inputs: dict[Node, Any], output: Any) -> None:
        user = next(iter(node.users)) if len(node.users) == 1 else None
        last = user if user is not None and user.target in applied and output is activations else node
        # torchao reads the annotation of a node under this key.
        node.meta["quantization_annotation"] = QuantizationAnnotation(inputs, output if last is node else None)
        if last is not node:
            last.meta["quantization_annotation"] = QuantizationAnnotation({}, output)
        done.add(last)

    def computed(value: Any) -> bool:
        """Whether it is an activation: no number, no weight, no integers."""
        return isinstance(value, Node) and value.op != "get_attr" and value.meta["val"].is_floating_point()

    for node in graph.nodes:
        if node.op != "call_function":
            continue
        given = node.args[0] if node.target is aten.cat.default else node.args[:2]
        if node.target in layers:
            # A weight that is computed (weight standardization) is quantized as it comes out.
            mark(node, {node.args[0]: activations, node.args[1]: weights}, activations)
        elif node.target in several and all(map(computed, given)):
            mark(node, dict.fromkeys(given, activations), activations)
        elif node.target in pooling:
            mark(node, {node.args[0]: activations}, activations)
        elif node.target in moving and node.args[0] in done:
            mark(node, {node.args[0]: activations}, SharedQuantizationSpec((node.args[0], node)))


def fake_quantized(model: nn.Module, example: Tensor, setting: str) -> nn.Module:
    """A model that computes with the rounding of its int8 form; `example` is a batch of two.

    In training mode the ranges of activations follow what is seen (a moving average); in evaluation mode they stand
    still.
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
            """Nothing to refuse: what has no annotation stays fp32."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        self.training = mode
        for module in self.modules():
            if isinstance(module, FakeQuantizeBase):
                module.enable_observer(mode)
        return self

    program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    # folds BatchNorm; prepare_qat_pt2e would not
    prepared = prepare_pt2e(program.module(), Placement())
    # the folded ones
    prepared.delete_all_unused_submodules()
    # torchao forbids to switch the mode of an exported graph, which has but one; here that of the observers is
    # switched.
    prepared.train = MethodType(train, prepared)
    prepared.eval = MethodType(lambda self: self.train(False), prepared)
    return prepared


def integer(prepared: nn.Module) -> nn.Module:
    """The form with integer weights and Q/DQ for activations, of what `fake_quantized` made; this stays as it is."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    return convert_pt2e(copy.deepcopy(prepared))
