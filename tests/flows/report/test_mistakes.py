"""The report's section on wrongly classified images: its counts, its pictures, and what it says without pictures."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from flows.report import mistakes, pictures
from tasks.caching.store import Store
from tasks.tables import frames
from tests.support import factory
from tests.support.reports import Page, page_of

if TYPE_CHECKING:
    from pathlib import Path

Tables = dict[str, pl.DataFrame]
PARENT, WINNER = "net/train/onnx", "net/train/onnx/int8-u8s8"


def tables_of(labels: list[int], parent: list[int], winner: list[int], names: list[str], **datasets: Any) -> Tables:
    """Return the tables of an fp32 form and its int8 form, which won; the first prediction is the most confident."""
    images = range(len(labels))
    rows = factory.rows_of_tables()
    predictions = [
        {
            "variant": name,
            "runtime": "onnxruntime",
            "device": "cpu",
            "image": 10 + i,
            "label": labels[i],
            "prediction": classes[i],
            "confidence": 0.9 - i / 10_000,
        }
        for name, classes in ((PARENT, parent), (WINNER, winner))
        for i in images
    ]
    row = rows["variants"][0]
    variants = [
        row | {"name": "net/train"},
        row | {"name": PARENT, "parent": "net/train"},
        row | {"name": WINNER, "parent": PARENT, "precision": "int8"},
    ]
    measurement = {
        "runtime": "onnxruntime",
        "device": "cpu",
        "batch_size": 1,
        "status": "ok",
        "latency_median_ms": 1.0,
        "images_per_second": 1000.0,
        "top1": 0.9,
        "size_bytes": 1000,
        "pareto": True,
    }
    candidates = [{"variant": WINNER, "role": "winner", **measurement}, {"variant": PARENT, **measurement}]
    dataset = [
        rows["datasets"][2] | {"classes": len(names), "class_names": names, "class_rows": [1] * len(names)} | datasets
    ]
    return {
        name: frames.frame(name, table_rows)
        for name, table_rows in (
            ("predictions", predictions),
            ("variants", variants),
            ("summary", candidates),
            ("datasets", dataset),
        )
    }


def section_of(tables: Tables, images: np.ndarray | str = "no store") -> dict[str, Any]:
    section = mistakes.mistakes(tables, images)
    assert section
    return section


@pytest.fixture(scope="module")
def three_classes() -> Tables:
    """Eight images: the int8 form has two wrong that its parent had right, and one right that its parent had wrong."""
    labels = [0, 0, 0, 1, 1, 1, 2, 2]
    parent = [0, 0, 0, 1, 1, 2, 0, 2]
    return tables_of(labels, parent, [1, 0, 0, 2, 1, 2, 2, 2], ["ant", "bee", "cat <b>"])


def counts(confusion: dict[str, Any]) -> list[list[int]]:
    """Return the counts of a confusion matrix, one row per true class."""
    return [[n for n, *_ in row] for _, row in confusion["matrix"]["rows"]]


def test_winner_and_parent_have_confusion_matrices_with_one_row_per_true_class(three_classes: Tables) -> None:
    winner, parent = section_of(three_classes)["confusion"]
    assert (winner["part"], parent["part"]) == ("winner", "fp32 parent")
    assert counts(winner) == [[2, 1, 0], [0, 1, 2], [0, 0, 2]]
    assert counts(parent) == [[3, 0, 0], [0, 2, 1], [1, 0, 1]]


def test_classes_are_listed_worst_first_with_what_the_int8_form_lost_and_mended(three_classes: Tables) -> None:
    grid = section_of(three_classes)["scores"]
    rows = [[cell.text for cell in row] for *_, row in grid.rows]
    assert [(row[0], row[1], row[6:]) for row in rows] == [
        ("bee", "cat <b> (2)", ["1", "0"]),
        ("cat <b>", "–", ["0", "1"]),
        ("ant", "bee (1)", ["1", "0"]),
    ]
    assert all(cell.below.count("–") == 1 for *_, row in grid.rows for cell in row[3:6])


def test_the_comparison_with_the_parent_counts_changes_in_both_directions(three_classes: Tables) -> None:
    sentence = section_of(three_classes)["against"]
    assert f"{PARENT} on onnxruntime, cpu, 3 of 8 images changed class: 2 from right to wrong, 1 from wrong" in sentence
    assert "is no more than chance" in sentence and "p = 1" in sentence


def test_a_loss_too_large_for_chance_is_called_more_than_chance() -> None:
    tables = tables_of([0] * 40 + [1], [0] * 40 + [1], [1] * 20 + [0] * 20 + [1], ["a", "b"])
    assert "is more than chance alone would give (exact McNemar test, p = 1.9e-06)" in section_of(tables)["against"]


def test_a_winner_with_its_parents_predictions_is_said_to_agree_on_every_image() -> None:
    assert "every one of 3 images" in section_of(tables_of([0, 1, 1], [0, 1, 0], [0, 1, 0], ["a", "b"]))["against"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_show_the_wrong_rows_pixel_by_pixel_the_most_confident_first(
    three_classes: Tables, channels: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, channels), dtype=np.uint8)
    section = section_of(three_classes, images)
    assert [p.row for p in section["pictures"]] == [10, 13, 15] and [p.row for p in section["apart"]] == [10, 13]
    assert section["pictures"][0].alternative == "Row 10: ant, taken for bee at confidence 0.900"
    for picture in section["pictures"]:
        data = base64.b64decode(str(picture.source).removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(data))).reshape(8, 8, channels)
        assert np.array_equal(pixels, images[picture.row]) and picture.width == 96


def test_mistakes_are_named_by_their_files_where_the_data_set_has_files(three_classes: Tables) -> None:
    files = pl.format("photos/{}.png", pl.col("image"))
    tables = three_classes | {"predictions": three_classes["predictions"].with_columns(file=files)}
    section = section_of(tables, np.zeros((20, 8, 8, 3), np.uint8))
    assert [p.file for p in section["pictures"]] == ["photos/10.png", "photos/13.png", "photos/15.png"]
    assert section["pictures"][0].alternative == "photos/10.png: ant, taken for bee at confidence 0.900"
    words = Page(page_of(tables, factory.study())).words
    assert "photos/13.png" in words and "row 13" not in words
    old = three_classes | {"predictions": three_classes["predictions"].drop("file")}
    assert section_of(old)["pictures"][0].file is None, "a run of an older version has no column of files"


def test_large_pictures_are_reduced_and_tiny_ones_enlarged_by_whole_factors() -> None:
    for side, width in ((8, 96), (28, 84), (64, 64), (224, 96)):
        source, shown_at = pictures.encoded(np.zeros((side, side, 3), np.uint8))
        size = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size
        assert size == (min(side, 96),) * 2 and shown_at == width


def test_a_thousand_classes_give_a_small_page_of_confused_pairs_and_worst_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(1000), 3)
    wrong = rng.random(len(labels)) < 0.3
    winner = np.where(wrong, rng.integers(0, 1000, len(labels)), labels)
    winner[:3] = 7
    tables = tables_of(labels.tolist(), labels.tolist(), winner.tolist(), [f"class {i}" for i in range(1000)])
    section = section_of(tables)
    pairs = section["confusion"][0]["pairs"]
    assert section["confusion"][0]["matrix"] is None and len(pairs.rows) == mistakes.PAIRS
    assert [cell.text for cell in pairs.rows[0][2]] == ["class 0", "class 7", "3", "1.000"]
    assert len(section["scores"].rows) == mistakes.WORST and "worst 30 of 1000" in section["scores"].caption
    text = page_of(tables, factory.study(), images=np.zeros((3010, 64, 64, 3), np.uint8))
    assert len(text) < 200_000


def test_the_parent_is_the_nearest_measured_fp32_form_preferably_in_the_same_runtime() -> None:
    lineage = (("a", None, "fp32"), ("b", "a", "fp32"), ("c", "b", "fp16"), ("d", "c", "int8"))
    forms = [{"name": name, "parent": parent, "precision": precision} for name, parent, precision in lineage]
    measured = [("a", "eager", "cpu"), ("a", "eager", "cuda:0"), ("a", "onnxruntime", "cuda:0"), ("c", "x", "cpu")]
    find = mistakes._fp32_ancestor
    assert find(("d", "onnxruntime", "cuda:0"), forms, measured) == ("a", "onnxruntime", "cuda:0")
    assert find(("d", "onnxruntime", "cpu"), forms, measured) == ("a", "eager", "cpu")
    assert find(("a", "eager", "cpu"), forms, measured) is None


def test_without_a_winner_the_reference_is_shown(three_classes: Tables) -> None:
    role = pl.when(pl.col("variant") == PARENT).then(pl.lit("reference"))
    section = section_of(three_classes | {"summary": three_classes["summary"].with_columns(role=role)})
    assert section["part"] == "reference" and section["wrong"] == 2 and section["against"] is None


def test_each_model_as_trained_has_a_folded_part_of_its_own() -> None:
    """The int8 form of the first of two models won. Both models are shown as they were trained, a pruned one is not."""
    labels, names = [0, 0, 1, 1], ["ant", "bee"]
    predicted = {
        ("net/train/onnx/int8", "onnxruntime"): [0, 0, 1, 0],
        ("net/train", "eager"): [0, 0, 1, 1],
        ("other/tune", "eager"): [1, 0, 0, 0],
        ("other/tune/prune-0.5", "eager"): [1, 1, 1, 1],
    }
    predictions, candidates = [], []
    for (name, runtime), classes in predicted.items():
        place = {"variant": name, "runtime": runtime, "device": "cpu"}
        predictions += [
            place | {"image": i, "label": labels[i], "prediction": p, "confidence": 0.9 - i / 10}
            for i, p in enumerate(classes)
        ]
        stage = "prune" if "prune" in name else name.split("/")[1] if runtime == "eager" else "quantize"
        candidates.append(
            place
            | {
                "model": name.split("/")[0],
                "batch_size": 1,
                "stage": stage,
                "top1": 0.5,
                "status": "ok",
                "latency_median_ms": 1.0,
                "images_per_second": 1000.0,
                "size_bytes": 1000,
                "pareto": True,
                "precision": "int8" if "int8" in name else "fp32",
            }
        )
    candidates[0]["role"], candidates[1]["role"] = "winner", "reference"
    tables = tables_of(labels, labels, labels, names)
    tables |= {"predictions": frames.frame("predictions", predictions), "summary": frames.frame("summary", candidates)}
    images = np.zeros((4, 8, 8, 1), np.uint8)
    section = section_of(tables, images)
    net, other = section["models"]
    assert (net["model"], net["wrong"], net["confusion"]["part"]) == ("net", 0, "reference")
    assert (other["model"], other["wrong"], other["images"]) == ("other", 3, 4)
    assert counts(other["confusion"]) == [[1, 1], [2, 0]]
    assert [cell.text for cell in other["scores"].rows[0][2]][:2] == ["bee", "ant (2)"]
    assert [p.row for p in other["pictures"]] == [0, 2, 3]
    assert [c["who"] for c in section["confusion"]] == ["net/train/onnx/int8 on onnxruntime, cpu"], (
        "the reference stands among the models, and not here too"
    )
    page = Page(page_of(tables, factory.study(), images=images))
    assert "other/tune on eager, cpu: 3 of 4 images wrong" in page.words
    folded = [attributes for tag, attributes in page.tags if tag == "details"]
    assert [("open" in attributes) for attributes in folded] == [True, False, False], "only the winner's part is open"


# ------------------------------------------------------------------------------------------ pictures that are missing


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, pl.DataFrame]:
    """An artifacts folder with stored images, and the table `datasets` that names them."""
    store = Store(tmp_path / "store")
    with store.temporary() as folder:
        np.save(folder / "images.npy", np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1))
        file = store.put(folder / "images.npy", "npy")
    image_columns = {"images_path": file.path, "images_sha256": file.sha256, "images_size_bytes": file.size_bytes}
    return tmp_path, tables_of([0], [0], [0], ["a", "b"], **image_columns)["datasets"]


def test_images_are_loaded_from_the_file_that_the_table_datasets_names(stored: tuple[Path, pl.DataFrame]) -> None:
    images = pictures.load_images(*stored)
    assert not isinstance(images, str) and images.shape == (2, 2, 2, 1)


def test_images_that_cannot_be_loaded_give_a_reason_and_no_failure(stored: tuple[Path, pl.DataFrame]) -> None:
    out, datasets = stored
    old = datasets.drop("class_names", "images_path", "images_sha256", "images_size_bytes")
    assert "older version" in str(pictures.load_images(out, old))
    assert "datasets is not there" in str(pictures.load_images(out, None))
    file = next((out / "store").rglob("*.npy"))
    file.write_bytes(b"other bytes")
    assert "has changed" in str(pictures.load_images(out, datasets))
    file.unlink()
    assert "is gone" in str(pictures.load_images(out, datasets))


def test_a_page_without_pictures_lists_the_mistakes_and_says_why(three_classes: Tables) -> None:
    text = page_of(three_classes, factory.study(), images="images.npy is gone")
    words = " ".join(Page(text).words.split())
    assert "without their pictures: images.npy is gone" in words and "<img" not in text
    assert "confidence 0.900" in words and "row 10" in words


def test_classes_are_numbered_when_no_table_has_their_names(three_classes: Tables) -> None:
    old = three_classes | {"datasets": three_classes["datasets"].drop("class_names")}
    assert section_of(old)["confusion"][0]["matrix"]["names"] == ["0", "1", "2"]
    del old["datasets"]
    assert section_of(old)["confusion"][0]["matrix"]["names"] == ["0", "1", "2"]


def test_every_picture_has_a_text_alternative_and_class_names_are_never_markup(three_classes: Tables) -> None:
    text = page_of(three_classes, factory.study(), images=np.zeros((20, 8, 8, 3), np.uint8))
    pictures = [attributes for tag, attributes in Page(text).tags if tag == "img"]
    assert len(pictures) == 5 and all("taken for" in str(attributes["alt"]) for attributes in pictures)
    assert "cat <b>" not in text and "cat &lt;b&gt;" in text


def test_without_predictions_the_section_is_left_out_and_named_as_not_published(three_classes: Tables) -> None:
    others = {name: table for name, table in three_classes.items() if name != "predictions"}
    text = page_of(others, factory.study())
    assert 'id="mistakes"' not in text and re.search(r"Not published:</b>[^<]*predictions", text)
