"""Why is it not faster? Rules that look at a profile; each finding names the nodes and the remedy.

Thresholds are shares of the operators' time, so that what cannot matter is not told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
"""Share of time that conversions, reorders and copies may take together; HIGH where they are no more than EDGES."""
EDGES = 4
"""Conversions that a model may need at its input and output, to and from the library's own type and layout, where the
library does not tell which those are (`Operator.edge`)."""
MULTIPLE = 8
"""Channels fill vectors of 8 floats (AVX2), blocks of 8 (NCHWc) and tensor cores' tiles of 8 halves."""
IMAGE_CHANNELS = 4
"""Up to so many input channels are an image's, which nobody can change."""
INT8_DOTS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Features of /proc/cpuinfo: int8 products summed in 32 bits by one instruction (x86-64, then Arm)."""
FLOATS = ("fp32", "fp16", "bf16")


def _simulated(case: Case) -> list[Operator]:
    """Operators that quantize and dequantize at once (PyTorch's FakeQuantize modules)."""
    return [one for one in case.profile.operators if "fake_quant" in one.type]


def _all_in_float(case: Case) -> list[Operator]:
    """The heavy operators, where the model is quantized and every one of them computes in floating point."""
    if dynamic(case):
        return []
    products = [one for one in case.profile.operators if heavy(one)]
    # A library that does not say in what it computes (precision None) proves nothing.
    return products if case.profile.quantized and all(one.precision in FLOATS for one in products) else []


def fake_quantization(case: Case) -> list[Finding]:
    """Quantization that is only simulated: slower than no quantization at all."""
    if simulated := _simulated(case):
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
    if products := _all_in_float(case):
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
    """Operators between Q/DQ nodes that the runtime did not make one int8 operator of."""
    if _all_in_float(case):
        return []
    left = [one for one in case.profile.operators if one.unfused]
    # Integer operators have them at their edges: the conversions beside an unfused one count with it.
    beside = [one for one in case.of_kind("convert") if not one.edge]
    share = case.share(left) + (case.share(beside) if left else 0.0)
    if not any(map(heavy, left)) and case.share(left) < MEDIUM and (len(left) < 2 or share < CONVERSIONS):
        return []
    types = ", ".join(sorted({one.type for one in left}))
    return [
        Finding(
            severity=severity(share),
            what="Q/DQ pairs that were not fused",
            nodes=names(left),
            share=share,
            evidence="in floating point between Q/DQ nodes, or converted back and forth: "
            f"{counted(len(left), 'operator')} "
            f"({types}); with the conversions beside them {share:.0%} of the time",
            remedy="quantize so that both sides of the operator have the form its int8 kernel takes (u8s8 for "
            "ONNX Runtime "
            "on a CPU, activations fused with their convolution), or leave this operator out of quantization",
        )
    ]


def left_in_float(case: Case) -> list[Finding]:
    """Operators of an int8 model that were never quantized."""
    if not case.profile.quantized or _all_in_float(case) or _simulated(case) or dynamic(case):
        return []
    left = [one for one in case.of_kind("compute") if one.precision in FLOATS and not one.unfused]
    share = case.share(left)
    if not any(map(heavy, left)) and share < MEDIUM:
        return []
    by_type = ", ".join(sorted({f"{one.type} ({one.precision})" for one in left}))
    remedy = "quantize these operators too (op_types_to_quantize; look for excluded nodes) where accuracy allows it"
    if any("Integer" in one.type or "Dynamic" in one.type for one in case.profile.operators):
        remedy = (
            "quantize statically (Q/DQ with calibrated ranges): a dynamic form finds ranges and rescales in every query"
        )
    return [
        Finding(
            severity=severity(share),
            what="operators left in floating point in an int8 model",
            nodes=names(left),
            share=share,
            evidence=f"{share:.0%} of the time is taken by {counted(len(left), 'operator')}: {by_type}",
            remedy=remedy,
        )
    ]


def conversions(case: Case) -> list[Finding]:
    """Time that goes into types and layouts."""
    # told with the convolutions that need them
    caused = {one.name for one in dynamic(case)}
    found = [one for one in case.of_kind("convert", "reorder", "copy") if one.name not in caused and not one.edge]
    share = case.share(found)
    if share < (CONVERSIONS if len(found) > EDGES else HIGH):
        return []
    words = {"convert": "type conversions", "reorder": "layout changes", "copy": "copies"}
    parts = [
        f"{word} {case.share(same):.0%}"
        for name, word in words.items()
        if (same := [one for one in found if one in case.of_kind(name)])
    ]
    return [
        Finding(
            severity=severity(share),
            what="conversions and reorders",
            nodes=names(found),
            share=share,
            evidence=f"{share:.0%} of the time computes nothing: {', '.join(parts)}",
            remedy="keep neighbours in one type and layout: quantize the operators between these nodes as well, "
            "or none of "
            "them; fix input shapes; on a GPU look for operators that fall back to the CPU",
        )
    ]


def odd_channels(case: Case) -> list[Finding]:
    """Convolutions that leave part of every vector or tile empty."""
    odd = [
        one
        for one in case.profile.convolutions
        if one.out_channels % MULTIPLE or (one.in_channels % MULTIPLE and one.in_channels > IMAGE_CHANNELS)
    ]
    if not odd:
        return []
    paths, names = {one.path for one in odd if one.path}, {one.name for one in odd}
    timed = [one for one in case.profile.operators if heavy(one) and (one.path in paths or one.name in names)]
    share = case.share(timed)
    took = f", {share:.0%} of the time" if timed else ""
    return [
        Finding(
            severity=severity(share) if timed else "medium",
            what=f"convolutions with channels that are no multiple of {MULTIPLE}",
            nodes=tuple(f"{one.name} ({one.in_channels}→{one.out_channels})" for one in odd),
            evidence=f"{len(odd)} of {len(case.profile.convolutions)} convolutions{took}",
            share=share,
            remedy=(
                f"round widths to multiples of {MULTIPLE} (prune with round_to={MULTIPLE}); more channels can be faster"
            ),
        )
    ]


def no_int8_instructions(case: Case) -> list[Finding]:
    """An int8 model on a CPU that has to compute int8 products in several steps."""
    if not case.profile.quantized or case.device != "cpu" or set(INT8_DOTS) & set(case.cpu_features):
        return []
    has = ", ".join(name for name in case.cpu_features if "avx" in name or "simd" in name) or "none"
    return [
        Finding(
            severity="medium",
            what="int8 on a CPU without VNNI or AMX",
            nodes=(),
            evidence=f"none of {', '.join(INT8_DOTS)} (vector instructions there: {has})",
            remedy="expect at most about half of fp32's latency; quantize with reduce_range (7-bit weights), or "
            "products "
            "saturate; keep fp32 where it is as fast, or run on a CPU with VNNI",
        )
    ]


def enqueue_bound(case: Case) -> list[Finding]:
    """A GPU that waits for the host."""
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
    """Cores that stand idle."""
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
"""Rules that need no share of time: those that are left where there are too few queries."""


def diagnose(case: Case) -> list[Finding]:
    """Everything found, the most severe first and among those what takes most of the time; empty: nothing found."""
    few = too_few_queries(case)
    found = [finding for rule in (WITHOUT_SHARES if few else RULES) for finding in rule(case)]
    return [*few, *sorted(found, key=lambda one: (SEVERITIES.index(one.severity), -one.share))]
