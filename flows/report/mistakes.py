"""The report's section on mistakes: confusion, scores of each class, pictures, and what a form lost against its parent.

It is made from the published tables `predictions`, `variants` and `summary`. The pictures come from the file in the
store that the table `datasets` names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.report.columns import Spec, count, share
from flows.report.grids import Grid, Row, grid
from flows.report.pictures import most_confident
from tasks.measure.metrics import class_scores, mcnemar
from tasks.tables.rule import KEY, as_trained

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import polars as pl

    from flows.report.pictures import Images

WHOLE = 30
"""With up to this many classes the whole confusion matrix is shown; with more, the most confused pairs and the worst
classes."""
PAIRS = 20
"""How many pairs of classes are shown in place of the matrix."""
WORST = 30
"""How many classes are shown with their scores where there are more than `WHOLE`."""
PICTURES = 20
"""How many of the most confident mistakes are shown."""
PICTURES_APART = 12
"""How many of the mistakes that the fp32 parent does not make are shown."""
ORDER = ("winner", "provisional", "reference", "runner-up", None)
"""The section is about the first of these parts that has predictions."""

SCORES: list[Spec] = [
    ("Class", "", "class", str),
    ("Most often taken for", "(images)", "taken_for", str),
    ("Images", "", "images", count),
    ("Precision", "share", "precision", share),
    ("Recall", "share", "recall", share),
    ("F1", "share", "f1", share),
]
APART: list[Spec] = [("New mistakes", "images", "lost", count), ("Mended", "images", "mended", count)]
CONFUSED: list[Spec] = [
    ("True class", "", "class", str),
    ("Taken for", "", "taken_for", str),
    ("Images", "", "images", count),
    ("Of the class's", "share", "share", share),
]


def _as_trained(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Return model -> its candidate as it was trained or given, on a GPU where it was measured on one."""
    trained: dict[str, tuple[str, ...]] = {}
    for row in sorted(rows, key=lambda row: row["device"] == "cpu"):
        if as_trained(row):
            trained.setdefault(row["model"], _key(row))
    return trained


def _words(key: Sequence[str]) -> str:
    return "{} on {}, {}".format(*key)


