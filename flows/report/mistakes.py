"""The report's section on mistakes: confusion, scores of each class, pictures; what a form has wrong and its parent
right.

Made of the published tables `predictions`, `variants` and `summary`; the pictures are of the file in the store that the
table `datasets` names.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.report.columns import Spec, count, share
from flows.report.grids import Grid, Row, grid
from tasks.caching.store import Corrupt, Store
from tasks.measure.metrics import class_scores, mcnemar
from tasks.records import Artifact
from tasks.tables.rule import TRAINING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import polars as pl

    Images = np.ndarray
    """uint8, (rows, height, width, channels)."""

WHOLE = 30
"""Classes up to which the whole confusion matrix is shown; above, the most confused pairs and the worst classes."""
PAIRS, WORST = 20, 30
PICTURES, PICTURES_APART = 20, 12
SIDE = 96
"""Pixels: larger pictures are reduced to it, smaller ones shown enlarged by a whole factor up to it."""
ORDER = ("winner", "provisional", "reference", "runner-up", None)
KEY = ("variant", "runtime", "device")

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


@dataclass(frozen=True)
class Picture:
    """A mistake: what is told of it, and the picture as a data URI where there is one."""

    row: int
    file: str | None
    """Of the image; None where the data set has no files."""
    true: str
    predicted: str
    confidence: float
    source: str | None
    width: int | None
    """On the page, CSS pixels."""

    @property
    def alternative(self) -> str:
        """The picture in words."""
        image = self.file or f"Row {self.row}"
        return f"{image}: {self.true}, taken for {self.predicted} at confidence {self.confidence:.3f}"


def load_images(out: Path, datasets: pl.DataFrame | None) -> Images | str:
    """The prepared images, memory-mapped, as the table `datasets` names them; or why there are none."""
    import numpy as np

    rows = datasets.to_dicts() if datasets is not None else []
    if not rows:
        return "the table datasets is not there"
    if rows[0].get("images_path") is None:
        return "an older version of burnish, which did not say where they are, made this run"
    named = {key: rows[0][f"images_{key}"] for key in ("path", "sha256", "size_bytes")}
    try:
        return np.load(Store(out / "store").get(Artifact(**named, format="npy")), mmap_mode="r")
    except Corrupt as error:
        return str(error)


def _picture(pixels: np.ndarray) -> tuple[str, int]:
    """(PNG in a data URI, width on the page) of one image; a tiny one is enlarged by the page, nearest neighbour."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}", image.width * (SIDE // image.width)


def _pictures(wrong: pl.DataFrame, names: Sequence[str], images: Images | str, most: int) -> list[Picture]:
    """The most confident of some mistakes."""
    rows = wrong.sort("confidence", "image", descending=[True, False]).head(most).to_dicts()
    return [
        Picture(
            r["image"],
            r.get("file"),
            names[r["label"]],
            names[r["prediction"]],
            r["confidence"],
            *((None, None) if isinstance(images, str) else _picture(images[r["image"]])),
        )
        for r in rows
    ]


def _as_trained(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Model -> its unpruned fp32 form in PyTorch, on a GPU where it was measured on one."""
    found: dict[str, tuple[str, ...]] = {}
    for row in sorted(rows, key=lambda row: row["device"] == "cpu"):
        if row["runtime"] == "eager" and row["precision"] == "fp32" and row["stage"] in TRAINING:
            found.setdefault(row["model"], _key(row))
    return found


def _words(key: Sequence[str]) -> str:
    return "{} on {}, {}".format(*key)


def _fp32_ancestor(
    key: tuple[str, ...], variants: Sequence[Row], measured: Sequence[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The nearest fp32 form that `key` was made from and whose predictions are there; best in the same place."""
    forms = {row["name"]: row for row in variants}
    name = forms[key[0]]["parent"] if key[0] in forms else None
    while name in forms:
        found = [other for other in measured if other[0] == name]
        if found and forms[name]["precision"] == "fp32":
            return max(found, key=lambda other: (other[2] == key[2], other[1] == key[1]))
        name = forms[name]["parent"]
    return None


def _matrix(said: pl.DataFrame, names: Sequence[str]) -> Row:
    """Cells of the confusion matrix: images, share of the true class's, strength of its colour (of mistakes:
    relative)."""
    import numpy as np

    size = len(names)
    cells = np.zeros((size, size), dtype=int)
    np.add.at(cells, (said["label"].to_numpy(), said["prediction"].to_numpy()), 1)
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    strongest = (shares * ~np.eye(size, dtype=bool)).max() or 1.0
    rows = [
        (
            name,
            [
                (int(cells[i, j]), f"{shares[i, j]:.3f}", f"{shares[i, j] / (1.0 if i == j else strongest):.2f}")
                for j in range(size)
            ],
        )
        for i, name in enumerate(names)
    ]
    return {"names": names, "rows": rows, "upright": max(map(len, names)) > 4}


def _confused(said: pl.DataFrame, names: Sequence[str]) -> list[Row]:
    """Pairs of classes by the images of the one that were taken for the other."""
    import polars as pl

    counts = (
        said.with_columns(of=pl.len().over("label"))
        .filter(pl.col("label") != pl.col("prediction"))
        .group_by("label", "prediction")
        .agg(images=pl.len(), of=pl.col("of").first())
        .sort("images", "label", "prediction", descending=[True, False, False])
    )
    return [
        {
            "class": names[r["label"]],
            "taken_for": names[r["prediction"]],
            "images": r["images"],
            "share": r["images"] / r["of"],
            "label": r["label"],
        }
        for r in counts.to_dicts()
    ]


def _scores(said: pl.DataFrame, both: pl.DataFrame | None, names: Sequence[str]) -> Grid | None:
    """Scores of each class, the worst first; `both`: with the parent's predictions beside them."""
    import numpy as np

    rows: list[Row] = [
        {"class": name, **row}
        for name, row in zip(
            names, class_scores(said["label"].to_numpy(), said["prediction"].to_numpy(), len(names)), strict=True
        )
    ]
    # the commonest comes last and stays
    for pair in reversed(_confused(said, names)):
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
    """How the mistakes of a form differ from its parent's, in words."""
    lost, mended, images = int(both["lost"].sum()), int(both["mended"].sum()), len(both)
    changed = int((both["prediction"] != both["parent_prediction"]).sum())
    if not changed:
        return (
            f"{_words(key)} gives every one of {images} images the class that its fp32 parent, "
            f"{_words(parent)}, gives it."
        )
    p = mcnemar(lost, mended)
    told = f"{'more' if p < 0.05 else 'no more'} than chance alone would give"
    return (
        f"Against its fp32 parent, {_words(parent)}, {changed} of {images} images changed class: {lost} from right to "
        f"wrong, {mended} from wrong to right. The difference is {told} (exact McNemar test, p = {p:.2g})."
    )


def mistakes(tables: Mapping[str, pl.DataFrame | pl.LazyFrame], images: Images | str) -> Row | None:
    """What the report's section shows; None where there is no prediction or no summary.

    About the winner, or without one the reference; the runner-up and fp32 parent have their confusion too, and each
    model as it was trained all of it.
    """
    import polars as pl

    if not {"predictions", "summary", "variants"} <= tables.keys():
        return None
    predictions = tables["predictions"].lazy()
    measured = predictions.select(KEY).unique(maintain_order=True).collect(engine="streaming").rows()
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
    wanted = pl.DataFrame(list({*shown, *trained.values()}), schema=list(KEY), orient="row").lazy()
    found = predictions.join(wanted, on=KEY, how="semi").sort("image").collect().partition_by(*KEY, as_dict=True)
    names = _names(tables, found[chosen])
    said, both = found[chosen], None
    wrong = said.filter(pl.col("label") != pl.col("prediction"))
    parts = {key: roles.get(key) or "" for key in shown}
    if parent:
        theirs_said = found[parent].select("image", parent_prediction="prediction")
        right, theirs = pl.col("prediction") == pl.col("label"), pl.col("parent_prediction") == pl.col("label")
        both = said.join(theirs_said, on="image", validate="1:1").with_columns(
            lost=theirs & ~right, mended=right & ~theirs
        )
        parts[parent] = ", ".join(filter(None, ("fp32 parent", parts[parent])))
    return {
        "who": _words(chosen),
        "part": roles[chosen] or "most accurate form",
        "images": len(said),
        "wrong": len(wrong),
        "confusion": [_confusion(key, parts[key], found[key], names) for key in shown],
        "scores": _scores(said, both, names),
        "pictures": _pictures(wrong, names, images, PICTURES),
        "against": _against(chosen, parent, both) if parent and both is not None else None,
        "apart": _pictures(both.filter("lost"), names, images, PICTURES_APART) if both is not None else [],
        "no_pictures": images if isinstance(images, str) else None,
        "models": [_model(model, key, roles.get(key), found[key], names, images) for model, key in trained.items()],
    }


def _confusion(key: tuple[str, ...], part: str, said: pl.DataFrame, names: Sequence[str]) -> Row:
    """The matrix, or of many classes the commonest pairs."""
    whole = len(names) <= WHOLE
    caption = f"The most confused pairs of {len(names)} classes, {PAIRS} at most"
    pairs = None if whole else grid(CONFUSED, _confused(said, names)[:PAIRS], caption)
    return {"who": _words(key), "part": part, "matrix": _matrix(said, names) if whole else None, "pairs": pairs}


def _model(
    model: str, key: tuple[str, ...], role: str | None, said: pl.DataFrame, names: Sequence[str], images: Images | str
) -> Row:
    """A model as it was trained: confusion, scores of each class, its most confident mistakes."""
    import polars as pl

    wrong = said.filter(pl.col("label") != pl.col("prediction"))
    return {
        "model": model,
        "images": len(said),
        "wrong": len(wrong),
        "confusion": _confusion(key, role or "", said, names),
        "scores": _scores(said, None, names),
        "pictures": _pictures(wrong, names, images, PICTURES),
    }


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def _names(tables: Mapping[str, Any], said: pl.DataFrame) -> list[str]:
    """Of the classes: as the source calls them; numbers where the table does not say."""
    sets = tables["datasets"].lazy().collect().to_dicts() if "datasets" in tables else []
    if sets and sets[0].get("class_names") is not None:
        return list(sets[0]["class_names"])
    most = max(int(said[key].to_numpy().max()) for key in ("label", "prediction")) + 1
    return [str(i) for i in range(sets[0]["classes"] if sets else most)]
