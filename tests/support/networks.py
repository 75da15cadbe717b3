"""ONNX files of usual networks with weights by chance, as both of PyTorch's exporters write them, and int8 forms."""

from __future__ import annotations

import io
import logging
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch

from tasks import quantizers
from tasks.forms.int8 import Rows
from tasks.records import quantizers as names_of_quantizers

SIZE = 32
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
    "densenet121": {"growth_rate": 4, "block_config": (6, 16)},
    "deit_tiny_patch16_224": {"img_size": SIZE, "embed_dim": 48},
}
DECOMPOSED = 16
"""Version of ONNX's operators that has no LayerNormalization: the exporter writes it as single operators."""


def images(count: int) -> Rows:
    """Return images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    data: Any = SimpleNamespace(mean=(0.5,), std=(0.25,))
    return Rows(data, pixels, np.arange(count))


@cache
def graph(name: str, opset: int = 17, dynamo: bool = False) -> onnx.ModelProto:
    """Return the graph of a network of timm with ten classes."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10, **NETWORKS[name]).eval()
    _settle(model)
    file = io.BytesIO()
    arguments = (model, (torch.randn(2, 3, SIZE, SIZE),))
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["logits"]}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(*arguments, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
            assert program is not None
            return program.model_proto
        axes = {"input": {0: "batch"}}
        torch.onnx.export(*arguments, file, dynamo=False, opset_version=opset, dynamic_axes=axes, **names)
    return onnx.load_from_string(file.getvalue())


def _settle(model: torch.nn.Module) -> None:
    """Give the network statistics and layer scales that let each layer count."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    for name, values in model.named_parameters():
        if name.endswith("gamma"):
            values.data.fill_(0.5)


def quantized(fp32: onnx.ModelProto, setting: str, folder: Path) -> onnx.ModelProto:
    """Return an int8 form of a graph, calibrated with noise, with metadata."""
    model = onnx.ModelProto()
    model.CopyFrom(fp32)
    onnx.helper.set_model_props(model, {"classes": "ten"})
    onnx.save(model, folder / "fp32.onnx")
    quantizer = quantizers.load(names_of_quantizers()[setting])
    return onnx.load(quantizer.quantize(setting, folder / "fp32.onnx", folder, images(16)))


def outputs(model: onnx.ModelProto, names: tuple[str, ...] = ("logits",), batch: int = 4) -> list[np.ndarray]:
    """Return tensors of a graph for images of noise. Other tensors than outputs may be named, too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    for name in names:
        if name not in known:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(list(names), {"input": images(batch).read(0, batch)})
