"""Why is a model not faster? Rules look at its profile, and return findings that name the operators and the remedy.

Thresholds are shares of the operators' time, so that nothing is reported that cannot matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.profilers._kinds import kind
from tasks.profiling.findings import HIGH, MEDIUM, SEVERITIES, Case, Finding, counted, heavy, names, severity
from tasks.profiling.main_causes import (
    dynamic,
    dynamic_convolutions,
    too_few_queries,
    unfolded_normalisations,
    weights_as_inputs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tasks.profilers import Operator

__all__ = ["Case", "Finding", "diagnose"]

CONVERSIONS = 0.1
"""Conversions, reorders and copies may take this share of the time together. Where they are no more than EDGES, they
may take HIGH."""
EDGES = 4
"""A model may need this many conversions at its input and output, to and from the library's own type and layout. It is
used where the library does not tell which conversions those are (`Operator.edge`)."""
MULTIPLE = 8
"""A multiple of this many channels fills vectors of 8 floats (AVX2), blocks of 8 channels (NCHWc), and tensor cores'
tiles of 8 half-precision numbers."""
IMAGE_CHANNELS = 4
"""A convolution with no more input channels than this reads the image itself, whose channels nobody can change."""
INT8_DOTS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""CPU features (of x86-64, then of Arm) with which one instruction sums int8 products in 32 bits."""
FLOATS = ("fp32", "fp16", "bf16")


def _simulated(case: Case) -> list[Operator]:
    """Return the operators that quantize and dequantize at once (PyTorch's FakeQuantize modules)."""
    return [operator for operator in case.profile.operators if "fake_quant" in operator.type]


def _all_in_float(case: Case) -> list[Operator]:
    """Return the convolutions and matrix products of a quantized model, if all of them compute in floating point.

    Return none if one of them does not, or if the library does not tell.
    """
    if dynamic(case) or not case.profile.quantized:
        return []
    products = [operator for operator in case.profile.operators if heavy(operator)]
    return products if all(operator.precision in FLOATS for operator in products) else []


def fake_quantization(case: Case) -> list[Finding]:
    """Find quantization that is only simulated, which is slower than no quantization at all."""
    simulated = _simulated(case)
    if simulated:
        share = case.share(simulated)
        return [
            Finding(
                severity="high",
                what="fake quantization: int8 is simulated in floating point",
                nodes=names(simulated),
                share=share,
                evidence=f"{share:.0%} of the time is taken by {counted(len(simulated), 'fake-quantize operator')}, "
                "and nothing runs in int8",
                remedy=(
                    "never time it as int8: export it with Q/DQ nodes and run that in ONNX Runtime, OpenVINO "
                    "or TensorRT"
                ),
            )
        ]
    products = _all_in_float(case)
    if products:
        conversions = case.share(case.of_kind("convert"))
        return [
            Finding(
                severity="high",
                what="fake quantization: no Q/DQ pair was fused, everything computes in floating point",
                nodes=names(products),
                share=case.share(products),
                evidence=f"every convolution and matrix product ({len(products)}) ran in {products[0].precision}; "
                f"conversions take {conversions:.0%} of the time",
                remedy="quantize in a form that this runtime has int8 kernels for: uint8 activations with int8 "
                "weights per channel (u8s8) for ONNX Runtime on a CPU, symmetric int8 (s8s8) for TensorRT; or run the "
                "file in OpenVINO",
            )
        ]
    return []


def unfused_pairs(case: Case) -> list[Finding]:
    """Find operators between Q/DQ nodes that the runtime did not fuse into one int8 operator."""
    if _all_in_float(case):
        return []
    unfused = [operator for operator in case.profile.operators if operator.unfused]
    # Int8 operators have conversions only at the graph's edges: those beside an unfused operator count with it.
    conversions = [operator for operator in case.of_kind("convert") if not operator.edge]
    share = case.share(unfused) + (case.share(conversions) if unfused else 0.0)
    matters = any(map(heavy, unfused)) or case.share(unfused) >= MEDIUM
    if not matters and (len(unfused) < 2 or share < CONVERSIONS):
        return []
    types = ", ".join(sorted({operator.type for operator in unfused}))
    return [
        Finding(
            severity=severity(share),
            what="Q/DQ pairs that were not fused",
            nodes=names(unfused),
            share=share,
            evidence="in floating point between Q/DQ nodes, or converted back and forth: "
            f"{counted(len(unfused), 'operator')} ({types}); with the conversions beside them {share:.0%} of the time",
            remedy="quantize so that both sides of the operator have the form its int8 kernel takes (u8s8 for ONNX "
            "Runtime on a CPU, activations fused with their convolution), or leave this operator out of quantization",
        )
    ]


def left_in_float(case: Case) -> list[Finding]:
    """Find operators of an int8 model that were never quantized."""
    if not case.profile.quantized or _all_in_float(case) or _simulated(case) or dynamic(case):
        return []
    in_float = [
        operator for operator in case.of_kind("compute") if operator.precision in FLOATS and not operator.unfused
    ]
    share = case.share(in_float)
    if not any(map(heavy, in_float)) and share < MEDIUM:
        return []
    types = ", ".join(sorted({f"{operator.type} ({operator.precision})" for operator in in_float}))
    remedy = "quantize these operators too (op_types_to_quantize; look for excluded nodes) where accuracy allows it"
    if any("Integer" in operator.type or "Dynamic" in operator.type for operator in case.profile.operators):
        remedy = (
            "quantize statically (Q/DQ with calibrated ranges): a dynamic form finds ranges and rescales in every query"
        )
    return [
        Finding(
            severity=severity(share),
            what="operators left in floating point in an int8 model",
            nodes=names(in_float),
            share=share,
            evidence=f"{share:.0%} of the time is taken by {counted(len(in_float), 'operator')}: {types}",
            remedy=remedy,
        )
    ]


