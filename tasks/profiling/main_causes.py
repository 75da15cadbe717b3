"""Rules for what makes a model slow as a whole: its form of int8, what was not folded, too few queries to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.profilers import LEAST_QUERIES
from tasks.profiling.findings import MEDIUM, Case, Finding, heavy, names, severity

if TYPE_CHECKING:
    from tasks.profilers import Operator


def dynamic(case: Case) -> list[Operator]:
    """Convolutions of a dynamically quantized model, and what finds the ranges of their inputs in every query."""
    convolutions = [one for one in case.profile.operators if heavy(one) and "conv" in one.type.lower()]
    if not case.profile.dynamic or not convolutions:
        return []
    return [*convolutions, *(one for one in case.profile.operators if one.type == "DynamicQuantizeLinear")]


def dynamic_convolutions(case: Case) -> list[Finding]:
    """Convolutions in a form of int8 that was made for matrix products."""
    found = dynamic(case)
    share = case.share(found)
    if share < MEDIUM:
        return []
    integer = [one for one in found if "Integer" in one.type]
    how = (
        "ONNX Runtime computes ConvInteger without its fast int8 kernels"
        if integer
        else f"{case.runtime} computes them in floating point"
    )
    return [
        Finding(
            severity=severity(share),
            what="integer convolutions of dynamic quantization",
            nodes=names(found),
            share=share,
            evidence=f"{share:.0%} of the time: {how}, and the range of every input is found anew in each query",
            remedy="quantize statically (Q/DQ with calibrated ranges: onnxruntime.quantization.quantize_static, "
            "or burnish's "
            "setting u8s8); where it must be dynamic, leave convolutions out: quantizedynamic(..., "
            'op_types_to_quantize=["MatMul"])',
        )
    ]


REMEDIES = {
    "PyTorch executes": (
        "export it to ONNX or TorchScript, or compile it: all of them fold it into the convolution before it"
    ),
    "training mode": "export the model after model.eval()",
    "no constants": "take the weights out of the graph's inputs (ONNX Runtime's remove_initializer_from_input.py)",
    "no convolution": "train it in the order convolution, BatchNormalization, activation; else run it in a "
    "runtime that "
    "fuses it with the activation (OpenVINO, TensorRT, torch_compile)",
    "used elsewhere": "use the output of the BatchNormalization in both places, or run it in OpenVINO or TensorRT",
}
"""Words of a reason (`Measured.normalisations`) and what helps against it."""


def unfolded_normalisations(case: Case) -> list[Finding]:
    """BatchNormalization that is computed, though it could be part of the convolution before it."""
    reasons = case.profile.normalisations if not case.profile.overridable else {}
    found = [one for one in case.profile.operators if one.name in reasons]
    share = case.share(found)
    if share < MEDIUM:
        return []
    said = list(dict.fromkeys(reasons[one.name] for one in found))
    remedies = [remedy for words, remedy in REMEDIES.items() if any(words in reason for reason in said)]
    return [
        Finding(
            severity=severity(share),
            what="BatchNormalization that was not folded into a convolution",
            nodes=names(found),
            evidence=f"{len(found)} take {share:.0%} of the time: {'; '.join(said)}",
            share=share,
            remedy="; ".join(remedies) or "fold it before the export (torch.nn.utils.fuse_conv_bn_eval)",
        )
    ]


def weights_as_inputs(case: Case) -> list[Finding]:
    """Weights that a runtime cannot take for constants: nothing is folded, and no layout chosen for convolutions."""
    if not case.profile.overridable:
        return []
    products = [one for one in case.profile.operators if heavy(one)]
    return [
        Finding(
            severity="high",
            what="weights that are inputs of the graph",
            nodes=names(products),
            share=case.share(products),
            evidence=f"{case.profile.overridable} weights could be given anew with each query, so that "
            f"{case.runtime} folds "
            "nothing into convolutions and lays out none of their weights",
            remedy="take them out of the graph's inputs (ONNX Runtime's remove_initializer_from_input.py, or "
            "keep_initializers_as_inputs=False when exporting)",
        )
    ]


def too_few_queries(case: Case) -> list[Finding]:
    """Queries so few that a stall of the machine in one of them would be put down to an operator."""
    if case.profile.queries >= LEAST_QUERIES:
        return []
    count = f"{case.profile.queries} quer{'y' if case.profile.queries == 1 else 'ies'}"
    return [
        Finding(
            severity="high",
            what="too few queries to say where the time goes",
            nodes=(),
            evidence=f"operators could be summed over {count}, and their shares need {LEAST_QUERIES}; where a "
            "runtime tells "
            "queries apart, the calmest quarter of the recorded ones counts",
            remedy=f"--queries {4 * LEAST_QUERIES} or more",
        )
    ]
