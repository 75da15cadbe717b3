"""A profile comes with its certificate; one of a busy machine is marked and does not enter the report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from flows import cli
from flows.report.profiles import profiles
from flows.terminal.profile_text import certificate, text
from tasks import machine
from tasks.profiling.profile import Profile, profile, read
from tests.support.graphs import Graph

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUTS = np.random.default_rng(0).standard_normal((1, 16, 32, 32), np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    graph = Graph()
    for name in ("first", "second"):
        graph.conv(name, 16, 16)
    return graph.save(tmp_path / "model.onnx")


def made(file: Path, folder: Path, queries: int = 20) -> Profile:
    return profile(file, "onnx", "onnxruntime", "cpu", 1, INPUTS, folder, queries=queries)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Other processes that use every core, three to each."""
    count = 3 * len(machine.affinity())
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_profile_has_the_certificate_of_its_time(file: Path, tmp_path: Path) -> None:
    result = made(file, tmp_path / "p")
    assert result.certificate["cpu_model"] == machine.cpu()[0]
    assert 0 <= result.certificate["foreign_cpu"] <= 1
    assert "other processes used" in certificate(result)
    assert f"certificate: {certificate(result)}" in text(result, 400)
    kept = read(tmp_path / "p")
    assert (kept.certificate, kept.conditions) == (result.certificate, result.conditions)


def test_a_profile_of_a_busy_machine_is_marked(file: Path, tmp_path: Path) -> None:
    with busy_machine():
        result = made(file, tmp_path / "p")
    assert result.conditions
    assert "other processes used" in result.conditions
    assert not result.trusted
    assert f"disturbed: {result.conditions}" in text(result, 400)


def test_a_disturbed_profile_is_kept_beside_a_good_one_and_is_not_in_the_report(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["profile", str(file), "--out", str(tmp_path), "--threads", "1"]
    folder = tmp_path / "profiles" / "model-onnxruntime"
    # as on a quiet machine
    with monkeypatch.context() as patched:
        patched.setattr("tasks.profiling.profile._conditions", lambda certificate, stable: None)
        assert cli.main(command) == 0
    good = (folder / "profile.json").read_text()
    with busy_machine():
        assert cli.main(command) == 0
    assert (folder / "profile.json").read_text() == good
    disturbed = json.loads((folder.with_name("model-onnxruntime-disturbed") / "profile.json").read_text())
    assert "other processes used" in disturbed["conditions"]
    shown, left_out = profiles(tmp_path)
    assert shown["operators"]
    assert left_out["doubt"] == f"{disturbed['conditions']}; profile it again when the machine is quiet"
    with monkeypatch.context() as patched:
        patched.setattr("tasks.profiling.profile._conditions", lambda certificate, stable: None)
        assert cli.main(command) == 0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "a good one replaces both"
    assert "disturbed: " in capsys.readouterr().out


def test_two_queries_have_no_shares(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", str(file), "--out", str(tmp_path), "--threads", "1", "--queries", "2"]) == 0
    told = capsys.readouterr().out
    assert "too few queries to say where the time goes" in told
    assert "2 queries were recorded, of which the calmest quarter counts, here 1; the operators' shares need 5" in told
    assert "share " not in told
    assert "ms per query\n" in told
    folder = tmp_path / "profiles" / "model-onnxruntime"
    operators = pl.read_parquet(folder / "operators.parquet")
    assert operators["share"].null_count() == len(operators) >= 2
    assert not list(folder.glob("*.svg"))
    (left_out,) = profiles(tmp_path)
    assert left_out["doubt"] == "too few queries"


def test_what_cannot_be_opened_or_run_is_one_line_with_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    graph = Graph()
    graph.conv("conv", 16, 16)
    model = onnx.load(graph.save(tmp_path / "model.onnx"))
    model.ir_version = 99
    onnx.save(model, tmp_path / "model.onnx")
    assert cli.main(["profile", str(tmp_path / "model.onnx"), "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.endswith("Unsupported model IR version: 99, max supported IR version: 13\n")
    assert told.startswith("burnish: model.onnx cannot be opened: ")
    assert told.count("\n") == 1
    assert not list((tmp_path / "profiles").iterdir())