def conversions(case: Case) -> list[Finding]:
    """Find time that goes into conversions of types and layouts."""
    # Conversions that dynamic convolutions need are in the finding about those.
    explained = {operator.name for operator in dynamic(case)}
    operators = [
        operator
        for operator in case.of_kind("convert", "reorder", "copy")
        if operator.name not in explained and not operator.edge
    ]
    share = case.share(operators)
    if share < (CONVERSIONS if len(operators) > EDGES else HIGH):
        return []
    parts = []
    for name, words in (("convert", "type conversions"), ("reorder", "layout changes"), ("copy", "copies")):
        of_kind = [operator for operator in operators if kind(operator.type) == name]
        if of_kind:
            parts.append(f"{words} {case.share(of_kind):.0%}")
    return [
        Finding(
            severity=severity(share),
            what="conversions and reorders",
            nodes=names(operators),
            share=share,
            evidence=f"{share:.0%} of the time computes nothing: {', '.join(parts)}",
            remedy="keep neighbours in one type and layout: quantize the operators between these nodes as well, or "
            "none of them; fix input shapes; on a GPU look for operators that fall back to the CPU",
        )
    ]


def odd_channels(case: Case) -> list[Finding]:
    """Find convolutions that leave a part of every vector or tile empty."""
    odd = [
        convolution
        for convolution in case.profile.convolutions
        if convolution.out_channels % MULTIPLE
        or (convolution.in_channels % MULTIPLE and convolution.in_channels > IMAGE_CHANNELS)
    ]
    if not odd:
        return []
    odd_paths = {convolution.path for convolution in odd if convolution.path}
    odd_names = {convolution.name for convolution in odd}
    timed = [
        operator
        for operator in case.profile.operators
        if heavy(operator) and (operator.path in odd_paths or operator.name in odd_names)
    ]
    share = case.share(timed)
    took = f", {share:.0%} of the time" if timed else ""
    return [
        Finding(
            severity=severity(share) if timed else "medium",
            what=f"convolutions with channels that are no multiple of {MULTIPLE}",
            nodes=tuple(
                f"{convolution.name} ({convolution.in_channels}→{convolution.out_channels})" for convolution in odd
            ),
            evidence=f"{len(odd)} of {len(case.profile.convolutions)} convolutions{took}",
            share=share,
            remedy=(
                f"round widths to multiples of {MULTIPLE} (prune with round_to={MULTIPLE}); more channels can be faster"
            ),
        )
    ]


def no_int8_instructions(case: Case) -> list[Finding]:
    """Find an int8 model on a CPU that needs several instructions for int8 products."""
    if not case.profile.quantized or case.device != "cpu" or set(INT8_DOTS) & set(case.cpu_features):
        return []
    vector_features = ", ".join(name for name in case.cpu_features if "avx" in name or "simd" in name) or "none"
    return [
        Finding(
            severity="medium",
            what="int8 on a CPU without VNNI or AMX",
            nodes=(),
            evidence=f"none of {', '.join(INT8_DOTS)} (vector instructions there: {vector_features})",
            remedy="expect at most about half of fp32's latency; quantize with reduce_range (7-bit weights), or "
            "products saturate; keep fp32 where it is as fast, or run on a CPU with VNNI",
        )
    ]


def enqueue_bound(case: Case) -> list[Finding]:
    """Find a GPU that waits for the host."""
    if case.split is None or case.split[1] < case.split[2]:
        return []
    _, enqueue, compute, _ = case.split
    return [
        Finding(
            severity="high",
            what="the GPU waits for the host (enqueue-bound)",
            nodes=(),
            evidence=f"enqueueing a query takes {enqueue:.3g} ms, computing it {compute:.3g} ms",
            remedy=(
                "launch it as one CUDA graph (runtime tensorrt_graph, or torch_compile), or put more images in a query"
            ),
        )
    ]


def too_few_threads(case: Case) -> list[Finding]:
    """Find cores that have nothing to do."""
    if case.device != "cpu" or case.threads >= case.cores:
        return []
    return [
        Finding(
            severity=severity(1 - case.threads / case.cores),
            what="fewer threads than physical cores",
            nodes=(),
            evidence=f"{case.threads} of {case.cores} cores compute",
            remedy=(
                f"--threads {case.cores} (benchmark.threads in a study), unless queries run side by side on the others"
            ),
        )
    ]


RULES: Sequence[Callable[[Case], list[Finding]]] = (
    fake_quantization,
    dynamic_convolutions,
    weights_as_inputs,
    unfolded_normalisations,
    unfused_pairs,
    left_in_float,
    conversions,
    odd_channels,
    no_int8_instructions,
    enqueue_bound,
    too_few_threads,
)
WITHOUT_SHARES: Sequence[Callable[[Case], list[Finding]]] = (no_int8_instructions, enqueue_bound, too_few_threads)
"""Rules that need no shares of the time. They are used alone where there are too few queries."""


def diagnose(case: Case) -> list[Finding]:
    """Return all findings: the most severe first, and of the same severity that about the most time first."""
    few = too_few_queries(case)
    rules = WITHOUT_SHARES if few else RULES
    findings = [finding for rule in rules for finding in rule(case)]
    return [*few, *sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), -finding.share))]
