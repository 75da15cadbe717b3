"""Tables of variants: what they were made from, and how well they classify."""

from __future__ import annotations

import polars as pl

from tasks.tables.schema.column import Column, Table, count, number, share, text
from tasks.tables.schema.shared import OUTCOME, QUALITY, WHICH

MAKERS = ("adopt", "train", "tune", "augment", "prune", "export", "quantize", "qat", "build", "search", "configure")
"""Stages that make variants."""
TABLES: dict[str, Table] = {
    "variants": Table(
        "Every form of every model, and what it was made from: one row per variant.",
        {
            "name": text("name of the variant"),
            "model": text("label of the model"),
            "stage": text(
                "stage that made it",
                "adopt",
                "train",
                "tune",
                "augment",
                "prune",
                "export",
                "quantize",
                "qat",
                "build",
                "search",
                "configure",
            ),
            "parent": text("name of the variant it was made from", null=True),
            "format": text("file format", "safetensors", "torchscript", "onnx", "openvino", "engine"),
            "precision": text("precision of weights and arithmetic", "fp32", "fp16", "bf16", "int8"),
            "setting": text(
                "setting, policy or the like that distinguishes it from other forms of its parent", null=True
            ),
            "threads": count("threads with which it is opened on a CPU; null: as the study says", null=True, low=1),
            "options": text("options of its runtime with which it is opened, joined by commas", null=True),
            "parameters": count("number of weights", null=True),
            "macs": count("multiply-accumulate operations per image", null=True),
            "size_bytes": count("size of the file, external data included", null=True, low=1),
            "sha256": text("SHA-256 of the file", null=True),
            "path": text("path of the file in the store", null=True),
            "validation_top1": share("top-1 on validation images, where the stage measured it", null=True),
            "validation_macro_f1": share("macro F1 on validation images, where the stage measured it", null=True),
            "validation_agreement": share(
                "share of validation images that its parent gives the same class, where the stage measured it",
                null=True,
            ),
            "validation_divergence": number(
                "Kullback-Leibler divergence from its parent's class probabilities, in nats: the mean over validation "
                "images",
                null=True,
            ),
            "validation_drop": share(
                "how much top-1 it is taken to lose against its parent: the larger of what the labels of validation "
                "images say and what its parent's probabilities say of the classes that changed",
                null=True,
            ),
            "search_latency_ms": number(
                "median latency at batch 1 in the stage's own search, in its fastest runtime; the benchmark measures "
                "anew",
                null=True,
            ),
            "search_latencies": text("the same in each runtime, as JSON: runtime -> milliseconds", null=True),
            "chosen_in": text("runtimes, joined by commas, in which it was the choice among forms like it", null=True),
            "parity": number(
                "largest difference of a logit from the parent's, over the parent's largest logit", null=True
            ),
            "tolerance": number("largest parity that is accepted", null=True),
            "benchmark": Column(pl.Boolean, "whether the benchmark measures it"),
            "note": text("what a person should know about these weights, as training found it", null=True),
            **OUTCOME,
        },
        unique=("name",),
        ordered=(("parity", "tolerance"),),
        given_when_ok=("path", "sha256", "size_bytes"),
    ),
    "evaluations": Table(
        "Prediction quality on the held-out images: one row per variant, runtime and device.",
        {
            **WHICH,
            "parent": text(
                "variant that agreement compares with: the nearest measured ancestor, else the same variant in the "
                "runtime that stands first; null for that one",
                null=True,
            ),
            "images": count("held-out images that were classified", low=1),
            **QUALITY,
            "agreement": share("share of images that the parent gives the same class", null=True),
            "logit_difference": number(
                "largest difference of a logit from the parent's on these images, over the parent's largest logit",
                null=True,
            ),
        },
        unique=("variant", "runtime", "device"),
        ordered=(("top1", "top5"), ("top1_low", "top1", "top1_high"), ("macro_f1_low", "macro_f1_high")),
    ),
    "predictions": Table(
        "The class that each candidate gives each held-out image: one row per variant, runtime, device and image.",
        {
            **WHICH,
            "image": count("row of the image among the prepared images"),
            "file": text(
                "file of the image, relative to the data set's path; null where the source has no image files",
                null=True,
            ),
            "label": count("number of the right class"),
            "prediction": count("number of the most probable class"),
            "confidence": share("softmax probability of the most probable class"),
        },
        unique=("variant", "runtime", "device", "image"),
        checked_by_batches=True,
    ),
}
