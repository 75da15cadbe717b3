"""Torn files of a run: each is named with what makes it anew, in one line, by every command that reads it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main
from flows.runs import damage
from tasks import tables
from tasks.caching.work import Work
from tasks.records import Data
from tasks.tables import csv_view
from tests.support.digits import digits
from tests.support.reports import RUN_1
from tests.support.servers import RUN, FinishedRun

Tear = Callable[[Path], object]


def flip(path: Path) -> None:
    """Change one byte in the middle, and nothing of the file's size or shape."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


TEARS: dict[str, Tear] = {"half": halve, "empty": lambda path: path.write_bytes(b""), "flipped": flip}


@pytest.fixture(scope="module")
def deployable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder whose winner can be deployed."""
    out = tmp_path_factory.mktemp("deployable")
    work = Work.at(out, "deploy")
    FinishedRun(out, work, digits(work, 60), Data(source="digits"))
    (out / "runs" / RUN / "environment.json").write_text("{}")
    return out


@pytest.fixture
def of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """A copy of one of the two, with or without its sums."""

    def copied(name: str, sums: bool = True) -> Path:
        out = tmp_path / "out"
        shutil.copytree(request.getfixturevalue(name), out)
        if sums:
            damage.record(out, RUN_1 if name == "artifacts_of_run" else RUN)
        return out

    return copied


def refused(command: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says of a torn file: one line, exit code 1."""
    assert main(command) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"burnish: {path} ")
    assert "anew" in told.err
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return told.err


@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("file", ["study.toml", "environment.json", "result.json", "tables/variants", "tables/memory"])
def test_report_names_what_is_torn(
    of: Callable[..., Path], file: str, tear: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = of("artifacts_of_run")
    path = out / file / f"{RUN_1}.parquet" if "/" in file else out / "runs" / RUN_1 / file
    TEARS[tear](path)
    told = refused(["report", "--out", str(out)], path, capsys)
    study = "PRESET|FILE.toml" if file == "study.toml" else f"{out}/runs/{RUN_1}/study.toml --out {out}"
    assert f"burnish run {study}" in told


@pytest.mark.parametrize(
    ("file", "tear"),
    [
        # half of one is a study: what the sums are for
        ("study.toml", "empty"),
        *(
            (file, tear)
            for file in ("environment.json", "result.json", "tables/variants")
            for tear in ("half", "empty")
        ),
    ],
)
def test_what_is_torn_is_found_without_sums_too(
    of: Callable[..., Path], file: str, tear: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = of("artifacts_of_run", sums=False)
    path = out / file / f"{RUN_1}.parquet" if "/" in file else out / "runs" / RUN_1 / file
    TEARS[tear](path)
    refused(["report", "--out", str(out)], path, capsys)


def test_a_table_that_is_gone_is_named(of: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = of("artifacts_of_run")
    path = out / "tables" / "memory" / f"{RUN_1}.parquet"
    path.unlink()
    assert "is gone" in refused(["report", "--out", str(out)], path, capsys)


def test_whole_files_are_reported(of: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = of("artifacts_of_run")
    assert main(["report", "--out", str(out)]) == 0
    assert main(["why", "--out", str(out)]) == 0
    assert "hit       train" in capsys.readouterr().out
    done = subprocess.run(["sha256sum", "--check", "--quiet", damage.SUMS], cwd=out / "runs" / RUN_1, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(("tear", "sums"), [*((tear, True) for tear in TEARS), ("empty", False)])
def test_report_names_a_torn_spreadsheet(
    of: Callable[..., Path], tear: str, sums: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = of("artifacts_of_run", sums=False)
    path = out / "runs" / RUN_1 / "benchmark_results.csv"
    path.write_text(csv_view.csv(tables.read(out, "summary", RUN_1).collect()))
    if sums:
        damage.record(out, RUN_1)
    assert main(["report", "--out", str(out)]) == 0
    capsys.readouterr()
    TEARS[tear](path)
    refused(["report", "--out", str(out)], path, capsys)


@pytest.mark.parametrize("lines", ["", "no sums\n", "a" * 64 + "  study.toml\n"])
def test_torn_sums_are_no_sums(of: Callable[..., Path], lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = of("artifacts_of_run")
    path = out / "runs" / RUN_1 / damage.SUMS
    path.write_text(lines)
    refused(["report", "--out", str(out)], path, capsys)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"task": "train", "at": 1.5', '{"differs": 5, "at": 1.5}', "[" * 100_000]
)
def test_why_names_what_is_torn(of: Callable[..., Path], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = of("artifacts_of_run")
    path = out / "runs" / RUN_1 / "why" / "train.json"
    path.write_text(text)
    refused(["why", "--out", str(out)], path, capsys)


def test_a_torn_profile_is_named_before_the_report_is_written(
    of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = of("artifacts_of_run")
    folder = out / "runs" / RUN_1 / "profiles" / "lenet5-eager"
    folder.mkdir(parents=True)
    (folder / "profile.json").write_text("{")
    (folder / "stacks.folded").write_text("")
    assert main(["report", "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert f"a file in {folder} is damaged" in told
    assert "burnish profile makes the folder anew" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("file", ["study.toml", "tables/variants", "tables/summary", "tables/benchmarks"])
def test_deploy_and_profile_name_what_is_torn(
    of: Callable[..., Path], file: str, tear: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = of("deployable")
    path = out / file / f"{RUN}.parquet" if "/" in file else out / "runs" / RUN / file
    TEARS[tear](path)
    refused(["deploy", "--out", str(out), "--to", str(tmp_path / "to")], path, capsys)
    assert not (tmp_path / "to").exists()
    # which profile does not read
    if file != "tables/benchmarks":
        refused(["profile", "lenet5/train/onnx", "--out", str(out)], path, capsys)


@pytest.mark.parametrize("tear", [*TEARS, "gone"])
def test_a_torn_model_is_named(
    of: Callable[..., Path], tear: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = of("deployable")
    rows = tables.read(out, "variants", RUN).collect().to_dicts()
    path = out / "store" / next(row["path"] for row in rows if row["name"] == "lenet5/train/onnx")
    (TEARS | {"gone": Path.unlink})[tear](path)
    for command in (["deploy", "--to", str(tmp_path / "to")], ["profile", "lenet5/train/onnx"]):
        refused([*command, "--out", str(out)], path, capsys)
    assert not (tmp_path / "to").exists()
