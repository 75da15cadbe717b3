"""Say where a bundle's model comes from: its run, its parents, its figures, and the machine that measured them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flows.bundle.licence import licence_of

if TYPE_CHECKING:
    from flows.bundle.source import Source

Row = dict[str, Any]
FIGURES = (
    "latency_median_ms",
    "latency_median_low_ms",
    "latency_median_high_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "images_per_second",
    "threads",
    "provider",
    "rounds",
    "queries",
    "conditions",
)
"""Columns of the table `benchmarks` that lineage.json has."""
QUALITY = ("top1", "top5", "macro_f1", "drop")
"""Columns of the table `summary` that lineage.json has."""
FORM = ("name", "stage", "format", "precision", "setting", "sha256", "size_bytes", "parity")
"""Columns of the table `variants` that lineage.json has of each variant."""
MACHINE = ("cpu_model", "cpu_cores", "cpu_features", "memory_bytes", "os", "python")
"""Columns of the table `environments` that lineage.json has."""


def lineage(source: Source, version: str | None) -> Row:
    """Return what lineage.json holds; `version` is that of burnish."""
    models = {model.label: model for model in source.study.models}
    measured = source.measured()
    environment = next(iter(source.rows("environments")), {})
    return {
        "run": source.run,
        "study": source.study.name,
        "images": next((data["label"] for data in source.rows("datasets")), None),
        "licence": {"weights": licence_of(models.get(source.variant["model"]))},
        "variants": [{key: form[key] for key in FORM} for form in source.variants],
        "measured": {key: source.row[key] for key in ("runtime", "device", "batch_size")}
        | {key: measured.get(key) for key in FIGURES}
        | {key: source.row.get(key) for key in QUALITY},
        "machine": {key: environment.get(key) for key in MACHINE},
        "libraries": json.loads(environment.get("libraries") or "{}"),
        "burnish": version,
    }


def machine_name(machine: Row) -> str:
    """Return a machine's processor and its cores, in words."""
    cores = machine.get("cpu_cores")
    known = machine.get("cpu_model") or "an unknown machine"
    return f"{known}, {cores} core{'s' if cores != 1 else ''}" if cores else known
