"""The report on mistakes: the right counts, the right pictures, small for many classes, honest where pictures are
gone."""

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


def made(labels: list[int], parent: list[int], winner: list[int], names: list[str], **datasets: Any) -> Tables:
    """Tables of an fp32 form and its int8 form, which won; the first prediction is the most confident."""
    held = range(len(labels))
    rows = factory.rows_of_tables()
    said = [
        {
            "variant": name,
            "runtime": "onnxruntime",
            "device": "cpu",
            "image": 10 + i,
            "label": labels[i],
            "prediction": predictions[i],
            "confidence": 0.9 - i / 10_000,
        }
        for name, predictions in ((PARENT, parent), (WINNER, winner))
        for i in held
    ]
    form = rows["variants"][0]
    forms = [
        form | {"name": "net/train"},
        form | {"name": PARENT, "parent": "net/train"},
        form | {"name": WINNER, "parent": PARENT, "precision": "int8"},
    ]
    which = {
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
    ends = [{"variant": WINNER, "role": "winner", **which}, {"variant": PARENT, **which}]
    sets = [
        rows["datasets"][2] | {"classes": len(names), "class_names": names, "class_rows": [1] * len(names)} | datasets
    ]
    return {
        name: frames.frame(name, found)
        for name, found in (("predictions", said), ("variants", forms), ("summary", ends), ("datasets", sets))
    }


def shown(tables: Tables, images: np.ndarray | str = "no store") -> dict[str, Any]:
    found = mistakes.mistakes(tables, images)
    assert found
    return found


@pytest.fixture(scope="module")
def three() -> Tables:
    """Of eight images the int8 form has two wrong that its parent had right, and one right that it had wrong."""
    labels = [0, 0, 0, 1, 1, 1, 2, 2]
    parent = [0, 0, 0, 1, 1, 2, 0, 2]
    return made(labels, parent, [1, 0, 0, 2, 1, 2, 2, 2], ["ant", "bee", "cat <b>"])


def cells(found: dict[str, Any]) -> list[list[int]]:
    return [[n for n, *_ in row] for _, row in found["matrix"]["rows"]]


def test_the_confusion_matrix_counts_true_by_predicted_of_the_winner_and_its_parent(three: Tables) -> None:
    winner, parent = shown(three)["confusion"]
    assert (winner["part"], parent["part"]) == ("winner", "fp32 parent")
    assert cells(winner) == [[2, 1, 0], [0, 1, 2], [0, 0, 2]]
    assert cells(parent) == [[3, 0, 0], [0, 2, 1], [1, 0, 1]]


def test_classes_come_worst_first_with_what_the_int8_form_lost_and_mended(three: Tables) -> None:
    grid = shown(three)["scores"]
    rows = [[cell.text for cell in row] for *_, row in grid.rows]
    assert [(row[0], row[1], row[6:]) for row in rows] == [
        ("bee", "cat <b> (2)", ["1", "0"]),
        ("cat <b>", "–", ["0", "1"]),
        ("ant", "bee (1)", ["1", "0"]),
    ]
    assert all(cell.below.count("–") == 1 for *_, row in grid.rows for cell in row[3:6])


def test_the_sentence_on_the_parent_counts_both_directions(three: Tables) -> None:
    told = shown(three)["against"]
    assert f"{PARENT} on onnxruntime, cpu, 3 of 8 images changed class: 2 from right to wrong, 1 from wrong" in told
    assert "is no more than chance" in told and "p = 1" in told


def test_a_real_loss_is_told_from_chance() -> None:
    tables = made([0] * 40 + [1], [0] * 40 + [1], [1] * 20 + [0] * 20 + [1], ["a", "b"])
    assert "is more than chance alone would give (exact McNemar test, p = 1.9e-06)" in shown(tables)["against"]


def test_forms_that_agree_are_said_to_agree() -> None:
    assert "every one of 3 images" in shown(made([0, 1, 1], [0, 1, 0], [0, 1, 0], ["a", "b"]))["against"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_those_of_the_rows_most_confident_first_pixel_by_pixel(three: Tables, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, channels), dtype=np.uint8)
    found = shown(three, images)
    assert [p.row for p in found["pictures"]] == [10, 13, 15] and [p.row for p in found["apart"]] == [10, 13]
    assert found["pictures"][0].alternative == "Row 10: ant, taken for bee at confidence 0.900"
    for picture in found["pictures"]:
        data = base64.b64decode(str(picture.source).removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(data))).reshape(8, 8, channels)
        assert np.array_equal(pixels, images[picture.row]) and picture.width == 96


