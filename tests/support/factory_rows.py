"""Makes up the rows of the tables that describe data, training and the machine."""

from __future__ import annotations

import json
import math
import random
from typing import Any

Row = dict[str, Any]
CLASSES = 10
TEST_ROWS = 360
ROUNDS = 3
QUERIES = 80
"""Queries per visit."""
MODELS = {
    "lenet5": {"parameters": 61_706, "macs": 281_640, "eager": 0.31, "f1": 0.978},
    "resnet34-w16": {"parameters": 1_338_058, "macs": 4_520_000, "eager": 3.9, "f1": 0.989},
}
"""Model -> its size, its latency in eager PyTorch in milliseconds, and its macro F1 before pruning."""


def measured_quality(top1: float) -> Row:
    """Return the measures of accuracy, with intervals, of a variant with this top-1."""
    return {
        "top1": top1,
        "top1_low": top1 - 0.015,
        "top1_high": min(1.0, top1 + 0.008),
        "top5": 1.0,
        "macro_f1": top1 - 0.001,
        "macro_f1_low": top1 - 0.016,
        "macro_f1_high": min(1.0, top1 + 0.009),
    }


def epochs(dice: random.Random, model: str, facts: Row) -> list[Row]:
    trainings = [("train", "train", 12), ("tune", "tune", 12), ("prune-0.25", "prune", 4)]
    trainings += [(f"augment-{p}", "augment", 10) for p in ("crop_flip", "trivialaugment")]
    trainings += [(f"tune/trial-{n}", "tune", 3) for n in range(4)]
    rows = []
    for name, stage, count in trainings:
        for epoch in range(1, count + 1):
            progress = epoch / 12 if stage != "prune" else 0.8 + epoch / 20
            for split, drop in (("train", 0.0), ("validation", 0.008)):
                score = min(1.0, facts["f1"] * (1 - 0.6 * math.exp(-6 * progress)) - drop + dice.gauss(0, 0.003))
                rows.append(
                    {
                        "model": model,
                        "variant": f"{model}/{name}",
                        "stage": stage,
                        "seed": 0,
                        "epoch": epoch,
                        "split": split,
                        "loss": 0.05 + 2.2 * math.exp(-6 * progress) + 4 * drop,
                        "top1": score,
                        "top5": 1.0,
                        "macro_f1": score - 0.0005,
                        "learning_rate": 0.1 * (1 - min(progress, 1)),
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


def ablations(model: str, facts: Row) -> list[Row]:
    rows: list[Row] = []
    for technique, sets, seconds in (("none", {}, 2.0), ("AMP", {"precision": "bf16"}, 1.0)):
        quality = {key: value for key, value in measured_quality(facts["f1"]).items() if key != "top5"}
        rows.append(
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
    return [*rows, {"model": model, "technique": "all", "sets": "{}", "status": "failed", "error": "it did not fit"}]


def seeds(model: str, facts: Row) -> list[Row]:
    row: Row = {"model": model, "variant": f"{model}/train", "stage": "train", "seeds": [0, 1, 2], "chosen": 1}
    for split in ("validation", "test"):
        scores = {"": [facts["f1"] + n / 1000 for n in (-1, 0, 1)], "_mean": facts["f1"], "_std": 0.001}
        row |= {f"{split}_macro_f1{end}": value for end, value in scores.items()}
    return [row]


def trials(dice: random.Random, model: str, facts: Row) -> list[Row]:
    best = 0.0
    rows = []
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


def datasets() -> list[Row]:
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


def environment() -> Row:
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