def _fp32_ancestor(
    key: tuple[str, ...], variants: Sequence[Row], measured: Sequence[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """Return the nearest fp32 form that a candidate was made from and whose predictions are known.

    Of several candidates of that form, it is one on the same device, and in the same runtime, where there is one.
    """
    forms = {row["name"]: row for row in variants}
    name = forms[key[0]]["parent"] if key[0] in forms else None
    while name in forms:
        candidates = [other for other in measured if other[0] == name]
        if candidates and forms[name]["precision"] == "fp32":
            return max(candidates, key=lambda other: (other[2] == key[2], other[1] == key[1]))
        name = forms[name]["parent"]
    return None


def _matrix(predictions: pl.DataFrame, names: Sequence[str]) -> Row:
    """Return the confusion matrix. A cell has images, their share of the true class, and a colour strength.

    The strength of a right cell is its share. That of a wrong one is its share over the largest one of a wrong cell.
    """
    import numpy as np

    size = len(names)
    cells = np.zeros((size, size), dtype=int)
    np.add.at(cells, (predictions["label"].to_numpy(), predictions["prediction"].to_numpy()), 1)
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    strongest = (shares * ~np.eye(size, dtype=bool)).max() or 1.0
    strengths = np.where(np.eye(size, dtype=bool), shares, shares / strongest)
    rows = []
    for i, name in enumerate(names):
        row = [(int(cells[i, j]), f"{shares[i, j]:.3f}", f"{strengths[i, j]:.2f}") for j in range(size)]
        rows.append((name, row))
    return {"names": names, "rows": rows, "upright": max(map(len, names)) > 4}


def _confused(predictions: pl.DataFrame, names: Sequence[str]) -> list[Row]:
    """Return pairs of classes, by how many images of the first were taken for the second; the most come first."""
    import polars as pl

    counts = (
        predictions.with_columns(of=pl.len().over("label"))
        .filter(pl.col("label") != pl.col("prediction"))
        .group_by("label", "prediction")
        .agg(images=pl.len(), of=pl.col("of").first())
        .sort("images", "label", "prediction", descending=[True, False, False])
    )
    return [
        {
            "class": names[row["label"]],
            "taken_for": names[row["prediction"]],
            "images": row["images"],
            "share": row["images"] / row["of"],
            "label": row["label"],
        }
        for row in counts.to_dicts()
    ]


def _scores(predictions: pl.DataFrame, both: pl.DataFrame | None, names: Sequence[str]) -> Grid | None:
    """Return a table of the scores of each class, the worst first.

    `both` are the predictions with the parent's beside them, as `_with_parent` returns them, where there is a parent.
    """
    import numpy as np

    scores = class_scores(predictions["label"].to_numpy(), predictions["prediction"].to_numpy(), len(names))
    rows: list[Row] = [{"class": name, **row} for name, row in zip(names, scores, strict=True)]
    # The pair with the most images comes last and overwrites the others of its class.
    for pair in reversed(_confused(predictions, names)):
        rows[pair["label"]]["taken_for"] = f"{pair['taken_for']} ({pair['images']})"
    specs = SCORES
    if both is not None:
        specs = [*SCORES, *APART]
        for key in ("lost", "mended"):
            for row, images in zip(rows, np.bincount(both["label"], both[key], len(names)), strict=True):
                row[key] = int(images)
    rows = [row for row in rows if row["images"] or row["called"]]
    rows.sort(key=lambda row: (row["f1"], -row["images"]))
    shown = rows if len(names) <= WHOLE else rows[:WORST]
    which = "Every class" if len(shown) == len(rows) else f"The worst {len(shown)} of {len(rows)} classes"
    return grid(specs, shown, f"{which}, the lowest F1 first, with 95 % intervals; press a header to sort")


def _against(key: Sequence[str], parent: Sequence[str], both: pl.DataFrame) -> str:
    """Return how the mistakes of a form differ from its parent's, in words."""
    lost, mended, images = int(both["lost"].sum()), int(both["mended"].sum()), len(both)
    changed = int((both["prediction"] != both["parent_prediction"]).sum())
    if not changed:
        return (
            f"{_words(key)} gives every one of {images} images the class that its fp32 parent, "
            f"{_words(parent)}, gives it."
        )
    p = mcnemar(lost, mended)
    significance = f"{'more' if p < 0.05 else 'no more'} than chance alone would give"
    return (
        f"Against its fp32 parent, {_words(parent)}, {changed} of {images} images changed class: {lost} from right to "
        f"wrong, {mended} from wrong to right. The difference is {significance} (exact McNemar test, p = {p:.2g})."
    )


def mistakes(tables: Mapping[str, pl.DataFrame | pl.LazyFrame], images: Images | str) -> Row | None:
    """Return what the report's section shows, None where there are no predictions or no summary.

    The section is about the winner, or without one about the first of `ORDER`. The confusion of the other rows that
    play a part and of the fp32 parent is shown too, and all of each model as it was trained.
    """
    if not {"predictions", "summary", "variants"} <= tables.keys():
        return None
    all_predictions = tables["predictions"].lazy()
    measured = all_predictions.select(KEY).unique(maintain_order=True).collect(engine="streaming").rows()
    rows = [row for row in tables["summary"].lazy().collect().to_dicts() if _key(row) in measured]
    if not rows:
        return None
    rows.sort(key=lambda row: (ORDER.index(row["role"]), -(row["top1"] or 0.0)))
    roles = {_key(row): row["role"] for row in reversed(rows)}
    chosen = _key(rows[0])
    parent = _fp32_ancestor(chosen, tables["variants"].lazy().collect().to_dicts(), measured)
    trained = {model: key for model, key in _as_trained(rows).items() if key != chosen}
    others = [key for key, role in roles.items() if role and key not in trained.values()]
    shown = list(dict.fromkeys([chosen, *([parent] if parent else []), *others]))
    predictions = _predictions_of({*shown, *trained.values()}, all_predictions)
    names = _names(tables, predictions[chosen])
    parts = {key: roles.get(key) or "" for key in shown}
    if parent:
        parts[parent] = ", ".join(part for part in ("fp32 parent", parts[parent]) if part)
    both = _with_parent(predictions[chosen], predictions[parent]) if parent else None
    wrong = _wrong(predictions[chosen])
    return {
        "who": _words(chosen),
        "part": roles[chosen] or "most accurate form",
        "images": len(predictions[chosen]),
        "wrong": len(wrong),
        "confusion": [_confusion(key, parts[key], predictions[key], names) for key in shown],
        "scores": _scores(predictions[chosen], both, names),
        "pictures": most_confident(wrong, names, images, PICTURES),
        "against": _against(chosen, parent, both) if parent and both is not None else None,
        "apart": most_confident(both.filter("lost"), names, images, PICTURES_APART) if both is not None else [],
        "no_pictures": images if isinstance(images, str) else None,
        "models": [
            _model(
                model, _confusion(key, roles.get(key) or "", predictions[key], names), predictions[key], names, images
            )
            for model, key in trained.items()
        ],
    }


def _predictions_of(
    keys: Collection[tuple[str, ...]], predictions: pl.LazyFrame
) -> Mapping[tuple[str, ...], pl.DataFrame]:
    """Return the predictions of each of some candidates, in the order of the images."""
    import polars as pl

    wanted = pl.DataFrame(list(keys), schema=list(KEY), orient="row").lazy()
    own = predictions.join(wanted, on=KEY, how="semi").sort("image").collect()
    return own.partition_by(*KEY, as_dict=True)


def _wrong(predictions: pl.DataFrame) -> pl.DataFrame:
    return predictions.filter(predictions["label"] != predictions["prediction"])


def _with_parent(predictions: pl.DataFrame, parents: pl.DataFrame) -> pl.DataFrame:
    """Return predictions with the parent's beside them, and whether each was lost (newly wrong) or mended."""
    import polars as pl

    beside = parents.select("image", parent_prediction="prediction")
    right = pl.col("prediction") == pl.col("label")
    parent_right = pl.col("parent_prediction") == pl.col("label")
    both = predictions.join(beside, on="image", validate="1:1")
    return both.with_columns(lost=parent_right & ~right, mended=right & ~parent_right)


def _confusion(key: tuple[str, ...], part: str, predictions: pl.DataFrame, names: Sequence[str]) -> Row:
    """Return the confusion matrix of a candidate, or the most confused pairs where there are many classes."""
    if len(names) <= WHOLE:
        return {"who": _words(key), "part": part, "matrix": _matrix(predictions, names), "pairs": None}
    caption = f"The most confused pairs of {len(names)} classes, {PAIRS} at most"
    pairs = grid(CONFUSED, _confused(predictions, names)[:PAIRS], caption)
    return {"who": _words(key), "part": part, "matrix": None, "pairs": pairs}


def _model(model: str, confusion: Row, predictions: pl.DataFrame, names: Sequence[str], images: Images | str) -> Row:
    """Return what is shown of a model as it was trained: confusion, scores of each class, most confident mistakes."""
    wrong = _wrong(predictions)
    return {
        "model": model,
        "images": len(predictions),
        "wrong": len(wrong),
        "confusion": confusion,
        "scores": _scores(predictions, None, names),
        "pictures": most_confident(wrong, names, images, PICTURES),
    }


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def _names(tables: Mapping[str, Any], predictions: pl.DataFrame) -> list[str]:
    """Return the names of the classes as the source has them, or their numbers where the tables do not say."""
    sets = tables["datasets"].lazy().collect().to_dicts() if "datasets" in tables else []
    if sets and sets[0].get("class_names") is not None:
        return list(sets[0]["class_names"])
    most = max(int(predictions[key].to_numpy().max()) for key in ("label", "prediction")) + 1
    return [str(number) for number in range(sets[0]["classes"] if sets else most)]
