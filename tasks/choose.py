"""Choose: which forms of the search go on to the benchmark, in each runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.caching.stage import stage
from tasks.records import Forms, Quantize, Quantized, Scored, Search, Tried, Variant
from tasks.tables.variants import variant_row

if TYPE_CHECKING:
    from tasks.caching.work import Work

EQUAL = 1.01
"""A form must be faster than those of the stage quantize by more than this multiple, or it brings nothing."""


def choose(
    work: Work, parent: Variant, quantized: Quantized, tried: tuple[Tried, ...], quantize: Quantize, settings: Search
) -> Forms:
    """Choose the fastest forms of the search, at most `settings.survivors` in each runtime.

    A form goes on where its drop on validation images is allowed, and where it is faster than fp32 and than every
    form of the stage quantize whose drop is allowed.
    """
    runtimes: dict[str, list[str]] = {}
    for runtime, fp32 in quantized.fp32_latencies.items():
        limit = min([fp32, *_latencies(quantized.scored, runtime, quantize.max_drop)]) / EQUAL
        fast = [
            (trial.scored.latencies[runtime], trial.variant.name)
            for trial in tried
            if trial.variant is not None
            and trial.scored is not None
            and _latencies((trial.scored,), runtime, quantize.max_drop)
        ]
        survivors = [name for latency, name in sorted(fast) if latency < limit][: settings.survivors]
        for name in survivors:
            runtimes.setdefault(name, []).append(runtime)
        said = ", ".join(survivors) or "no form of the search is faster than what there was"
        if tried:
            work.log.info("%s in %s: %s", parent.name, runtime, said)
    variants, rows = [], []
    for trial in tried:
        if trial.variant is None or trial.variant.name not in runtimes or trial.scored is None:
            continue
        chosen = runtimes[trial.variant.name]
        variant = trial.variant.model_copy(
            update={
                "benchmark": True,
                "left_out_of": tuple(name for name in quantized.fp32_latencies if name not in chosen),
            }
        )
        variants.append(variant)
        rows.append(
            variant_row(
                variant,
                validation_divergence=trial.scored.divergence,
                validation_drop=trial.scored.drop,
                search_latency_ms=min(trial.scored.latencies.values()),
                chosen_in=", ".join(chosen),
            )
        )
    return Forms(variants=tuple(variants), tables={"variants": work.rows("variants", rows)})


def _latencies(forms: tuple[Scored, ...], runtime: str, max_drop: float) -> list[float]:
    """Return the latencies in a runtime of those forms whose drop is allowed."""
    return [
        form.latencies[runtime]
        for form in forms
        if runtime in form.latencies and form.drop is not None and form.drop <= max_drop + 1e-9
    ]


choose_task = stage(lambda inputs: f"choose/{inputs['parent'].name}")(choose)
