"""Rank: which blocks of a model gain most from floating point, in one runtime."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.int8 import Rows, sample
from tasks.forms.ranking import rank as ranked_gains
from tasks.machine import fingerprint
from tasks.machine.locks import locked
from tasks.quantizers import is_mixable
from tasks.records import Prepared, Quantized, Ranked, RankedBlock, Variant
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from tasks.caching.work import Work
    from tasks.records import Scored

IMAGES = 128
"""Validation images, without their labels, by whose logits blocks are ranked."""


def rank(work: Work, data: Prepared, parent: Variant, quantized: Quantized, runtime: str, max_drop: float) -> Ranked:
    """Rank the blocks of a model by what its fastest int8 form in a runtime gains when they stay in floating point.

    Where that form is accurate enough already, or none is faster than fp32, the ranking is empty: there is nothing to
    gain.
    """
    form = _to_be_repaired(quantized, runtime, max_drop)
    if form is None:
        work.log.info("%s: no int8 form in %s has anything to gain from floating point", parent.name, runtime)
        return Ranked(runtime=runtime, blocks=(), tables={"layers": work.rows("layers", [])})
    arrays = load_arrays(work.store, data)
    images = Rows(data, arrays.images, sample(arrays, "validation", IMAGES))
    assert parent.artifact is not None and form.artifact is not None
    with work.store.temporary() as folder, locked({"cpu"}, work.log):
        gains = ranked_gains(
            model_file(work.store.get(form.artifact)),
            model_file(work.store.get(parent.artifact)),
            runtime,
            images,
            folder,
            lambda done, total, block: work.progress(done, total, f"{form.name}: {block} in floating point"),
        )
    rows = [
        {
            "form": form.name,
            "runtime": runtime,
            "rank": place,
            "block": gain.block.name,
            "nodes": len(gain.block.nodes),
            "images": len(images),
            "divergence": gain.divergence,
            "saved": gain.saved,
            "latency": None if math.isnan(gain.latency) else gain.latency,
        }
        for place, gain in enumerate(gains, 1)
    ]
    best = ", ".join(gain.block.name for gain in gains[:3])
    work.log.info("%s in %s: gains most from floating point in %s", form.name, runtime, best)
    return Ranked(
        runtime=runtime,
        # What saves no more than noise was not timed.
        blocks=tuple(
            RankedBlock(name=gain.block.name, nodes=gain.block.nodes)
            for gain in gains
            if gain.saved > 0 and not math.isnan(gain.latency)
        ),
        tables={"layers": work.rows("layers", rows)},
    )


def _to_be_repaired(quantized: Quantized, runtime: str, max_drop: float) -> Variant | None:
    """Return the fastest static ONNX form in a runtime, None where it is slower than fp32 or loses little enough."""
    variants = {
        variant.setting: variant
        for variant in quantized.variants
        if variant.status == "ok" and is_mixable(variant.setting)
    }

    def latency(scored: Scored) -> float:
        return scored.latencies[runtime]

    timed = [each for each in quantized.scored if each.setting in variants and runtime in each.latencies]
    fastest = min(timed, key=latency, default=None)
    if fastest is None or latency(fastest) >= quantized.fp32_latencies[runtime]:
        return None
    accurate = fastest.drop is not None and fastest.drop <= max_drop
    return None if accurate else variants[fastest.setting]


rank_task = stage(
    lambda inputs: f"rank/{inputs['parent'].name}/{inputs['runtime']}",
    libraries=("onnx", "onnxruntime", "openvino", "numpy"),
    modules=lambda inputs: (f"tasks.runtimes.{inputs['runtime']}",),
    # The machine decides the latencies, by which blocks are ranked.
    extra=lambda inputs: {"machine": fingerprint()},
    devices=lambda inputs: ("cpu",),
)(rank)