def test_mistakes_are_named_by_their_files_where_the_data_set_has_files(three: Tables) -> None:
    files = pl.format("photos/{}.png", pl.col("image"))
    tables = three | {"predictions": three["predictions"].with_columns(file=files)}
    found = shown(tables, np.zeros((20, 8, 8, 3), np.uint8))
    assert [p.file for p in found["pictures"]] == ["photos/10.png", "photos/13.png", "photos/15.png"]
    assert found["pictures"][0].alternative == "photos/10.png: ant, taken for bee at confidence 0.900"
    words = Page(page_of(tables, factory.study())).words
    assert "photos/13.png" in words and "row 13" not in words
    old = three | {"predictions": three["predictions"].drop("file")}
    assert shown(old)["pictures"][0].file is None, "a run of an older version has no column of files"


def test_large_pictures_are_reduced_and_tiny_ones_enlarged_by_whole_factors() -> None:
    for side, width in ((8, 96), (28, 84), (64, 64), (224, 96)):
        source, shown_at = pictures.encoded(np.zeros((side, side, 3), np.uint8))
        size = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size
        assert size == (min(side, 96),) * 2 and shown_at == width


def test_a_thousand_classes_give_pairs_and_worst_classes_and_a_small_page() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(1000), 3)
    wrong = rng.random(len(labels)) < 0.3
    winner = np.where(wrong, rng.integers(0, 1000, len(labels)), labels)
    winner[:3] = 7
    tables = made(labels.tolist(), labels.tolist(), winner.tolist(), [f"class {i}" for i in range(1000)])
    found = shown(tables)
    pairs = found["confusion"][0]["pairs"]
    assert found["confusion"][0]["matrix"] is None and len(pairs.rows) == mistakes.PAIRS
    assert [cell.text for cell in pairs.rows[0][2]] == ["class 0", "class 7", "3", "1.000"]
    assert len(found["scores"].rows) == mistakes.WORST and "worst 30 of 1000" in found["scores"].caption
    text = page_of(tables, factory.study(), images=np.zeros((3010, 64, 64, 3), np.uint8))
    assert len(text) < 200_000


def test_the_parent_is_the_nearest_fp32_form_that_was_measured_in_the_same_place_if_it_can_be() -> None:
    lineage = (("a", None, "fp32"), ("b", "a", "fp32"), ("c", "b", "fp16"), ("d", "c", "int8"))
    forms = [{"name": name, "parent": parent, "precision": precision} for name, parent, precision in lineage]
    measured = [("a", "eager", "cpu"), ("a", "eager", "cuda:0"), ("a", "onnxruntime", "cuda:0"), ("c", "x", "cpu")]
    find = mistakes._fp32_ancestor
    assert find(("d", "onnxruntime", "cuda:0"), forms, measured) == ("a", "onnxruntime", "cuda:0")
    assert find(("d", "onnxruntime", "cpu"), forms, measured) == ("a", "eager", "cpu")
    assert find(("a", "eager", "cpu"), forms, measured) is None


def test_without_a_winner_the_reference_is_shown(three: Tables) -> None:
    role = pl.when(pl.col("variant") == PARENT).then(pl.lit("reference"))
    found = shown(three | {"summary": three["summary"].with_columns(role=role)})
    assert found["part"] == "reference" and found["wrong"] == 2 and found["against"] is None


