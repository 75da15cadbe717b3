"""Say where a bundle's model comes from: its run, its parents, its figures, and the machine that measured them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flows.bundle.licence import licence_of
from tasks import tables

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import Study

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


def lineage(out: Path, run: str, row: Row, study: Study, version: str | None) -> Row:
    """Return what lineage.json holds.

    Parameters
    ----------
    row
        The row of the summary that is deployed.
    version
        The version of burnish.
    """
    variants = {variant["name"]: variant for variant in rows(out, "variants", run)}
    variant = variants[row["variant"]]
    chain = [variant]
    while chain[0]["parent"] in variants:
        chain.insert(0, variants[chain[0]["parent"]])
    model = next((model for model in study.models if model.label == variant["model"]), None)
    keys = ("variant", "runtime", "device", "batch_size")
    measured = next((one for one in rows(out, "benchmarks", run) if all(one[key] == row[key] for key in keys)), {})
    environment = next(iter(rows(out, "environments", run)), {})
    return {
        "run": run,
        "study": study.name,
        "images": next((data["label"] for data in rows(out, "datasets", run)), None),
        "licence": {"weights": licence_of(model)},
        "variants": [{key: form[key] for key in FORM} for form in chain],
        "measured": {key: row[key] for key in keys[1:]}
        | {key: measured.get(key) for key in FIGURES}
        | {key: row.get(key) for key in QUALITY},
        "machine": {key: environment.get(key) for key in MACHINE},
        "libraries": json.loads(environment.get("libraries") or "{}"),
        "burnish": version,
    }


def rows(out: Path, table: str, run: str) -> list[Row]:
    """Return the rows of one of a run's tables; none where an older version of burnish did not write it."""
    try:
        return tables.read(out, table, run).collect().to_dicts()
    except ValueError:
        return []


def machine_name(machine: Row) -> str:
    """Return a machine's processor and its cores, in words."""
    cores = machine.get("cpu_cores")
    known = machine.get("cpu_model") or "an unknown machine"
    return f"{known}, {cores} core{'s' if cores != 1 else ''}" if cores else known
