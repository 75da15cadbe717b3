"""Tables of what was measured: samples, and the figures computed of them."""

from __future__ import annotations

import polars as pl

from tasks.tables.schema.column import Column, Table, count, number, text
from tasks.tables.schema.shared import BATCH, EXPERIMENT, LATENCY, LATENCY_ORDER, OUTCOME, SPREAD, SPREAD_ORDER, WHICH

TABLES: dict[str, Table] = {
    "completions": Table(
        "When each query of the throughput experiment completed: one row per query.",
        {
            **WHICH,
            **BATCH,
            "round": count("number of the round, from 1", low=1),
            "query": count("number of the query within the round, from 0, in the order of completion"),
            "completed_ms": number("time of completion since all slots were started"),
        },
        unique=("variant", "runtime", "device", "batch_size", "round", "query"),
        checked_by_batches=True,
    ),
    "latencies": Table(
        "Every sample of the latency experiment: one row per query.",
        {
            **WHICH,
            **BATCH,
            "round": count("number of the round, from 1", low=1),
            "query": count("number of the query within the round, from 0"),
            "latency_ms": number("latency of the query"),
        },
        unique=("variant", "runtime", "device", "batch_size", "round", "query"),
        checked_by_batches=True,
    ),
    "benchmarks": Table(
        "Latency with one query in flight: one row per variant, runtime, device and batch size.",
        {
            **WHICH,
            **BATCH,
            "rounds": count("rounds in which it was measured"),
            "queries": count("samples of all rounds"),
            **LATENCY,
            "images_per_second": number("batch size over mean latency, with one query in flight", null=True),
            "round_turns": Column(pl.List(pl.Int64), "number of turns of each round", True, low=1),
            "turn_medians_ms": Column(
                pl.List(pl.Float64),
                "median latency of each turn, round after round; comparisons pair the rounds",
                True,
                low=0,
            ),
            "processes": count("number of fresh processes that the rounds were spread over", null=True),
            "process_mean_ms": number("mean of the processes' mean latencies", null=True),
            "process_std_ms": number(
                "standard deviation of the processes' mean latencies, null for one process", null=True
            ),
            "open_seconds": number("time to read and prepare the model, in the slowest of the processes", null=True),
            "first_query_seconds": number(
                "time of the first query of this batch size, in which PyTorch compiles, in the slowest process",
                null=True,
            ),
            "warmup_seconds": number("warm-up before measuring, over all rounds", null=True),
            "energy_per_image_mj": number(
                "millijoules per image; null where no meter can be read (certificates say why)", null=True
            ),
            "provider": text("execution provider or backend that really ran", null=True),
            "threads": count("intra-op threads", null=True),
            "conditions": text("what was bad while it was measured; null where nothing was", null=True),
            **OUTCOME,
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=LATENCY_ORDER,
        given_when_ok=("latency_mean_ms",),
        lengths=(("round_turns", "rounds"), ("turn_medians_ms", "round_turns")),
    ),
    "throughputs": Table(
        "Throughput with several queries in flight: one row per variant, runtime, device and batch size.",
        {
            **WHICH,
            **BATCH,
            "slots": count("queries in flight", low=1),
            "rounds": count("rounds in which it was measured"),
            "queries": count("queries completed in all rounds"),
            "images_per_second": number("images per second: mean over the rounds", null=True),
            "images_per_second_std": number(
                "standard deviation of images per second over the rounds, null for one round", null=True
            ),
            "images_per_second_low": number(
                "end of the 99 % interval of images_per_second (Student's t over the rounds), null for one round",
                null=True,
            ),
            "images_per_second_high": number(
                "end of the 99 % interval of images_per_second (Student's t over the rounds), null for one round",
                null=True,
            ),
            "round_images_per_second": Column(pl.List(pl.Float64), "images per second of each round", True, low=0),
            "warmup_seconds": number("warm-up before measuring, over all rounds", null=True),
            "energy_per_image_mj": number(
                "millijoules per image; null where no meter can be read (certificates say why)", null=True
            ),
            "provider": text("execution provider or backend that really ran", null=True),
            "threads": count("threads over all queries in flight", null=True),
            "conditions": text("what was bad while it was measured; null where nothing was", null=True),
            **OUTCOME,
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=(("images_per_second_low", "images_per_second", "images_per_second_high"),),
        given_when_ok=("images_per_second",),
        lengths=(("round_images_per_second", "rounds"),),
    ),
    "comparisons": Table(
        "Candidates of `burnish bench` compared with the first one: one row per candidate, batch size and experiment.",
        {
            "reference": text("model and runtime"),
            "candidate": text("model and runtime"),
            **BATCH,
            **EXPERIMENT,
            "ratio": number("how many times as fast as the reference the candidate is"),
            "low": number("lower end of the 99 % interval"),
            "high": number("upper end of the 99 % interval, null after one round", null=True),
            "verdict": text("what the comparison says of the candidate", "faster", "slower", "indistinguishable"),
            "conditions": text("what was bad while either was measured; null where nothing was", null=True),
        },
        ordered=(("low", "ratio", "high"),),
    ),
    "gpu_times": Table(
        "Parts of a query on a GPU (CUDA events), as trtexec reports them: one row per candidate, batch size and part.",
        {
            **WHICH,
            **BATCH,
            "part": text(
                "latency: host-to-device copy (h2d), compute, copy back (d2h); enqueue: on the host",
                "latency",
                "enqueue",
                "h2d",
                "compute",
                "d2h",
            ),
            "queries": count("samples of all rounds", low=1),
            **SPREAD,
            "total_ms": number("sum of all samples"),
            "host_seconds": number("walltime of all samples on the host"),
        },
        unique=("variant", "runtime", "device", "batch_size", "part"),
        ordered=SPREAD_ORDER,
    ),
    "scenarios": Table(
        "The winner in the scenarios of MLPerf's LoadGen: one row per scenario, or per rate in the server scenario.",
        {
            **WHICH,
            **BATCH,
            "scenario": text("LoadGen's name of the scenario", "single_stream", "offline", "server"),
            "slots": count("most queries in flight", low=1),
            "target_rate": number("arrivals per second that were scheduled (server scenario)", null=True),
            "achieved_rate": number(
                "queries completed per second; null where no rate was tried, because one query alone is too slow",
                null=True,
            ),
            "images_per_second": number("achieved_rate times the batch size", null=True),
            "queries": count("number of samples"),
            "seconds": number("time from the first query to the last completion"),
            "latency_median_ms": number("median time from arrival to completion", null=True),
            "latency_p90_ms": number("90th percentile of it, null below 64 samples", null=True),
            "latency_p99_ms": number("99th percentile of it, null below 662 samples", null=True),
            "limit_ms": number("limit that p99 must keep (server scenario)", null=True),
            "kept": Column(pl.Boolean, "whether p99 kept the limit, at 99 % confidence (server scenario)", True),
            "note": text("anything else that a person should know", null=True),
        },
    ),
}
