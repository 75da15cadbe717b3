"""A small study's tables, made up but consistent: what the stages of two models on digits leave behind.

`tables()` gives frames with the columns of tasks/tables/__init__.py; tests change single rows of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.records import Build, Choice, Model, Range, Study, Tune
from tasks.tables import frames
from tasks.tables.schema import TABLES

if TYPE_CHECKING:
    import polars as pl

Row = dict[str, Any]
CLASSES, TEST_ROWS, ROUNDS, QUERIES = 10, 360, 3, 80
MODELS = {
    "lenet5": {"parameters": 61_706, "macs": 281_640, "eager": 0.31, "f1": 0.978},
    "resnet34-w16": {"parameters": 1_338_058, "macs": 4_520_000, "eager": 3.9, "f1": 0.989},
}
# Latency of a form relative to eager, its accuracy relative to the parent's, size relative to fp32 weights.
FORMS: dict[str, tuple[str, str, str, str, float, float, float]] = {
    "torchscript": ("export", "torchscript", "fp32", "torchscript", 0.82, 0.0, 1.1),
    "onnx": ("export", "onnx", "fp32", "onnxruntime", 0.41, 0.0, 1.02),
    "onnx/int8-u8s8-reduced": ("quantize", "onnx", "int8", "onnxruntime", 0.27, -0.003, 0.28),
    "onnx/int8-dynamic": ("quantize", "onnx", "int8", "onnxruntime", 0.66, -0.019, 0.27),
    "onnx/engine-fp16": ("build", "engine", "fp16", "tensorrt", 0.1, 0.0, 0.5),
}


def study() -> Study:
    """The settings that such tables would come from."""
    return Study(
        name="quickstart",
        models=(Model(name="lenet5"), Model(name="resnet34", width=16)),
        tune=Tune(
            trials=4,
            space={"learning_rate": Range(low=0.02, high=0.5, log=True), "label_smoothing": Choice(values=(0.0, 0.1))},
        ),
        build=Build(precisions=("fp16",)),
    )


def tables(seed: int = 0) -> dict[str, pl.DataFrame]:
    """Every table but the summary."""
    rows = rows_of_tables(seed)
    return {name: frames.frame(name, rows[name]) for name in TABLES if name != "summary"}


def rows_of_tables(seed: int = 0) -> dict[str, list[Row]]:
    """Rows of every table but the summary."""
    dice = random.Random(seed)
    rows: dict[str, list[Row]] = {name: [] for name in TABLES if name != "summary"}
    rows["datasets"] = _datasets()
    rows["environments"] = [_environment()]
    for model, facts in MODELS.items():
        rows["epochs"] += _epochs(dice, model, facts)
        rows["seeds"] += _seeds(model, facts)
        rows["ablations"] += _ablations(model, facts)
        rows["trials"] += _trials(dice, model, facts)
        chosen = _trained(rows, model, facts)
        for parent in chosen:
            _measure(dice, rows, parent, "eager", 1.0 if "prune" not in parent["name"] else 0.78, 0.0, None)
            for form, (stage, fmt, precision, runtime, speed, drop, size) in FORMS.items():
                name = f"{parent['name']}/{form}"
                grand = f"{parent['name']}/onnx" if form.startswith("onnx/") else parent["name"]
                variant = _variant(
                    name,
                    model,
                    stage,
                    grand,
                    fmt,
                    precision,
                    parent["parameters"],
                    parent["macs"],
                    setting=form.rpartition("/")[2] if stage in ("quantize", "build") else None,
                    size=size,
                    benchmark=True,
                    parity=2e-6 if stage == "export" else None,
                    tolerance=1e-3 if stage == "export" else None,
                    validation_top1=facts["f1"] + drop if stage == "quantize" else None,
                    search_latency_ms=facts["eager"] * speed if stage == "quantize" else None,
                )
                rows["variants"].append(variant)
                _measure(dice, rows, variant, runtime, speed * (1 if "prune" not in name else 0.78), drop, grand)
            rows["variants"].append(
                _variant(
                    f"{parent['name']}/onnx/int8-u8s8",
                    model,
                    "quantize",
                    f"{parent['name']}/onnx",
                    "onnx",
                    "int8",
                    parent["parameters"],
                    parent["macs"],
                    setting="int8-u8s8",
                    size=0.28,
                    validation_top1=facts["f1"] - 0.12,
                    search_latency_ms=facts["eager"] * 0.26,
                )
            )
    return rows


def _variant(
    name: str,
    model: str,
    stage: str,
    parent: str | None,
    fmt: str,
    precision: str,
    parameters: int,
    macs: int,
    size: float = 1.0,
    **more: Any,
) -> Row:
    sha = hashlib.sha256(name.encode()).hexdigest()
    return {
        "name": name,
        "model": model,
        "stage": stage,
        "parent": parent,
        "format": fmt,
        "precision": precision,
        "parameters": parameters,
        "macs": macs,
        "size_bytes": int(parameters * 4 * size),
        "sha256": sha,
        "path": f"{sha[:2]}/{sha}",
        "benchmark": False,
        "status": "ok",
        **more,
    }


def _trained(rows: dict[str, list[Row]], model: str, facts: Row) -> list[Row]:
    """Adds the trained, tuned, augmented and pruned forms; returns those that go on to the benchmark."""
    f1, size = facts["f1"], (facts["parameters"], facts["macs"])
    small = (int(size[0] * 0.58), int(size[1] * 0.6))
    quality = lambda score: {"validation_macro_f1": score, "validation_top1": score + 0.001}  # noqa: E731
    made = [
        _variant(f"{model}/train", model, "train", None, "safetensors", "fp32", *size, **quality(f1 - 0.012)),
        _variant(f"{model}/tune", model, "tune", f"{model}/train", "safetensors", "fp32", *size, **quality(f1 - 0.003)),
    ]
    made += [
        _variant(
            f"{model}/augment-{policy}",
            model,
            "augment",
            f"{model}/tune",
            "safetensors",
            "fp32",
            *size,
            setting=policy,
            **quality(f1 - less),
        )
        for policy, less in (("crop_flip", 0.031), ("trivialaugment", 0.011))
    ]
    best = _variant(
        f"{model}/augment-none",
        model,
        "augment",
        f"{model}/tune",
        "safetensors",
        "fp32",
        *size,
        setting="none",
        benchmark=True,
        **quality(f1),
    )
    raw = _variant(
        f"{model}/prune-0.25-raw",
        model,
        "prune",
        best["name"],
        "safetensors",
        "fp32",
        *small,
        setting="0.25",
        **quality(f1 - 0.4),
    )
    pruned = _variant(
        f"{model}/prune-0.25",
        model,
        "prune",
        best["name"],
        "safetensors",
        "fp32",
        *small,
        setting="0.25",
        benchmark=True,
        **quality(f1 - 0.006),
    )
    rows["variants"] += [*made, best, raw, pruned]
    for variant in (*made, raw):
        score = variant["validation_macro_f1"] - 0.004
        rows["evaluations"].append(
            {"variant": variant["name"], "runtime": "training", "device": "cpu", "images": TEST_ROWS, **_quality(score)}
        )
    return [best, pruned]


def _measure(
    dice: random.Random,
    rows: dict[str, list[Row]],
    variant: Row,
    runtime: str,
    speed: float,
    drop: float,
    parent: str | None,
) -> None:
    facts = MODELS[variant["model"]]
    which = {"variant": variant["name"], "runtime": runtime, "device": "cpu"}
    top1 = round((facts["f1"] + drop - (0.005 if "prune" in variant["name"] else 0)) * TEST_ROWS) / TEST_ROWS
    if runtime != "tensorrt":
        rows["evaluations"].append(
            {
                **which,
                "parent": parent,
                "images": TEST_ROWS,
                **_quality(top1),
                "agreement": None if parent is None else 0.997,
            }
        )
        rows["predictions"] += [
            {
                **which,
                "image": i,
                "file": f"digits/{i}.png",
                "label": i % CLASSES,
                "confidence": 0.9,
                "prediction": i % CLASSES if i < top1 * TEST_ROWS else (i + 1) % CLASSES,
            }
            for i in range(TEST_ROWS)
        ]
    for batch in (1, 8):
        here = {**which, "batch_size": batch}
        if runtime == "tensorrt":
            rows["benchmarks"].append(
                {
                    **here,
                    "rounds": 0,
                    "queries": 0,
                    "status": "skipped",
                    "error": "no GPU here; the engine was built and not executed",
                }
            )
            rows["throughputs"].append(rows["benchmarks"][-1] | {"slots": 1})
            continue
        middle = facts["eager"] * speed * batch**0.7
        samples = [
            [middle * math.exp(abs(dice.gauss(0, 0.04)) + (0.02 * r)) for _ in range(QUERIES)] for r in range(ROUNDS)
        ]
        rows["latencies"] += [
            {**here, "round": r + 1, "query": q, "latency_ms": ms}
            for r, visit in enumerate(samples)
            for q, ms in enumerate(visit)
        ]
        rows["benchmarks"].append(
            {
                **here,
                **_statistics(samples, batch),
                "provider": "CPU",
                "threads": 2,
                "warmup_seconds": 1.6,
                "status": "ok",
            }
        )
        rate = 1.8 * rows["benchmarks"][-1]["images_per_second"]
        rows["throughputs"].append(
            {
                **here,
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
                **here,
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
                **here,
                "rss_baseline_bytes": 90_000_000,
                "ram_usage_bytes": 20_000_000 * batch,
                "rss_peak_bytes": 90_000_000 + 20_000_000 * batch,
            }
        )


def _quality(top1: float) -> Row:
    return {
        "top1": top1,
        "top1_low": top1 - 0.015,
        "top1_high": min(1.0, top1 + 0.008),
        "top5": 1.0,
        "macro_f1": top1 - 0.001,
        "macro_f1_low": top1 - 0.016,
        "macro_f1_high": min(1.0, top1 + 0.009),
    }


def _statistics(samples: list[list[float]], batch: int) -> Row:
    flat = sorted(ms for visit in samples for ms in visit)
    at = lambda share: flat[math.ceil(share * len(flat)) - 1]  # noqa: E731
    mean = sum(flat) / len(flat)
    return {
        "rounds": len(samples),
        "queries": len(flat),
        "latency_mean_ms": mean,
        "latency_std_ms": (sum((x - mean) ** 2 for x in flat) / (len(flat) - 1)) ** 0.5,
        "latency_min_ms": flat[0],
        "latency_median_ms": at(0.5),
        "latency_p90_ms": at(0.9),
        "latency_p95_ms": at(0.95),
        "latency_max_ms": flat[-1],
        "images_per_second": 1000 * batch / mean,
        "processes": len(samples),
        "round_turns": [1] * len(samples),
        "turn_medians_ms": [sorted(v)[len(v) // 2] for v in samples],
        "process_mean_ms": mean,
        "process_std_ms": 0.02 * mean,
        "open_seconds": 0.2,
        "first_query_seconds": 0.01,
    }


def _epochs(dice: random.Random, model: str, facts: Row) -> list[Row]:
    made = [("train", "train", 12), ("tune", "tune", 12), ("prune-0.25", "prune", 4)]
    made += [(f"augment-{p}", "augment", 10) for p in ("crop_flip", "trivialaugment")]
    made += [(f"tune/trial-{n}", "tune", 3) for n in range(4)]
    rows = []
    for name, stage, count in made:
        for epoch in range(1, count + 1):
            gone = epoch / 12 if stage != "prune" else 0.8 + epoch / 20
            for split, less in (("train", 0.0), ("validation", 0.008)):
                score = min(1.0, facts["f1"] * (1 - 0.6 * math.exp(-6 * gone)) - less + dice.gauss(0, 0.003))
                rows.append(
                    {
                        "model": model,
                        "variant": f"{model}/{name}",
                        "stage": stage,
                        "seed": 0,
                        "epoch": epoch,
                        "split": split,
                        "loss": 0.05 + 2.2 * math.exp(-6 * gone) + 4 * less,
                        "top1": score,
                        "top5": 1.0,
                        "macro_f1": score - 0.0005,
                        "learning_rate": 0.1 * (1 - min(gone, 1)),
                        "images_per_second": 2300.0,
                        "seconds": 0.6,
                        "memory_peak_bytes": 600_000_000,
                        "data_wait": 0.01 if split == "train" else None,
                        "batch_size": 128,
                        "precision": "fp32",
                        "device": "cpu",
                    }
                )
    return rows


def _ablations(model: str, facts: Row) -> list[Row]:
    made: list[Row] = []
    for technique, sets, seconds in (("none", {}, 2.0), ("AMP", {"precision": "bf16"}, 1.0)):
        quality = {key: value for key, value in _quality(facts["f1"]).items() if key != "top5"}
        made.append(
            {
                "model": model,
                "technique": technique,
                "sets": json.dumps(sets),
                "seeds": 1,
                "epochs": 3,
                **quality,
                "epoch_seconds": seconds,
                "epoch_seconds_low": 0.9 * seconds,
                "epoch_seconds_high": 1.1 * seconds,
                "verdict": "faster" if sets else None,
                "first_epoch_seconds": 3 * seconds,
                "images_per_second": 1300 / seconds,
                "data_wait": 0.01,
                "memory_peak_bytes": 600_000_000,
                "precision": "bf16" if sets else "fp32",
                "device": "cpu",
                "batch_size": 128,
                "status": "ok",
            }
        )
    return [*made, {"model": model, "technique": "all", "sets": "{}", "status": "failed", "error": "it did not fit"}]


def _seeds(model: str, facts: Row) -> list[Row]:
    row: Row = {"model": model, "variant": f"{model}/train", "stage": "train", "seeds": [0, 1, 2], "chosen": 1}
    for split in ("validation", "test"):
        scores = {"": [facts["f1"] + n / 1000 for n in (-1, 0, 1)], "_mean": facts["f1"], "_std": 0.001}
        row |= {f"{split}_macro_f1{end}": value for end, value in scores.items()}
    return [row]


def _trials(dice: random.Random, model: str, facts: Row) -> list[Row]:
    best, rows = 0.0, []
    for n in range(4):
        score = facts["f1"] - 0.05 + dice.random() * 0.045
        best = max(best, score)
        adjusted = {"learning_rate": 0.02 * 10 ** dice.random(), "label_smoothing": 0.1 * (n % 2)} if n else {}
        rows.append(
            {
                "model": model,
                "trial": n,
                "adjusted": json.dumps(adjusted),
                "score": score,
                "best_so_far": best,
                "epochs": 1 if n == 2 else 3,
                "seconds": 2.1,
                "stopped_early": n == 2,
                "status": "ok",
            }
        )
    rows.append(
        {
            "model": model,
            "trial": 4,
            "adjusted": '{"learning_rate": 0.5}',
            "best_so_far": best,
            "epochs": 1,
            "seconds": 0.4,
            "stopped_early": False,
            "status": "failed",
            "error": "loss is nan at epoch 1, step 7",
        }
    )
    return rows


def _datasets() -> list[Row]:
    rows = []
    for split, each in (("train", 129), ("validation", 14), ("test", 36)):
        classes = [each + (i * 7) % 5 - 2 for i in range(CLASSES)]
        rows.append(
            {
                "source": "digits",
                "label": "digits",
                "split": split,
                "rows": sum(classes),
                "classes": CLASSES,
                "image_size": 8,
                "channels": 1,
                "class_rows_min": min(classes),
                "class_rows_max": max(classes),
                "class_rows": classes,
                "class_names": [f"digit {i}" for i in range(CLASSES)],
                "images_path": "00/00.npy",
                "images_sha256": "00",
                "images_size_bytes": 128,
                "duplicates_within": 0,
                "duplicates_across": 0,
                "dropped": 2 if split == "train" else 0,
                "layout": "the data set's own",
                "left_out": [],
                "dropped_rows": [17, 401] if split == "train" else [],
                "dropped_reasons": ["not an image", "label 11 is out of range"] if split == "train" else [],
            }
        )
    return rows


def _environment() -> Row:
    return {
        "cpu_model": "Example CPU @ 2.50GHz",
        "cpu_cores": 2,
        "cpu_features": "avx2 fma",
        "memory_bytes": 8_000_000_000,
        "load_average": 0.4,
        "os": "Linux 6.1",
        "python": "3.11.7",
        "libraries": json.dumps({"torch": "2.15.0", "onnxruntime": "1.25.0"}),
    }


LATENCIES = (
    "latency_mean_ms",
    "latency_std_ms",
    "latency_min_ms",
    "latency_median_ms",
    "latency_p90_ms",
    "latency_p95_ms",
    "latency_max_ms",
    "images_per_second",
    "turn_medians_ms",
)


REFERENCE = "resnet34-w16/augment-none"


def changed(
    tables: dict[str, pl.DataFrame], name: str, where: dict[str, object], **to: object
) -> dict[str, pl.DataFrame]:
    """The tables with columns of some rows set anew."""
    rows = [
        row | to if all(row[key] == value for key, value in where.items()) else row for row in tables[name].to_dicts()
    ]
    assert rows != tables[name].to_dicts()
    return tables | {name: frames.frame(name, rows)}
