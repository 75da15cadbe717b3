"""`burnish bench`: one's own files, measured, compared, and what is wrong with others."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from flows.cli import main
from tasks.candidates.process import Worker
from tasks.measure.intervals import compare, turns
from tasks.tables import frames

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone
QUICK = ("--rounds", "3", "--seconds", "0.3")


def null(path: Path, milliseconds: list[float]) -> Path:
    """A model that takes so long, query by query."""
    path.write_text(json.dumps({"milliseconds": milliseconds, "classes": 2}))
    return path


def lognormal(mean: float, sigma: float, count: int = 1000) -> list[float]:
    """A distribution's quantiles in an order without a pattern: together they have just its percentiles."""
    from scipy import stats

    ms = mean * np.exp(sigma * stats.norm.ppf((np.arange(count) + 0.5) / count))
    return np.random.default_rng(0).permutation(ms).tolist()


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["bench", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_programmed_distribution_is_recovered_within_one_percent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programmed = lognormal(2.0, 0.2)
    expected = {
        "mean": np.mean(programmed),
        "median": np.median(programmed),
        "p90": np.quantile(programmed, 0.9),
        "p99": np.quantile(programmed, 0.99),
    }
    file, off = null(tmp_path / "a", programmed), {}
    # other work on this machine is really in the figures; a method that is wrong never gets there
    for _ in range(12):
        (row,) = bench(capsys, file, "--rounds", 2, "--seconds", 8, "--out", tmp_path)["benchmarks"]
        off = {name: row[f"latency_{name}_ms"] / value - 1 for name, value in expected.items()}
        if max(map(abs, off.values())) <= 0.01:
            break
    assert max(map(abs, off.values())) <= 0.01, off
    for name, value in expected.items():
        assert row[f"latency_{name}_low_ms"] <= value * 1.005
        assert row[f"latency_{name}_high_ms"] >= value * 0.995


def test_the_same_file_twice_is_indistinguishable_and_a_slower_one_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, slow = null(tmp_path / "a", lognormal(1.0, 0.05)), null(tmp_path / "slow", lognormal(1.1, 0.05))

    def rightly_told() -> bool:
        told = bench(capsys, a, a, slow, "--rounds", 5, "--seconds", 1, "--out", tmp_path)["comparisons"]
        assert [row["candidate"] for row in told] == ["a #2 · null", "slow · null"]
        assert told[1]["verdict"] == "slower"
        assert told[1]["ratio"] == pytest.approx(1 / 1.1, rel=0.02)
        return told[0]["verdict"] == "indistinguishable" and told[1]["low"] <= 1 / 1.1 <= told[1]["high"]

    # At 99 % confidence one verdict or interval in a hundred is rightly wrong; two in a row are a fault.
    assert rightly_told() or rightly_told()


def test_throughput_and_batch_sizes_are_measured_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = null(tmp_path / "a", [2.0])
    told = bench(capsys, file, *QUICK, "--batch", "1,8", "--throughput", "--threads", 2, "--out", tmp_path)
    assert [row["batch_size"] for row in told["benchmarks"]] == [1, 8]
    for row in told["throughputs"]:
        assert row["slots"] == 2
        assert row["images_per_second"] <= 1.01 * 2 * row["batch_size"] / 0.002


def test_tables_are_left_behind_with_every_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(null(tmp_path / "a", [1.0])), *QUICK, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "out" / "bench").iterdir()
    assert f"tables: {folder}" in printed
    samples = pl.read_parquet(folder / "latencies.parquet")
    assert samples.schema == frames.frame("latencies", []).schema
    (row,) = pl.read_parquet(folder / "benchmarks.parquet").to_dicts()
    assert len(samples) == row["queries"] >= 3 * 22
    assert row["processes"] == 3
    assert pl.read_parquet(folder / "certificates.parquet")["process"].to_list() == [1, 2, 3]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench"]


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = null(tmp_path / "a", [1.0])
    (tmp_path / "text").write_text("no model")
    for arguments, words in (
        ((tmp_path / "absent",), "no such file"),
        ((tmp_path / "text",), "is not a model"),
        (
            (file, "--runtime", "tensorflow"),
            "--runtime: unknown runtime 'tensorflow'; did you mean tensorrt? accepted: eager",
        ),
        ((file, "--runtime", "onnxruntime"), "none of onnxruntime executes null; accepted: null"),
        ((file, "--device", "cuda:0"), "cuda:0"),
        ((file, "--device", "gpu"), "--device: unknown device 'gpu'; accepted: auto, cpu, cuda:0"),
        ((file, "--input-shape", "3,8,8"), "does not fit its input, 1"),
    ):
        assert main(["bench", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1
    for wrong in (("--batch", "0"), ("--batch", "a"), ("--seconds", "-1"), ("--minutes", "0"), ("--rounds", "0")):
        with pytest.raises(SystemExit) as ended:
            main(["bench", str(file), *wrong])
        assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_executed_is_a_failed_row_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = null(tmp_path / "good", [1.0]), null(tmp_path / "bad", [])
    told = bench(capsys, good, bad, *QUICK, "--out", tmp_path)
    assert {row["variant"]: row["status"] for row in told["benchmarks"]} == {"good": "ok", "bad": "failed"}
    assert main(["bench", str(bad), *QUICK, "--out", str(tmp_path)]) == 2
    assert "nothing could be measured: bad in null: " in capsys.readouterr().err


def test_an_interrupted_bench_goes_on_after_its_last_whole_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, turns_of, seen = null(tmp_path / "a", [2.0]), Worker.turn, []

    def turn(self: Worker, turns: int) -> None:
        if self.pid not in seen:
            seen.append(self.pid)
        if len(seen) == 3:
            raise KeyboardInterrupt
        turns_of(self, turns)

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "turn", turn)
        assert main(["bench", str(file), *QUICK, "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "out" / "bench").exists()
    assert len(list((tmp_path / "out").glob(".bench-*"))) == 1, "what the same command goes on with"
    told = bench(capsys, file, *QUICK, "--out", tmp_path / "out")
    assert [row["rounds"] for row in told["benchmarks"]] == [3]
    (folder,) = (tmp_path / "out" / "bench").iterdir()
    processes = pl.read_parquet(folder / "certificates.parquet")["process"].to_list()
    assert processes == [1, 2, 3], "the first two rounds are those from before"
    assert not list((tmp_path / "out").glob(".bench-*"))


@pytest.mark.slow
def test_the_same_is_the_same_and_ten_percent_slower_is_slower_in_95_of_100_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial is three files of its own, each in five fresh processes; BURNISH_TRIALS=100 makes as many as are
    claimed."""
    trials = int(os.environ.get("BURNISH_TRIALS", "5"))
    a, slow = null(tmp_path / "a", lognormal(1.0, 0.05, 100)), null(tmp_path / "slow", lognormal(1.1, 0.05, 100))
    same, slower = 0, 0
    for start in range(0, trials, 10):
        files = [a, a, slow] * min(10, trials - start)
        told = bench(capsys, *files, "--rounds", 5, "--seconds", 0.25, "--out", tmp_path)
        medians = [turns(row) for row in told["benchmarks"]]
        same += sum(
            compare(x, y, fresh=True)[3] == "indistinguishable"
            for x, y in zip(medians[::3], medians[1::3], strict=True)
        )
        slower += sum(
            compare(x, y, fresh=True)[3] == "slower" for x, y in zip(medians[::3], medians[2::3], strict=True)
        )
    print(f"{trials} trials: the same {same}, slower {slower}")
    assert same >= 0.95 * trials - 1
    assert slower >= 0.95 * trials - 1
