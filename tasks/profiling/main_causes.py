"""Rules for what makes a model slow as a whole: its form of int8, what was not folded, or too few queries to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.profilers import LEAST_QUERIES
from tasks.profiling.findings import MEDIUM, Case, Finding, heavy, names, severity

if TYPE_CHECKING:
    from tasks.profilers import Operator


def dynamic(case: Case) -> list[Operator]:
    """Return a dynamically quantized model's convolutions, and the operators that compute their inputs' ranges."""
    operators = case.profile.operators
    convolutions = [operator for operator in operators if heavy(operator) and "conv" in operator.type.lower()]
    if not case.profile.dynamic or not convolutions:
        return []
    return [*convolutions, *(operator for operator in operators if operator.type == "DynamicQuantizeLinear")]


def dynamic_convolutions(case: Case) -> list[Finding]:
    """Find convolutions in a form of int8 that was made for matrix products."""
    operators = dynamic(case)
    share = case.share(operators)
    if share < MEDIUM:
        return []
    if any("Integer" in operator.type for operator in operators):
        how = "ONNX Runtime computes ConvInteger without its fast int8 kernels"
    else:
        how = f"{case.runtime} computes them in floating point"
    return [
        Finding(
            severity=severity(share),
            what="integer convolutions of dynamic quantization",
            nodes=names(operators),
            share=share,
            evidence=f"{share:.0%} of the time: {how}, and the range of every input is found anew in each query",
            remedy="quantize statically (Q/DQ with calibrated ranges: onnxruntime.quantization.quantize_static, or "
            "burnish's setting u8s8); where it must be dynamic, leave convolutions out: quantize_dynamic(..., "
            'op_types_to_quantize=["MatMul"])',
        )
    ]


REMEDIES = {
    "PyTorch executes": (
        "export it to ONNX or TorchScript, or compile it: all of them fold it into the convolution before it"
    ),
    "training mode": "export the model after model.eval()",
    "no constants": "take the weights out of the graph's inputs (ONNX Runtime's remove_initializer_from_input.py)",
    "no convolution": "train it in the order convolution, BatchNormalization, activation; else run it in a runtime "
    "that fuses it with the activation (OpenVINO, TensorRT, torch_compile)",
    "used elsewhere": "use the output of the BatchNormalization in both places, or run it in OpenVINO or TensorRT",
}
"""Remedies, by words of the reason why a BatchNormalization was not folded (`Measured.normalisations`)."""


def unfolded_normalisations(case: Case) -> list[Finding]:
    """Find BatchNormalization that is computed, though it could be part of the convolution before it."""
    # Weights that are inputs are the cause of all of it, and have a rule of their own.
    reason_of = case.profile.normalisations if not case.profile.overridable else {}
    unfolded = [operator for operator in case.profile.operators if operator.name in reason_of]
    share = case.share(unfolded)
    if share < MEDIUM:
        return []
    reasons = list(dict.fromkeys(reason_of[operator.name] for operator in unfolded))
    remedies = [remedy for words, remedy in REMEDIES.items() if any(words in reason for reason in reasons)]
    return [
        Finding(
            severity=severity(share),
            what="BatchNormalization that was not folded into a convolution",
            nodes=names(unfolded),
            evidence=f"{len(unfolded)} take {share:.0%} of the time: {'; '.join(reasons)}",
            share=share,
            remedy="; ".join(remedies) or "fold it before the export (torch.nn.utils.fuse_conv_bn_eval)",
        )
    ]


def weights_as_inputs(case: Case) -> list[Finding]:
    """Find weights that a runtime cannot treat as constants, so that it folds nothing and lays out no weights."""
    if not case.profile.overridable:
        return []
    products = [operator for operator in case.profile.operators if heavy(operator)]
    return [
        Finding(
            severity="high",
            what="weights that are inputs of the graph",
            nodes=names(products),
            share=case.share(products),
            evidence=f"{case.profile.overridable} weights could be given anew with each query, so that {case.runtime} "
            "folds nothing into convolutions and lays out none of their weights",
            remedy="take them out of the graph's inputs (ONNX Runtime's remove_initializer_from_input.py, or "
            "keep_initializers_as_inputs=False when exporting)",
        )
    ]


def too_few_queries(case: Case) -> list[Finding]:
    """Find too few queries: a stall of the machine in one of them would be taken for the time of an operator."""
    if case.profile.queries >= LEAST_QUERIES:
        return []
    if case.recorded > case.profile.queries:
        evidence = (
            f"{case.recorded} queries were recorded, of which the calmest quarter counts, here "
            f"{case.profile.queries}; the operators' shares need {LEAST_QUERIES} that count"
        )
    else:
        evidence = f"queries recorded: {case.profile.queries}; the operators' shares need {LEAST_QUERIES}"
    return [
        Finding(
            severity="high",
            what="too few queries to say where the time goes",
            nodes=(),
            evidence=evidence,
            remedy=f"--queries {4 * LEAST_QUERIES} or more, a quarter of which is {LEAST_QUERIES}",
        )
    ]
