"""The report's sections on how the variants were made: training, pruning, quantization, and the search for forms.

Each takes the `Contents` of a run and returns names and values for report.html.j2, as those of sections.py do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flows.report import charts, curves
from flows.report.columns import ABLATIONS, FORMS, POLICIES, PRUNED, QUANTIZED, TRIALS, of_agreement, of_images
from flows.report.grids import adjusted, grid
from flows.report.searches import searches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.report.contents import Contents
    from flows.report.grids import Grid, Row


def training(contents: Contents) -> Row:
    """Training curves, and whether augmentation helped."""
    if "epochs" not in contents.small:
        return {}
    epochs, validation = contents.small["epochs"], contents.validation_images
    shown: Row = {"curves": curves.training(epochs, validation)}
    if "variants" in contents.small:
        variants = contents.small["variants"].to_dicts()
        shown["augmented"] = curves.augmentation(epochs, variants, _evaluations(contents), validation)
    return shown


def ablations(contents: Contents) -> Row:
    """What each training technique brings, one table per model."""
    if "ablations" not in contents.small:
        return {}
    shown: list[Grid | None] = []
    for (model,), group in contents.small["ablations"].group_by("model", maintain_order=True):
        rows = group.to_dicts()
        plain = next((row["epoch_seconds"] for row in rows if row["technique"] == "none"), None)
        for row in rows:
            row["adjusted"] = adjusted(row["sets"]) if json.loads(row["sets"]) else "what is plain"
            row["times"] = plain / row["epoch_seconds"] if plain and row["epoch_seconds"] else None
        shown.append(grid(ABLATIONS, rows, f"Training techniques, {model}: each alone, all together, none"))
    return {"ablations": shown}


def tuning(contents: Contents) -> Row:
    """The trials of tuning, one chart and one table per model."""
    if "trials" not in contents.small:
        return {}
    specs = of_images(TRIALS, contents.validation_images)
    shown = []
    for (model,), group in contents.small["trials"].sort("trial").group_by("model", maintain_order=True):
        rows = [row | {"adjusted": adjusted(row["adjusted"])} for row in group.to_dicts()]
        shown.append((charts.tuning(group, str(model)), grid(specs, rows, f"Trials of {model}")))
    return {"tuning": shown}


def lineage(contents: Contents) -> Row:
    """The variants by the stage that made them; policies and pruned forms stand below their parent's weights."""
    if "variants" not in contents.small:
        return {}
    validation = contents.validation_images
    rows = [dict(row) for row in contents.small["variants"].to_dicts()]
    scores = _evaluations(contents)
    for row in rows:
        row["held_out"] = scores.get(row["name"], {}).get("macro_f1")
    pruned = _below_parents(rows, "prune", "when", "before pruning")
    for row in pruned:
        after = "before fine-tuning" if row["name"].endswith("-raw") else "after fine-tuning"
        row.setdefault("when", after if row["status"] == "ok" else None)
    policies = _below_parents(rows, "augment", "setting", "before this stage")
    quantized = [row for row in rows if row["stage"] in ("quantize", "qat")]
    forms = [row for row in rows if row["stage"] in ("export", "build")]
    notes = [row["note"] for row in rows if row.get("note")]
    return {
        "policies": grid(of_images(POLICIES, validation), policies, "Augmentation policies"),
        "pruned": grid(of_images(PRUNED, validation), pruned, "Pruning"),
        "quantized": grid(
            of_images(of_agreement(QUANTIZED, contents.study), validation), quantized, "Quantization settings tried"
        ),
        "forms": grid(FORMS, forms, "Exported files and engines"),
        "notes": list(dict.fromkeys(notes)),
    }


def _below_parents(rows: Sequence[Row], stage: str, column: str, text: str) -> list[Row]:
    """Return the variants of a stage, those of one parent below that parent, which has `text` in the column."""
    named = {row["name"]: row for row in rows}
    of_stage = [row for row in rows if row["stage"] == stage]
    shown: list[Row] = []
    for parent in dict.fromkeys(row["parent"] for row in of_stage):
        if parent in named:
            shown.append({**named[parent], column: text})
        shown += [row for row in of_stage if row["parent"] == parent]
    return shown


def _evaluations(contents: Contents) -> dict[str, Row]:
    """Return a row of `evaluations` per variant; of several runtimes the last."""
    rows = contents.small["evaluations"].iter_rows(named=True) if "evaluations" in contents.small else ()
    return {row["variant"]: row for row in rows}


def search(contents: Contents) -> Row:
    """The trials of the search for forms, and which layers matter."""
    return searches(contents.small)
