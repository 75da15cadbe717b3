"""The table that a study ends in."""

from __future__ import annotations

import polars as pl

from tasks.tables.schema.column import Column, Table, count, number, share, text
from tasks.tables.schema.shared import BATCH, OUTCOME, QUALITY, WHICH

TABLES: dict[str, Table] = {
    "summary": Table(
        "The result of a study: one row per variant, runtime, device and batch size, failed and skipped ones too.",
        {
            "role": text(
                "part that the row plays; null for most", "winner", "runner-up", "reference", "provisional", null=True
            ),
            "model": text("label of the model"),
            **WHICH,
            **BATCH,
            "stage": text("stage that made the variant"),
            "format": text("file format"),
            "precision": text("precision of weights and arithmetic", "fp32", "fp16", "bf16", "int8"),
            "setting": text(
                "setting, policy or the like that distinguishes it from other forms of its parent", null=True
            ),
            "size_bytes": count("size of the file", null=True),
            "parameters": count("number of weights", null=True),
            "macs": count("multiply-accumulate operations per image", null=True),
            "latency_mean_ms": number("mean of all samples", null=True),
            "latency_median_ms": number("median of all samples", null=True),
            "latency_p90_ms": number("90th percentile, null below 64 samples", null=True),
            "latency_p99_ms": number("99th percentile, null below 662 samples", null=True),
            "images_per_second": number("batch size over mean latency, with one query in flight", null=True),
            "throughput": number("images per second with several queries in flight", null=True),
            "ram_usage_bytes": count("peak of resident memory above its baseline", null=True),
            "vram_peak_bytes": count("peak of GPU memory as NVML reports it", null=True),
            **QUALITY,
            "agreement": share("share of images that the parent gives the same class", null=True),
            "drop": number(
                "score of the reference less that of this row, in the study's metric", low=-1, high=1, null=True
            ),
            "drop_low": number("lower end of the 95 % interval of drop, from the same images", -1, 1, null=True),
            "drop_high": number("upper end of the 95 % interval of drop, from the same images", -1, 1, null=True),
            "drop_images": count("images that both classified, from which the interval comes", null=True, low=1),
            "within": text(
                "how sure it is that the drop is within the study's rule: shown (the 95 % interval is), likely (the "
                "one-sided 80 % limit is) or neither; the reference is within it by definition",
                "shown",
                "likely",
                "not shown",
                null=True,
            ),
            "images_to_settle": count(
                "about how many images would show whether the drop is within the rule; null where these have shown it, "
                "or none would",
                null=True,
                low=1,
            ),
            "speedup": number(
                "latency of the reference model over that of this row, on the same device at the same batch size",
                null=True,
            ),
            "speedup_low": number("lower end of the 99 % interval of speedup, from paired rounds", null=True),
            "speedup_high": number("upper end of the 99 % interval of speedup, from paired rounds", null=True),
            "verdict": text(
                "what the comparison with the reference says of this row",
                "faster",
                "slower",
                "indistinguishable",
                null=True,
            ),
            "pareto": Column(
                pl.Boolean,
                "whether no row of the same device and batch size is as fast, as accurate, as small and as sparing "
                "of memory, and better in one of them",
            ),
            "eligible": Column(
                pl.Boolean, "whether the row may win: it is ok, not marked, and its drop keeps the study's rule"
            ),
            "why_not": text(
                "why it is not the winner; null for the winner and at batch sizes that are not compared", null=True
            ),
            "conditions": text("what was bad while it was measured; null where nothing was", null=True),
            "throughput_conditions": text(
                "what was bad while its throughput was measured; null where nothing was", null=True
            ),
            **OUTCOME,
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=(
            ("top1", "top5"),
            ("latency_median_ms", "latency_p90_ms", "latency_p99_ms"),
            ("drop_low", "drop_high"),
            ("speedup_low", "speedup_high"),
        ),
    ),
}
