"""A profile has a certificate; a profile taken on a busy machine is marked, and the report leaves it out."""

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
def onnx_file(tmp_path: Path) -> Path:
    graph = Graph()
    for name in ("first", "second"):
        graph.conv(name, 16, 16)
    return graph.save(tmp_path / "model.onnx")


def profile_of(onnx_file: Path, folder: Path, queries: int = 20) -> Profile:
    return profile(onnx_file, "onnx", "onnxruntime", "cpu", 1, INPUTS, folder, queries=queries)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep every core busy with three other processes per core."""
    count = 3 * len(machine.affinity())
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_profile_and_its_text_have_the_certificate_of_its_measurement(onnx_file: Path, tmp_path: Path) -> None:
    result = profile_of(onnx_file, tmp_path / "p")
    assert result.certificate["cpu_model"] == machine.cpu()[0]
    assert 0 <= result.certificate["foreign_cpu"] <= 1
    assert "other processes used" in certificate(result)
    assert f"certificate: {certificate(result)}" in text(result, 400)
    stored_profile = read(tmp_path / "p")
    assert (stored_profile.certificate, stored_profile.conditions) == (result.certificate, result.conditions)


def test_a_profile_of_a_busy_machine_is_marked(onnx_file: Path, tmp_path: Path) -> None:
    with busy_machine():
        result = profile_of(onnx_file, tmp_path / "p")
    assert result.conditions
    assert "other processes used" in result.conditions
    assert not result.trusted
    assert f"disturbed: {result.conditions}" in text(result, 400)


def test_a_disturbed_profile_is_kept_beside_a_good_one_and_left_out_of_the_report(
    onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["profile", str(onnx_file), "--out", str(tmp_path), "--threads", "1"]
    folder = tmp_path / "profiles" / "model-onnxruntime"
    # The first profile has no conditions, as on a quiet machine.
    with monkeypatch.context() as patched:
        patched.setattr("tasks.profiling.profile._conditions", lambda certificate, stable: None)
        assert cli.main(command) == 0
    good_profile = (folder / "profile.json").read_text()
    with busy_machine():
        assert cli.main(command) == 0
    assert (folder / "profile.json").read_text() == good_profile
    disturbed = json.loads((folder.with_name("model-onnxruntime-disturbed") / "profile.json").read_text())
    assert "other processes used" in disturbed["conditions"]
    shown, left_out = profiles(tmp_path)
    assert shown["operators"]
    assert left_out["doubt"] == f"{disturbed['conditions']}; profile it again when the machine is quiet"
    with monkeypatch.context() as patched:
        patched.setattr("tasks.profiling.profile._conditions", lambda certificate, stable: None)
        assert cli.main(command) == 0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "a good profile replaces both"
    assert "disturbed: " in capsys.readouterr().out


def test_a_profile_of_two_queries_has_no_shares(
    onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["profile", str(onnx_file), "--out", str(tmp_path), "--threads", "1", "--queries", "2"]) == 0
    printed = capsys.readouterr().out
    assert "too few queries to say where the time goes" in printed
    sentences = "2 queries were recorded, of which the calmest quarter counts, here 1; the operators' shares need 5"
    assert sentences in " ".join(printed.split())
    assert "share " not in printed
    assert "ms per query\n" in printed
    folder = tmp_path / "profiles" / "model-onnxruntime"
    operators = pl.read_parquet(folder / "operators.parquet")
    assert operators["share"].null_count() == len(operators) >= 2
    assert not list(folder.glob("*.svg"))
    (left_out,) = profiles(tmp_path)
    assert left_out["doubt"] == "too few queries"


def test_a_model_file_that_cannot_be_opened_is_an_error_of_one_line_with_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    graph = Graph()
    graph.conv("conv", 16, 16)
    model = onnx.load(graph.save(tmp_path / "model.onnx"))
    model.ir_version = 99
    onnx.save(model, tmp_path / "model.onnx")
    assert cli.main(["profile", str(tmp_path / "model.onnx"), "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert printed.endswith("Unsupported model IR version: 99, max supported IR version: 13\n")
    assert printed.startswith("burnish: model.onnx cannot be opened: ")
    assert printed.count("\n") == 1
    assert not list((tmp_path / "profiles").iterdir())
