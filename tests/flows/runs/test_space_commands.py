"""`profile` and `deploy` on a full disk: exit code 1, one line that names the folder, and no file is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flows.cli import main
from tasks.caching.work import Work
from tasks.machine import space
from tasks.records import Data
from tests.support.digits import digits
from tests.support.models import onnx_file
from tests.support.servers import FinishedRun

if TYPE_CHECKING:
    from pathlib import Path


def assert_disk_full(command: list[str], folder: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    # The free bytes are those at the time of the error, not those after the written files were removed.
    full = "is full: only 0 bytes of"
    assert line.startswith(f"burnish: the disk of {folder} {full} ")
    assert f"; make room there or choose another folder with {option}, and the same command goes on" in line


@pytest.mark.parametrize("size", ["16k", "100k"])
def test_profile_on_a_full_disk_names_the_folder_and_leaves_no_file(
    disk: Any, size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx_file(tmp_path / "model.onnx")
    folder = disk(size)
    assert_disk_full(
        ["profile", str(model), "--queries", "100", "--out", str(folder / "out")],
        folder / "out" / "profiles",
        "--out",
        capsys,
    )
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_deploy_on_a_full_disk_names_the_folder_and_leaves_no_file(
    disk: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    work = Work.at(out, "deploy")
    FinishedRun(out, work, digits(work, 60), Data(source="digits"))
    folder = disk("64k")
    assert_disk_full(["deploy", "--to", str(folder / "served"), "--out", str(out)], folder / "served", "--to", capsys)
    assert not list(folder.iterdir())


def test_a_librarys_error_on_a_full_disk_is_quoted_in_whole_words_without_its_class(disk: Any) -> None:
    folder = disk("64k")
    (folder / "filling").write_bytes(bytes(65536))
    with pytest.raises(space.DiskFull) as caught, space.watched(folder / ".tmp-1234" / "inner"):
        raise RuntimeError("word " * 100)
    line = str(caught.value)
    assert line.startswith(f"the disk of {folder} is full: only 0 bytes of 65.5 kB are free;")
    assert line.endswith("; the error was: " + "word " * 31 + "…")
