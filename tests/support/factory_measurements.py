"""Makes up the rows of the tables that a benchmark writes for one variant."""

from __future__ import annotations

import math
import random

from tests.support.factory_rows import CLASSES, MODELS, QUERIES, ROUNDS, TEST_ROWS, Row, measured_quality


def measure(
    dice: random.Random,
    rows: dict[str, list[Row]],
    variant: Row,
    runtime: str,
    speed: float,
    drop: float,
    parent: str | None,
) -> None:
    """Add the rows of one candidate to `rows`.

    `speed` is its latency as a share of eager PyTorch's, `drop` is its top-1 minus the parent's.
    """
    facts = MODELS[variant["model"]]
    candidate = {"variant": variant["name"], "runtime": runtime, "device": "cpu"}
    top1 = round((facts["f1"] + drop - (0.005 if "prune" in variant["name"] else 0)) * TEST_ROWS) / TEST_ROWS
    if runtime != "tensorrt":
        rows["evaluations"].append(
            {
                **candidate,
                "parent": parent,
                "images": TEST_ROWS,
                **measured_quality(top1),
                "agreement": None if parent is None else 0.997,
            }
        )
        rows["predictions"] += [
            {
                **candidate,
                "image": i,
                "file": f"digits/{i}.png",
                "label": i % CLASSES,
                "confidence": 0.9,
                "prediction": i % CLASSES if i < top1 * TEST_ROWS else (i + 1) % CLASSES,
            }
            for i in range(TEST_ROWS)
        ]
    for batch in (1, 8):
        at_batch_size = {**candidate, "batch_size": batch}
        if runtime == "tensorrt":
            rows["benchmarks"].append(
                {
                    **at_batch_size,
                    "rounds": 0,
                    "queries": 0,
                    "status": "skipped",
                    "error": "no GPU here; the engine was built and not executed",
                }
            )
            rows["throughputs"].append(rows["benchmarks"][-1] | {"slots": 1})
            continue
        median_ms = facts["eager"] * speed * batch**0.7
        samples = [
            [median_ms * math.exp(abs(dice.gauss(0, 0.04)) + (0.02 * r)) for _ in range(QUERIES)] for r in range(ROUNDS)
        ]
        rows["latencies"] += [
            {**at_batch_size, "round": r + 1, "query": q, "latency_ms": ms}
            for r, visit in enumerate(samples)
            for q, ms in enumerate(visit)
        ]
        rows["benchmarks"].append(
            {
                **at_batch_size,
                **statistics(samples, batch),
                "provider": "CPU",
                "threads": 2,
                "warmup_seconds": 1.6,
                "status": "ok",
            }
        )
        rate = 1.8 * rows["benchmarks"][-1]["images_per_second"]
        rows["throughputs"].append(
            {
                **at_batch_size,
                "slots": 2,
                "rounds": ROUNDS,
                "queries": 300,
                "images_per_second": rate,
                "provider": "CPU",
                "images_per_second_low": 0.9 * rate,
                "images_per_second_high": 1.1 * rate,
                "images_per_second_std": 0.02 * rate,
                "round_images_per_second": [0.98 * rate, rate, 1.02 * rate],
                "threads": 2,
                "warmup_seconds": 1.6,
                "status": "ok",
            }
        )
        rows["certificates"] += [
            {
                **at_batch_size,
                "experiment": experiment,
                "round": r + 1,
                "process": r + 1,
                "provider": "CPU",
                "threads": 2,
                "cpu_model": "Example CPU @ 2.50GHz",
                "affinity": "0-1",
                "load_average": 0.4,
                "foreign_cpu": 0.01,
                "energy_note": "no RAPL",
                "libraries": "{}",
            }
            for experiment in ("latency", "throughput")
            for r in range(ROUNDS)
        ]
        rows["memory"].append(
            {
                **at_batch_size,
                "rss_baseline_bytes": 90_000_000,
                "ram_usage_bytes": 20_000_000 * batch,
                "rss_peak_bytes": 90_000_000 + 20_000_000 * batch,
            }
        )


def statistics(samples: list[list[float]], batch: int) -> Row:
    """Return the statistics of latencies in milliseconds, one list per round."""
    latencies_ms = sorted(ms for visit in samples for ms in visit)

    def quantile(share: float) -> float:
        return latencies_ms[math.ceil(share * len(latencies_ms)) - 1]

    mean = sum(latencies_ms) / len(latencies_ms)
    return {
        "rounds": len(samples),
        "queries": len(latencies_ms),
        "latency_mean_ms": mean,
        "latency_std_ms": (sum((x - mean) ** 2 for x in latencies_ms) / (len(latencies_ms) - 1)) ** 0.5,
        "latency_min_ms": latencies_ms[0],
        "latency_median_ms": quantile(0.5),
        "latency_p90_ms": quantile(0.9),
        "latency_p95_ms": quantile(0.95),
        "latency_max_ms": latencies_ms[-1],
        "images_per_second": 1000 * batch / mean,
        "processes": len(samples),
        "round_turns": [1] * len(samples),
        "turn_medians_ms": [sorted(v)[len(v) // 2] for v in samples],
        "process_mean_ms": mean,
        "process_std_ms": 0.02 * mean,
        "open_seconds": 0.2,
        "first_query_seconds": 0.01,
    }
