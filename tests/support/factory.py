"""Makes up consistent tables of a small study: those that the stages write for two models on digits.

`tables()` returns frames with the columns of tasks/tables/schema.py. Tests change single rows of them.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

from tasks.records import Build, Choice, Model, Range, Study, Tune
from tasks.tables import frames
from tasks.tables.schema import TABLES
from tests.support.factory_measurements import measure
from tests.support.factory_rows import (
    MODELS,
    TEST_ROWS,
    Row,
    ablations,
    datasets,
    environment,
    epochs,
    measured_quality,
    seeds,
    trials,
)

if TYPE_CHECKING:
    import polars as pl


FORMS: dict[str, tuple[str, str, str, str, float, float, float]] = {
    "torchscript": ("export", "torchscript", "fp32", "torchscript", 0.82, 0.0, 1.1),
    "onnx": ("export", "onnx", "fp32", "onnxruntime", 0.41, 0.0, 1.02),
    "onnx/int8-u8s8-reduced": ("quantize", "onnx", "int8", "onnxruntime", 0.27, -0.003, 0.28),
    "onnx/int8-dynamic": ("quantize", "onnx", "int8", "onnxruntime", 0.66, -0.019, 0.27),
    "onnx/engine-fp16": ("build", "engine", "fp16", "tensorrt", 0.1, 0.0, 0.5),
}
"""Name of a form -> stage, format, precision, runtime, latency as a share of eager PyTorch's, top-1 minus the parent's,
and size as a share of the fp32 weights'."""


def study() -> Study:
    """Return the study that would have such tables."""
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
    """Return every table except the summary."""
    rows = rows_of_tables(seed)
    return {name: frames.frame(name, rows[name]) for name in TABLES if name != "summary"}


def rows_of_tables(seed: int = 0) -> dict[str, list[Row]]:
    """Return the rows of every table except the summary."""
    dice = random.Random(seed)
    rows: dict[str, list[Row]] = {name: [] for name in TABLES if name != "summary"}
    rows["datasets"] = datasets()
    rows["environments"] = [environment()]
    for model, facts in MODELS.items():
        rows["epochs"] += epochs(dice, model, facts)
        rows["seeds"] += seeds(model, facts)
        rows["ablations"] += ablations(model, facts)
        rows["trials"] += trials(dice, model, facts)
        for parent in _trained_variants(rows, model, facts):
            measure(dice, rows, parent, "eager", 1.0 if "prune" not in parent["name"] else 0.78, 0.0, None)
            for form, (stage, fmt, precision, runtime, speed, drop, size) in FORMS.items():
                name = f"{parent['name']}/{form}"
                parent_of_form = f"{parent['name']}/onnx" if form.startswith("onnx/") else parent["name"]
                variant = _variant(
                    name,
                    model,
                    stage,
                    parent_of_form,
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
                measure(
                    dice, rows, variant, runtime, speed * (1 if "prune" not in name else 0.78), drop, parent_of_form
                )
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


def _trained_variants(rows: dict[str, list[Row]], model: str, facts: Row) -> list[Row]:
    """Add the trained, tuned, augmented and pruned variants, and return those that the benchmark measures."""
    f1 = facts["f1"]
    size = (facts["parameters"], facts["macs"])
    pruned_size = (int(size[0] * 0.58), int(size[1] * 0.6))

    def quality(score: float) -> Row:
        return {"validation_macro_f1": score, "validation_top1": score + 0.001}

    unmeasured = [
        _variant(f"{model}/train", model, "train", None, "safetensors", "fp32", *size, **quality(f1 - 0.012)),
        _variant(f"{model}/tune", model, "tune", f"{model}/train", "safetensors", "fp32", *size, **quality(f1 - 0.003)),
    ]
    unmeasured += [
        _variant(
            f"{model}/augment-{policy}",
            model,
            "augment",
            f"{model}/tune",
            "safetensors",
            "fp32",
            *size,
            setting=policy,
            **quality(f1 - drop),
        )
        for policy, drop in (("crop_flip", 0.031), ("trivialaugment", 0.011))
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
        *pruned_size,
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
        *pruned_size,
        setting="0.25",
        benchmark=True,
        **quality(f1 - 0.006),
    )
    rows["variants"] += [*unmeasured, best, raw, pruned]
    for variant in (*unmeasured, raw):
        score = variant["validation_macro_f1"] - 0.004
        rows["evaluations"].append(
            {
                "variant": variant["name"],
                "runtime": "training",
                "device": "cpu",
                "images": TEST_ROWS,
                **measured_quality(score),
            }
        )
    return [best, pruned]


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
"""Columns of `benchmarks` that hold measured times."""
REFERENCE = "resnet34-w16/augment-none"
"""The reference variant of these tables."""


def changed(
    tables: dict[str, pl.DataFrame], name: str, where: dict[str, object], **to: object
) -> dict[str, pl.DataFrame]:
    """Return the tables with the values `to` in those rows of table `name` that have the values `where`."""
    rows = [
        row | to if all(row[key] == value for key, value in where.items()) else row for row in tables[name].to_dicts()
    ]
    assert rows != tables[name].to_dicts()
    return tables | {name: frames.frame(name, rows)}
