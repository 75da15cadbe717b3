"""Damaged files of a run: every command that reads one names it in one line, with the command that makes it anew."""

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
    """Flip one bit in the middle of the file, which keeps its size."""
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
def copy_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies `artifacts_of_run` or `deployable`, with or without checksums of the run's files."""

    def copy(name: str, sums: bool = True) -> Path:
        out = tmp_path / "out"
        shutil.copytree(request.getfixturevalue(name), out)
        if sums:
            damage.record(out, RUN_1 if name == "artifacts_of_run" else RUN)
        return out

    return copy


def refusal(command: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which a command refuses a damaged file, with exit code 1."""
    assert main(command) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"burnish: {path} ")
    assert "anew" in output.err
    assert output.err.count("\n") == 1
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("file", ["study.toml", "environment.json", "result.json", "tables/variants", "tables/memory"])
def test_report_names_a_damaged_file_of_its_run(
    copy_of: Callable[..., Path], file: str, tear: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("artifacts_of_run")
    path = out / file / f"{RUN_1}.parquet" if "/" in file else out / "runs" / RUN_1 / file
    TEARS[tear](path)
    line = refusal(["report", "--out", str(out)], path, capsys)
    study = "PRESET|FILE.toml" if file == "study.toml" else f"{out}/runs/{RUN_1}/study.toml --out {out}"
    assert f"burnish run {study}" in line


@pytest.mark.parametrize(
    ("file", "tear"),
    [
        # Half of a study is a study too: only checksums tell it from the whole.
        ("study.toml", "empty"),
        *(
            (file, tear)
            for file in ("environment.json", "result.json", "tables/variants")
            for tear in ("half", "empty")
        ),
    ],
)
def test_report_names_a_damaged_file_without_checksums_too(
    copy_of: Callable[..., Path], file: str, tear: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("artifacts_of_run", sums=False)
    path = out / file / f"{RUN_1}.parquet" if "/" in file else out / "runs" / RUN_1 / file
    TEARS[tear](path)
    refusal(["report", "--out", str(out)], path, capsys)


def test_report_names_a_table_that_is_gone(copy_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = copy_of("artifacts_of_run")
    path = out / "tables" / "memory" / f"{RUN_1}.parquet"
    path.unlink()
    assert "is gone" in refusal(["report", "--out", str(out)], path, capsys)


def test_report_and_why_accept_whole_files_and_their_checksums_are_right(
    copy_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("artifacts_of_run")
    assert main(["report", "--out", str(out)]) == 0
    assert main(["why", "--out", str(out)]) == 0
    assert "hit       train" in capsys.readouterr().out
    done = subprocess.run(["sha256sum", "--check", "--quiet", damage.SUMS], cwd=out / "runs" / RUN_1, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(("tear", "sums"), [*((tear, True) for tear in TEARS), ("empty", False)])
def test_report_names_a_damaged_csv(
    copy_of: Callable[..., Path], tear: str, sums: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("artifacts_of_run", sums=False)
    path = out / "runs" / RUN_1 / "benchmark_results.csv"
    path.write_text(csv_view.csv(tables.read(out, "summary", RUN_1).collect()))
    if sums:
        damage.record(out, RUN_1)
    assert main(["report", "--out", str(out)]) == 0
    capsys.readouterr()
    TEARS[tear](path)
    refusal(["report", "--out", str(out)], path, capsys)


@pytest.mark.parametrize("lines", ["", "no sums\n", "a" * 64 + "  study.toml\n"])
def test_report_names_a_damaged_file_of_checksums(
    copy_of: Callable[..., Path], lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("artifacts_of_run")
    path = out / "runs" / RUN_1 / damage.SUMS
    path.write_text(lines)
    refusal(["report", "--out", str(out)], path, capsys)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"task": "train", "at": 1.5', '{"differs": 5, "at": 1.5}', "[" * 100_000]
)
def test_why_names_a_damaged_file_that_it_reads(
    copy_of: Callable[..., Path], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("artifacts_of_run")
    path = out / "runs" / RUN_1 / "why" / "train.json"
    path.write_text(text)
    refusal(["why", "--out", str(out)], path, capsys)


def test_report_names_a_damaged_profile(copy_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = copy_of("artifacts_of_run")
    folder = out / "runs" / RUN_1 / "profiles" / "lenet5-eager"
    folder.mkdir(parents=True)
    (folder / "profile.json").write_text("{")
    (folder / "stacks.folded").write_text("")
    assert main(["report", "--out", str(out)]) == 1
    errors = capsys.readouterr().err
    assert f"a file in {folder} is damaged" in errors
    assert "burnish profile makes the folder anew" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("file", ["study.toml", "tables/variants", "tables/summary", "tables/benchmarks"])
def test_deploy_and_profile_name_a_damaged_file_of_the_run(
    copy_of: Callable[..., Path], file: str, tear: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("deployable")
    path = out / file / f"{RUN}.parquet" if "/" in file else out / "runs" / RUN / file
    TEARS[tear](path)
    refusal(["deploy", "--out", str(out), "--to", str(tmp_path / "to")], path, capsys)
    assert not (tmp_path / "to").exists()
    # `profile` does not read the benchmarks.
    if file != "tables/benchmarks":
        refusal(["profile", "lenet5/train/onnx", "--out", str(out)], path, capsys)


@pytest.mark.parametrize("tear", [*TEARS, "gone"])
def test_deploy_and_profile_name_a_model_that_is_damaged_or_gone(
    copy_of: Callable[..., Path], tear: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of("deployable")
    rows = tables.read(out, "variants", RUN).collect().to_dicts()
    path = out / "store" / next(row["path"] for row in rows if row["name"] == "lenet5/train/onnx")
    (TEARS | {"gone": Path.unlink})[tear](path)
    for command in (["deploy", "--to", str(tmp_path / "to")], ["profile", "lenet5/train/onnx"]):
        refusal([*command, "--out", str(out)], path, capsys)
    assert not (tmp_path / "to").exists()