def test_every_model_as_trained_has_its_confusion_scores_and_pictures_folded() -> None:
    """Two models: the int8 form of the first won; both are shown as they were trained, the pruned form is not."""
    labels, names = [0, 0, 1, 1], ["ant", "bee"]
    said = {
        ("net/train/onnx/int8", "onnxruntime"): [0, 0, 1, 0],
        ("net/train", "eager"): [0, 0, 1, 1],
        ("other/tune", "eager"): [1, 0, 0, 0],
        ("other/tune/prune-0.5", "eager"): [1, 1, 1, 1],
    }
    predictions, ends = [], []
    for (name, runtime), found in said.items():
        place = {"variant": name, "runtime": runtime, "device": "cpu"}
        predictions += [
            place | {"image": i, "label": labels[i], "prediction": p, "confidence": 0.9 - i / 10}
            for i, p in enumerate(found)
        ]
        stage = "prune" if "prune" in name else name.split("/")[1] if runtime == "eager" else "quantize"
        ends.append(
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
    ends[0]["role"], ends[1]["role"] = "winner", "reference"
    tables = made(labels, labels, labels, names)
    tables |= {"predictions": frames.frame("predictions", predictions), "summary": frames.frame("summary", ends)}
    images = np.zeros((4, 8, 8, 1), np.uint8)
    found = shown(tables, images)
    net, other = found["models"]
    assert (net["model"], net["wrong"], net["confusion"]["part"]) == ("net", 0, "reference")
    assert (other["model"], other["wrong"], other["images"]) == ("other", 3, 4)
    assert cells(other["confusion"]) == [[1, 1], [2, 0]]
    assert [cell.text for cell in other["scores"].rows[0][2]][:2] == ["bee", "ant (2)"]
    assert [p.row for p in other["pictures"]] == [0, 2, 3]
    assert [c["who"] for c in found["confusion"]] == ["net/train/onnx/int8 on onnxruntime, cpu"], "none is shown twice"
    page = Page(page_of(tables, factory.study(), images=images))
    assert "other/tune on eager, cpu: 3 of 4 images wrong" in page.words
    folded = [found for tag, found in page.tags if tag == "details"]
    assert [("open" in one) for one in folded] == [True, False, False], "the winner's alone is open"


# ---------------------------------------------------------------------------------------------- where pictures are not


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, pl.DataFrame]:
    """A store with images, and the table that names them."""
    store = Store(tmp_path / "store")
    with store.temporary() as folder:
        np.save(folder / "images.npy", np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1))
        file = store.put(folder / "images.npy", "npy")
    named = {"images_path": file.path, "images_sha256": file.sha256, "images_size_bytes": file.size_bytes}
    return tmp_path, made([0], [0], [0], ["a", "b"], **named)["datasets"]


def test_images_are_found_by_what_the_table_says(stored: tuple[Path, pl.DataFrame]) -> None:
    images = pictures.load_images(*stored)
    assert not isinstance(images, str) and images.shape == (2, 2, 2, 1)


def test_images_that_are_gone_or_were_never_named_are_a_reason_not_a_failure(
    stored: tuple[Path, pl.DataFrame],
) -> None:
    out, sets = stored
    old = sets.drop("class_names", "images_path", "images_sha256", "images_size_bytes")
    assert "older version" in str(pictures.load_images(out, old))
    assert "datasets is not there" in str(pictures.load_images(out, None))
    file = next((out / "store").rglob("*.npy"))
    file.write_bytes(b"other bytes")
    assert "has changed" in str(pictures.load_images(out, sets))
    file.unlink()
    assert "is gone" in str(pictures.load_images(out, sets))


def test_a_page_without_pictures_lists_the_mistakes_and_says_why(three: Tables) -> None:
    text = page_of(three, factory.study(), images="images.npy is gone")
    words = " ".join(Page(text).words.split())
    assert "without their pictures: images.npy is gone" in words and "<img" not in text
    assert "confidence 0.900" in words and "row 10" in words


def test_an_old_tables_classes_are_numbers(three: Tables) -> None:
    old = three | {"datasets": three["datasets"].drop("class_names")}
    assert shown(old)["confusion"][0]["matrix"]["names"] == ["0", "1", "2"]
    del old["datasets"]
    assert shown(old)["confusion"][0]["matrix"]["names"] == ["0", "1", "2"]


def test_every_picture_has_a_text_alternative_and_class_names_are_never_markup(three: Tables) -> None:
    text = page_of(three, factory.study(), images=np.zeros((20, 8, 8, 3), np.uint8))
    pictures = [found for tag, found in Page(text).tags if tag == "img"]
    assert len(pictures) == 5 and all("taken for" in str(found["alt"]) for found in pictures)
    assert "cat <b>" not in text and "cat &lt;b&gt;" in text


def test_the_section_is_left_out_without_predictions_and_they_are_said_to_be_missing(three: Tables) -> None:
    left = {name: table for name, table in three.items() if name != "predictions"}
    text = page_of(left, factory.study())
    assert 'id="mistakes"' not in text and re.search(r"Not published:</b>[^<]*predictions", text)
