"""`make compare-peers`: what burnish and its peers make of one file, kept for the next comparison, and measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from compare import answer, comparison, entries, kept, measure
from compare.models import Given
from flows.commands.arguments import parser
from flows.commands.optimize import study_of
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.records import Data, Variant
from tasks.tables import frames
from tests.support.models import network
from tests.support.photos import photos

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGES = Data(source="parquet", path="photos", test_limit=10, mean=(0.5,), std=(0.25,), validation_fraction=0.5)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path)


@pytest.fixture
def given(work: Work) -> Given:
    """A small network for five classes, with ten images each for calibration, validation and test."""
    onnx.save(network(), work.scratch / "given.onnx")
    variant = Variant(
        name="lenet5/onnx",
        model="lenet5",
        stage="export",
        format="onnx",
        artifact=work.store.put(work.scratch / "given.onnx", "onnx"),
    )
    data = photos(work, size=8, classes=5)
    return Given(title="small", variant=variant, images=IMAGES, data=data, calibration_images=10)


def finished_run(folder: Path, run: str, roles: dict[str, str | None]) -> None:
    """Leave in a folder of artifacts what a run leaves that has a row with each of the roles, by variant."""
    (folder / "small.onnx").write_bytes(b"model")
    artifact = Store(folder / "store").put(folder / "small.onnx", "onnx")
    stored = artifact.model_dump(include={"path", "sha256", "size_bytes", "format"})
    common = {"model": "small", "stage": "choose", "precision": "int8", "status": "ok"}
    rows = {
        "variants": [{**common, **stored, "name": name, "benchmark": True} for name in roles],
        "summary": [
            {**common, "variant": name, "role": role, "runtime": "openvino", "device": "cpu", "batch_size": 1}
            for name, role in roles.items()
        ],
    }
    for table, of_table in rows.items():
        (folder / "tables" / table).mkdir(parents=True, exist_ok=True)
        frames.frame(table, of_table).write_parquet(folder / "tables" / table / f"{run}.parquet")
    (folder / "runs" / run).mkdir(parents=True)
    for name in ("study.toml", "result.json"):
        (folder / "runs" / run / name).write_text("")


@pytest.mark.parametrize("role", ["winner", "provisional"])
def test_burnishs_entry_is_the_last_answer_of_the_newest_run(tmp_path: Path, role: str) -> None:
    finished_run(tmp_path, "optimize-20260101-000000", {"small/given/first": "winner"})
    roles = {"small/given": "reference", "small/given/search-3": role, "small/given/first": None}
    finished_run(tmp_path, "optimize-20260102-000000", roles)
    entry = answer.answer(tmp_path, ("--minutes", "5"), 7.0)
    assert (entry.name, entry.runtimes, entry.error) == ("burnish/given-search-3", ("openvino",), None)
    assert entry.settings == f"the {role} of `burnish optimize --minutes 5`"
    assert entry.path is not None
    assert entry.path.read_bytes() == b"model"


def test_where_no_form_may_win_burnish_has_no_entry(tmp_path: Path) -> None:
    finished_run(tmp_path, "optimize-20260101-000000", {"small/given": "reference", "small/given/first": None})
    entry = answer.answer(tmp_path, (), 7.0)
    assert entry.path is None
    assert "no form is accurate enough" in str(entry.error)


def test_burnish_splits_the_images_as_the_comparison_and_searches_once(
    work: Work, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def optimize(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(list(command))
        finished_run(Path(command[-1]), "optimize-20260101-000000", {"small/given/first": "winner"})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", optimize)
    found = [answer.burnish(work, given, ("--minutes", "5"), tmp_path / "burnish") for _ in range(2)]
    assert found[0] == found[1]
    assert len(commands) == 1
    assert commands[0][1:3] == ["-m", "flows"]
    study = study_of(parser().parse_args(commands[0][3:]))
    assert study.data == IMAGES
    assert [model.label for model in study.models] == [given.variant.model]
    assert (study.search.minutes, study.select.max_drop) == (5, answer.MAX_DROP)
    assert study.quantize.calibration_images == given.calibration_images
    answer.burnish(work, given, ("--minutes", "6"), tmp_path / "burnish")
    assert len(commands) == 2


def test_an_interrupted_peer_makes_only_what_it_has_not_made_and_forms_are_measured_on_the_same_images(
    work: Work, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime is the peer that burnish's own environment has."""
    monkeypatch.setattr(entries, "PYTHON", sys.executable)
    monkeypatch.setattr(entries, "PEERS", ("onnxruntime",))
    forms, versions = entries.of_peers(work, given, tmp_path / "peers")
    assert "onnxruntime" in versions
    made = {form.name: form.path for form in forms if form.path}
    per_channel = made["onnxruntime/static-per-channel"]
    static = made["onnxruntime/static"]
    before = static.stat().st_mtime_ns
    # The second of the forms is left as an interruption leaves it: unfinished.
    (per_channel.parent / "form.json").unlink()
    per_channel.write_bytes(b"half")
    again, _ = entries.of_peers(work, given, tmp_path / "peers")
    assert [form.name for form in again] == [form.name for form in forms]
    assert static.stat().st_mtime_ns == before
    onnx.checker.check_model(str(per_channel))

    one_runtime = [
        entries.Entry(name=name, settings="made up", runtimes=("onnxruntime",), path=path)
        for name, path in (("given", entries.given_file(work, given)), ("onnxruntime/static", static))
    ]
    rows = measure.measure(work, given, one_runtime, comparison.SMOKE)
    comparison.relate(rows, comparison.SMOKE)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert len(rows[1]["right"]) == given.data.test_rows
    assert rows[1]["fp32_drop"] == pytest.approx(rows[0]["top1"] - rows[1]["top1"])
    assert rows[1]["fp32_ratio"] > 0


def test_what_was_made_for_other_causes_is_removed(tmp_path: Path) -> None:
    first = kept.folder_of(tmp_path / "place", "a", "b")
    assert kept.folder_of(tmp_path / "place", "a", "b") == first
    second = kept.folder_of(tmp_path / "place", "ab", "")
    assert second != first
    assert not first.exists()
